// More vocabulary on sixteen lanes, for elementary functions: limits, signs, powers of two, exact products.
// Only operations that every instruction set rounds alike: no fused multiply-add, no approximate reciprocal.
#pragma once
#include "lanes.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

using Bits = VectorOf<int64_t, kBytes>::type;
constexpr int64_t kSignBit = INT64_MIN;

// Applies f to the bits of every register of a and of b.
template <class F>
FUSEDNORM_INLINE Lanes<double> map_bits(const Lanes<double>& a, const Lanes<double>& b, F f) {
    using Part = Lanes<double>::Part;
    Lanes<double> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<double>::kParts; ++i)
        r.part[i] = reinterpret_cast<Part>(f(reinterpret_cast<Bits>(a.part[i]), reinterpret_cast<Bits>(b.part[i])));
    return r;
}

FUSEDNORM_INLINE Lanes<double> absolute(const Lanes<double>& a) {
    return map_bits(a, a, [](Bits x, Bits) __attribute__((always_inline)) { return x & ~kSignBit; });
}

// a, which is not negative, with the sign of b.
FUSEDNORM_INLINE Lanes<double> with_sign(const Lanes<double>& a, const Lanes<double>& b) {
    return map_bits(a, b, [](Bits x, Bits y) __attribute__((always_inline)) { return x | (y & kSignBit); });
}

// The leading 26 bits of a: products of two of them are exact.
FUSEDNORM_INLINE Lanes<double> leading(const Lanes<double>& a) {
    return map_bits(a, a, [](Bits x, Bits) __attribute__((always_inline)) { return x & -(int64_t{1} << 27); });
}

// The smaller of a and limit; NaN stays.
FUSEDNORM_INLINE Lanes<double> at_most(const Lanes<double>& a, double limit) {
    Lanes<double> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<double>::kParts; ++i) {
        const auto bound = limit - Lanes<double>::Part{};
        r.part[i] = bound < a.part[i] ? bound : a.part[i];
    }
    return r;
}

// The larger of a and limit; NaN stays.
FUSEDNORM_INLINE Lanes<double> at_least(const Lanes<double>& a, double limit) {
    Lanes<double> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<double>::kParts; ++i) {
        const auto bound = limit - Lanes<double>::Part{};
        r.part[i] = bound > a.part[i] ? bound : a.part[i];
    }
    return r;
}

FUSEDNORM_INLINE Mask<double> is_negative(const Lanes<double>& a) {
    Mask<double> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<double>::kParts; ++i) r.part[i] = a.part[i] < Lanes<double>::Part{};
    return r;
}

// The nearest whole number, and 2 to its power: infinity at 1024, 0 at -1023. For |a| < 1024 or NaN.
struct Whole {
    Lanes<double> number, power;
};

FUSEDNORM_INLINE Whole nearest_whole(const Lanes<double>& a) {
    // Added to a, it leaves no bits for a fraction, and the number plus the exponent's bias in the lowest bits.
    constexpr double kMagic = 0x1.8p52 + 1023;
    const Lanes<double> sum = a + kMagic;
    const auto shift = [](Bits x, Bits) __attribute__((always_inline)) { return x << 52; };
    return {sum - kMagic, map_bits(sum, sum, shift)};
}

// A number as the sum of two doubles; low is at most half a unit in high's last place, or little more.
struct Pair {
    Lanes<double> high, low;
};

// Dekker 1971. No infinity, and no product near the ends of the range.
FUSEDNORM_INLINE Pair product(const Lanes<double>& a, const Lanes<double>& b) {
    const Lanes<double> high = a * b;
    const Lanes<double> a1 = leading(a), b1 = leading(b), a2 = a - a1, b2 = b - b1;
    return {high, ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2};
}

// Knuth's sum of two numbers of any size.
FUSEDNORM_INLINE Pair sum_of(const Lanes<double>& a, const Lanes<double>& b) {
    const Lanes<double> high = a + b, part = high - a;
    return {high, (a - (high - part)) + (b - part)};
}

// Sum of c[i] * x^i by Horner's scheme.
template <int N>
FUSEDNORM_INLINE Lanes<double> polynomial(const Lanes<double>& x, const double (&c)[N]) {
    Lanes<double> r = x * c[N - 1] + c[N - 2];
    FUSEDNORM_LANES_UNROLL
    for (int i = N - 3; i >= 0; --i) r = r * x + c[i];
    return r;
}

// The same with the highest power's coefficient left out: it is 1.
template <int N>
FUSEDNORM_INLINE Lanes<double> monic_polynomial(const Lanes<double>& x, const double (&c)[N]) {
    Lanes<double> r = x + c[N - 1];
    FUSEDNORM_LANES_UNROLL
    for (int i = N - 2; i >= 0; --i) r = r * x + c[i];
    return r;
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
