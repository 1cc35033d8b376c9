// Moments over any axes, and the states that running moments merge.
#include <algorithm>
#include <cmath>

#include "module.hpp"
#include "plan.hpp"
#include "results.hpp"
#include "states.hpp"

namespace fusednorm {
namespace {

// ---- moments

using AxesGiven = std::optional<Integers>;  // none for None

AxesGiven axes_given(const Arguments& check, const char* argument, py::handle axis) {
    return axis.is_none() ? AxesGiven{} : check.integers(argument, axis);
}

std::vector<bool> reduced_axes(const Arguments& check, const AxesGiven& given, py::handle axis, int ndim) {
    std::vector<bool> reduced(static_cast<size_t>(ndim), !given);
    if (!given) return reduced;
    for (const int64_t one : *given) {
        const auto i = static_cast<size_t>(check.axis("axis", one, ndim));
        if (reduced[i]) check.value_error("axis", "each axis once", text_of(axis));
        reduced[i] = true;
    }
    return reduced;
}

// An operation that finds moments alone; how many statistics there are, and how many values each of them pools.
Operation pooling(const Operands& arrays, const std::vector<bool>& reduced, int64_t& stats, int64_t& count) {
    Operation op;
    stats = count = 1;
    for (int i = 0; i < arrays.x.ndim; ++i) {
        const bool kept = !reduced[static_cast<size_t>(i)];
        op.axes.push(arrays.axis(i, kept));
        (kept ? stats : count) *= arrays.x.shape[i];
    }
    number_statistics(op.axes);
    return op;
}

py::object moments(const py::handle* a) {
    const Arguments check("moments");
    const py::object array = check.array("x", a[0]);
    const AxesGiven axes = axes_given(check, "axis", a[1]);
    const double ddof = check.real("ddof", a[2]);
    if (!std::isfinite(ddof)) check.value_error("ddof", "a finite number", text_of(a[2]));
    const bool keepdims = check.flag("keepdims", a[3]);
    const std::optional<Type> asked = check.type(a[4]);

    const Array x = check.input("x", array);
    const std::vector<bool> reduced = reduced_axes(check, axes, a[1], x.ndim);
    // Half precision would lose what the sums have: it is given where it is asked for.
    const Type type = asked.value_or(result_type(x, {}) == Type::f64 ? Type::f64 : Type::f32);
    const Operands arrays{x, {}, {}};
    int64_t stats, count;
    Operation op = pooling(arrays, reduced, stats, count);
    std::vector<py::ssize_t> shape, strides;
    for (int i = 0; i < x.ndim; ++i) {
        const bool kept = !reduced[static_cast<size_t>(i)];
        if (!kept && !keepdims) continue;
        shape.push_back(kept ? x.shape[i] : 1);
        strides.push_back(kept ? op.axes[i].stat * size_of(type) : size_of(type));
    }
    Statistics statistics(stats);
    arrays.describe(op, type);
    const Moments m = op.moments = statistics.moments();
    if (stats > 0 && count > 0) run(op, x.size());
    for (int64_t i = 0; i < stats; ++i) {
        m.mean[i] = count > 0 ? m.mean[i] + m.low[i] : NAN;
        m.m2[i] = count > 0 ? m.m2[i] / std::max(static_cast<double>(count) - ddof, 0.0) : NAN;
    }
    return py::make_tuple(rounded(m.mean, type, shape, strides.data()), rounded(m.m2, type, shape, strides.data()));
}

// Rounds an array of doubles to a float dtype, once.
py::object rounded_array(const py::handle* a) {
    const Arguments check("rounded");
    const Array x = check.input("x", check.array("x", a[0]));
    const std::optional<Type> type = check.type(a[1]);
    const Array like = array_like(x, type.value_or(Type::f64));
    copy_rounded(x, like.array, like.type);
    return like.array;
}

// ---- running states

// The states of x, of shape (*kept axes, 6); function and argument are the caller's names for messages, channel_axis what is
// kept.
py::object pooled(const py::handle* a) {
    const std::string function = py::str(a[0]), argument = py::str(a[1]);
    const Arguments check(function.c_str());
    const py::object array = check.array(argument.c_str(), a[2]);
    const AxesGiven kept_axes = axes_given(check, "channel_axis", a[3]);
    const Array x = check.input(argument.c_str(), array);
    std::vector<bool> reduced(static_cast<size_t>(x.ndim), true);
    if (kept_axes)
        for (const int64_t one : *kept_axes) reduced[static_cast<size_t>(check.axis("channel_axis", one, x.ndim))] = false;
    const Operands arrays{x, {}, {}};
    int64_t stats, count;
    Operation op = pooling(arrays, reduced, stats, count);
    std::vector<py::ssize_t> shape, strides;
    for (int i = 0; i < x.ndim; ++i) {
        if (reduced[static_cast<size_t>(i)]) continue;
        shape.push_back(x.shape[i]);
        strides.push_back(op.axes[i].stat * static_cast<py::ssize_t>(sizeof(State)));
    }
    shape.push_back(kStateValues);
    strides.push_back(sizeof(double));
    const py::array result = new_array(Type::f64, static_cast<int>(shape.size()), shape.data(), strides.data());
    auto* states = reinterpret_cast<State*>(py::detail::array_proxy(result.ptr())->data);
    std::fill_n(states, stats, State{});
    if (stats == 0 || count == 0) return result;
    Statistics statistics(stats);
    arrays.describe(op, Type::f64);
    op.moments = statistics.moments();
    run(op, x.size());
    const double rounded = static_cast<double>(count);  // a broadcast array has more than 2^53 values for free
    const Pair n{rounded, static_cast<double>(count - static_cast<int64_t>(rounded))};
    for (int64_t i = 0; i < stats; ++i) states[i] = {n, {op.moments.mean[i], op.moments.low[i]}, {op.moments.m2[i], 0}};
    return result;
}

State* states_of(const Arguments& check, const char* argument, py::handle object, int64_t& n) {
    using Float64 = py::array_t<double, py::array::c_style>;
    if (!Float64::check_(object)) check.type_error(argument, "a C-contiguous float64 array", text_of(object));
    const Array a = view_of(py::reinterpret_borrow<py::array>(object), Type::f64);
    if (a.ndim == 0 || a.shape[a.ndim - 1] != kStateValues || reinterpret_cast<uintptr_t>(a.data) % alignof(State) != 0)
        check.value_error(argument, "aligned states, 6 values along the last axis", text_of(object));
    n = a.size() / kStateValues;
    return reinterpret_cast<State*>(a.data);
}

// into = into and other, merged statistic by statistic.
py::object merge(const py::handle* a) {
    const Arguments check("merge");
    int64_t n, n_other;
    State* into = states_of(check, "into", a[0], n);
    const State* other = states_of(check, "other", a[1], n_other);
    if (n != n_other) check.value_error("other", std::to_string(n) + " states", std::to_string(n_other));
    check.check_writable("into", py::reinterpret_borrow<py::object>(a[0]));
    for (int64_t i = 0; i < n; ++i) into[i] = merged(into[i], other[i]);
    return py::none();
}

PyMethodDef functions[] = {
    FUSEDNORM_FUNCTION(moments, 5, "(x, axis, ddof, keepdims, dtype, /)"),
    FUSEDNORM_FUNCTION(rounded_array, 2, "(x, dtype, /)"),
    FUSEDNORM_FUNCTION(pooled, 4, "(function, argument, x, channel_axis, /)"),
    FUSEDNORM_FUNCTION(merge, 2, "(into, other, /)"),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

PyMethodDef* moments_functions() { return functions; }

}  // namespace fusednorm
