// The activation functions on sixteen lanes of double, for results in float or double.
// Float results need 2^-26 of accuracy and few operations: one division each, by everything that there is to divide by.
// Double results need the rounding errors of the exponential's argument, and results below the smallest normal number.
// Infinities as the written formula gives them: silu, gelu, gelu_tanh and hardswish are NaN at -infinity.
#pragma once
#include "exponential.hpp"
#include "kernels.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// gelu_tanh(t) = t * sigmoid(2 sqrt(2/pi) (t + 0.044715 t^3)): the coefficients of t and t^3, each with its own error.
constexpr double kCubic1 = 1.5957691216057308, kCubic1Low = -9.96930880911092e-17;
constexpr double kCubic3 = 0.07135481627260025, kCubic3Low = -6.175149918155315e-19;

// ---- for results in float

// sigmoid(u), with y = -u log2(e).
FUSEDNORM_INLINE Lanes<double> sigmoid_for_float(const Lanes<double>& y) {
    const Ratio z = power_of_two(at_least(at_most(y, 1024), -1023));
    return z.below / (z.below + z.above);
}

FUSEDNORM_INLINE Lanes<double> silu_for_float(const Lanes<double>& t) { return t * sigmoid_for_float(t * -kLog2e); }

FUSEDNORM_INLINE Lanes<double> gelu_tanh_for_float(const Lanes<double>& t) {
    return t * sigmoid_for_float(t * (t * t * (-kCubic3 * kLog2e) + -kCubic1 * kLog2e));
}

// With v = 2t log2(e) = n + f and 2^f = (q + p) / (q - p): (2^v - 1) / (2^v + 1), where nothing cancels near 0.
FUSEDNORM_INLINE Lanes<double> tanh_for_float(const Lanes<double>& t) {
    const Lanes<double> v = at_least(at_most(t * (2 * kLog2e), 64), -64);
    const Whole n = nearest_whole(v);
    const TanhRatio h = tanh_ratio(v - n.number);
    const Lanes<double> more = n.power + 1.0, less = 1.0 - n.power;
    return (more * h.p - less * h.q) / (more * h.q - less * h.p);
}

FUSEDNORM_INLINE Lanes<double> gelu_for_float(const Lanes<double>& t) {
    // The limit is where y = -1023: from there on the tail is 0.
    const Lanes<double> a = at_most(absolute(t), 37.65871919523616);
    const Ratio z = power_of_two(a * (-0.5 * kLog2e) * a);
    const Lanes<double> tail = z.above * polynomial(a, kMillsAbove) / (z.below * monic_polynomial(a, kMillsBelow));
    return t * select(is_negative(t), tail, 1.0 - tail);
}

// ---- for results in double

// t * (z / (1 + z) where t is negative, else 1 / (1 + z)).
FUSEDNORM_INLINE Lanes<double> gated(const Lanes<double>& t, const Exponential& z) {
    const Mask<double> negative = is_negative(t);
    const Lanes<double> one = broadcast(1.0), share = select(negative, z.value, one);
    return t * share / (1.0 + z.value) * select(negative, z.rest, one);
}

FUSEDNORM_INLINE Lanes<double> silu_for_double(const Lanes<double>& t) {
    return gated(t, exponential(0.0 - absolute(t), broadcast(0.0)));
}

FUSEDNORM_INLINE Lanes<double> sigmoid_for_double(const Lanes<double>& t) {
    const Exponential z = exponential(0.0 - absolute(t), broadcast(0.0));
    const Mask<double> negative = is_negative(t);
    const Lanes<double> one = broadcast(1.0);
    return select(negative, z.value, one) / (1.0 + z.value) * select(negative, z.rest, one);
}

FUSEDNORM_INLINE Lanes<double> gelu_tanh_for_double(const Lanes<double>& t) {
    const Lanes<double> a = at_most(absolute(t), 64.0);
    const Pair square = product(a, a), cube = product(square.high, broadcast(kCubic3));
    const Pair factor = sum_of(cube.high, broadcast(kCubic1));
    const Lanes<double> low = factor.low + (cube.low + square.low * kCubic3 + square.high * kCubic3Low + kCubic1Low);
    const Pair u = product(a, factor.high);
    return gated(t, exponential(0.0 - u.high, 0.0 - (u.low + a * low)));
}

FUSEDNORM_INLINE Lanes<double> tanh_for_double(const Lanes<double>& t) {
    const Lanes<double> m = exponential_minus_one(at_most(absolute(t) * 2.0, 64.0));
    return with_sign(m / (m + 2.0), t);
}

// The last two steps of Horner's scheme carry their rounding errors: the sum is far smaller than its terms for large u.
FUSEDNORM_INLINE Pair scaled_mills(const Lanes<double>& u) {
    const Pair inner = sum_of(broadcast(kMillsScaled1), u * polynomial(u, kMillsScaled));
    const Pair outer = product(u, inner.high), s = sum_of(broadcast(kMillsScaled0), outer.high);
    return {s.high, s.low + (outer.low + u * inner.low)};
}

FUSEDNORM_INLINE Lanes<double> gelu_for_double(const Lanes<double>& t) {
    const Lanes<double> a = at_most(absolute(t), 64.0);
    const Pair square = product(a, a);
    // Through a / below, whose relative error is small: R varies fastest at a = 0, which is u = -1.
    const Lanes<double> below = a + kMillsCenter, share = a / below, u = share * 2.0 - 1.0;
    // What below lost in rounding divides the result: as a factor it costs nothing in the exponent.
    const Lanes<double> lost = (a - (below - kMillsCenter)) * ((share - 1.0) * (1 / kMillsCenter));
    const Exponential z = exponential(square.high * -0.5, square.low * -0.5 + lost);
    const Pair mills = scaled_mills(u), scaled = product(z.value, mills.high);
    const Lanes<double> tail = (scaled.high + (scaled.low + (z.value * mills.low + z.low * mills.high))) / below;
    const Mask<double> negative = is_negative(t);
    return t * select(negative, tail, 1.0 - tail) * select(negative, z.rest, broadcast(1.0));
}

// ---- for both

// In this order a large t stays below infinity: 6 * (1 / 6.) is 1.
FUSEDNORM_INLINE Lanes<double> hardswish(const Lanes<double>& t) {
    return t * (at_most(not_negative(t + 3.0), 6.0) * (1 / 6.));
}

// R: the type that results are rounded to, later.
template <Activation K, class R>
FUSEDNORM_INLINE Lanes<double> activate(const Lanes<double>& t) {
    constexpr bool is_float = std::is_same_v<R, float>;
    if constexpr (K == Activation::relu) return not_negative(t);
    if constexpr (K == Activation::silu) return is_float ? silu_for_float(t) : silu_for_double(t);
    if constexpr (K == Activation::gelu) return is_float ? gelu_for_float(t) : gelu_for_double(t);
    if constexpr (K == Activation::gelu_tanh) return is_float ? gelu_tanh_for_float(t) : gelu_tanh_for_double(t);
    if constexpr (K == Activation::sigmoid) return is_float ? sigmoid_for_float(t * -kLog2e) : sigmoid_for_double(t);
    if constexpr (K == Activation::tanh) return is_float ? tanh_for_float(t) : tanh_for_double(t);
    if constexpr (K == Activation::hardswish) return hardswish(t);
    if constexpr (K == Activation::leaky_relu) return select(is_negative(t), t * 0.01, t);
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
