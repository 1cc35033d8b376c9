// From a function's arrays to the axes of its operation, with the checks of what describes them.
#pragma once
#include <algorithm>
#include <vector>

#include "arguments.hpp"
#include "machine/buffer.hpp"

namespace fusednorm {

int64_t product(const py::ssize_t* shape, int begin, int end);

// The moments of statistics 0 ... n - 1, in memory of their own.
struct Statistics {
    Buffer<double> memory;
    int64_t n;
    explicit Statistics(int64_t count) : memory(3, count), n(count) { std::fill_n(memory.data(), 3 * n, 0.0); }
    Moments moments() { return {memory.data(), memory.data() + n, memory.data() + 2 * n}; }
};

// The arrays of one call: y and r may be absent.
struct Operands {
    Array x, y, r;

    void describe(Operation& op, Type y_type) const {
        op.x = x.data, op.x_type = x.type;
        op.y = y.data, op.y_type = y_type;
        op.r = r.data, op.r_type = r.type;
    }
    Axis axis(int i, int64_t stat = 0, int64_t affine = 0) const {
        return {x.shape[i], x.step(i), y.data ? y.step(i) : 0, stat, affine, r.data ? r.step(i) : 0};
    }
};

// Batch, instance and group: which axis holds the channels, and which statistics there are.
struct ChannelLayout {
    int axis, sample_axis;  // sample_axis: -1 where samples have no statistics of their own
    int64_t channels, per, groups, samples;
    int64_t count;  // values that share a statistic
    bool pool_outer;

    // num_groups: none where a channel is a group.
    ChannelLayout(const Arguments& check, const NormSpec& spec, const Array& x, int64_t channel_axis,
                  std::optional<int64_t> num_groups);
    // Refuses a single value per statistic.
    void check_count(const Arguments& check, const Array& x) const;
    // (C,), (N, C) or (N, G); without N for one sample.
    std::vector<py::ssize_t> statistics_shape() const;
    void push_axes(Operation& op, const Operands& arrays) const;
};

// Layer and rms: the trailing dimensions that are pooled, as read and as the user wrote them.
struct NormalizedShape {
    Integers sizes;
    py::handle given;

    NormalizedShape(const Arguments& check, py::handle object)
        : sizes(check.integers("normalized_shape", object)), given(object) {}
    // Returns how many dimensions they are, after checking that x ends with them.
    int count(const Arguments& check, const Array& x) const;
};
// What rms norm's eps=None stands for.
double smallest_step(Type result);
void push_row_axes(Operation& op, const Operands& arrays, int dims);

}  // namespace fusednorm
