// The numbers that grad_x is made of.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "norm.hpp"

namespace fusednorm {

// ---- whether float holds the other numbers that grad_x is made of (factors: fits_float)

// What is subtracted from x: neither it nor the difference is near the end of float's range.
inline bool fits_float_center(double center) {
    const double size = std::fabs(center);
    return !((size > 0x1p100) & (size < HUGE_VAL));
}

// What is only added: a tiny one may round to 0.
inline bool fits_float_sum(double offset) { return !(std::fabs(offset) > 0x1p126); }

// The correction that a lost difference needs, lost * factor; 0 where that is not finite.
inline double correction(double lost, double factor) {
    const double worth = lost * factor;
    return worth - worth == 0 ? worth : 0;
}

// What sums subtract from x: the mean, so that putting the mean in its place costs no more than a few bits, or nothing, which
// is faster, where `zero` and kNear allow it. offset: the mean, by the same measure as the spread about it.
inline double origin_of(double mean, double offset, double spread, bool zero) {
    const bool near = zero & (offset * offset <= kNear * spread), finite = mean - mean == 0;
    return near | !finite ? 0 : mean;
}

inline bool are_zero(const double* origins, int64_t n) {
    bool all = true;
    for (int64_t i = 0; i < n; ++i) all &= origins[i] == 0;
    return all;
}
inline bool are_finite(const double* sums, int64_t n) {
    bool all = true;
    for (int64_t i = 0; i < n; ++i) all &= sums[i] - sums[i] == 0;
    return all;
}

// Sums of grad and of grad * (x - origin), one of each for every channel, or row.
struct Sums {
    double *origin, *plain, *product;

    static int64_t doubles(int64_t channels) { return 3 * channels; }
    Sums(double* origins, double* plains, double* products) : origin(origins), plain(plains), product(products) {}
    Sums(double* memory, int64_t n) : origin(memory), plain(memory + n), product(memory + 2 * n) {}
    Sums at(int64_t c) const { return {origin + c, plain + c, product + c}; }

    void clear(int64_t n) const { std::fill_n(plain, n, 0.0), std::fill_n(product, n, 0.0); }

    void take_in(const Sums& other, int64_t n) const {
        for (int64_t c = 0; c < n; ++c) {
            plain[c] += other.plain[c];
            product[c] += other.product[c];
            product[c] += correction(other.origin[c] - origin[c], other.plain[c]);
        }
    }
    // NaNs of either sign: the results' sign shall not depend on which comes first.
    void settle(int64_t n) const {
        for (int64_t c = 0; c < n; ++c) {
            if (!(plain[c] == plain[c])) plain[c] = kNan;
            if (!(product[c] == product[c])) product[c] = kNan;
        }
    }
    // Changes the product of channel c to the one around a center at this distance from the origin. An infinite sum stays: the
    // origin is near the mean then.
    void move(int64_t c, double distance) const { product[c] -= correction(distance, plain[c]); }
};

enum : int { kCenter, kFactor, kSlope, kOffset };

// The coefficients of the n channels of one unit, or of several, and their statistics.
struct Numbers {
    Sums sums;
    double* wide[4];   // by the names above
    float* narrow[4];  // the same
    double *low, *rstd;
    double* fits;  // of the first channel of a unit: 1 where float holds its numbers

    static int64_t doubles(int64_t n) { return 12 * n; }
    Numbers(double* memory, int64_t n) : sums(memory, n) {
        double* next = memory + Sums::doubles(n);
        for (double*& each : wide) each = next, next += n;
        low = next, rstd = next + n, fits = next + 2 * n;
        float* floats = reinterpret_cast<float*>(next + 3 * n);
        for (float*& each : narrow) each = floats, floats += n;
    }
    // The same numbers from channel c on.
    Numbers at(int64_t c) const {
        Numbers part = *this;
        part.sums = sums.at(c);
        for (double*& each : part.wide) each += c;
        for (float*& each : part.narrow) each += c;
        part.low += c, part.rstd += c, part.fits += c;
        return part;
    }
    // Rounds all to float; what rounding the center loses goes into the offset. Returns whether float holds them.
    bool round(int64_t n) const {
        bool all = true;
        for (int64_t c = 0; c < n; ++c) {
            const double center = wide[kCenter][c], factor = wide[kFactor][c], slope = wide[kSlope][c];
            const auto rounded = static_cast<float>(center);
            const double lost = rounded - center, offset = wide[kOffset][c] + correction(lost, slope);
            narrow[kCenter][c] = rounded, narrow[kFactor][c] = static_cast<float>(factor);
            narrow[kSlope][c] = static_cast<float>(slope), narrow[kOffset][c] = static_cast<float>(offset);
            all &= fits_float(factor) & fits_float(slope) & fits_float_center(center) & fits_float_sum(offset);
        }
        return all;
    }
    const void* coefficients(int which, bool in_float, int64_t c) const {
        return in_float ? static_cast<const void*>(narrow[which] + c) : static_cast<const void*>(wide[which] + c);
    }
};

}  // namespace fusednorm
