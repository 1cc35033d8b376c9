// The module fusednorm._core: each function checks its arguments, describes the operation on a view, and runs it.
// Python's functional.py has the same functions with names and defaults; here every argument is positional.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "arguments.hpp"
#include "dispatch.hpp"
#include "plan.hpp"
#include "results.hpp"
#include "states.hpp"
#include "threads.hpp"

namespace fusednorm {
namespace {

constexpr int64_t kKeepGilValues = 1 << 13;  // less work than handing the GIL over and back is worth

void run(const Operation& op, int64_t values) {
    if (values < kKeepGilValues) return forward(op);
    py::gil_scoped_release release;
    forward(op);
}

int64_t product(const py::ssize_t* shape, int begin, int end) {
    int64_t n = 1;
    for (int i = begin; i < end; ++i) n *= shape[i];
    return n;
}

// The moments of statistics 0 ... n - 1, in memory of their own.
struct Statistics {
    std::vector<double> memory;
    int64_t n;
    explicit Statistics(int64_t count) : memory(static_cast<size_t>(3 * count)), n(count) {}
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
    py::handle eps, channel_axis, residual, activation, dtype, out;
};

py::object channel_norm(const Arguments& check, NormSpec spec, const Channeled& a, py::handle num_groups = {}) {
    const Array x = check.input("x", a.x);
    const Type type = check.result_type(x, a.dtype);
    if (x.ndim == 0 || (spec.pool_outer && x.ndim == 1))
        check.value_error("x", spec.pool_outer ? "at least 2 dimensions" : "at least 1 dimension",
                          "shape " + text_of(x.shape, x.ndim));
    const int channel_axis = check.axis("channel_axis", check.integer("channel_axis", a.channel_axis), x.ndim);
    const int64_t channels = x.shape[channel_axis];
    if (num_groups) {
        const int64_t groups = check.integer("num_groups", num_groups);
        if (groups < 1 || channels % groups != 0)
            check.value_error("num_groups", "a positive divisor of the " + std::to_string(channels) + " channels",
                              std::to_string(groups));
        spec.group_size = channels / groups;
    }
    const int64_t per = std::max<int64_t>(1, spec.group_size), groups = channels / per;
    const int sample_axis = spec.pool_outer || channel_axis == 0 ? -1 : 0;
    const int64_t samples = sample_axis < 0 ? 1 : x.shape[0], size = x.size();

    Operation op;
    op.eps = check.eps(a.eps);
    Doubles parameters(5, channels);
    double *weight = parameters.data(), *bias = weight + channels, *zero = bias + channels;
    double *running_mean = zero + channels, *running_var = running_mean + channels;
    check.channels("weight", a.weight, x, channel_axis, 1, weight);
    check.channels("bias", a.bias, x, channel_axis, 0, bias);
    op.weight = weight, op.bias = bias;

    const bool has_running = !a.running_mean.is_none() || !a.running_var.is_none();
    // What is updated is read as the same array: an object may give another one each time that it is asked.
    const auto taken = [&](const char* name, py::handle object) -> py::object {
        if (!a.use_batch || object.is_none()) return py::reinterpret_borrow<py::object>(object);
        return check.updatable(name, object);
    };
    const py::object mean_target = taken("running_mean", a.running_mean), var_target = taken("running_var", a.running_var);
    check.channels("running_mean", mean_target, x, channel_axis, 0, running_mean);
    check.channels("running_var", var_target, x, channel_axis, 1, running_var);
    if (!a.use_batch)
        for (const auto& [name, given] : {std::pair{"running_mean", a.running_mean}, {"running_var", a.running_var}})
            if (given.is_none()) check.value_error(name, "an array when the batch's statistics are not used", "None");

    const int64_t count = size == 0 ? 0 : size / channels / samples * (spec.pool_outer ? 1 : per);
    if (a.use_batch && size > 0 && !num_groups && count == 1)
        check.value_error("x",
                          spec.pool_outer ? "more than one value per channel when training" : "more than one spatial element",
                          "shape " + text_of(x.shape, x.ndim));
    const Array r = check.residual(a.residual, x);
    op.activation = check.activation(a.activation);
    Result y(check, x, type, a.out, {r}, {});
    if (size == 0) return y.finish();

    const Operands arrays{x, y.view, r};
    arrays.describe(op, type);
    op.given = !a.use_batch;
    for (int i = 0; i < x.ndim; ++i) {
        if (i == channel_axis) {
            Axis group = arrays.axis(i, 1, per), within = arrays.axis(i, 0, 1);
            group.size = groups, group.x *= per, group.y *= per, group.r *= per;
            within.size = per;
            op.axes.push(group);
            if (per > 1) op.axes.push(within);
        } else {
            op.axes.push(arrays.axis(i, i == sample_axis ? groups : 0, 0));
        }
    }
    Statistics statistics(a.use_batch && has_running ? samples * channels : 0);
    if (op.given) {
        std::fill_n(zero, channels, 0.0);
        op.moments = {running_mean, zero, running_var};
    } else if (has_running) {
        op.moments = statistics.moments();
    }
    run(op, size);
    if (a.use_batch && has_running) {
        // Averaged over the samples, where each has its own statistics.
        Doubles batch(2, channels);
        double *mean = batch.data(), *var = mean + channels;
        std::fill_n(mean, 2 * channels, 0.0);
        for (int64_t i = 0; i < samples * channels; ++i) {
            mean[i % channels] += (op.moments.mean[i] + op.moments.low[i]) / static_cast<double>(samples);
            var[i % channels] += op.moments.m2[i] / static_cast<double>(count - 1) / static_cast<double>(samples);
        }
        if (!mean_target.is_none()) update(mean_target, running_mean, mean, channels, a.momentum);
        if (!var_target.is_none()) update(var_target, running_var, var, channels, a.momentum);
    }
    return y.finish();
}

py::object batch_norm(const py::handle* a) {
    const Arguments check("batch_norm");
    return channel_norm(check, kBatch,
                        {a[0], a[1], a[2], a[3], a[4], py::bool_(py::reinterpret_borrow<py::object>(a[5])),
                         check.real("momentum", a[6]), a[7], a[8], a[9], a[10], a[11], a[12]});
}

py::object instance_norm(const py::handle* a) {
    const Arguments check("instance_norm");
    return channel_norm(check, kInstance,
                        {a[0], a[1], a[2], a[3], a[4], py::bool_(py::reinterpret_borrow<py::object>(a[5])),
                         check.real("momentum", a[6]), a[7], a[8], a[9], a[10], a[11], a[12]});
}

py::object group_norm(const py::handle* a) {
    const py::none none;
    return channel_norm(Arguments("group_norm"), group_spec(1),
                        {a[0], none, none, a[2], a[3], true, 0, a[4], a[5], a[6], a[7], a[8], a[9]}, a[1]);
}

// ---- layer and rms: weights per value of a row

struct Rowwise {
    py::handle x, normalized_shape, weight, bias, eps, residual, activation, dtype, out;
};

// How many trailing dimensions normalized_shape names.
int trailing(const Arguments& check, py::handle normalized_shape, const Array& x) {
    const std::vector<int64_t> sizes = check.integers("normalized_shape", normalized_shape);
    const int n = static_cast<int>(sizes.size());
    if (n == 0) check.value_error("normalized_shape", "at least one dimension", text_of(normalized_shape));
    if (n > x.ndim || !std::equal(sizes.begin(), sizes.end(), x.shape + x.ndim - n))
        check.value_error("normalized_shape", "the last dimensions of x, whose shape is " + text_of(x.shape, x.ndim),
                          text_of(normalized_shape));
    return n;
}

// The parameters of a row: kept alive while the operation runs.
struct RowParameters {
    int dims;  // trailing dimensions that are pooled
    py::array weight, bias;
};

RowParameters describe_rows(const Arguments& check, const NormSpec& spec, const Rowwise& a, const Array& x, Type type,
                            bool is_in_float, Operation& op) {
    const int n = trailing(check, a.normalized_shape, x), first = x.ndim - n;
    op.centered = spec.centered, op.rows_only = spec.rows_only;
    if (a.eps.is_none() && !spec.centered) {
        op.eps = type == Type::f64 ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
    } else {
        op.eps = check.eps(a.eps);
    }
    const Type weights = weight_type(is_in_float);
    RowParameters p{n, check.values("weight", a.weight, weights, x.shape + first, n, 1),
                    check.values("bias", a.bias, weights, x.shape + first, n, 0)};
    op.weight = p.weight.data(), op.bias = p.bias.data();
    return p;
}

void push_row_axes(Operation& op, const Operands& arrays, int dims) {
    const Array& x = arrays.x;
    const int first = x.ndim - dims;
    for (int i = 0; i < x.ndim; ++i) {
        const int64_t step = product(x.shape, i + 1, i < first ? first : x.ndim);
        op.axes.push(arrays.axis(i, i < first ? step : 0, i < first ? 0 : step));
    }
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
    if (x.size() == 0) return y.finish();
    const Operands arrays{x, y.view, r};
    arrays.describe(op, type);
    push_row_axes(op, arrays, p.dims);
    run(op, x.size());
    return y.finish();
}

// ---- the norm of a sum, and the sum

// r in the memory order of x, in x's type or in double.
Array laid_like(const Array& r, const Array& x) {
    if (r.type == x.type && std::equal(r.strides, r.strides + r.ndim, x.strides)) return r;
    const Array copy = array_like(x, r.type == x.type ? x.type : Type::f64);
    const QuietCasts quiet;
    numpy().attr("copyto")(copy.array, r.array);
    return copy;
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
        const bool direct = is_dense(sum.view) && std::equal(x.strides, x.strides + x.ndim, sum.view.strides);
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
    return add_norm(Arguments("add_layer_norm"), kLayer, {a[0], a[2], a[3], a[4], a[5], a[1], none, none, a[6]});
}

py::object add_rms_norm(const py::handle* a) {
    const py::none none;
    return add_norm(Arguments("add_rms_norm"), kRms, {a[0], a[2], a[3], none, a[4], a[1], none, none, a[5]});
}

py::object layer_norm(const py::handle* a) {
    return row_norm(Arguments("layer_norm"), kLayer, {a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]});
}

py::object rms_norm(const py::handle* a) {
    return row_norm(Arguments("rms_norm"), kRms, {a[0], a[1], a[2], py::none(), a[3], a[4], a[5], a[6], a[7]});
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

// A function of N positional arguments with CPython's own calling convention: pybind11's dispatch would cost as much as
// the work on a small array.
template <py::object (*Function)(const py::handle*), int N>
PyObject* entry(PyObject*, PyObject* const* arguments, Py_ssize_t n) noexcept {
    try {
        if (n != N) throw py::type_error("expected " + std::to_string(N) + " arguments, got " + std::to_string(n));
        py::handle handles[N];
        for (int i = 0; i < N; ++i) handles[i] = arguments[i];
        return Function(handles).release().ptr();
    } catch (py::error_already_set& e) {
        e.restore();
    } catch (const py::builtin_exception& e) {
        e.set_error();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::length_error&) {  // of a std::vector: more than could ever be had
        PyErr_NoMemory();
    } catch (const std::exception& e) {
        PyErr_SetString(PyExc_NotImplementedError, e.what());
    }
    return nullptr;
}

#define FUSEDNORM_FUNCTION(function, n, signature)                                                              \
    {#function, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(entry<function, n>)), METH_FASTCALL, \
     #function signature "\n--\n\n"}

PyMethodDef functions[] = {
    FUSEDNORM_FUNCTION(batch_norm, 13,
                       "(x, running_mean, running_var, weight, bias, training, momentum, eps, channel_axis, residual, "
                       "activation, dtype, out, /)"),
    FUSEDNORM_FUNCTION(instance_norm, 13,
                       "(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps, channel_axis, residual, "
                       "activation, dtype, out, /)"),
    FUSEDNORM_FUNCTION(group_norm, 10, "(x, num_groups, weight, bias, eps, channel_axis, residual, activation, dtype, out, /)"),
    FUSEDNORM_FUNCTION(layer_norm, 9, "(x, normalized_shape, weight, bias, eps, residual, activation, dtype, out, /)"),
    FUSEDNORM_FUNCTION(rms_norm, 8, "(x, normalized_shape, weight, eps, residual, activation, dtype, out, /)"),
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
    if (PyModule_AddFunctions(m.ptr(), functions) != 0) throw py::error_already_set();
    m.def("get_num_threads", &get_num_threads);
    m.def("config", &config);
}
