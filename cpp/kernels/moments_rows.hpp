// Moments along rows: a tile or each of its rows is one statistic.
#pragma once
#include "centers.hpp"
#include "moments.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// Whether two blocks are summed side by side where that is around 0. With two registers for sixteen lanes the additions of one
// wait for those before: 4 cycles for sixteen values (Zen 5), where two blocks at once take 2.5.
template <class T>
constexpr bool kPaired = kPlain<T> && Lanes<double>::kParts == 2;

// The sums of d = x - k and of d * d, in lanes, of N blocks, block_ld apart, each around its own k.
template <class T, bool Centered, bool Plain, int64_t N>
FUSEDNORM_INLINE void sums_around(const double* k, const T* x, int64_t block_ld, int64_t rows, int64_t ld, int64_t cols,
                                  Doubles* sums_to, Doubles* squares_to) {
    Lanes<double> center[N], sums[N], squares[N];
    double centers[N][kLanes];
    const int64_t whole = cols / kLanes * kLanes, left = cols - whole;
    FUSEDNORM_LANES_UNROLL
    for (int64_t n = 0; n < N; ++n) {
        center[n] = broadcast(k[n]), sums[n] = squares[n] = broadcast(0.0);
        if (!Plain && left > 0) store(centers[n], center[n]);
    }
    const int64_t after = N == 1 ? cols : N * block_ld - (rows - 1) * ld;  // from the last row to what is read next
    const auto add = [&](int64_t n, int i, const Doubles& value, const Doubles& around) __attribute__((always_inline)) {
        const Doubles d = Plain ? value : value - around;
        if constexpr (Centered) sums[n].part[i] += d;
        add_square<Plain>(squares[n].part[i], d);
    };
    for (int64_t r = 0; r < rows; ++r, x += ld) {
        for_lanes<T, kPrefetchAlone>(whole, r + 1 < rows ? ld : after,
                                     [&](int64_t c, int64_t ahead) __attribute__((always_inline)) {
                                         FUSEDNORM_LANES_UNROLL
                                         for (int64_t n = 0; n < N; ++n) {
                                             const T* from = x + n * block_ld + c;
                                             __builtin_prefetch(from + ahead);
                                             FUSEDNORM_LANES_UNROLL
                                             for (int i = 0; i < Lanes<double>::kParts; ++i)
                                                 add(n, i, load_part<double>(from, i), center[n].part[0]);
                                         }
                                     });
        if (left == 0) continue;
        const FirstLanes<double> value_at{left};
        FUSEDNORM_LANES_UNROLL
        for (int64_t n = 0; n < N; ++n) {
            FUSEDNORM_LANES_UNROLL
            for (int i = 0; i < Lanes<double>::kParts; ++i)
                add(n, i, value_at(x + n * block_ld + whole, i), Plain ? center[n].part[0] : value_at(centers[n], i));
        }
    }
    FUSEDNORM_LANES_UNROLL
    for (int64_t n = 0; n < N; ++n) sums_to[n] = folded(sums[n]), squares_to[n] = folded(squares[n]);
}

template <class T, bool Centered>
FUSEDNORM_INLINE void block_sums(double k, const T* x, int64_t rows, int64_t ld, int64_t cols, Doubles* sums,
                                 Doubles* squares) {
    if (kPlain<T> && k == 0) return sums_around<T, Centered, kPlain<T>, 1>(&k, x, 0, rows, ld, cols, sums, squares);
    sums_around<T, Centered, false, 1>(&k, x, 0, rows, ld, cols, sums, squares);
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
        Doubles lanes, lanes_of_squares;
        block_sums<T, Centered>(k, x, rows, ld, cols, &lanes, &lanes_of_squares);
        const double total = sum(lanes), squares = sum(lanes_of_squares);
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
    Doubles sums[kLanes], squares[kLanes];
    double firsts[kLanes], centers[kLanes], summed[kLanes];  // summed: the centers that the sums are around
    for (int64_t i = blocks; i < kLanes; ++i) sums[i] = squares[i] = Doubles{}, firsts[i] = centers[i] = summed[i] = 0;
    const auto choose = [&](int64_t b) __attribute__((always_inline)) {
        const T* block = x + b * block_ld;
        firsts[b] = Centered ? as_double(block[0]) : 0;
        centers[b] = Centered ? center_of(firsts[b], block, rows, cols) : 0;
    };
    for (int tried = 1;; ++tried) {
        int64_t i = 0;
        if (kPaired<T> && tried == 1 && rows * cols >= kLeastChosen) {
            for (; i + 1 < blocks; i += 2) {
                choose(i), choose(i + 1);
                if (centers[i] != 0 || centers[i + 1] != 0) break;
                sums_around<T, Centered, true, 2>(centers + i, x + i * block_ld, block_ld, rows, ld, cols, sums + i,
                                                  squares + i);
            }
        }
        for (; i < blocks; ++i) {
            if (tried == 1) choose(i);
            if (tried > 1 && centers[i] == summed[i]) continue;
            block_sums<T, Centered>(centers[i], x + i * block_ld, rows, ld, cols, sums + i, squares + i);
        }
        for (int64_t j = 0; j < blocks; ++j) summed[j] = centers[j];
        const Lanes<double> k = load<double>(centers), total = sums_of(sums), total_squares = sums_of(squares);
        const bool last = !Centered || tried == kMostCenters || are_near(total, total_squares, n);
        const Lanes<double> next = last ? k : next_center<is_narrow<T>>(k, load<double>(firsts), total, total_squares, n);
        if (last || sum(absolute(next - k)) == 0) return closed_block<Centered>(k, total, total_squares, broadcast(n));
        store(centers, next);
    }
}

// Blocks of one statistic that are taken side by side, where they are paired: more would leave the first-level cache before
// hard data is read again.
constexpr int64_t kMostBlocks = 4;

// One statistic's moments take in those of its next block.
__attribute__((noinline)) void take_in(MomentsOf<double>& total, double count, const MomentsOf<double>& block, double n) {
    total = count == 0 ? block : merged(total, count, block, n);
}

template <class T, bool Centered>
void moments_rows(const RowsTile& t, Moments out) {
    const bool one_run = t.ld == t.cols;
    const int64_t rows = one_run ? 1 : t.rows, cols = one_run ? t.rows * t.cols : t.cols;
    // Either is a row several blocks, or a block one row or several.
    const int64_t block_cols = cols < kBlock ? cols : kBlock, block_rows = cols < kBlock ? kBlock / cols : 1;
    double memory[3 * kLanes];
    const Moments some{memory, memory + kLanes, memory + 2 * kLanes};
    for (int64_t s = 0; s < t.stats; s += kLanes) {
        const T* x = static_cast<const T*>(t.x) + s * t.stat_ld;
        const int64_t stats = t.stats - s < kLanes ? t.stats - s : kLanes;
        MomentsOf<double> total;
        double count = 0;
        for (int64_t r = 0; r < rows; r += block_rows) {
            const int64_t n_rows = rows - r < block_rows ? rows - r : block_rows;
            for (int64_t c = 0; c < cols; c += block_cols) {
                const int64_t n_cols = cols - c < block_cols ? cols - c : block_cols;
                const T* block = x + r * t.ld + c;
                const double n = static_cast<double>(n_rows * n_cols);
                const int64_t alike = cols > kBlock ? (cols - c) / block_cols : (rows - r) / block_rows;
                const int64_t blocks = t.stats > 1                ? stats
                                       : !kPaired<T> || alike < 2 ? 1
                                       : alike < kMostBlocks      ? alike
                                                                  : kMostBlocks;
                const int64_t step = cols > kBlock ? block_cols : block_rows;
                if (blocks == 1 && t.stats == 1) {
                    take_in(total, count, block_moments<T, Centered>(block, n_rows, t.ld, n_cols), n);
                    count += n;
                    continue;
                }
                const Moments to = t.stats > 1 && count == 0 ? out + s : some;
                const int64_t ld = t.stats > 1 ? t.stat_ld : cols > kBlock ? block_cols : block_rows * t.ld;
                put_lanes(to, 0, blocks, block_moments<T, Centered>(block, blocks, ld, n_rows, t.ld, n_cols));
                if (t.stats > 1) {
                    if (count > 0) merge(out + s, count, some, n, stats);
                    count += n;
                    continue;
                }
                for (int64_t i = 0; i < blocks; ++i, count += n)
                    take_in(total, count, {some.mean[i], some.low[i], some.m2[i]}, n);
                (cols > kBlock ? c : r) += (blocks - 1) * step;
            }
        }
        if (t.stats == 1) put(out, s, total);
    }
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
