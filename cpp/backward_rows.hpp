// What the two halves of backward share: where statistics belong to channels (backward.cpp) or are rows (backward_rows.cpp).
#pragma once
#include "backward.hpp"
#include "plan.hpp"

namespace fusednorm {

// Of an operation whose plan has Coefs::both.
void backward_rows(const GradientOperation& op, const Plan& plan);

}  // namespace fusednorm
