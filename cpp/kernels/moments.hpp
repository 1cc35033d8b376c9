// Moments, whatever they were found from: closing a block, merging (Chan, Golub and LeVeque 1979), pooling, and the
// coefficients made from them.
#pragma once
#include "kernels.hpp"
#include "lanes_bits.hpp"
#include "stored_some.hpp"

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

// a; if it is NaN, the one of a fixed sign: not that of whichever of several came first.
template <class V>
FUSEDNORM_INLINE V settled(const V& a) {
    return select(is_at_most(a, a), a, V{} + kNan);
}

// From the sums of d and d * d over n values around k.
template <bool Centered, class V>
FUSEDNORM_INLINE MomentsOf<V> closed_block(const V& k, const V& around_k, const V& squares_around_k, const V& n) {
    const V sum = settled(around_k), squares = settled(squares_around_k);
    if constexpr (!Centered) return {V{}, V{}, squares};
    const V offset = sum / n;
    // Beyond the range of doubles: the variance is infinite, but where a value is, NaN.
    const V m2 = select(is_finite(squares), not_negative(squares - sum * offset), squares + (sum - sum));
    MomentsOf<V> r{k, V{}, m2};
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

// rstd = 1 / sqrt(m2 / count + eps), scale = weight * rstd, center = A(mean), shift = bias - (mean - center) * scale:
// what rounding the mean to A lost comes back in the shift. (A bias of -0 stays one: adding it changes no zero's sign.) False
// when A's range does not hold these numbers.
template <class A>
struct CoefficientsOf {
    const CoefficientsJob& job;
    Lanes<double> misfits = broadcast(0.0);

    // n <= 16 coefficients from the i-th on, of statistics, weights and biases that are lanes.
    FUSEDNORM_INLINE void make(int64_t i, int64_t n, const MomentsOf<Lanes<double>>& m, const Lanes<double>& rstd,
                               const Lanes<double>& weight, const Lanes<double>& bias) {
        const Lanes<double> zero = broadcast(0.0), one = broadcast(1.0);
        const auto put = [&](void* to, const Lanes<double>& value) __attribute__((always_inline)) {
            n == kLanes ? store(static_cast<A*>(to) + i, value) : store_some(static_cast<A*>(to) + i, value, n);
        };
        const Lanes<double> factor = weight * rstd;
        // An infinite mean was not rounded, and goes through x - center.
        const Lanes<double> lost = select(is_finite(m.mean), (m.mean - rounded_to<A>(m.mean)) + m.low, zero);
        // Nor is anything lost beside an infinite weight.
        const Lanes<double> worth = lost * factor;
        put(job.center, m.mean);
        put(job.scale, factor);
        put(job.shift, bias - select(is_finite(worth), worth, zero));
        if constexpr (sizeof(A) == 4) {
            const Lanes<double> size = absolute(factor), offset = absolute(m.mean);
            // NaN and infinities fit: what they give is the same in any arithmetic.
            const auto counted = [&](const Lanes<double>& a)
                                     __attribute__((always_inline)) { return select(is_finite(a), one, zero); };
            const Lanes<double> far = select(is_at_most(offset, broadcast(0x1p100)), zero, counted(offset));
            const Lanes<double> large = select(is_at_most(size, broadcast(0x1p126)), zero, counted(size));
            const Lanes<double> small = select(is_at_most(broadcast(0x1p-126), size), zero, counted(size));
            misfits += far + large + select(is_at_most(size, zero), zero, small);
        }
    }
    // make() as one function: not inlined at every caller.
    __attribute__((noinline)) void make_apart(int64_t i, int64_t n, const MomentsOf<Lanes<double>>& m,
                                              const Lanes<double>& rstd, const Lanes<double>& weight,
                                              const Lanes<double>& bias) {
        make(i, n, m, rstd, weight, bias);
    }
};

template <class A>
bool coefficients(const CoefficientsJob& job) {
    CoefficientsOf<A> made{job};
    const Lanes<double> count = broadcast(job.count), one = broadcast(1.0);
    const auto some = [](const double* p, int64_t n)
                          __attribute__((always_inline)) { return n >= kLanes ? load<double>(p) : load_some<double>(p, n); };
    for (int64_t s = 0; s < job.stats; s += kLanes) {
        const int64_t n = job.stats - s < kLanes ? job.stats - s : kLanes;
        const MomentsOf<Lanes<double>> m = get_lanes(job.moments, s, n);
        const Lanes<double> rstd = one / square_root(m.m2 / count + job.eps);
        if (job.per == 1) {
            const auto own = [&](const double* p) __attribute__((always_inline)) {
                return job.affine_ld == 0 ? broadcast(p[0]) : some(p + s * job.affine_ld, n);
            };
            made.make(s, n, m, rstd, own(job.weight), own(job.bias));
            continue;
        }
        double own[3][kLanes];
        store(own[0], m.mean), store(own[1], m.low), store(own[2], rstd);
        // Sixteen coefficients have one statistic, or several.
        if (job.per >= kLanes) {
            for (int64_t i = 0; i < n; ++i) {
                const MomentsOf<Lanes<double>> shared{broadcast(own[0][i]), broadcast(own[1][i]), Lanes<double>{}};
                const double *weight = job.weight + (s + i) * job.affine_ld, *bias = job.bias + (s + i) * job.affine_ld;
                for (int64_t c = 0; c < job.per; c += kLanes) {
                    const int64_t left = job.per - c < kLanes ? job.per - c : kLanes;
                    made.make_apart((s + i) * job.per + c, left, shared, broadcast(own[2][i]), some(weight + c, left),
                                    some(bias + c, left));
                }
            }
            continue;
        }
        double each[5][kLanes] = {};
        const int64_t all = n * job.per;
        for (int64_t c = 0, i = 0, used = 0; c < all; c += kLanes) {
            const int64_t left = all - c < kLanes ? all - c : kLanes;
            for (int64_t j = 0; j < left; ++j, ++used) {
                if (used == job.per) used = 0, ++i;
                for (int which = 0; which < 3; ++which) each[which][j] = own[which][i];
                each[3][j] = job.weight[(s + i) * job.affine_ld + used], each[4][j] = job.bias[(s + i) * job.affine_ld + used];
            }
            made.make_apart(s * job.per + c, left, {load<double>(each[0]), load<double>(each[1]), Lanes<double>{}},
                            load<double>(each[2]), load<double>(each[3]), load<double>(each[4]));
        }
    }
    return sum(made.misfits) == 0;
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
