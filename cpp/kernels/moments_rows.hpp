// Moments along rows: a tile or each of its rows is one statistic.
#pragma once
#include "centers.hpp"
#include "moments.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// One block's sums of d = x - k and of d * d.
struct BlockSums {
    double k, sum, squares;
};

template <class T, bool Centered, bool Plain>
FUSEDNORM_INLINE BlockSums sums_around(double k, const T* x, int64_t rows, int64_t ld, int64_t cols) {
    BitsOf<T> fill = 0;  // k, which is x[0] or 0, as it is stored
    if (k != 0) __builtin_memcpy(&fill, x, sizeof fill);
    const Lanes<double> center = broadcast(k);
    Lanes<double> sums = broadcast(0.0), squares = sums;
    const int64_t whole = cols / kLanes * kLanes;
    const auto add = [&](const Lanes<double>& value) __attribute__((always_inline)) {
        const Lanes<double> d = Plain ? value : value - center;
        if constexpr (Centered) sums += d;
        add_square<Plain>(squares, d);
    };
    constexpr int64_t kAhead = kPrefetchBytes / static_cast<int64_t>(sizeof(T));
    for (int64_t r = 0; r < rows; ++r, x += ld) {
        const auto run = [&](int64_t begin, int64_t end, const T* ahead) __attribute__((always_inline)) {
            for (int64_t c = begin; c < end; c += kLanes) {
                __builtin_prefetch(ahead + c + kAhead);
                add(load<double>(x + c));
            }
        };
        // The end of a row is read while what follows comes: the next row, or the next chunk of this one.
        const int64_t split = whole > kAhead ? whole - kAhead : 0;
        run(0, split, x);
        run(split, whole, (r + 1 < rows ? x + ld : x + cols) - whole);
        if (whole < cols) add(load_some<double>(x + whole, cols - whole, fill));
    }
    return {k, sum(sums), sum(squares)};
}

template <class T, bool Centered>
FUSEDNORM_INLINE BlockSums rows_block(const T* x, int64_t rows, int64_t ld, int64_t cols) {
    if constexpr (!Centered) return sums_around<T, Centered, kPlain<T>>(0, x, rows, ld, cols);
    const double first = as_double(x[0]), n = static_cast<double>(rows * cols);
    double k = is_finite(first) ? first : 0;
    // Values that are about to be read: those of a row's other end would be waited for.
    const auto at = [&](int64_t c) __attribute__((always_inline)) { return as_double(x[c < cols ? c : cols - 1]); };
    if (is_narrow<T> && n >= kLeastChosen && looks_near(first, at(cols / 2 < 256 ? cols / 2 : 256), at(511))) k = 0;
    for (;;) {
        const bool around_zero = k == 0;
        const BlockSums block = kPlain<T> && around_zero ? sums_around<T, Centered, kPlain<T>>(0, x, rows, ld, cols)
                                                         : sums_around<T, Centered, false>(k, x, rows, ld, cols);
        if (!around_zero || !is_finite(first) || first == 0 || is_near(block.sum, block.squares, n)) return block;
        k = first;
    }
}

template <class T, bool Centered>
void moments_rows(const RowsTile& t, Moments out) {
    const bool one_run = t.ld == t.cols;
    const int64_t rows = one_run ? 1 : t.rows, cols = one_run ? t.rows * t.cols : t.cols;
    const int64_t block_cols = cols < kBlock ? cols : kBlock, block_rows = cols < kBlock ? kBlock / cols : 1;
    const T* x = static_cast<const T*>(t.x);
    if (rows <= block_rows && cols <= block_cols) {
        // Statistics of one block each: what follows the sums takes as long as a short row does, so sixteen are closed at once.
        const Lanes<double> n = broadcast(static_cast<double>(rows * cols));
        for (int64_t s = 0; s < t.stats; s += kLanes) {
            const int64_t several = t.stats - s < kLanes ? t.stats - s : kLanes;
            double k[kLanes] = {}, sums[kLanes] = {}, squares[kLanes] = {};
            for (int64_t i = 0; i < several; ++i) {
                const BlockSums block = rows_block<T, Centered>(x + (s + i) * t.stat_ld, rows, t.ld, cols);
                k[i] = block.k, sums[i] = block.sum, squares[i] = block.squares;
            }
            put_lanes(out, s, several, closed_block<Centered>(load<double>(k), load<double>(sums), load<double>(squares), n));
        }
        return;
    }
    for (int64_t s = 0; s < t.stats; ++s, x += t.stat_ld) {
        MomentsOf<double> total{0, 0, 0};
        double count = 0;
        for (int64_t r = 0; r < rows; r += block_rows) {
            const int64_t n_rows = rows - r < block_rows ? rows - r : block_rows;
            for (int64_t c = 0; c < cols; c += block_cols) {
                const int64_t n_cols = cols - c < block_cols ? cols - c : block_cols;
                const BlockSums sums = rows_block<T, Centered>(x + r * t.ld + c, n_rows, t.ld, n_cols);
                const double n = static_cast<double>(n_rows * n_cols);
                const auto block = closed_block<Centered>(sums.k, sums.sum, sums.squares, n);
                total = count == 0 ? block : merged(total, count, block, n);
                count += n;
            }
        }
        put(out, s, total);
    }
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
