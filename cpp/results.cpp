// Results. See results.hpp.
#include "results.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "dispatch.hpp"

namespace fusednorm {
namespace {

bool same_places(const Array& a, const Array& b) {
    return a.data == b.data && size_of(a.type) == size_of(b.type) && same_strides(a, b);
}

// Of an array whose dtype the kernels know.
Type type_of_memory(const py::array& a) {
    Type type = Type::f64;
    type_of(a.dtype(), type);
    return type;
}

}  // namespace

Result::Result(const Arguments& arguments, const Array& x, Type type, py::handle out, std::initializer_list<Array> beside,
               std::initializer_list<py::object> before) {
    if (out.is_none()) {
        view = array_like(x, type);
        return;
    }
    if (!py::isinstance<py::array>(out)) arguments.type_error("out", "a numpy.ndarray", text_of(py::type::of(out)));
    const py::array a = py::reinterpret_borrow<py::array>(out);
    Type out_type = Type::boolean;
    if (!type_of(a.dtype(), out_type) || out_type != type)
        arguments.type_error("out", std::string("dtype ") + name_of(type), "dtype " + std::string(py::str(a.dtype())));
    if (a.ndim() != x.ndim || !std::equal(x.shape, x.shape + x.ndim, a.shape()))
        arguments.value_error("out", "shape " + text_of(x.shape, x.ndim),
                              "shape " + text_of(a.shape(), static_cast<int>(a.ndim())));
    if (!(a.flags() & kWriteable)) arguments.value_error("out", "a writeable array", "a read-only one");
    for (int i = 0; x.size() > 0 && i < x.ndim; ++i)
        if (a.shape(i) > 1 && a.strides(i) == 0)
            arguments.value_error("out", "an array whose elements do not share memory", "a stride of 0");
    view = view_of(a, type);
    bool direct = !is_odd(a) && (!overlap(view, x) || same_places(view, x));
    for (const Array& other : beside)
        if (other.data) direct = direct && (!overlap(view, other) || same_places(view, other));
    for (const py::object& other : before) {
        if (!other) continue;
        const auto array = py::reinterpret_borrow<py::array>(other);
        direct = direct && !overlap(view, view_of(array, type_of_memory(array)));
    }
    if (direct) return;
    target = a;
    view = array_like(x, type);
}

py::object Result::finish() {
    if (!target) return view.array;
    copy_values(target, view.array);
    return target;
}

py::array rounded(const double* values, Type type, const std::vector<py::ssize_t>& shape, const py::ssize_t* strides) {
    const py::array a = new_array(type, static_cast<int>(shape.size()), shape.data(), strides);
    const FinishTile tile{values, proxy(a)->data, 1, a.size(), a.size(), a.size(), false};
    if (a.size() > 0) kernels().finish[static_cast<int>(type)](tile);
    return a;
}

void copy_rounded(const Array& from, const py::array& to, Type type) {
    // ml_dtypes goes from float64 to bfloat16 by way of float32.
    const bool twice = type == Type::bf16 && from.type == Type::f64;
    if (!twice) return void(copy_of(from, to, type));
    const Array wide = is_dense(from) ? from : dense_copy(from, Type::f64);
    const Array narrow = array_like(wide, type);
    const FinishTile tile{reinterpret_cast<const double*>(wide.data), narrow.data, 1, from.size(), 0, 0, false};
    if (from.size() > 0) kernels().finish[static_cast<int>(type)](tile);
    copy_of(narrow, to, type);
}

void update_channels(const Arguments& check, const char* argument, const py::object& target, const double* values, int64_t n) {
    const py::array a = target;
    Type type;
    if (!check.is_plain(argument, a, type)) {
        type_of(a.dtype(), type);
        const QuietCasts quiet;
        numpy().attr("copyto")(a, rounded(values, type, {n}).attr("reshape")(a.attr("shape")), py::arg("casting") = "unsafe");
        return;
    }
    char* p = proxy(a)->data;
    const auto step = channel_step(a);
    for (int64_t i = 0; i < n; ++i, p += step) {
        if (type == Type::f32) {
            *reinterpret_cast<float*>(p) = static_cast<float>(values[i]);
        } else {
            *reinterpret_cast<double*>(p) = values[i];
        }
    }
}

py::object with_statistics(const py::object& y, const Operation& op, Type type, const std::vector<py::ssize_t>& shape,
                           int64_t count, int64_t repeats) {
    int64_t n = 1;
    for (const py::ssize_t size : shape) n *= size;
    std::vector<double> means(static_cast<size_t>(n)), rstds(means);
    for (int64_t i = 0; i < n; ++i) {
        const int64_t from = repeats > 0 ? i % repeats : i;
        const auto to = static_cast<size_t>(i);
        means[to] = count > 0 ? op.moments.mean[from] + op.moments.low[from] : NAN;
        rstds[to] = count > 0 ? 1 / std::sqrt(op.moments.m2[from] / static_cast<double>(count) + op.eps) : NAN;
    }
    const Type kept = type == Type::f64 ? Type::f64 : Type::f32;
    const py::object mean = op.centered ? py::object(rounded(means.data(), kept, shape)) : py::none();
    return py::make_tuple(y, mean, rounded(rstds.data(), kept, shape));
}

}  // namespace fusednorm
