// Results. See results.hpp.
#include "results.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "machine/dispatch.hpp"

namespace fusednorm {
namespace {

bool same_places(const Array& a, const Array& b) {
    return a.data == b.data && size_of(a.type) == size_of(b.type) && same_strides(a, b);
}

// Where a parameter lies.
Array memory_of(py::handle parameter) {
    const auto array = py::reinterpret_borrow<py::array>(parameter);
    Type type;
    return view_of(array, type_of(array.dtype(), type) ? type : Type::f64);  // longdouble is none of the kernels' types
}

}  // namespace

Result::Result(const Arguments& arguments, const Array& x, Type type, py::handle out, const Array& beside,
               std::initializer_list<py::handle> before) {
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
    const Extent own(view);
    bool direct = !is_odd(a);
    for (const Array* other : {&x, &beside}) direct = direct && (!own.overlaps(Extent(*other)) || same_places(view, *other));
    for (const py::handle other : before) direct = direct && !(other && own.overlaps(Extent(memory_of(other))));
    if (direct) return;
    target = a;
    view = array_like(x, type);
}

void Result::check_apart(const Arguments& arguments, std::initializer_list<py::object> updated) const {
    for (const py::object& each : updated)
        if (!each.is_none() && share_memory(place(), memory_of(each)))
            arguments.value_error("out", "memory of its own", "that of statistics that are updated");
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

void update_channels(const Arguments& check, const char* argument, const py::object& target, const double* values,
                     double* scratch, int64_t n) {
    const py::array a = target;
    Type type;
    const bool plain = check.is_plain(argument, a, type);
    char* p = proxy(a)->data;
    const auto step = channel_step(a);
    if (plain && type == Type::f32) {
        for (int64_t i = 0; i < n; ++i, p += step) *reinterpret_cast<float*>(p) = static_cast<float>(values[i]);
        return;
    }
    const FinishTile tile{values, reinterpret_cast<char*>(scratch), 1, n, n, n, false};
    kernels().finish[static_cast<int>(type)](tile);
    if (plain) return kernels().copy[shift_of(type)]({scratch, p, 1, n, n, 1, n, step / size_of(type)});
    const py::array rounded(dtype_of(type), {n}, {}, scratch, py::none());
    call_quietly(numpy("copyto"), py::make_tuple(a, rounded.attr("reshape")(a.attr("shape"))),
                 py::dict(py::arg("casting") = "unsafe"));
}

ReturnedStatistics::ReturnedStatistics(const Operation& op, Type y, const std::vector<py::ssize_t>& shape)
    : type(y == Type::f64 ? y : Type::f32), mean(py::none()) {
    const auto make = [&] { return new_array(type, static_cast<int>(shape.size()), shape.data(), nullptr); };
    if (op.centered) mean = make();
    rstd = make();
}

py::object ReturnedStatistics::beside(const py::object& y, const Operation& op, int64_t count, int64_t repeats) const {
    const auto fill = [&](const py::object& array, auto value_of) {
        const py::array a = py::reinterpret_borrow<py::array>(array);
        char* p = proxy(a)->data;
        for (int64_t i = 0, n = a.size(); i < n; ++i) {
            const double value = count > 0 ? value_of(repeats > 0 ? i % repeats : i) : NAN;
            if (type == Type::f32) {
                reinterpret_cast<float*>(p)[i] = static_cast<float>(value);
            } else {
                reinterpret_cast<double*>(p)[i] = value;
            }
        }
    };
    const Moments& m = op.moments;
    if (op.centered) fill(mean, [&](int64_t i) { return m.mean[i] + m.low[i]; });
    fill(rstd, [&](int64_t i) { return 1 / std::sqrt(m.m2[i] / static_cast<double>(count) + op.eps); });
    return py::make_tuple(y, mean, rstd);
}

}  // namespace fusednorm
