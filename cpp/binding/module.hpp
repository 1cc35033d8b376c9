// The parts of the module fusednorm._core. Each function checks its arguments, describes the operation on a view, and runs it.
// Python's functions of the same names have names and defaults; here every argument is positional.
#pragma once
#include "entry.hpp"
#include "norm.hpp"
#include "operands.hpp"

namespace fusednorm {

PyMethodDef* channel_functions();
PyMethodDef* row_functions();
PyMethodDef* moments_functions();
PyMethodDef* gradient_functions();
PyMethodDef* direct_functions();

inline void run(const Operation& op, int64_t values) {
    without_gil(values, [&] { forward(op); });
}

}  // namespace fusednorm
