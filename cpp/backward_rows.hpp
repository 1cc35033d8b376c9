// What the two halves of backward share: where statistics belong to channels (backward.cpp) or are rows (backward_rows.cpp).
#pragma once
#include <cmath>

#include "backward.hpp"
#include "plan.hpp"

namespace fusednorm {

// Of an operation whose plan has Coefs::both.
void backward_rows(const GradientOperation& op, const Plan& plan);

inline const char* at(const void* array, int64_t offset, Type type) {
    return static_cast<const char*>(array) + offset * size_of(type);
}

// Whether float holds the numbers that grad_x is made of. NaN, infinities and 0 give the same in any arithmetic.
inline bool fits_float(double factor) {
    const double size = std::fabs(factor);
    return !(size > 0 && size < 0x1p-126) && !(size > 0x1p126 && size < HUGE_VAL);
}

// Of what is only added: a tiny one may round to 0.
inline bool fits_float_sum(double offset) { return !(std::fabs(offset) > 0x1p126); }

}  // namespace fusednorm
