// The operator: what a norm is, as data, and the C++ API. Every norm is moments, then normalize, on one view.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/kernels.hpp"
#include "view.hpp"

namespace fusednorm {

// pool_outer: the samples share a channel's statistics. centered: the mean is subtracted. rows_only: the channels are the
// whole sample, so each value has its own weight. Instance norm is group norm with a group for each channel.
struct NormSpec {
    bool pool_outer, centered, rows_only;
};

constexpr NormSpec kBatch{true, true, false};
constexpr NormSpec kGroup{false, true, false};
constexpr NormSpec kLayer{false, true, true};
constexpr NormSpec kRms{false, false, true};

// One operation on arrays that exist. Null pointers mean: absent.
struct Operation {
    Axes axes;  // stat strides number the statistics 0 ... stats - 1, affine the channels
    const void* x = nullptr;
    Type x_type = Type::f32;
    void* y = nullptr;        // null: moments only
    Type y_type = Type::f32;  // a float type
    // y = activation(norm + r); null: nothing is added.
    const void* r = nullptr;
    Type r_type = Type::f32;
    Activation activation = Activation::none;
    // x is the sum of these two, which is written first. All three are dense and lie alike; the second term is of x_type or
    // f64.
    const void* terms[2] = {nullptr, nullptr};
    Type term_type = Type::f32;
    bool centered = true;
    bool rows_only = false;
    double eps = 0;
    // per channel: doubles; rows_only: see weight_type()
    const void *weight = nullptr, *bias = nullptr;
    // given: mean and m2 hold the running mean and variance per channel, nothing is computed from x.
    // Else: null, or the place for the moments of every statistic.
    bool given = false;
    Moments moments{nullptr, nullptr, nullptr};
};

// Whether results are computed in float and stored as they come: the type is that of x (float32 for uint8) and nothing
// follows the norm. All else is computed in double and rounded once.
constexpr bool in_float(Type x, Type y, bool has_epilogue) {
    return !has_epilogue && y != Type::f64 && (x == y || (x == Type::u8 && y == Type::f32));
}
inline bool in_float(const Operation& op) {
    return in_float(op.x_type, op.y_type, op.r != nullptr || op.activation != Activation::none);
}

// Returns whether float holds a factor. NaN, infinities and 0 give the same in any arithmetic.
inline bool fits_float(double factor) {
    const double size = std::fabs(factor);
    return !((size > 0) & (size < 0x1p-126)) & !((size > 0x1p126) & (size < HUGE_VAL));
}

// The type of weight and bias of an operation with rows_only.
constexpr Type weight_type(bool is_in_float) { return is_in_float ? Type::f32 : Type::f64; }

// The address of the value at this offset, which is in values.
inline const char* at(const void* array, int64_t offset, Type type) {
    return static_cast<const char*>(array) + offset * size_of(type);
}

// Writes y and moments, as far as they are not null. x holds at least one value. Throws std::bad_alloc before it writes.
void forward(const Operation& op);
// y = x, of one type, where nothing else is given.
void copy(const Operation& op);

}  // namespace fusednorm
