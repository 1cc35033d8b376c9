// Moments down columns, each of them a statistic.
#pragma once
#include "centers.hpp"
#include "moments.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// Columns whose sums registers hold.
constexpr int64_t kColumnsAtOnce = kBytes == 64 ? 3 * kLanes : kLanes;

// Rows between two touches of a column's sums, which lie in memory: what they read stays in the first-level cache. Where few
// columns are taken at once, and a strip is read as often, it is short, so that memory is read nearly in order: on Zen 3 that
// was 1.1 to 1.3 times as fast beyond the caches and 0.9 to 1 within. Rows a multiple of 4 KiB apart share the cache's few
// lines of one set: half as many were 1.13 to 1.2 times as fast.
template <class T>
constexpr int64_t strip_rows(int64_t cols, int64_t ld) {
    constexpr int64_t kValues = kBytes == 64 ? 2048 : 512, kPage = 4096 / sizeof(T);
    const int64_t least = kBytes == 64 || ld % kPage == 0 ? 4 : 8;
    if (kBytes == 64 && cols <= kColumnsAtOnce) return kBlockRows;
    return cols * least >= kValues ? least : kValues / cols;
}

// Asks for values of the strips to come. Of rows without gaps in memory's order, whatever order this strip's are read in; else
// for what lies where this strip's do.
template <class T>
class Ahead {
public:
    FUSEDNORM_INLINE Ahead(int64_t strip, int64_t ld_, int64_t cols) : ld(ld_), in_order(ld == cols) {
        // The last row of a strip is read nearly as soon as its first one; where its columns are taken all at once, after it.
        const int64_t rows = (strip - 1) * cols + values_of(4), least = values_of(12);
        first = cols <= kColumnsAtOnce ? values_of(16) : rows > least ? rows : least;
        if (!in_order) first = strip * ld;
    }
    FUSEDNORM_INLINE void begin(const T* strip_) { strip = at = strip_ + first; }
    // Of so many columns, from this one on.
    FUSEDNORM_INLINE void columns(int64_t c, int64_t n) {
        if (!in_order) at = strip + c;
        step = in_order ? n : ld;
    }
    // Once for each of their rows.
    template <int N>
    FUSEDNORM_INLINE void ask() {
        FUSEDNORM_LANES_UNROLL
        for (int i = 0; i < N; i += static_cast<int>(kLineBytes / sizeof(T))) __builtin_prefetch(at + i);
        at += step;
    }

private:
    // How many values are so many KiB. With less to be on its way memory was read at 0.6 to 0.95 of the speed, with more than
    // fits the first-level cache beside the strip at 0.8 to 0.9.
    static constexpr int64_t values_of(int64_t kib) { return kib * 1024 / static_cast<int64_t>(sizeof(T)); }
    int64_t ld, first, step = 0;
    bool in_order;
    const T *strip = nullptr, *at = nullptr;
};

// Columns in sixteens, as many at once as registers hold: strip(first column, how many sixteens, how to load a register).
template <class F>
FUSEDNORM_INLINE void for_columns(int64_t cols, F strip) {
    const AllLanes<double> whole;
    int64_t c = 0;
    if constexpr (kColumnsAtOnce > kLanes) {
        // Where one sixteen would be left, it is taken with one of the three before: alone its additions wait for each other.
        for (int64_t left = cols; left >= 2 * kLanes; left = cols - c) {
            const bool two = left < 3 * kLanes || (left >= 4 * kLanes && left < 5 * kLanes);
            if (two) {
                strip(c, std::integral_constant<int, 2>(), whole);
                c += 2 * kLanes;
            } else {
                strip(c, std::integral_constant<int, 3>(), whole);
                c += 3 * kLanes;
            }
        }
    }
    constexpr std::integral_constant<int, 1> one{};
    for (; c + kLanes <= cols; c += kLanes) strip(c, one, whole);
    if (c < cols) strip(c, one, FirstLanes<double>{cols - c});
}

// Adds rows to two sums of every column, which stay in registers: step(row, column, register, how to load it, its columns'
// centers and sums).
template <class F, class... A>
FUSEDNORM_INLINE void add_to_columns(int64_t rows, int64_t cols, const double* center, double* first, double* second, F step,
                                     A&... ahead) {
    for_columns(cols, [&](int64_t c, auto groups, auto value_at) __attribute__((always_inline)) {
        constexpr int n = decltype(groups)::value;
        constexpr int parts = Lanes<double>::kParts;
        const double* const k_at = center + c;
        double *const a_at = first + c, *const b_at = second + c;
        Lanes<double> k[n], a[n], b[n];
        FUSEDNORM_LANES_UNROLL
        for (int j = 0; j < n; ++j) {
            FUSEDNORM_LANES_UNROLL
            for (int i = 0; i < parts; ++i) k[j].part[i] = value_at(k_at + j * kLanes, i);
            a[j] = load<double>(a_at + j * kLanes), b[j] = load<double>(b_at + j * kLanes);
        }
        (ahead.columns(c, n * kLanes), ...);
        for (int64_t r = 0; r < rows; ++r) {
            (ahead.template ask<n * kLanes>(), ...);
            FUSEDNORM_LANES_UNROLL
            for (int j = 0; j < n; ++j) {
                FUSEDNORM_LANES_UNROLL
                for (int i = 0; i < parts; ++i) step(r, c + j * kLanes, i, value_at, k[j].part[i], a[j].part[i], b[j].part[i]);
            }
        }
        FUSEDNORM_LANES_UNROLL
        for (int j = 0; j < n; ++j) store(a_at + j * kLanes, a[j]), store(b_at + j * kLanes, b[j]);
    });
}

template <class T, bool Plain>
FUSEDNORM_INLINE void cols_strip(const T* x, int64_t rows, int64_t ld, int64_t cols, Ahead<T>& ahead, const double* center,
                                 double* sums, double* squares) {
    const auto step = [=](int64_t r, int64_t c, int i, auto value_at, const Doubles& k, Doubles& s, Doubles& q)
                          __attribute__((always_inline)) {
                              const Doubles v = value_at(x + r * ld + c, i), d = Plain ? v : v - k;
                              s += d;
                              add_square<Plain>(q, d);
                          };
    ahead.begin(x);
    add_to_columns(rows, cols, center, sums, squares, step, ahead);
}

// One block of rows, each column around its center.
template <class T, bool Plain>
FUSEDNORM_INLINE void cols_sums(const T* x, int64_t rows, int64_t ld, int64_t cols, const double* center, double* sums,
                                double* squares) {
    for (int64_t c = 0; c < cols; c += kLanes) store(sums + c, broadcast(0.0)), store(squares + c, broadcast(0.0));
    constexpr int64_t kMostCols = kBytes == 64 ? 512 : INT64_MAX / 2;
    for (int64_t c = 0; c < cols; c += kMostCols) {
        const int64_t some = cols - c < kMostCols ? cols - c : kMostCols, strip = strip_rows<T>(some, ld);
        Ahead<T> ahead(strip, ld, some);
        for (int64_t r = 0; r < rows; r += strip)
            cols_strip<T, Plain>(x + r * ld + c, rows - r < strip ? rows - r : strip, ld, some, ahead, center + c, sums + c,
                                 squares + c);
    }
}

// Sets every column's center: of(column, its first value, what the center was). Returns whether one is not what it was.
template <class T, class F>
FUSEDNORM_INLINE bool set_centers(const T* first, int64_t cols, double* center, F of) {
    Lanes<double> changes = broadcast(0.0);
    for (int64_t c = 0; c < cols; c += kLanes) {
        const Lanes<double> before = load<double>(center + c), k = of(c, load_some<double>(first + c, cols - c), before);
        store(center + c, k);
        changes += absolute(k - before);
    }
    return sum(changes) != 0;
}

// Sets the centers that the columns of a block are summed around first. Returns whether all are 0.
template <class T>
FUSEDNORM_INLINE bool choose_centers(const T* x, int64_t block, int64_t ld, int64_t cols, double* center) {
    using Values = const Lanes<double>&;
    for (int64_t c = 0; c < cols; c += kLanes) store(center + c, broadcast(0.0));
    const bool choose = is_narrow<T> && block >= kLeastRowsChosen;
    return !set_centers(x, cols, center, [&](int64_t c, Values first, Values zero) __attribute__((always_inline)) {
        const Lanes<double> k = select(is_finite(first), first, zero);
        if (!choose) return k;
        const auto row = [&](int64_t r) __attribute__((always_inline)) { return load_some<double>(x + r * ld + c, cols - c); };
        return select(looks_near(first, row(block / 4), row(block / 2), row(block * 3 / 4), row(block - 1)), zero, k);
    });
}

// Closes a block of every column, `count` values around its center (null: 0), and merges it into what `done` values gave. Not
// inlined: every type's loops would repeat it.
__attribute__((noinline)) void close_columns(const double* center, const double* sums, const double* squares, double count,
                                             int64_t cols, double done, Moments out) {
    const Lanes<double> n = broadcast(count), zero = broadcast(0.0);
    for (int64_t c = 0; c < cols; c += kLanes) {
        const Lanes<double> k = center ? load<double>(center + c) : zero;
        auto value = closed_block<true>(k, load<double>(sums + c), load<double>(squares + c), n);
        if (done > 0) value = merged(get_lanes(out, c, cols - c), done, value, count);
        put_lanes(out, c, cols - c, value);
    }
}

// scratch: three arrays of cols rounded up to whole lanes.
template <class T>
void moments_wide_cols(const T* x, int64_t rows, int64_t ld, int64_t cols, double* scratch, Moments out) {
    const int64_t padded = whole_lanes(cols);
    double *center = scratch, *sums = center + padded, *squares = sums + padded;
    using Values = const Lanes<double>&;
    for (int64_t done = 0; done < rows; done += kBlockRows, x += kBlockRows * ld) {
        const int64_t block = rows - done < kBlockRows ? rows - done : kBlockRows;
        const double count = static_cast<double>(block);
        bool around_zero = choose_centers(x, block, ld, cols, center);
        for (int tried = 1;; ++tried) {
            if (kPlain<T> && around_zero) {
                cols_sums<T, kPlain<T>>(x, block, ld, cols, center, sums, squares);
            } else {
                cols_sums<T, false>(x, block, ld, cols, center, sums, squares);
            }
            if (tried == kMostCenters) break;
            if (!set_centers(x, cols, center, [&](int64_t c, Values first, Values k) __attribute__((always_inline)) {
                    return next_center<is_narrow<T>>(k, first, load<double>(sums + c), load<double>(squares + c), count);
                }))
                break;
            around_zero = false;
        }
        close_columns(center, sums, squares, count, cols, static_cast<double>(done), out);
    }
}

// Few contiguous columns would leave most lanes empty: several rows are read as one, and their replicas merged.
template <class T>
void moments_cols(const ColsTile& t, Moments out) {
    const T* x = static_cast<const T*>(t.x);
    const int64_t fold = fold_of(t.rows, t.ld, t.cols), folded_rows = t.rows / fold;
    if (fold == 1) return moments_wide_cols<T>(x, t.rows, t.ld, t.cols, t.scratch, out);
    const int64_t wide = fold * t.cols, left = t.rows - folded_rows * fold;
    Moments parts{t.scratch, t.scratch + wide, t.scratch + 2 * wide};
    double* scratch = t.scratch + 3 * wide;
    moments_wide_cols<T>(x, folded_rows, wide, wide, scratch, parts);
    // The replicas are as many as a power of two, and have seen as many rows: the second half goes into the first, and again.
    double count = static_cast<double>(folded_rows);
    for (int64_t half = wide / 2; half >= t.cols; half /= 2, count *= 2) merge(parts, count, parts + half, count, half);
    for (int64_t c = 0; c < t.cols; ++c) put(out, c, {parts.mean[c], parts.low[c], parts.m2[c]});
    if (left == 0) return;
    moments_wide_cols<T>(x + folded_rows * wide, left, t.cols, t.cols, scratch, parts);
    merge(out, count, parts, static_cast<double>(left), t.cols);
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
