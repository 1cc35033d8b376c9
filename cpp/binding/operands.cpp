// Arrays as axes. See operands.hpp.
#include "operands.hpp"

#include <algorithm>
#include <limits>

namespace fusednorm {

int64_t product(const py::ssize_t* shape, int begin, int end) {
    int64_t n = 1;
    for (int i = begin; i < end; ++i) n *= shape[i];
    return n;
}

ChannelLayout::ChannelLayout(const Arguments& check, const NormSpec& spec, const Array& x, int64_t channel_axis,
                             std::optional<int64_t> num_groups)
    : per(1), pool_outer(spec.pool_outer) {
    if (x.ndim == 0 || (spec.pool_outer && x.ndim == 1))
        check.value_error("x", spec.pool_outer ? "at least 2 dimensions" : "at least 1 dimension",
                          "shape " + text_of(x.shape, x.ndim));
    axis = check.axis("channel_axis", channel_axis, x.ndim);
    channels = x.shape[axis];
    if (num_groups) {
        const int64_t n = *num_groups;
        if (n < 1 || channels % n != 0)
            check.value_error("num_groups", "a positive divisor of the " + std::to_string(channels) + " channels",
                              std::to_string(n));
        per = std::max<int64_t>(1, channels / n);
    }
    groups = num_groups.value_or(channels);
    sample_axis = spec.pool_outer || axis == 0 ? -1 : 0;
    samples = sample_axis < 0 ? 1 : x.shape[0];
    count = x.size() == 0 ? 0 : per;
    for (int i = 0; i < x.ndim; ++i)
        if (i != axis && i != sample_axis) count *= x.shape[i];
}

void ChannelLayout::check_count(const Arguments& check, const Array& x) const {
    if (count != 1) return;
    check.value_error("x", pool_outer ? "more than one value per channel when training" : "more than one spatial element",
                      "shape " + text_of(x.shape, x.ndim));
}

std::vector<py::ssize_t> ChannelLayout::statistics_shape() const {
    return sample_axis < 0 ? std::vector<py::ssize_t>{groups} : std::vector<py::ssize_t>{samples, groups};
}

void ChannelLayout::push_axes(Operation& op, const Operands& arrays) const {
    for (int i = 0; i < arrays.x.ndim; ++i) {
        if (i == axis) {
            Axis group = arrays.axis(i, 1, per), within = arrays.axis(i, 0, 1);
            group.size = groups, group.x *= per, group.y *= per, group.r *= per;
            within.size = per;
            op.axes.push(group);
            if (per > 1) op.axes.push(within);
        } else {
            op.axes.push(arrays.axis(i, i == sample_axis ? groups : 0, 0));
        }
    }
}

int NormalizedShape::count(const Arguments& check, const Array& x) const {
    const int n = sizes.size();
    if (n == 0) check.value_error("normalized_shape", "at least one dimension", text_of(given));
    if (n > x.ndim || !std::equal(sizes.begin(), sizes.end(), x.shape + x.ndim - n))
        check.value_error("normalized_shape", "the last dimensions of x, whose shape is " + text_of(x.shape, x.ndim),
                          text_of(given));
    return n;
}

double smallest_step(Type result) {
    return result == Type::f64 ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
}

void push_row_axes(Operation& op, const Operands& arrays, int dims) {
    const Array& x = arrays.x;
    const int first = x.ndim - dims;
    for (int i = 0; i < x.ndim; ++i) {
        const int64_t step = product(x.shape, i + 1, i < first ? first : x.ndim);
        op.axes.push(arrays.axis(i, i < first ? step : 0, i < first || !op.rows_only ? 0 : step));
    }
}

}  // namespace fusednorm
