// Results. See results.hpp.
#include "results.hpp"

#include <algorithm>

namespace fusednorm {
namespace {

bool same_places(const Array& a, const Array& b) {
    if (a.data != b.data || size_of(a.type) != size_of(b.type)) return false;
    for (int i = 0; i < a.ndim; ++i)
        if (a.shape[i] > 1 && a.strides[i] != b.strides[i]) return false;
    return true;
}

// Of an array whose dtype the kernels know.
Type type_of_memory(const py::array& a) {
    Type type = Type::f64;
    type_of(a.dtype(), type);
    return type;
}

}  // namespace

Result::Result(const Arguments& arguments, const Array& x, Type type, py::handle out, std::initializer_list<Array> beside,
               std::initializer_list<py::array> before) {
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
    for (const py::array& other : before) direct = direct && !overlap(view, view_of(other, type_of_memory(other)));
    if (direct) return;
    target = a;
    view = array_like(x, type);
}

py::object Result::finish() {
    if (!target) return view.array;
    copy_values(target, view.array);
    return target;
}

}  // namespace fusednorm
