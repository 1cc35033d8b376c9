// Moments along rows: a tile or each of its rows is one statistic.
#pragma once
#include "blocks.hpp"
#include "centers.hpp"
#include "moments.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// Whether two blocks are summed side by side where that is around 0. With two registers for sixteen lanes the additions of one
// wait for those before: 4 cycles for sixteen values (Zen 5), where two blocks at once take 2.5.
template <class T>
constexpr bool kPaired = kPlain<T> && Lanes<double>::kParts == 2;
// The two are next to each other; or, of blocks of so many bytes without gaps, half of all of them apart: two blocks 16 KiB
// apart came from memory at 0.7 of the speed of one alone, 128 KiB apart at 0.95 (Zen 5).
constexpr int64_t kFarBytes = 8192;

// The sums of d = x - k and of d * d, in lanes, of N blocks, each around its own k, to found[n][0] and found[n][1]. What is
// read after them lies `next` from their beginnings.
template <class T, bool Centered, bool Plain, int64_t N>
FUSEDNORM_INLINE void sums_around(const double (&k)[N], const T* (&x)[N], int64_t next, int64_t rows, int64_t ld, int64_t cols,
                                  Doubles (&found)[N][2]) {
    Lanes<double> center[N], sums[N], squares[N];
    double centers[N][kLanes];
    const int64_t whole = cols / kLanes * kLanes, left = cols - whole;
    FUSEDNORM_LANES_UNROLL
    for (int64_t n = 0; n < N; ++n) {
        center[n] = broadcast(k[n]), sums[n] = squares[n] = broadcast(0.0);
        if (!Plain && left > 0) store(centers[n], center[n]);
    }
    const int64_t after = next - (rows - 1) * ld;  // from the last row
    const auto add = [&](int64_t n, int i, const Doubles& value, const Doubles& around) __attribute__((always_inline)) {
        const Doubles d = Plain ? value : value - around;
        if constexpr (Centered) sums[n].part[i] += d;
        add_square<Plain>(squares[n].part[i], d);
    };
    for (int64_t r = 0; r < rows; ++r) {
        for_lanes<T, kPrefetchFar>(whole, r + 1 < rows ? ld : after,
                                   [&](int64_t c, int64_t ahead) __attribute__((always_inline)) {
                                       FUSEDNORM_LANES_UNROLL
                                       for (int64_t n = 0; n < N; ++n) {
                                           const T* from = x[n] + c;
                                           ask_for(from + ahead, 0);
                                           FUSEDNORM_LANES_UNROLL
                                           for (int i = 0; i < Lanes<double>::kParts; ++i)
                                               add(n, i, load_part_apart(from, i), center[n].part[0]);
                                       }
                                   });
        const FirstLanes<double> value_at{left};
        FUSEDNORM_LANES_UNROLL
        for (int64_t n = 0; n < N; ++n) {
            const T* from = x[n] + whole;
            x[n] += ld;
            if (left == 0) continue;
            Lanes<double> value, around = center[n];
            FUSEDNORM_LANES_UNROLL
            for (int i = 0; i < Lanes<double>::kParts; ++i) {
                value.part[i] = value_at(from, i);
                if (!Plain) around.part[i] = value_at(centers[n], i);
            }
            value = apart<T>(value), around = apart<T>(around);
            FUSEDNORM_LANES_UNROLL
            for (int i = 0; i < Lanes<double>::kParts; ++i) add(n, i, value.part[i], around.part[i]);
        }
    }
    FUSEDNORM_LANES_UNROLL
    for (int64_t n = 0; n < N; ++n) found[n][0] = folded(together<T>(sums[n])), found[n][1] = folded(together<T>(squares[n]));
}

template <class T, bool Centered>
FUSEDNORM_INLINE void block_sums(double k, const T* x, int64_t rows, int64_t ld, int64_t cols, Doubles* sums,
                                 Doubles* squares) {
    const int64_t next = (rows - 1) * ld + cols;
    const double around[] = {k};
    const T* from[] = {x};
    Doubles found[1][2];
    if (kPlain<T> && k == 0) {
        sums_around<T, Centered, kPlain<T>, 1>(around, from, next, rows, ld, cols, found);
    } else {
        sums_around<T, Centered, false, 1>(around, from, next, rows, ld, cols, found);
    }
    *sums = found[0][0], *squares = found[0][1];
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

// The sums of up to sixteen blocks, each around a center of its own; what has no block is zero.
struct BlockSums {
    Doubles sums[kLanes], squares[kLanes];
    double firsts[kLanes], centers[kLanes];

    // Only what has no block is set: on few values, to set all of it would take a tenth of the time.
    FUSEDNORM_INLINE explicit BlockSums(int64_t blocks) {
        for (int64_t i = blocks; i < kLanes; ++i) sums[i] = squares[i] = Doubles{}, firsts[i] = centers[i] = 0;
    }
};

// Closes them side by side, n values each; if some are to be summed again, false, and they have other centers. Not inlined:
// every type's loops would repeat it.
template <bool Centered, bool Narrow>
__attribute__((noinline)) bool close_blocks(BlockSums& found, int64_t blocks, double n, bool is_last, Moments out) {
    const Lanes<double> k = load<double>(found.centers), total = sums_of(found.sums), squares = sums_of(found.squares);
    const bool near = !Centered || is_last || are_near(total, squares, n);
    const Lanes<double> next = near ? k : next_center<Narrow>(k, load<double>(found.firsts), total, squares, n);
    if (!near && sum(absolute(next - k)) != 0) {
        store(found.centers, next);
        return false;
    }
    put_lanes(out, 0, blocks, closed_block<Centered>(k, total, squares, broadcast(n)));
    return true;
}

// The moments of up to sixteen blocks, block_ld apart, which are closed side by side: closing one takes as long as a short row
// does. Not inlined: there are two callers.
template <class T, bool Centered>
__attribute__((noinline)) void block_moments(const T* x, int64_t blocks, int64_t block_ld, int64_t rows, int64_t ld,
                                             int64_t cols, Moments out) {
    BlockSums found(blocks);
    double* const centers = found.centers;
    double summed[kLanes];  // the centers that the sums are around
    const auto choose = [&](int64_t b) __attribute__((always_inline)) {
        const T* block = x + b * block_ld;
        found.firsts[b] = Centered ? as_double(block[0]) : 0;
        centers[b] = Centered ? center_of(found.firsts[b], block, rows, cols) : 0;
    };
    for (int tried = 1;; ++tried) {
        const int64_t pairs = kPaired<T> && tried == 1 && rows * cols >= kLeastChosen ? blocks / 2 : 0,
                      far = block_ld == rows * cols && block_ld * static_cast<int64_t>(sizeof(T)) >= kFarBytes ? pairs : 1,
                      step = far == 1 ? 2 : 1;
        uint32_t paired = 0;
        for (int64_t p = 0, i = 0; p < pairs; ++p, i += step) {
            choose(i), choose(i + far);
            if (centers[i] != 0 || centers[i + far] != 0) break;
            const int64_t next = (p + 1 < pairs ? step : far + 1) * block_ld;
            const double zeros[2] = {};
            const T* from[] = {x + i * block_ld, x + (i + far) * block_ld};
            Doubles two[2][2];
            sums_around<T, Centered, true, 2>(zeros, from, next, rows, ld, cols, two);
            found.sums[i] = two[0][0], found.squares[i] = two[0][1];
            found.sums[i + far] = two[1][0], found.squares[i + far] = two[1][1];
            paired |= (1u | 1u << far) << i;
        }
        for (int64_t i = 0; i < blocks; ++i) {
            if (paired >> i & 1) continue;
            if (tried == 1) choose(i);
            if (tried > 1 && centers[i] == summed[i]) continue;
            block_sums<T, Centered>(centers[i], x + i * block_ld, rows, ld, cols, found.sums + i, found.squares + i);
        }
        for (int64_t j = 0; j < blocks; ++j) summed[j] = centers[j];
        const double n = static_cast<double>(rows * cols);
        if (close_blocks<Centered, is_narrow<T>>(found, blocks, n, tried == kMostCenters, out)) return;
    }
}

// One statistic's. Blocks that are paired are taken some at a time, and hard data is read again from the second-level cache.
template <class T, bool Centered>
FUSEDNORM_INLINE void moments_of_one(const T* x, int64_t ld, const Blocks& blocks, Moments out) {
    constexpr int64_t kMost = kPaired<T> ? kLanes : 1;
    double memory[3 * kLanes];
    const Moments found{memory, memory + kLanes, memory + 2 * kLanes};
    MomentsOf<double> total{0, 0, 0};
    double count = 0;
    for (int64_t b = 0, some; b < blocks.size(); b += some) {
        const Blocks::Block block = blocks[b];
        some = block.alike < 1 ? 1 : block.alike < kMost ? block.alike : kMost;
        if (some == 1) {
            put(found, 0, block_moments<T, Centered>(x + block.at, block.rows, ld, block.cols));
        } else {
            block_moments<T, Centered>(x + block.at, some, blocks.step(), block.rows, ld, block.cols, found);
        }
        for (int64_t i = 0; i < some; ++i, count += block.count()) {
            const MomentsOf<double> value{found.mean[i], found.low[i], found.m2[i]};
            total = count == 0 ? value : merged(total, count, value, block.count());
        }
    }
    put(out, 0, total);
}

// Those of up to sixteen, stat_ld apart, block by block side by side.
template <class T, bool Centered>
FUSEDNORM_INLINE void moments_of_some(const T* x, int64_t stats, int64_t stat_ld, int64_t ld, const Blocks& blocks,
                                      Moments out) {
    double memory[3 * kLanes];
    const Moments found{memory, memory + kLanes, memory + 2 * kLanes};
    double count = 0;
    for (int64_t b = 0; b < blocks.size(); ++b) {
        const Blocks::Block block = blocks[b];
        block_moments<T, Centered>(x + block.at, stats, stat_ld, block.rows, ld, block.cols, b == 0 ? out : found);
        if (b > 0) merge(out, count, found, block.count(), stats);
        count += block.count();
    }
}

template <class T, bool Centered>
void moments_rows(const RowsTile& t, Moments out) {
    const Blocks blocks(t.rows, t.ld, t.cols);
    const T* x = static_cast<const T*>(t.x);
    if (t.stats == 1) return moments_of_one<T, Centered>(x, t.ld, blocks, out);
    for (int64_t s = 0; s < t.stats; s += kLanes, x += kLanes * t.stat_ld)
        moments_of_some<T, Centered>(x, t.stats - s < kLanes ? t.stats - s : kLanes, t.stat_ld, t.ld, blocks, out + s);
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
