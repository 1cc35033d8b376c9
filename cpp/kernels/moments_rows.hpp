// Moments along rows: a tile or each of its rows is one statistic.
#pragma once
#include "centers.hpp"
#include "moments.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// One block's sums of d = x - k and of d * d, in lanes.
struct LaneSums {
    Lanes<double>::Part sum, squares;
};

template <class T, bool Centered, bool Plain>
FUSEDNORM_INLINE LaneSums sums_around(double k, const T* x, int64_t rows, int64_t ld, int64_t cols) {
    const Doubles center = broadcast(k).part[0];
    Lanes<double> sums = broadcast(0.0), squares = sums;
    const int64_t whole = cols / kLanes * kLanes, left = cols - whole;
    double centers[kLanes];
    if (!Plain && left > 0) store(centers, broadcast(k));
    const auto add = [&](int i, const Doubles& value, const Doubles& around) __attribute__((always_inline)) {
        const Doubles d = Plain ? value : value - around;
        if constexpr (Centered) sums.part[i] += d;
        add_square<Plain>(squares.part[i], d);
    };
    for (int64_t r = 0; r < rows; ++r, x += ld) {
        for_lanes<T>(whole, r + 1 < rows ? ld : cols, [&](int64_t c, int64_t ahead) __attribute__((always_inline)) {
            __builtin_prefetch(x + c + ahead);
            FUSEDNORM_LANES_UNROLL
            for (int i = 0; i < Lanes<double>::kParts; ++i) add(i, load_part<double>(x + c, i), center);
        });
        if (left == 0) continue;
        const FirstLanes<double> value_at{left};
        FUSEDNORM_LANES_UNROLL
        for (int i = 0; i < Lanes<double>::kParts; ++i) add(i, value_at(x + whole, i), Plain ? center : value_at(centers, i));
    }
    return {folded(sums), folded(squares)};
}

template <class T, bool Centered>
FUSEDNORM_INLINE LaneSums block_sums(double k, const T* x, int64_t rows, int64_t ld, int64_t cols) {
    if (kPlain<T> && k == 0) return sums_around<T, Centered, kPlain<T>>(0, x, rows, ld, cols);
    return sums_around<T, Centered, false>(k, x, rows, ld, cols);
}

// The center that a block's values are summed around: the first value, or 0 where a few values say that 0 is near.
template <class T>
FUSEDNORM_INLINE double center_of(double first, const T* x, int64_t rows, int64_t cols) {
    // Values that are about to be read: those of a row's other end would be waited for.
    const auto at = [&](int64_t c) __attribute__((always_inline)) { return as_double(x[c < cols ? c : cols - 1]); };
    if (!is_finite(first)) return 0;
    const bool near =
        is_narrow<T> && rows * cols >= kLeastChosen && looks_near(first, at(cols / 2 < 256 ? cols / 2 : 256), at(511));
    return near ? 0 : first;
}

template <class T, bool Centered>
__attribute__((noinline)) MomentsOf<double> block_moments(const T* x, int64_t rows, int64_t ld, int64_t cols) {
    const double n = static_cast<double>(rows * cols), first = Centered ? as_double(x[0]) : 0;
    double k = Centered ? center_of(first, x, rows, cols) : 0;
    for (int tried = 1;; ++tried) {
        const LaneSums lanes = block_sums<T, Centered>(k, x, rows, ld, cols);
        const double total = sum(lanes.sum), squares = sum(lanes.squares);
        const bool last = !Centered || tried == kMostCenters || are_near(total, squares, n);
        const double next = last ? k : next_center<is_narrow<T>>(k, first, total, squares, n);
        if (next == k) return closed_block<Centered>(k, total, squares, n);
        k = next;
    }
}

// The moments of up to sixteen blocks, block_ld apart, which are closed side by side: closing one takes as long as a short row
// does.
template <class T, bool Centered>
FUSEDNORM_INLINE MomentsOf<Lanes<double>> block_moments(const T* x, int64_t blocks, int64_t block_ld, int64_t rows, int64_t ld,
                                                        int64_t cols) {
    const double n = static_cast<double>(rows * cols);
    // Only what has no block is set to zeros: on few values, to set all of it would take a tenth of the time.
    Lanes<double>::Part sums[kLanes], squares[kLanes];
    double firsts[kLanes], centers[kLanes], summed[kLanes];  // summed: the centers that the sums are around
    for (int64_t i = blocks; i < kLanes; ++i)
        sums[i] = squares[i] = Lanes<double>::Part{}, firsts[i] = centers[i] = summed[i] = 0;
    for (int tried = 1;; ++tried) {
        for (int64_t i = 0; i < blocks; ++i) {
            const T* block = x + i * block_ld;
            if (tried == 1) {
                firsts[i] = Centered ? as_double(block[0]) : 0;
                centers[i] = Centered ? center_of(firsts[i], block, rows, cols) : 0;
            }
            if (tried > 1 && centers[i] == summed[i]) continue;
            const LaneSums lanes = block_sums<T, Centered>(centers[i], block, rows, ld, cols);
            sums[i] = lanes.sum, squares[i] = lanes.squares, summed[i] = centers[i];
        }
        const Lanes<double> k = load<double>(centers), total = sums_of(sums), total_squares = sums_of(squares);
        const bool last = !Centered || tried == kMostCenters || are_near(total, total_squares, n);
        const Lanes<double> next = last ? k : next_center<is_narrow<T>>(k, load<double>(firsts), total, total_squares, n);
        if (last || sum(absolute(next - k)) == 0) return closed_block<Centered>(k, total, total_squares, broadcast(n));
        store(centers, next);
    }
}

template <class T, bool Centered>
void moments_rows(const RowsTile& t, Moments out) {
    const bool one_run = t.ld == t.cols;
    const int64_t rows = one_run ? 1 : t.rows, cols = one_run ? t.rows * t.cols : t.cols;
    const int64_t block_cols = cols < kBlock ? cols : kBlock, block_rows = cols < kBlock ? kBlock / cols : 1;
    const T* x = static_cast<const T*>(t.x);
    if (t.stats > 1 && rows <= block_rows && cols <= block_cols) {
        for (int64_t s = 0; s < t.stats; s += kLanes) {
            const int64_t some = t.stats - s < kLanes ? t.stats - s : kLanes;
            put_lanes(out, s, some, block_moments<T, Centered>(x + s * t.stat_ld, some, t.stat_ld, rows, t.ld, cols));
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
                const auto block = block_moments<T, Centered>(x + r * t.ld + c, n_rows, t.ld, n_cols);
                const double n = static_cast<double>(n_rows * n_cols);
                total = count == 0 ? block : merged(total, count, block, n);
                count += n;
            }
        }
        put(out, s, total);
    }
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
