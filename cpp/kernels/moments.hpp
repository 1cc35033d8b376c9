// Moments of one tile, merging them, and the coefficients made from them.
// Every block is accumulated as d = x - K with K one of its own values, or 0 where that is near, so the cancellation in
// sum(d*d) - sum(d)^2 / n is at most n-fold, whatever the offset; blocks are merged in their order (Chan, Golub and LeVeque
// 1979).
#pragma once
#include "kernels.hpp"
#include "lanes_bits.hpp"
#include "stored.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// The moments of one statistic (V = double), or of sixteen (V = Lanes<double>).
template <class V>
struct MomentsOf {
    V mean, low, m2;
};

// mean + low + add, as a mean and a low part again (Knuth 1969: the error of an addition is a double).
template <class V>
FUSEDNORM_INLINE void add_to_mean(V& mean, V& low, const V& add) {
    const V sum = mean + add, part = sum - mean;
    const V rest = low + ((mean - (sum - part)) + (add - part));
    const V rounded = sum + rest, left = rest - (rounded - sum);
    // An infinite sum leaves no rest (tests/test_moments.py).
    const auto finite = is_finite(sum);
    mean = select(finite, rounded, sum);
    low = select(finite, left, V{});
}

// a: count values, b: count_b values.
template <class V>
FUSEDNORM_INLINE MomentsOf<V> merged(const MomentsOf<V>& a, double count, const MomentsOf<V>& b, double count_b) {
    const double part = count_b / (count + count_b);
    const V share = V{} + part, rest = V{} + (1 - part), weight = V{} + count * part;
    const V delta = (b.mean - a.mean) + (b.low - a.low);
    MomentsOf<V> r{a.mean, a.low, a.m2 + b.m2 + delta * delta * weight};
    add_to_mean(r.mean, r.low, delta * share);
    // An infinite value leaves a mean that no difference may be taken of (tests/test_special.py).
    const auto finite = is_finite(delta);
    r.mean = select(finite, r.mean, a.mean * rest + b.mean * share);
    r.low = select(finite, r.low, V{});
    return r;
}

// From the sums of d and d * d over n values around k.
template <bool Centered, class V>
FUSEDNORM_INLINE MomentsOf<V> closed_block(const V& k, const V& sum, const V& squares, const V& n) {
    if constexpr (!Centered) return {V{}, V{}, squares};
    const V offset = sum / n;
    MomentsOf<V> r{k, V{}, not_negative(squares - sum * offset)};
    add_to_mean(r.mean, r.low, offset);
    return r;
}

FUSEDNORM_INLINE void put(Moments m, int64_t i, const MomentsOf<double>& value) {
    m.mean[i] = value.mean, m.low[i] = value.low, m.m2[i] = value.m2;
}

// Sixteen statistics from the i-th on, or the n < 16 that are left.
FUSEDNORM_INLINE MomentsOf<Lanes<double>> get_lanes(Moments m, int64_t i, int64_t n) {
    if (n >= kLanes) return {load<double>(m.mean + i), load<double>(m.low + i), load<double>(m.m2 + i)};
    return {load_some<double>(m.mean + i, n), load_some<double>(m.low + i, n), load_some<double>(m.m2 + i, n)};
}
FUSEDNORM_INLINE void put_lanes(Moments m, int64_t i, int64_t n, const MomentsOf<Lanes<double>>& value) {
    if (n >= kLanes) {
        store(m.mean + i, value.mean), store(m.low + i, value.low), store(m.m2 + i, value.m2);
    } else {
        store_some(m.mean + i, value.mean, n), store_some(m.low + i, value.low, n), store_some(m.m2 + i, value.m2, n);
    }
}

// Of values whose products are exact in double the sums are taken around 0 where kNear allows it: a subtraction less, and a
// fused multiply-add, where there is one, that rounds as two operations do. On two cores in cache: moments 1.1 to 1.4 times as
// fast with AVX-512, 1.3 to 1.5 with AVX2. A block's values alone decide.
template <class T>
constexpr bool is_narrow = !std::is_same_v<T, double>;
// Whether loops have a second form for that. The first one gives the same bits: x - 0 is x.
template <class T>
constexpr bool kPlain = is_narrow<T> && kFused;

// With fewer values, choosing takes as long as it spares.
constexpr int64_t kLeastChosen = 256, kLeastRowsChosen = 64;

// sum += a * a
template <bool Plain>
FUSEDNORM_INLINE void add_square(Lanes<double>& sum, const Lanes<double>& a) {
    if constexpr (Plain) {
        add_exact_product(sum, a, a);
    } else {
        sum += a * a;
    }
}

template <class V>
FUSEDNORM_INLINE auto is_near(const V& sum, const V& squares, double n) {
    return is_at_most(sum * sum * (kNear + 1), squares * (n * kNear));
}

// The same, guessed from a few values: it spares reading the block twice.
template <class V, class... Others>
FUSEDNORM_INLINE auto looks_near(const V& first, const Others&... others) {
    return is_at_most(absolute(first), (absolute(others - first) + ...) * 8.0);
}

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
    if (is_narrow<T> && n >= kLeastChosen &&
        looks_near(first, as_double(x[cols / 2]), as_double(x[(rows - 1) * ld + cols - 1])))
        k = 0;
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

void merge(Moments a, double count_a, Moments b, double count_b, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes)
        put_lanes(a, i, n - i, merged(get_lanes(a, i, n - i), count_a, get_lanes(b, i, n - i), count_b));
}

void pool(Moments in, double count, int64_t per, Moments out, int64_t n) {
    for (int64_t i = 0; i < n; ++i, in = in + per) {
        double sum = 0, squares = 0, m2 = 0, plain = 0;
        for (int64_t j = 0; j < per; ++j) {
            const double d = (in.mean[j] - in.mean[0]) + (in.low[j] - in.low[0]);
            sum += d;
            squares += d * d;
            m2 += in.m2[j];
            plain += in.mean[j];
        }
        const double parts = static_cast<double>(per);
        MomentsOf<double> r = closed_block<true>(in.mean[0], sum, squares, parts);
        add_to_mean(r.mean, r.low, in.low[0]);
        if (!is_finite(sum)) r.mean = plain / parts, r.low = 0;
        put(out, i, {r.mean, r.low, m2 + count * r.m2});
    }
}

// Rows between two touches of a column's sums, which lie in memory: what they read stays in the first-level cache.
constexpr int64_t strip_rows(int64_t cols) {
    constexpr int64_t kValues = 4096, kLeast = 8;
    return cols * kLeast >= kValues ? kLeast : kValues / cols;
}

// Columns in sixteens, as many at once as registers hold: strip(first column, how many sixteens, how to load one).
template <class F>
FUSEDNORM_INLINE void for_columns(int64_t cols, F strip) {
    constexpr int kGroups = kBytes == 64 ? 3 : 1;
    constexpr std::integral_constant<int, kGroups> several{};
    constexpr std::integral_constant<int, 1> one{};
    const auto whole = [](const auto* p) __attribute__((always_inline)) { return load<double>(p); };
    int64_t c = 0;
    if constexpr (kGroups > 1)
        for (; c + kGroups * kLanes <= cols; c += kGroups * kLanes) strip(c, several, whole);
    for (; c + kLanes <= cols; c += kLanes) strip(c, one, whole);
    const int64_t left = cols - c;
    const auto some = [left](const auto* p) __attribute__((always_inline)) { return load_some<double>(p, left); };
    if (left > 0) strip(c, one, some);
}

template <class T, bool Centered, bool Plain>
FUSEDNORM_INLINE void cols_strip(const T* x, int64_t rows, int64_t ld, int64_t cols, const double* center, double* sums,
                                 double* squares) {
    for_columns(cols, [&](int64_t c, auto groups, auto value_at) __attribute__((always_inline)) {
        constexpr int n = decltype(groups)::value;
        Lanes<double> k[n], s[n], q[n];
        FUSEDNORM_LANES_UNROLL
        for (int j = 0; j < n; ++j) {
            const int64_t at = c + j * kLanes;
            k[j] = load<double>(center + at), s[j] = load<double>(sums + at), q[j] = load<double>(squares + at);
        }
        for (int64_t r = 0; r < rows; ++r) {
            FUSEDNORM_LANES_UNROLL
            for (int j = 0; j < n; ++j) {
                const T* value = x + r * ld + c + j * kLanes;
                __builtin_prefetch(value + rows * ld, 0, 2);  // the next strip's
                const Lanes<double> v = value_at(value), d = Plain ? v : v - k[j];
                if constexpr (Centered) s[j] += d;
                add_square<Plain>(q[j], d);
            }
        }
        FUSEDNORM_LANES_UNROLL
        for (int j = 0; j < n; ++j) store(sums + c + j * kLanes, s[j]), store(squares + c + j * kLanes, q[j]);
    });
}

// One block of rows, each column around its center.
template <class T, bool Centered, bool Plain>
FUSEDNORM_INLINE void cols_sums(const T* x, int64_t rows, int64_t ld, int64_t cols, const double* center, double* sums,
                                double* squares) {
    for (int64_t c = 0; c < cols; c += kLanes) store(sums + c, broadcast(0.0)), store(squares + c, broadcast(0.0));
    const int64_t strip = strip_rows(cols);
    for (int64_t r = 0; r < rows; r += strip)
        cols_strip<T, Centered, Plain>(x + r * ld, rows - r < strip ? rows - r : strip, ld, cols, center, sums, squares);
}

// The center of columns that are near is 0, of the others the first value, if it is finite. Whether all of them are 0.
template <class T, class F>
FUSEDNORM_INLINE bool set_centers(const T* first, int64_t cols, double* center, F is_near_at) {
    const Lanes<double> zero = broadcast(0.0);
    Lanes<double> total = zero;
    for (int64_t c = 0; c < cols; c += kLanes) {
        const Lanes<double> value = load_some<double>(first + c, cols - c);
        const Lanes<double> k = select(is_near_at(c, value), zero, select(is_finite(value), value, zero));
        store(center + c, k);
        total += absolute(k);
    }
    return sum(total) == 0;
}

// scratch: three arrays of cols rounded up to whole lanes.
template <class T, bool Centered>
void moments_wide_cols(const T* x, int64_t rows, int64_t ld, int64_t cols, double* scratch, Moments out) {
    const int64_t padded = (cols + kLanes - 1) / kLanes * kLanes;
    double *center = scratch, *sums = center + padded, *squares = sums + padded;
    for (int64_t done = 0; done < rows; done += kBlockRows, x += kBlockRows * ld) {
        const int64_t block = rows - done < kBlockRows ? rows - done : kBlockRows;
        const double count = static_cast<double>(block);
        const bool choose = Centered && is_narrow<T> && block >= kLeastRowsChosen;
        bool around_zero =
            set_centers(x, cols, center, [&](int64_t c, const Lanes<double>& first) __attribute__((always_inline)) {
                if (!choose) return is_at_most(broadcast(1.0), broadcast(Centered ? 0.0 : 1.0));
                const auto row = [&](int64_t r)
                                     __attribute__((always_inline)) { return load_some<double>(x + r * ld + c, cols - c); };
                return looks_near(first, row(block / 4), row(block / 2), row(block * 3 / 4), row(block - 1));
            });
        for (;;) {
            if (kPlain<T> && around_zero) {
                cols_sums<T, Centered, kPlain<T>>(x, block, ld, cols, center, sums, squares);
            } else {
                cols_sums<T, Centered, false>(x, block, ld, cols, center, sums, squares);
            }
            if (!Centered || !around_zero) break;
            around_zero = set_centers(x, cols, center, [&](int64_t c, const Lanes<double>&) __attribute__((always_inline)) {
                return is_near(load<double>(sums + c), load<double>(squares + c), count);
            });
            if (around_zero) break;
        }
        const Lanes<double> n = broadcast(count);
        for (int64_t c = 0; c < cols; c += kLanes) {
            auto value = closed_block<Centered>(load<double>(center + c), load<double>(sums + c), load<double>(squares + c), n);
            if (done > 0) value = merged(get_lanes(out, c, cols - c), static_cast<double>(done), value, count);
            put_lanes(out, c, cols - c, value);
        }
    }
}

// Few contiguous columns would leave most lanes empty: several rows are read as one, and their replicas merged.
template <class T, bool Centered>
void moments_cols(const ColsTile& t, Moments out) {
    const T* x = static_cast<const T*>(t.x);
    const int64_t fold = t.ld == t.cols ? fold_of(t.cols) : 1, folded_rows = t.rows / fold;
    if (fold == 1 || folded_rows == 0) return moments_wide_cols<T, Centered>(x, t.rows, t.ld, t.cols, t.scratch, out);
    const int64_t wide = fold * t.cols, left = t.rows - folded_rows * fold;
    Moments parts{t.scratch, t.scratch + wide, t.scratch + 2 * wide};
    double* scratch = t.scratch + 3 * wide;
    moments_wide_cols<T, Centered>(x, folded_rows, wide, wide, scratch, parts);
    const double n = static_cast<double>(folded_rows);
    for (int64_t c = 0; c < t.cols; ++c) put(out, c, {parts.mean[c], parts.low[c], parts.m2[c]});
    for (int64_t i = 1; i < fold; ++i) merge(out, n * static_cast<double>(i), parts + i * t.cols, n, t.cols);
    if (left == 0) return;
    moments_wide_cols<T, Centered>(x + folded_rows * wide, left, t.cols, t.cols, scratch, parts);
    merge(out, n * static_cast<double>(fold), parts, static_cast<double>(left), t.cols);
}

// rstd = 1 / sqrt(m2 / count + eps), scale = weight * rstd, center = A(mean), shift = bias + (center - mean) * scale:
// what rounding the mean to A lost comes back in the shift. False when A's range does not hold these numbers.
template <class A>
bool coefficients(const CoefficientsJob& job) {
    constexpr int64_t kChunk = 64;
    A *center = static_cast<A*>(job.center), *scale = static_cast<A*>(job.scale), *shift = static_cast<A*>(job.shift);
    const int64_t per = job.per, affine_ld = job.affine_ld;
    const double *weight = job.weight, *bias = job.bias;
    const Lanes<double> count = broadcast(job.count), one = broadcast(1.0);
    int misfits = 0;
    for (int64_t begin = 0; begin < job.stats; begin += kChunk) {
        const int64_t n = job.stats - begin < kChunk ? job.stats - begin : kChunk;
        const Moments m = job.moments + begin;
        double rstd[kChunk], lost[kChunk];
        for (int64_t i = 0; i < n; i += kLanes)
            store(rstd + i, one / square_root(load_some<double>(m.m2 + i, n - i) / count + job.eps));
        // An infinite mean was not rounded, and goes through x - center.
        for (int64_t i = 0; i < n; ++i)
            lost[i] = is_finite(m.mean[i]) ? (static_cast<double>(static_cast<A>(m.mean[i])) - m.mean[i]) - m.low[i] : 0;
        const auto make = [&](int64_t i, int64_t s) __attribute__((always_inline)) {
            const double factor = weight[i * affine_ld] * rstd[s];
            center[i] = static_cast<A>(m.mean[s]);
            scale[i] = static_cast<A>(factor);
            shift[i] = static_cast<A>(bias[i * affine_ld] + lost[s] * factor);
            if constexpr (sizeof(A) == 4) {
                const double size = __builtin_fabs(factor), offset = __builtin_fabs(m.mean[s]);
                // NaN and infinities compare false: what they give is the same in any arithmetic.
                const bool far = (offset > 0x1p100) & (offset < __builtin_inf());
                const bool small = (size < 0x1p-126) & (size > 0), large = (size > 0x1p126) & (size < __builtin_inf());
                misfits |= far | small | large;
            }
        };
        if (per == 1) {
            for (int64_t i = 0; i < n; ++i) make(i, i);
        } else {
            for (int64_t s = 0, i = 0; s < n; ++s)
                for (const int64_t end = i + per; i < end; ++i) make(i, s);
        }
        center += n * per, scale += n * per, shift += n * per;
        weight += n * per * affine_ld, bias += n * per * affine_ld;
    }
    return misfits == 0;
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
