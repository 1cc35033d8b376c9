// The gradients of every norm.
#include <algorithm>
#include <cmath>

#include "arguments.hpp"
#include "backward.hpp"
#include "module.hpp"
#include "results.hpp"

namespace fusednorm {
namespace {

// ---- arrays

// What holds the values of both: x's type and grad's, where they differ.
Type wider(Type a, Type b) {
    if (a == b && is_float(a)) return a;
    const auto fits_float = [](Type t) { return t == Type::f32 || t == Type::f16 || t == Type::bf16; };
    return fits_float(a) && fits_float(b) ? Type::f32 : Type::f64;
}

// The arrays of one call as the loops take them: of one type, and alike in memory.
struct Laid {
    Array x, grad, y;
};

// push adds the axes. Nothing is laid out where there is no value. What is not dense, of another type, or lies so that no loop
// reads it, is copied.
template <class Push>
Laid lay_out(const Array& x, const Array& grad, GradientOperation& op, Push push) {
    const Type type = wider(x.type, grad.type);
    Laid a;
    if (x.size() == 0) return a;
    const auto lay = [&](const Array& as) {
        a.x = as, a.y = array_like(as, type);
        op.of.axes.n = 0;
        const Operands arrays{a.x, a.y, {}};
        arrays.describe(op.of, type);
        push(op.of, arrays);
    };
    lay(x.type == type && is_dense(x) ? x : dense_copy(x, type));
    if (!is_readable(op.of)) lay(copy_of(x, new_array(type, x.ndim, x.shape, nullptr), type));
    a.grad = grad.type == type && lies_like(grad, a.x) ? grad : copy_of(grad, array_like(a.x, type).array, type);
    op.grad = a.grad.data;
    return a;
}

// grad_x in x's dtype and memory order.
py::object result_of(const Laid& a, const Array& x, Type type) {
    const Array like = array_like(x, type);
    if (x.size() == 0) return like.array;
    if (lies_like(a.y, like)) return a.y.array;
    copy_rounded(a.y, like.array, type);
    return like.array;
}

// ---- statistics that a forward pass gave

struct GivenStatistics {
    py::object mean, rstd;  // None, or doubles once shape() has seen them
    bool any = false;

    GivenStatistics(const Arguments& check, py::handle stats, bool centered) {
        if (stats.is_none()) return;
        if (!py::isinstance<py::tuple>(stats) && !py::isinstance<py::list>(stats))
            check.type_error("stats", "a tuple (mean, rstd)", text_of(stats));
        const auto pair = py::reinterpret_borrow<py::sequence>(stats);
        if (pair.size() != 2)
            check.value_error("stats", "a tuple (mean, rstd)", "a sequence of " + std::to_string(pair.size()));
        mean = pair[0], rstd = pair[1];
        if (centered == mean.is_none())
            check.type_error("stats", centered ? "an array as mean" : "None as mean", text_of(mean));
        if (rstd.is_none()) check.type_error("stats", "an array as rstd", "None");
        mean = check.parameter("stats", mean), rstd = check.parameter("stats", rstd);
        any = true;
    }
    void shape(const Arguments& check, const std::vector<py::ssize_t>& shape) {
        const int ndim = static_cast<int>(shape.size());
        if (!any) return;
        mean = check.values("stats", mean, Type::f64, shape.data(), ndim, 0);
        rstd = check.values("stats", rstd, Type::f64, shape.data(), ndim, 1);
    }
};

void run(GradientOperation& op, int64_t values, const GivenStatistics& given) {
    const auto doubles = [](const py::array& a) { return static_cast<const double*>(a.data()); };
    if (given.any) op.mean = doubles(given.mean), op.rstd = doubles(given.rstd);
    without_gil(values, [&] { backward(op); });
}

// ---- batch, instance and group

// The arguments of one call.
struct Channeled {
    py::object grad, x, weight;
    double eps;
    int64_t channel_axis;
    GivenStatistics stats;
    py::object running_mean = py::none(), running_var = py::none();
    bool use_batch = true;
    std::optional<int64_t> num_groups;

    // rest: what follows the weight, and what says which statistics.
    Channeled(const Arguments& check, const py::handle* a, py::handle weight_, const py::handle* rest)
        : grad(check.array("grad", a[0])),
          x(check.array("x", a[1])),
          weight(check.parameter("weight", weight_)),
          eps(check.eps(rest[0])),
          channel_axis(check.integer("channel_axis", rest[1])),
          stats(check, rest[2], true) {}
    // Of batch and instance norm.
    Channeled(const Arguments& check, const char* flag, const py::handle* a) : Channeled(check, a, a[4], a + 6) {
        running_mean = check.parameter("running_mean", a[2]), running_var = check.parameter("running_var", a[3]);
        use_batch = check.flag(flag, a[5]);
    }
};

py::object channel_gradients(const Arguments& check, const NormSpec& spec, Channeled a) {
    const Array x = check.input("x", a.x);
    const Array grad = check.shaped_like("grad", a.grad, x);
    const ChannelLayout layout(check, spec, x, a.channel_axis, a.num_groups);
    const int64_t channels = layout.channels, stats = layout.samples * layout.groups;
    GradientOperation op;
    op.of.eps = a.eps;
    Buffer<double> parameters(5, channels);
    double *weight = parameters.data(), *running_mean = weight + channels, *running_var = running_mean + channels;
    op.grad_weight = running_var + channels, op.grad_bias = op.grad_weight + channels;
    const Type type = gradient_type(a.weight, x.type);
    op.exact = type == Type::f64;
    check.channels("weight", a.weight, x, layout.axis, 1, weight);
    check.channels("running_mean", a.running_mean, x, layout.axis, 0, running_mean);
    check.channels("running_var", a.running_var, x, layout.axis, 1, running_var);
    a.stats.shape(check, layout.statistics_shape());
    op.constant = !a.use_batch;
    if (op.constant && !a.stats.any) {
        check.check_given("running_mean", a.running_mean);
        check.check_given("running_var", a.running_var);
    }
    if (a.use_batch && !a.num_groups) layout.check_count(check, x);

    op.of.weight = weight;
    std::fill_n(op.grad_weight, 2 * channels, 0.0);
    const bool is_running = op.constant && !a.stats.any;
    Buffer<double> running(2, is_running ? stats : 0);
    if (is_running) {
        double *mean = running.data(), *rstd = mean + stats;
        for (int64_t i = 0; i < stats; ++i)
            mean[i] = running_mean[i % channels], rstd[i] = 1 / std::sqrt(running_var[i % channels] + op.of.eps);
        op.mean = mean, op.rstd = rstd;
    }
    const Laid arrays = lay_out(x, grad, op, [&](Operation& to, const Operands& from) { layout.push_axes(to, from); });
    if (x.size() > 0) run(op, x.size(), a.stats);
    return py::make_tuple(result_of(arrays, x, result_type(x, {})), rounded(op.grad_weight, type, {channels}),
                          rounded(op.grad_bias, type, {channels}));
}

py::object batch_norm_backward(const py::handle* a) {
    const Arguments check("batch_norm_backward");
    return channel_gradients(check, kBatch, Channeled(check, "training", a));
}

py::object instance_norm_backward(const py::handle* a) {
    const Arguments check("instance_norm_backward");
    return channel_gradients(check, kGroup, Channeled(check, "use_input_stats", a));
}

py::object group_norm_backward(const py::handle* a) {
    const Arguments check("group_norm_backward");
    Channeled channeled(check, a, a[3], a + 4);
    channeled.num_groups = check.integer("num_groups", a[2]);
    return channel_gradients(check, kGroup, std::move(channeled));
}

// ---- layer and rms

struct Rowwise {
    py::object grad, x;
    NormalizedShape normalized_shape;
    py::object weight;
    std::optional<double> eps;
    GivenStatistics stats;

    Rowwise(const Arguments& check, const NormSpec& spec, const py::handle* a)
        : grad(check.array("grad", a[0])),
          x(check.array("x", a[1])),
          normalized_shape(check, a[2]),
          weight(check.parameter("weight", a[3])),
          stats(check, a[5], spec.centered) {
        if (!a[4].is_none() || spec.centered) eps = check.eps(a[4]);
    }
};

py::tuple row_gradients(const char* function, const NormSpec& spec, const py::handle* arguments) {
    const Arguments check(function);
    Rowwise a(check, spec, arguments);
    const Array x = check.input("x", a.x);
    const Array grad = check.shaped_like("grad", a.grad, x);
    const int dims = a.normalized_shape.count(check, x), first = x.ndim - dims;
    const Type result = result_type(x, {}), type = gradient_type(a.weight, x.type);
    GradientOperation op;
    op.exact = type == Type::f64;
    op.of.centered = spec.centered, op.of.rows_only = spec.rows_only;
    op.of.eps = a.eps.value_or(smallest_step(result));
    const py::array weight = check.values("weight", a.weight, Type::f64, x.shape + first, dims, 1);
    a.stats.shape(check, {x.shape, x.shape + first});
    const std::vector<py::ssize_t> shape(x.shape + first, x.shape + x.ndim);
    const int64_t channels = product(x.shape, first, x.ndim);
    Buffer<double> gradients(2, channels);
    op.of.weight = weight.data();
    op.grad_weight = gradients.data(), op.grad_bias = op.grad_weight + channels;
    std::fill_n(op.grad_weight, 2 * channels, 0.0);
    const Laid arrays = lay_out(x, grad, op, [&](Operation& to, const Operands& from) { push_row_axes(to, from, dims); });
    if (x.size() > 0) run(op, x.size(), a.stats);
    return py::make_tuple(result_of(arrays, x, result), rounded(op.grad_weight, type, shape),
                          rounded(op.grad_bias, type, shape));
}

py::object layer_norm_backward(const py::handle* a) { return row_gradients("layer_norm_backward", kLayer, a); }

py::object rms_norm_backward(const py::handle* a) {
    const py::tuple all = row_gradients("rms_norm_backward", kRms, a);
    return py::make_tuple(all[0], all[1]);
}

PyMethodDef functions[] = {
    FUSEDNORM_FUNCTION(batch_norm_backward, 9,
                       "(grad, x, running_mean, running_var, weight, training, eps, channel_axis, stats, /)"),
    FUSEDNORM_FUNCTION(instance_norm_backward, 9,
                       "(grad, x, running_mean, running_var, weight, use_input_stats, eps, channel_axis, stats, /)"),
    FUSEDNORM_FUNCTION(group_norm_backward, 7, "(grad, x, num_groups, weight, eps, channel_axis, stats, /)"),
    FUSEDNORM_FUNCTION(layer_norm_backward, 6, "(grad, x, normalized_shape, weight, eps, stats, /)"),
    FUSEDNORM_FUNCTION(rms_norm_backward, 6, "(grad, x, normalized_shape, weight, eps, stats, /)"),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

PyMethodDef* gradient_functions() { return functions; }

}  // namespace fusednorm
