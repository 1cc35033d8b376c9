// Sums of small integers and of their squares, as integers. Such moments stand for sums until exact.hpp closes them: mean
// is the sum, m2 + low * 2^32 the sum of squares, all of them integers; merging is adding.
#pragma once
#include "byte_sums.hpp"
#include "moments.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

struct IntegerSums {
    Lanes<uint32_t> values, low, high;
    FUSEDNORM_INLINE IntegerSums() : values(broadcast(0u)), low(values), high(values) {}
    // Up to kBlock values go into a lane. Squares of 16 bits are taken in halves.
    template <class T>
    FUSEDNORM_INLINE void add(const Lanes<uint32_t>& value) {
        values += value;
        const Lanes<uint32_t> square = value * value;
        if constexpr (sizeof(T) == 1) {
            low += square;
        } else {
            FUSEDNORM_LANES_UNROLL
            for (int i = 0; i < Lanes<uint32_t>::kParts; ++i) {
                low.part[i] += square.part[i] & 0xffff;
                high.part[i] += square.part[i] >> 16;
            }
        }
    }
};

// One statistic's sums: of the values, and of the squares' halves.
struct Totals {
    int64_t sum = 0;
    uint64_t low = 0, high = 0;
};

FUSEDNORM_INLINE void flush(const IntegerSums& s, Totals* totals, int64_t step, int64_t n) {
    int32_t values[kLanes];
    uint32_t low[kLanes], high[kLanes];
    __builtin_memcpy(values, s.values.part, sizeof values);
    __builtin_memcpy(low, s.low.part, sizeof low);
    __builtin_memcpy(high, s.high.part, sizeof high);
    for (int64_t i = 0; i < n; ++i) {
        Totals& t = totals[i * step];
        t.sum += values[i], t.low += low[i], t.high += high[i];
    }
}

FUSEDNORM_INLINE void put(Moments out, int64_t i, const Totals& t) {
    const uint64_t low = t.low + ((t.high & 0xffff) << 16);
    out.mean[i] = static_cast<double>(t.sum);
    out.m2[i] = static_cast<double>(low & 0xffffffff);
    out.low[i] = static_cast<double>((low >> 32) + (t.high >> 16));
}

// Whether whole registers of bytes are summed.
template <class T>
constexpr bool kSumsBytes = sizeof(T) == 1 && kAddsPairs;

// x(cols), of which as many lanes as there are take no more than kBlock values each.
template <class T>
FUSEDNORM_INLINE void add_row(const T* x, int64_t cols, Totals* totals) {
    const auto ask = [x](int64_t c) __attribute__((always_inline)) {
        __builtin_prefetch(reinterpret_cast<const char*>(x + c) + kPrefetchBytes);
    };
    int64_t c = 0;
    constexpr int64_t kAtOnce = kBytes < 32 ? kBytes : 64;  // a line of the cache: with AVX2 1.5 times as fast, else 0.97
    if (kSumsBytes<T> && cols >= 2 * kBytes) {              // fewer take longer to be closed
        ByteSums sums;
        for (; c + kAtOnce <= cols; c += kAtOnce) {
            ask(c);
            FUSEDNORM_LANES_UNROLL
            for (int64_t i = 0; i < kAtOnce; i += kBytes) sums.add_row<T>(load_bytes(x + c + i));
        }
        for (int i = 0; i < kBytes / 4; ++i)
            totals->sum += sums.values[i], totals->low += static_cast<uint32_t>(sums.squares[i]);
        if (c == cols) return;
    }
    IntegerSums sums;
    for (; c + kLanes <= cols; c += kLanes) ask(c), sums.add<T>(load<uint32_t>(x + c));
    if (c < cols) sums.add<T>(load_some<uint32_t>(x + c, cols - c));
    flush(sums, totals, 0, kLanes);
}

template <class T, bool>
void sums_rows(const RowsTile& t, Moments out) {
    constexpr int64_t kMost = kBlock * kLanes;
    for (int64_t s = 0; s < t.stats; ++s) {
        Totals totals;
        for (int64_t r = 0; r < t.rows; ++r) {
            const T* x = static_cast<const T*>(t.x) + s * t.stat_ld + r * t.ld;
            for (int64_t c = 0; c < t.cols; c += kMost) add_row(x + c, t.cols - c < kMost ? t.cols - c : kMost, &totals);
        }
        put(out, s, totals);
    }
}

template <class T>
FUSEDNORM_INLINE void sums_strip(const T* x, int64_t rows, int64_t ld, int64_t n, Totals* totals) {
    IntegerSums block;
    if (n >= kLanes) {
        for (int64_t r = 0; r < rows; ++r) {
            __builtin_prefetch(x + (r + rows) * ld);
            block.add<T>(load<uint32_t>(x + r * ld));
        }
    } else {
        for (int64_t r = 0; r < rows; ++r) block.add<T>(load_some<uint32_t>(x + r * ld, n));
    }
    flush(block, totals, 1, n < kLanes ? n : kLanes);
}

// Contiguous rows of bytes, as many of them as fill pairs of rows of whole registers. Returns how many.
template <class T>
int64_t add_byte_columns(const T* x, int64_t rows, int64_t cols, Totals* totals) {
    // kLeast pairs: fewer take longer to be closed. kMost: no lane overflows.
    constexpr int64_t kWide = 1024, kStrip = 8192, kLeast = 64, kMost = 8192;
    const int64_t power = cols & -cols, wide = cols / (power < kBytes ? power : kBytes) * kBytes;
    const int64_t pairs = rows * cols / (2 * wide);
    if (wide > kWide || pairs < kLeast) return 0;
    const int64_t strip = 2 * wide * 8 > kStrip ? 8 : kStrip / (2 * wide);
    ByteColumns columns[kWide / kBytes];
    for (int64_t done = 0, most; done < pairs; done += most) {
        most = pairs - done < kMost ? pairs - done : kMost;
        for (int64_t i = 0; i < wide / kBytes; ++i) columns[i] = {};
        for (int64_t p = 0; p < most; p += strip) {
            const int64_t n = most - p < strip ? most - p : strip;
            for (int64_t i = 0; i < wide / kBytes; ++i) {
                ByteColumns now = columns[i];
                const T* from = x + (done + p) * 2 * wide + i * kBytes;
                for (int64_t j = 0; j < n; ++j, from += 2 * wide) {
                    __builtin_prefetch(from + n * 2 * wide), __builtin_prefetch(from + n * 2 * wide + wide);
                    now.add<T>(load_bytes(from), load_bytes(from + wide));
                }
                columns[i] = now;
            }
        }
        for (int64_t i = 0; i < wide / kBytes; ++i) {
            columns[i].visit([&](int64_t byte, int32_t sum, uint32_t squares) {
                Totals& to = totals[static_cast<uint32_t>(i * kBytes + byte) % static_cast<uint32_t>(cols)];
                to.sum += sum, to.low += squares;
            });
        }
    }
    return pairs * 2 * wide / cols;
}

template <class T>
void sums_cols(const ColsTile& t, Moments out) {
    const T* x = static_cast<const T*>(t.x);
    Totals* totals = reinterpret_cast<Totals*>(t.scratch);
    // Few contiguous columns: several rows are one, as in moments_cols.
    const int64_t fold = t.ld == t.cols ? fold_of(t.cols) : 1, wide = fold * t.cols;
    for (int64_t c = 0; c < wide; ++c) totals[c] = {};
    int64_t left = t.rows;
    if constexpr (kSumsBytes<T>) {
        const int64_t done = t.ld == t.cols ? add_byte_columns(x, left, t.cols, totals) : 0;
        x += done * t.ld, left -= done;
    }
    const int64_t folded = left / fold;
    constexpr int64_t kValues = 16384;
    const int64_t strip = wide * 8 > kValues ? 8 : wide * kBlockRows < kValues ? kBlockRows : kValues / wide;
    const auto add_rows = [&](const T* from, int64_t rows, int64_t ld, int64_t cols) {
        for (int64_t r = 0; r < rows; r += strip)
            for (int64_t c = 0; c < cols; c += kLanes)
                sums_strip(from + r * ld + c, rows - r < strip ? rows - r : strip, ld, cols - c, totals + c);
    };
    add_rows(x, folded, fold == 1 ? t.ld : wide, wide);
    add_rows(x + folded * wide, left - folded * fold, t.cols, t.cols);
    for (int64_t c = 0; c < t.cols; ++c) {
        Totals all = totals[c];
        for (int64_t i = c + t.cols; i < wide; i += t.cols)
            all.sum += totals[i].sum, all.low += totals[i].low, all.high += totals[i].high;
        put(out, c, all);
    }
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
