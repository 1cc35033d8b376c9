// Layer and RMS norm, alone and of a sum: weights per value of a row.
#include <algorithm>

#include "machine/buffer.hpp"
#include "module.hpp"
#include "results.hpp"

namespace fusednorm {
namespace {

// The arguments of one call, read in the order of their members.
struct Rowwise {
    py::object x, residual;
    NormalizedShape normalized_shape;
    py::object weight, bias;
    std::optional<double> eps;  // none: what the dtype says
    py::handle out;
    Activation activation = Activation::none;
    std::optional<Type> dtype;
    bool return_stats = false;

    Rowwise(const Arguments& check, const NormSpec& spec, py::handle x_, py::handle residual_, py::handle shape,
            py::handle weight_, py::handle bias_, py::handle eps_, py::handle out_)
        : x(check.array("x", x_)),
          residual(check.array("residual", residual_)),
          normalized_shape(check, shape),
          weight(check.parameter("weight", weight_)),
          bias(check.parameter("bias", bias_)),
          out(out_) {
        if (!eps_.is_none() || spec.centered) eps = check.eps(eps_);
    }
    void read_rest(const Arguments& check, py::handle activation_, py::handle dtype_, py::handle return_stats_) {
        activation = check.activation(activation_);
        dtype = check.type(dtype_);
        return_stats = check.flag("return_stats", return_stats_);
    }
};

// The parameters of a row, or none: kept alive while the operation runs.
class RowParameters {
public:
    int dims;  // trailing dimensions that are pooled
    py::object weight, bias;

    RowParameters(const Arguments& check, const NormSpec& spec, const Rowwise& a, const Array& x, Type type, bool is_in_float,
                  Operation& op)
        : dims(a.normalized_shape.count(check, x)),
          cols(product(x.shape, x.ndim - dims, x.ndim)),
          absent(a.weight.is_none() != a.bias.is_none() ? cols : 0) {
        op.centered = spec.centered;
        op.eps = a.eps.value_or(smallest_step(type));
        // No weights: the row is one channel, with the weight 1 and the bias 0; or -0, since rms norm leaves x's -0 as it is.
        static const double one = 1, zeros[] = {-0.0, 0.0};
        op.rows_only = !a.weight.is_none() || !a.bias.is_none();
        op.weight = &one, op.bias = &zeros[spec.centered];
        if (!op.rows_only) return;
        op.weight = read(check, "weight", a.weight, x, weight_type(is_in_float), one, weight);
        op.bias = read(check, "bias", a.bias, x, weight_type(is_in_float), zeros[spec.centered], bias);
    }

private:
    int64_t cols;
    Buffer<double> absent;  // one of them

    const void* read(const Arguments& check, const char* name, const py::object& given, const Array& x, Type type, double none,
                     py::object& kept) {
        if (!given.is_none()) {
            const py::array values = check.values(name, given, type, x.shape + x.ndim - dims, dims, none);
            kept = values;
            return values.data();
        }
        if (type == Type::f64) {
            std::fill_n(absent.data(), cols, none);
        } else {
            std::fill_n(reinterpret_cast<float*>(absent.data()), cols, static_cast<float>(none));
        }
        return absent.data();
    }
};

py::object row_norm(const Arguments& check, const NormSpec& spec, const Rowwise& a) {
    const Array x = check.input("x", a.x);
    const Type type = result_type(x, a.dtype);
    const Array r = check.residual(a.residual, x);
    Operation op;
    op.activation = a.activation;
    const bool is_in_float = in_float(x.type, type, r.data || op.activation != Activation::none);
    const RowParameters p(check, spec, a, x, type, is_in_float, op);
    Result y(check, x, type, a.out, r, {p.weight, p.bias});
    const int leading = x.ndim - p.dims;
    const int64_t rows = product(x.shape, 0, leading), cols = product(x.shape, leading, x.ndim);
    const Operands arrays{x, y.view, r};
    arrays.describe(op, type);
    push_row_axes(op, arrays, p.dims);
    Statistics statistics(a.return_stats ? rows : 0);
    std::optional<ReturnedStatistics> returned;
    if (a.return_stats) op.moments = statistics.moments(), returned.emplace(op, type, std::vector(x.shape, x.shape + leading));
    if (x.size() > 0) run(op, x.size());
    return returned ? returned->beside(y.finish(), op, cols, 0) : y.finish();
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
    const Type type = result_type(given, {});
    const Array r = check.shaped_like("residual", a.residual, given);
    Operation op;
    const RowParameters p(check, spec, a, given, type, in_float(type, type, false), op);
    const bool pair = py::isinstance<py::tuple>(a.out);
    const py::tuple outs = pair ? py::reinterpret_borrow<py::tuple>(a.out) : py::make_tuple(a.out, py::none());
    if (outs.size() != 2) check.value_error("out", "an array, or a tuple of two", "a tuple of " + std::to_string(outs.size()));
    Result y(check, given, type, outs[0], r, {p.weight, p.bias});
    Result sum(check, given, type, outs[1], r, {p.weight, p.bias});
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
    const Arguments check("add_layer_norm");
    return add_norm(check, kLayer, {check, kLayer, a[0], a[1], a[2], a[3], a[4], a[5], a[6]});
}

py::object add_rms_norm(const py::handle* a) {
    const Arguments check("add_rms_norm");
    return add_norm(check, kRms, {check, kRms, a[0], a[1], a[2], a[3], py::none(), a[4], a[5]});
}

py::object layer_norm(const py::handle* a) {
    const Arguments check("layer_norm");
    Rowwise given(check, kLayer, a[0], a[5], a[1], a[2], a[3], a[4], a[8]);
    given.read_rest(check, a[6], a[7], a[9]);
    return row_norm(check, kLayer, given);
}

py::object rms_norm(const py::handle* a) {
    const Arguments check("rms_norm");
    Rowwise given(check, kRms, a[0], a[4], a[1], a[2], py::none(), a[3], a[7]);
    given.read_rest(check, a[5], a[6], a[8]);
    return row_norm(check, kRms, given);
}

PyMethodDef functions[] = {
    FUSEDNORM_FUNCTION(layer_norm, 10,
                       "(x, normalized_shape, weight, bias, eps, residual, activation, dtype, out, return_stats, /)"),
    FUSEDNORM_FUNCTION(rms_norm, 9, "(x, normalized_shape, weight, eps, residual, activation, dtype, out, return_stats, /)"),
    FUSEDNORM_FUNCTION(add_layer_norm, 7, "(x, residual, normalized_shape, weight, bias, eps, out, /)"),
    FUSEDNORM_FUNCTION(add_rms_norm, 6, "(x, residual, normalized_shape, weight, eps, out, /)"),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

PyMethodDef* row_functions() { return functions; }

}  // namespace fusednorm
