// Batch, instance and group norm: weights per channel.
#include <algorithm>
#include <utility>

#include "module.hpp"
#include "results.hpp"

namespace fusednorm {
namespace {

// running = (1 - momentum) * running + momentum * batch.
void update(py::handle running, double* before, const double* batch, int64_t n, double momentum) {
    for (int64_t i = 0; i < n; ++i) before[i] = (1 - momentum) * before[i] + momentum * batch[i];
    update_channels(running, before, n);
}

struct Channeled {
    py::handle x, running_mean, running_var, weight, bias;
    bool use_batch;  // the statistics of x, not the running ones
    double momentum;
    py::handle eps, channel_axis, residual, activation, dtype, out, return_stats;
};

py::object channel_norm(const Arguments& check, NormSpec spec, const Channeled& a, py::handle num_groups = {}) {
    const Array x = check.input("x", a.x);
    const Type type = check.result_type(x, a.dtype);
    const ChannelLayout layout(check, spec, x, a.channel_axis, num_groups);
    const int64_t channels = layout.channels, samples = layout.samples, size = x.size();

    Operation op;
    op.eps = check.eps(a.eps);
    Doubles parameters(5, channels);
    double *weight = parameters.data(), *bias = weight + channels, *zero = bias + channels;
    double *running_mean = zero + channels, *running_var = running_mean + channels;
    check.channels("weight", a.weight, x, layout.axis, 1, weight);
    check.channels("bias", a.bias, x, layout.axis, 0, bias);
    op.weight = weight, op.bias = bias;

    const bool has_running = !a.running_mean.is_none() || !a.running_var.is_none();
    // What is updated is read as the same array: an object may give another one each time that it is asked.
    const auto taken = [&](const char* name, py::handle object) -> py::object {
        if (!a.use_batch || object.is_none()) return py::reinterpret_borrow<py::object>(object);
        return check.updatable(name, object);
    };
    const py::object mean_target = taken("running_mean", a.running_mean), var_target = taken("running_var", a.running_var);
    check.channels("running_mean", mean_target, x, layout.axis, 0, running_mean);
    check.channels("running_var", var_target, x, layout.axis, 1, running_var);
    if (!a.use_batch)
        for (const auto& [name, given] : {std::pair{"running_mean", a.running_mean}, {"running_var", a.running_var}})
            if (given.is_none()) check.value_error(name, "an array when the batch's statistics are not used", "None");

    if (a.use_batch && !num_groups) layout.check_count(check, x);
    const Array r = check.residual(a.residual, x);
    op.activation = check.activation(a.activation);
    Result y(check, x, type, a.out, {r}, {});
    const bool return_stats = truth(a.return_stats);
    if (size == 0 && !return_stats) return y.finish();

    const Operands arrays{x, y.view, r};
    arrays.describe(op, type);
    op.given = !a.use_batch;
    layout.push_axes(op, arrays);
    Statistics statistics(a.use_batch && (has_running || return_stats) ? samples * layout.groups : 0);
    if (op.given) {
        std::fill_n(zero, channels, 0.0);
        op.moments = {running_mean, zero, running_var};
    } else if (has_running || return_stats) {
        op.moments = statistics.moments();
    }
    if (size > 0) run(op, size);
    if (size > 0 && a.use_batch && has_running) {
        // Averaged over the samples, where each has its own statistics.
        Doubles batch(2, channels);
        double *mean = batch.data(), *var = mean + channels;
        std::fill_n(mean, 2 * channels, 0.0);
        for (int64_t i = 0; i < samples * channels; ++i) {
            mean[i % channels] += (op.moments.mean[i] + op.moments.low[i]) / static_cast<double>(samples);
            var[i % channels] += op.moments.m2[i] / static_cast<double>(layout.count - 1) / static_cast<double>(samples);
        }
        if (!mean_target.is_none()) update(mean_target, running_mean, mean, channels, a.momentum);
        if (!var_target.is_none()) update(var_target, running_var, var, channels, a.momentum);
    }
    if (!return_stats) return y.finish();
    return with_statistics(y.finish(), op, type, layout.statistics_shape(), op.given ? 1 : layout.count,
                           op.given ? channels : 0);
}

py::object batch_norm(const py::handle* a) {
    const Arguments check("batch_norm");
    return channel_norm(check, kBatch,
                        {a[0], a[1], a[2], a[3], a[4], truth(a[5]), check.real("momentum", a[6]), a[7], a[8], a[9], a[10],
                         a[11], a[12], a[13]});
}

py::object instance_norm(const py::handle* a) {
    const Arguments check("instance_norm");
    return channel_norm(check, kInstance,
                        {a[0], a[1], a[2], a[3], a[4], truth(a[5]), check.real("momentum", a[6]), a[7], a[8], a[9], a[10],
                         a[11], a[12], a[13]});
}

py::object group_norm(const py::handle* a) {
    const py::none none;
    return channel_norm(Arguments("group_norm"), group_spec(1),
                        {a[0], none, none, a[2], a[3], true, 0, a[4], a[5], a[6], a[7], a[8], a[9], a[10]}, a[1]);
}

PyMethodDef functions[] = {
    FUSEDNORM_FUNCTION(batch_norm, 14,
                       "(x, running_mean, running_var, weight, bias, training, momentum, eps, channel_axis, residual, "
                       "activation, dtype, out, return_stats, /)"),
    FUSEDNORM_FUNCTION(instance_norm, 14,
                       "(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps, channel_axis, residual, "
                       "activation, dtype, out, return_stats, /)"),
    FUSEDNORM_FUNCTION(group_norm, 11,
                       "(x, num_groups, weight, bias, eps, channel_axis, residual, activation, dtype, out, return_stats, /)"),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

PyMethodDef* channel_functions() { return functions; }

}  // namespace fusednorm
