// Exponentials, and the normal distribution's tail beside them, on sixteen lanes. The coefficients are computed with
// mpmath: those of ratios by iteratively reweighted least squares on 200 Chebyshev points (Lawson's way to the smallest
// maximal relative error, Q linearized), those of plain polynomials by interpolation at Chebyshev points. Each comes
// with its domain and its relative error.
#pragma once
#include "lanes_bits.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

constexpr double kLog2e = 1.4426950408889634;
// The first part has 42 bits, so that its product with a whole number below 2^11 is exact.
constexpr double kLn2High = 0x1.62e42fefa3800p-1, kLn2Low = 5.497923018708371e-14;

// Mills' ratio R(a) = Phi(-a) exp(a^2 / 2) = erfcx(a / sqrt(2)) / 2.
// R(a) = kMillsAbove(a) / kMillsBelow(a), a in [0, 14.5]: 2^-27.3. Beyond, the tail is less than any float.
constexpr double kMillsAbove[] = {48.44411142582766, 42.46880309279958, 17.7557337285745, 3.9377050412564887,
                                  0.39894690184742354};
constexpr double kMillsBelow[] = {96.88822227598237, 162.24326364062983, 116.51828686568808, 45.49253638652462,
                                  9.87098664474826};
// (a + k) R(a), a polynomial of u = (a - k) / (a + k), k = 3.875, a in [0, 39]: 2^-58.8.
constexpr double kMillsCenter = 3.875;
constexpr double kMillsScaled0 = 0.7528891993558955, kMillsScaled1 = -0.5983777490984176;  // the others follow
constexpr double kMillsScaled[] = {
    0.37044129771971224,    -0.16911650886026053,    0.048646024219569116,    -0.0027750872777692662, -0.004058365987655574,
    0.0011543582375528373,  0.0003377118204023948,   -0.0001896974151922545,  -4.121113400565251e-05, 2.9873838752907017e-05,
    8.084856973449063e-06,  -4.600873356877058e-06,  -2.0098037840355483e-06, 5.840880310245264e-07,  5.025070763429394e-07,
    -1.652933426270598e-08, -1.0916773487045158e-07, -2.352111374282629e-08,  1.668161335193002e-08,  9.068415070141499e-09,
    -5.542940915515107e-10, -1.457910032213876e-09,  -3.143708503804389e-10};
// (exp(r) - 1 - r) / r^2, |r| <= ln(2) / 2 + 0.001: 2^-58.2.
constexpr double kExpSquare[] = {0.5,
                                 0.1666666666666667,
                                 0.04166666666666667,
                                 0.008333333333325973,
                                 0.0013888888888883633,
                                 0.0001984126987538548,
                                 2.480158732595111e-05,
                                 2.7557254685728803e-06,
                                 2.755727313289604e-07,
                                 2.5105513541847086e-08,
                                 2.0914898727175524e-09};

// tanh(f ln(2) / 2) = p / q with |f| <= 1/2: 2^-30.8.
struct TanhRatio {
    Lanes<double> p, q;
};

FUSEDNORM_INLINE TanhRatio tanh_ratio(const Lanes<double>& f) {
    const Lanes<double> square = f * f;
    return {f * (square + 125.04273439604387), square * 17.330879331102015 + 360.7970658167085};
}

struct Ratio {
    Lanes<double> above, below;
};

// 2^y = above / below to 2^-31, y in [-1023, 1024]; 0 at the lower end, infinity at the upper; NaN stays.
FUSEDNORM_INLINE Ratio power_of_two(const Lanes<double>& y) {
    const Whole n = nearest_whole(y);
    const TanhRatio h = tanh_ratio(y - n.number);
    return {n.power * (h.q + h.p), h.q - h.p};
}

// exp(x + low) = 1 + high + low, or with 2^n before it, to full precision.
struct Reduced {
    Whole n;
    Pair minus_one;
};

FUSEDNORM_INLINE Reduced reduced_exponential(const Lanes<double>& x, const Lanes<double>& low) {
    const Whole n = nearest_whole(x * kLog2e);
    const Lanes<double> first = x - n.number * kLn2High, second = low - n.number * kLn2Low;
    const Lanes<double> r = first + second, lost = (first - r) + second;
    return {n, {r, r * r * polynomial(r, kExpSquare) + lost}};
}

// (value + low) * rest, the last a power of 2: 1, or less where the product lies near or below the smallest normal number.
struct Exponential {
    Lanes<double> value, low, rest;
};

// exp(x + low), x <= 0, |low| far smaller. Where x < -1374.5, rest is 0.
FUSEDNORM_INLINE Exponential exponential(const Lanes<double>& x, const Lanes<double>& low) {
    constexpr double kLeast = -960;
    const Reduced e = reduced_exponential(at_least(x, -1374.5), low);
    const Whole most = nearest_whole(at_least(e.n.number, kLeast));
    const Lanes<double> minus_one = e.minus_one.high + e.minus_one.low, value = 1.0 + minus_one;
    const Lanes<double> lost = (1.0 - value) + minus_one;
    return {value * most.power, lost * most.power, nearest_whole(e.n.number - most.number).power};
}

// exp(x) - 1, 0 <= x <= 64.
FUSEDNORM_INLINE Lanes<double> exponential_minus_one(const Lanes<double>& x) {
    const Reduced e = reduced_exponential(x, broadcast(0.0));
    return e.n.power * (e.minus_one.high + e.minus_one.low) - (1.0 - e.n.power);
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
