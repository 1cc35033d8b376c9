// Batch, instance and group norm: weights per channel.
#include <algorithm>
#include <utility>

#include "module.hpp"
#include "results.hpp"

namespace fusednorm {
namespace {

// running = (1 - momentum) * running + momentum * batch.
void update(const Arguments& check, const char* argument, const py::object& running, double* before, double* batch, int64_t n,
            double momentum) {
    if (running.is_none()) return;
    for (int64_t i = 0; i < n; ++i) before[i] = (1 - momentum) * before[i] + momentum * batch[i];
    update_channels(check, argument, running, before, batch, n);
}

// The arguments of one call.
struct Channeled {
    py::object x, weight, bias;
    double eps;
    int64_t channel_axis;
    py::object residual;
    Activation activation;
    std::optional<Type> dtype;
    py::handle out;
    bool return_stats;
    bool use_batch = true;  // the statistics of x, not the running ones
    py::object running_mean = py::none(), running_var = py::none();
    double momentum = 0;
    std::optional<int64_t> num_groups;

    // What is updated is read as the same array: an object may give another one each time that it is asked.
    static py::object running(const Arguments& check, const char* argument, py::handle object, bool is_updated) {
        return is_updated ? check.updatable(argument, object) : check.parameter(argument, object);
    }
    // weights: weight and bias; rest: what follows them, and what says which statistics.
    Channeled(const Arguments& check, py::handle x_, const py::handle* weights, const py::handle* rest)
        : x(check.array("x", x_)),
          weight(check.parameter("weight", weights[0])),
          bias(check.parameter("bias", weights[1])),
          eps(check.eps(rest[0])),
          channel_axis(check.integer("channel_axis", rest[1])),
          residual(check.array("residual", rest[2])),
          activation(check.activation(rest[3])),
          dtype(check.type(rest[4])),
          out(rest[5]),
          return_stats(check.flag("return_stats", rest[6])) {}
    // Of batch and instance norm.
    Channeled(const Arguments& check, const char* flag, const py::handle* a) : Channeled(check, a[0], a + 3, a + 7) {
        use_batch = check.flag(flag, a[5]);
        running_mean = running(check, "running_mean", a[1], use_batch);
        running_var = running(check, "running_var", a[2], use_batch);
        momentum = check.real("momentum", a[6]);
    }
};

py::object channel_norm(const Arguments& check, NormSpec spec, const Channeled& a) {
    const Array x = check.input("x", a.x);
    const Type type = result_type(x, a.dtype);
    const ChannelLayout layout(check, spec, x, a.channel_axis, a.num_groups);
    const int64_t channels = layout.channels, samples = layout.samples, size = x.size();

    Operation op;
    op.eps = a.eps, op.activation = a.activation;
    Buffer<double> parameters(5, channels);
    double *weight = parameters.data(), *bias = weight + channels, *zero = bias + channels;
    double *running_mean = zero + channels, *running_var = running_mean + channels;
    check.channels("weight", a.weight, x, layout.axis, 1, weight);
    check.channels("bias", a.bias, x, layout.axis, 0, bias);
    op.weight = weight, op.bias = bias;

    const bool has_running = !a.running_mean.is_none() || !a.running_var.is_none();
    check.channels("running_mean", a.running_mean, x, layout.axis, 0, running_mean);
    check.channels("running_var", a.running_var, x, layout.axis, 1, running_var);
    if (a.use_batch) {
        check.check_writable("running_mean", a.running_mean);
        check.check_writable("running_var", a.running_var);
    } else {
        check.check_given("running_mean", a.running_mean);
        check.check_given("running_var", a.running_var);
    }
    if (a.use_batch && !a.num_groups) layout.check_count(check, x);
    const Array r = check.residual(a.residual, x);
    Result y(check, x, type, a.out, r, {});
    if (a.use_batch && !a.out.is_none()) y.check_apart(check, {a.running_mean, a.running_var});
    if (size == 0 && !a.return_stats) return y.finish();

    const Operands arrays{x, y.view, r};
    arrays.describe(op, type);
    op.given = !a.use_batch;
    layout.push_axes(op, arrays);
    const bool updates = size > 0 && a.use_batch && has_running;
    Statistics statistics(a.use_batch && (has_running || a.return_stats) ? samples * layout.groups : 0);
    Buffer<double> batch(2, updates ? channels : 0);
    std::optional<ReturnedStatistics> returned;
    if (a.return_stats) returned.emplace(op, type, layout.statistics_shape());
    if (op.given) {
        std::fill_n(zero, channels, 0.0);
        op.moments = {running_mean, zero, running_var};
    } else if (has_running || a.return_stats) {
        op.moments = statistics.moments();
    }
    if (size > 0) run(op, size);
    if (updates) {
        // Averaged over the samples, where each has its own statistics.
        double *mean = batch.data(), *var = mean + channels;
        std::fill_n(mean, 2 * channels, 0.0);
        const double parts = static_cast<double>(samples), degrees = static_cast<double>(layout.count - 1);
        for (int64_t sample = 0; sample < samples; ++sample) {
            const Moments m = op.moments + sample * channels;
            for (int64_t c = 0; c < channels; ++c) {
                mean[c] += (m.mean[c] + m.low[c]) / parts;
                var[c] += m.m2[c] / degrees / parts;
            }
        }
        update(check, "running_mean", a.running_mean, running_mean, mean, channels, a.momentum);
        update(check, "running_var", a.running_var, running_var, var, channels, a.momentum);
    }
    if (!returned) return y.finish();
    return returned->beside(y.finish(), op, op.given ? 1 : layout.count, op.given ? channels : 0);
}

py::object batch_norm(const py::handle* a) {
    const Arguments check("batch_norm");
    return channel_norm(check, kBatch, Channeled(check, "training", a));
}

py::object instance_norm(const py::handle* a) {
    const Arguments check("instance_norm");
    return channel_norm(check, kGroup, Channeled(check, "use_input_stats", a));
}

py::object group_norm(const py::handle* a) {
    const Arguments check("group_norm");
    Channeled channeled(check, a[0], a + 2, a + 4);
    channeled.num_groups = check.integer("num_groups", a[1]);
    return channel_norm(check, kGroup, channeled);
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
