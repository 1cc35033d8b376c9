// The C++ API of the gradients: the same operator as norm.hpp's, with other sums.
#pragma once
#include "norm.hpp"

namespace fusednorm {

// x, grad and grad_x are dense, of one float type, and lie alike.
struct GradientOperation {
    Operation of;  // axes, x, y (grad_x), centered, rows_only and eps as for forward; weight: doubles, per channel
    const void* grad = nullptr;
    // Of each statistic, where they are given; rstd null: found from x. mean null: 0, where nothing is centered.
    const double *mean = nullptr, *rstd = nullptr;
    bool constant = false;                                // the statistics do not depend on x
    bool exact = false;                                   // grad_weight is wanted with all the digits of a double
    double *grad_weight = nullptr, *grad_bias = nullptr;  // per channel; hold zeros
};

// Whether the loops can read arrays that lie so. In C order they always can.
bool is_readable(const Operation& op);

// Writes grad_x, grad_weight and grad_bias. x holds at least one value. Throws std::bad_alloc before it writes.
void backward(const GradientOperation& op);

}  // namespace fusednorm
