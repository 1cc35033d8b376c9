// The module fusednorm._core: each function checks its arguments, describes the operation on a view, and runs it.
// Python's functional.py has the same functions with names and defaults; here every argument is positional.
#include <algorithm>
#include <cmath>
#include <limits>

#include "arguments.hpp"
#include "dispatch.hpp"
#include "entry.hpp"
#include "operands.hpp"
#include "plan.hpp"
#include "results.hpp"
#include "states.hpp"
#include "threads.hpp"

namespace fusednorm {
namespace {

void run(const Operation& op, int64_t values) {
    without_gil(values, [&] { forward(op); });
}

// (y, mean, rstd), the statistics as float32, or as float64 where y is. repeats: so many of them are for every sample.
py::object with_statistics(const py::object& y, const Operation& op, Type type, const std::vector<py::ssize_t>& shape,
                           int64_t count, int64_t repeats) {
    const int ndim = static_cast<int>(shape.size());
    const py::array mean = new_array(Type::f64, ndim, shape.data(), nullptr),
                    rstd = new_array(Type::f64, ndim, shape.data(), nullptr);
    auto *means = reinterpret_cast<double*>(proxy(mean)->data), *rstds = reinterpret_cast<double*>(proxy(rstd)->data);
    const int64_t n = mean.size();
    for (int64_t i = 0; i < n; ++i) {
        const int64_t from = repeats > 0 ? i % repeats : i;
        means[i] = count > 0 ? op.moments.mean[from] + op.moments.low[from] : NAN;
        rstds[i] = count > 0 ? 1 / std::sqrt(op.moments.m2[from] / static_cast<double>(count) + op.eps) : NAN;
    }
    const QuietCasts quiet;
    const py::dtype dtype = dtype_of(type == Type::f64 ? Type::f64 : Type::f32);
    const auto cast = [&](const py::array& a) -> py::object { return a.attr("astype")(dtype, py::arg("copy") = false); };
    return py::make_tuple(y, op.centered ? cast(mean) : py::none(), cast(rstd));
}

// running = (1 - momentum) * running + momentum * batch.
void update(py::handle running, double* before, const double* batch, int64_t n, double momentum) {
    for (int64_t i = 0; i < n; ++i) before[i] = (1 - momentum) * before[i] + momentum * batch[i];
    update_channels(running, before, n);
}

// ---- batch, instance and group: weights per channel

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
    const bool return_stats = py::bool_(py::reinterpret_borrow<py::object>(a.return_stats));
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
                        {a[0], a[1], a[2], a[3], a[4], py::bool_(py::reinterpret_borrow<py::object>(a[5])),
                         check.real("momentum", a[6]), a[7], a[8], a[9], a[10], a[11], a[12], a[13]});
}

py::object instance_norm(const py::handle* a) {
    const Arguments check("instance_norm");
    return channel_norm(check, kInstance,
                        {a[0], a[1], a[2], a[3], a[4], py::bool_(py::reinterpret_borrow<py::object>(a[5])),
                         check.real("momentum", a[6]), a[7], a[8], a[9], a[10], a[11], a[12], a[13]});
}

py::object group_norm(const py::handle* a) {
    const py::none none;
    return channel_norm(Arguments("group_norm"), group_spec(1),
                        {a[0], none, none, a[2], a[3], true, 0, a[4], a[5], a[6], a[7], a[8], a[9], a[10]}, a[1]);
}

// ---- layer and rms: weights per value of a row

struct Rowwise {
    py::handle x, normalized_shape, weight, bias, eps, residual, activation, dtype, out, return_stats;
};

// The parameters of a row: kept alive while the operation runs.
struct RowParameters {
    int dims;  // trailing dimensions that are pooled
    py::array weight, bias;
};

RowParameters describe_rows(const Arguments& check, const NormSpec& spec, const Rowwise& a, const Array& x, Type type,
                            bool is_in_float, Operation& op) {
    const int n = trailing(check, a.normalized_shape, x), first = x.ndim - n;
    op.centered = spec.centered, op.rows_only = spec.rows_only;
    op.eps = row_eps(check, spec, a.eps, type);
    const Type weights = weight_type(is_in_float);
    RowParameters p{n, check.values("weight", a.weight, weights, x.shape + first, n, 1),
                    check.values("bias", a.bias, weights, x.shape + first, n, 0)};
    op.weight = p.weight.data(), op.bias = p.bias.data();
    return p;
}

py::object row_norm(const Arguments& check, const NormSpec& spec, const Rowwise& a) {
    const Array x = check.input("x", a.x);
    const Type type = check.result_type(x, a.dtype);
    const Array r = check.residual(a.residual, x);
    Operation op;
    op.activation = check.activation(a.activation);
    const bool is_in_float = in_float(x.type, type, r.data || op.activation != Activation::none);
    const RowParameters p = describe_rows(check, spec, a, x, type, is_in_float, op);
    Result y(check, x, type, a.out, {r}, {p.weight, p.bias});
    const bool return_stats = py::bool_(py::reinterpret_borrow<py::object>(a.return_stats));
    const int leading = x.ndim - p.dims;
    const int64_t rows = product(x.shape, 0, leading), cols = product(x.shape, leading, x.ndim);
    const Operands arrays{x, y.view, r};
    arrays.describe(op, type);
    push_row_axes(op, arrays, p.dims);
    Statistics statistics(return_stats ? rows : 0);
    if (return_stats) op.moments = statistics.moments();
    if (x.size() > 0) run(op, x.size());
    if (!return_stats) return y.finish();
    return with_statistics(y.finish(), op, type, {x.shape, x.shape + leading}, cols, 0);
}

// ---- the norm of a sum, and the sum

// r in the memory order of x, in x's type or in double.
Array laid_like(const Array& r, const Array& x) {
    if (lies_like(r, x)) return r;
    const Type type = r.type == x.type ? x.type : Type::f64;
    return copy_of(r, array_like(x, type).array, type);
}

py::object add_norm(const Arguments& check, const NormSpec& spec, const Rowwise& a) {
    const Array given = check.input("x", a.x);
    const Type type = check.result_type(given, py::none());
    if (a.residual.is_none()) check.type_error("residual", "an array", "None");
    const Array r = check.residual(a.residual, given);
    Operation op;
    const RowParameters p = describe_rows(check, spec, a, given, type, in_float(type, type, false), op);
    const bool pair = py::isinstance<py::tuple>(a.out);
    if (pair && py::len(a.out) != 2) check.value_error("out", "an array, or a tuple of two", text_of(a.out));
    const py::tuple outs = pair ? py::reinterpret_borrow<py::tuple>(a.out) : py::make_tuple(a.out, py::none());
    Result y(check, given, type, outs[0], {r}, {p.weight, p.bias});
    Result sum(check, given, type, outs[1], {r}, {p.weight, p.bias});
    if (share_memory(y.place(), sum.place())) check.value_error("out", "two arrays that share no memory", "two that do");
    if (given.size() > 0) {
        // The sum is made where the arrays lie alike; elsewhere copies do.
        const Array x = given.type == type && is_dense(given) ? given : dense_copy(given, type), terms = laid_like(r, x);
        const bool direct = is_dense(sum.view) && lies_like(x, sum.view);
        const Array s = direct ? sum.view : array_like(x, type);
        const Operands arrays{s, y.view, {}};
        arrays.describe(op, type);
        op.terms[0] = x.data, op.terms[1] = terms.data, op.term_type = terms.type;
        push_row_axes(op, arrays, p.dims);
        run(op, s.size());
        if (!direct) copy_values(sum.view.array, s.array);
    }
    return py::make_tuple(y.finish(), sum.finish());
}

py::object add_layer_norm(const py::handle* a) {
    const py::none none;
    return add_norm(Arguments("add_layer_norm"), kLayer, {a[0], a[2], a[3], a[4], a[5], a[1], none, none, a[6], none});
}

py::object add_rms_norm(const py::handle* a) {
    const py::none none;
    return add_norm(Arguments("add_rms_norm"), kRms, {a[0], a[2], a[3], none, a[4], a[1], none, none, a[5], none});
}

py::object layer_norm(const py::handle* a) {
    return row_norm(Arguments("layer_norm"), kLayer, {a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]});
}

py::object rms_norm(const py::handle* a) {
    return row_norm(Arguments("rms_norm"), kRms, {a[0], a[1], a[2], py::none(), a[3], a[4], a[5], a[6], a[7], a[8]});
}

// ---- moments

std::vector<bool> reduced_axes(const Arguments& check, py::handle axis, int ndim) {
    std::vector<bool> reduced(static_cast<size_t>(ndim), axis.is_none());
    if (axis.is_none()) return reduced;
    for (const int64_t one : check.integers("axis", axis)) {
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

template <class T>
void write_moments(Statistics& s, double count, double ddof, const py::array& mean, const py::array& var) {
    T* means = reinterpret_cast<T*>(py::detail::array_proxy(mean.ptr())->data);
    T* vars = reinterpret_cast<T*>(py::detail::array_proxy(var.ptr())->data);
    const Moments m = s.moments();
    for (int64_t i = 0; i < s.n; ++i) {
        means[i] = static_cast<T>(count > 0 ? m.mean[i] + m.low[i] : NAN);
        vars[i] = static_cast<T>(count > 0 ? m.m2[i] / std::max(count - ddof, 0.0) : NAN);
    }
}

py::object moments(const py::handle* a) {
    const Arguments check("moments");
    const Array x = check.input("x", a[0]);
    const std::vector<bool> reduced = reduced_axes(check, a[1], x.ndim);
    const double ddof = check.real("ddof", a[2]);
    if (!std::isfinite(ddof)) check.value_error("ddof", "a finite number", text_of(a[2]));
    const bool keepdims = py::bool_(py::reinterpret_borrow<py::object>(a[3]));
    const Type asked = check.result_type(x, a[4]);
    // Half precision would lose what the sums have: those that are asked for are rounded from float64.
    const Type type = asked == Type::f32 || (a[4].is_none() && asked != Type::f64) ? Type::f32 : Type::f64;

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
    const int ndim = static_cast<int>(shape.size());
    const py::array mean = new_array(type, ndim, shape.data(), strides.data());
    const py::array var = new_array(type, ndim, shape.data(), strides.data());
    Statistics statistics(stats);
    arrays.describe(op, type);
    op.moments = statistics.moments();
    if (stats > 0 && count > 0) run(op, x.size());
    if (type == Type::f32) {
        write_moments<float>(statistics, static_cast<double>(count), ddof, mean, var);
    } else {
        write_moments<double>(statistics, static_cast<double>(count), ddof, mean, var);
    }
    if (a[4].is_none() || asked == type) return py::make_tuple(mean, var);
    const QuietCasts quiet;
    const py::dtype dtype = dtype_of(asked);
    return py::make_tuple(mean.attr("astype")(dtype), var.attr("astype")(dtype));
}

// ---- running states

// The states of x, of shape (*kept axes, 6); function is the caller's name for messages, channel_axis what is kept.
py::object pooled(const py::handle* a) {
    const std::string function = py::str(a[0]);
    const Arguments check(function.c_str());
    const Array x = check.input("x", a[1]);
    std::vector<bool> reduced(static_cast<size_t>(x.ndim), true);
    if (!a[2].is_none())
        for (const int64_t one : check.integers("channel_axis", a[2]))
            reduced[static_cast<size_t>(check.axis("channel_axis", one, x.ndim))] = false;
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
    check.updatable("into", a[0]);
    for (int64_t i = 0; i < n; ++i) into[i] = merged(into[i], other[i]);
    return py::none();
}

// ---- the machine

py::dict config() {
    py::dict d;
    d["version"] = FUSEDNORM_VERSION;
    d["isa"] = kernels().isa;
    d["isas_available"] = py::cast(available_isas());
    d["isas_compiled"] = py::cast(compiled_isas());
    d["openmp"] = openmp_runtime();
    d["threads"] = get_num_threads();
#if defined(__clang__)
    d["compiler"] = "Clang " __clang_version__;
#else
    d["compiler"] = "GCC " __VERSION__;
#endif
    return d;
}

py::object set_threads(const py::handle* a) {
    const Arguments check("set_num_threads");
    const int64_t n = check.integer("n", a[0]);
    if (n < 1 || n > 4096) check.value_error("n", "a number of threads from 1 to 4096", std::to_string(n));
    set_num_threads(static_cast<int>(n));
    return py::none();
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
    FUSEDNORM_FUNCTION(layer_norm, 10,
                       "(x, normalized_shape, weight, bias, eps, residual, activation, dtype, out, return_stats, /)"),
    FUSEDNORM_FUNCTION(rms_norm, 9, "(x, normalized_shape, weight, eps, residual, activation, dtype, out, return_stats, /)"),
    FUSEDNORM_FUNCTION(add_layer_norm, 7, "(x, residual, normalized_shape, weight, bias, eps, out, /)"),
    FUSEDNORM_FUNCTION(add_rms_norm, 6, "(x, residual, normalized_shape, weight, eps, out, /)"),
    FUSEDNORM_FUNCTION(moments, 5, "(x, axis, ddof, keepdims, dtype, /)"),
    FUSEDNORM_FUNCTION(pooled, 3, "(function, x, channel_axis, /)"),
    FUSEDNORM_FUNCTION(merge, 2, "(into, other, /)"),
    {"set_num_threads", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(entry<set_threads, 1>)), METH_FASTCALL,
     "set_num_threads(n, /)\n--\n\n"},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace
}  // namespace fusednorm

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
    using namespace fusednorm;
    try {
        kernels();
    } catch (const std::runtime_error& e) {
        throw py::import_error(e.what());
    }
    if (PyModule_AddFunctions(m.ptr(), functions) != 0 || PyModule_AddFunctions(m.ptr(), gradient_functions()) != 0)
        throw py::error_already_set();
    m.def("get_num_threads", &get_num_threads);
    m.def("config", &config);
}
