// Weights, biases and statistics: the checks of arguments.hpp, and what is read of them and written into them.
#include <algorithm>

#include "arguments.hpp"
#include "calls.hpp"
#include "machine/buffer.hpp"
#include "machine/dispatch.hpp"

namespace fusednorm {
namespace {

bool is_list(py::handle object) { return py::isinstance<py::list>(object) || py::isinstance<py::tuple>(object); }

bool is_plain_float(const py::array& a, Type& type) { return type_of(a.dtype(), type) && is_float(type) && !is_odd(a); }

template <class T>
void read_strided(const void* from, py::ssize_t step, int64_t n, double* to) {
    const char* p = static_cast<const char*>(from);
    if (step == sizeof(T)) {
        std::copy_n(reinterpret_cast<const T*>(p), n, to);
    } else {
        for (int64_t i = 0; i < n; ++i) to[i] = *reinterpret_cast<const T*>(p + i * step);
    }
}

// A dense, aligned copy in C order; the array itself where it is one already.
py::array dense(const py::array& a, Type type) {
    Type own;
    if (!is_plain_float(a, own) || !(a.flags() & kContiguous))
        return call_quietly(a.attr("astype"), py::make_tuple(type == Type::f32 ? "f4" : "f8"),
                            py::dict(py::arg("order") = "C", py::arg("copy") = is_odd(a)));
    if (own == type) return a;
    const py::array copy = new_array(type, static_cast<int>(a.ndim()), a.shape(), nullptr);
    const int64_t n = a.size();
    const auto widen = [&](double* to) { kernels().widen[static_cast<int>(own)]({a.data(), to, 1, n, n, 1, n, 1}); };
    if (type == Type::f64) {
        widen(reinterpret_cast<double*>(proxy(copy)->data));
        return copy;
    }
    Buffer<double> wide(n);
    widen(wide.data());
    std::transform(wide.data(), wide.data() + n, reinterpret_cast<float*>(proxy(copy)->data),
                   [](double v) { return static_cast<float>(v); });
    return copy;
}

}  // namespace

py::object Arguments::parameter(const char* argument, py::handle object) const {
    py::object a = array(argument, object);
    if (!is_list(object)) return a;
    const char kind = py::array(a).dtype().kind();
    return kind == 'i' || kind == 'u' ? call(a.attr("astype"), py::make_tuple("f8")) : a;
}

py::object Arguments::updatable(const char* argument, py::handle object) const {
    const bool is_array = py::isinstance<py::array>(object) || object.is_none();
    if (!is_array && (is_list(object) || PyNumber_Check(object.ptr()) == 0))
        type_error(argument, "an array that can be updated in place", text_of(object));
    py::object a = array(argument, object);
    if (is_array) return a;
    // One that gives a copy of its values gives another copy when it is asked again.
    const py::object again = array(argument, object);
    const auto memory = [](const py::object& one) { return py::reinterpret_borrow<py::array>(one).data(); };
    if (py::reinterpret_borrow<py::array>(a).size() > 0 && memory(a) != memory(again))
        type_error(argument, "an array that can be updated in place",
                   std::string(Py_TYPE(object.ptr())->tp_name) + ", which gives a copy of its values");
    return a;
}

Type gradient_type(const py::object& parameter, Type x) {
    Type type = Type::f64;
    if (parameter.is_none()) return is_float(x) && x != Type::f64 ? Type::f32 : Type::f64;
    return type_of(py::array(parameter).dtype(), type) && is_float(type) ? type : Type::f64;
}

bool Arguments::is_plain(const char* argument, const py::array& parameter, Type& type) const {
    if (is_plain_float(parameter, type)) return true;
    const py::dtype dtype = parameter.dtype();
    // longdouble is none of the kernels' types.
    const bool is_known = type_of(dtype, type) ? is_float(type) : dtype.kind() == 'f' && dtype.itemsize() > 8;
    if (!is_known) type_error(argument, "an array of a float dtype", "dtype " + std::string(py::str(dtype)));
    return false;
}

void Arguments::check_given(const char* argument, const py::object& parameter) const {
    if (!parameter.is_none()) return;
    const bool of_batch = std::string(function).rfind("batch", 0) == 0;
    value_error(argument, std::string("an array unless ") + (of_batch ? "training" : "use_input_stats") + "=True", "None");
}

void Arguments::check_writable(const char* argument, const py::object& parameter) const {
    if (parameter.is_none()) return;
    const py::array a = parameter;
    if (!(a.flags() & kWriteable)) value_error(argument, "an array that can be updated in place", "a read-only one");
    for (py::ssize_t i = 0; a.size() > 0 && i < a.ndim(); ++i)
        if (a.shape(i) > 1 && a.strides(i) == 0)
            value_error(argument, "an array whose elements do not share memory", "a stride of 0");
}

py::ssize_t channel_step(const py::array& a) {
    for (py::ssize_t i = 0; i < a.ndim(); ++i)
        if (a.shape(i) != 1) return a.strides(i);
    return 0;
}

void Arguments::channels(const char* argument, const py::object& parameter, const Array& x, int channel_axis, double none,
                         double* to) const {
    const int64_t n = x.shape[channel_axis];
    if (parameter.is_none()) {
        std::fill_n(to, n, none);
        return;
    }
    auto a = py::reinterpret_borrow<py::array>(parameter);
    Type type;
    const bool plain = is_plain(argument, a, type);
    const int ndim = static_cast<int>(a.ndim());
    // (C,), or aligned from the right with x as NumPy broadcasts, every other axis 1.
    const int along = ndim == 1 ? 0 : channel_axis - x.ndim + ndim;
    bool fits = along >= 0 && along < ndim;
    for (int i = 0; i < ndim; ++i) fits = fits && a.shape(i) == (i == along ? n : 1);
    if (!fits)
        value_error(argument, "shape (" + std::to_string(n) + ",), one value per channel", "shape " + text_of(a.shape(), ndim));
    if (!plain) {
        a = dense(a, Type::f64);
        type = Type::f64;
    }
    const auto step = channel_step(a);
    if (type == Type::f32) {
        read_strided<float>(a.data(), step, n, to);
    } else if (type == Type::f64) {
        read_strided<double>(a.data(), step, n, to);
    } else {
        kernels().widen[static_cast<int>(type)]({a.data(), to, 1, n, n, step / size_of(type), n, 1});
    }
}

py::array Arguments::values(const char* argument, const py::object& parameter, Type type, const py::ssize_t* shape, int ndim,
                            double none) const {
    if (parameter.is_none()) {
        std::vector<py::ssize_t> strides(static_cast<size_t>(ndim));
        int64_t item = size_of(type);
        for (int i = ndim - 1; i >= 0; --i) strides[static_cast<size_t>(i)] = item, item *= std::max<py::ssize_t>(1, shape[i]);
        py::array a = new_array(type, ndim, shape, strides.data());
        if (type == Type::f32) std::fill_n(static_cast<float*>(a.mutable_data()), a.size(), static_cast<float>(none));
        if (type == Type::f64) std::fill_n(static_cast<double*>(a.mutable_data()), a.size(), none);
        return a;
    }
    const auto a = py::reinterpret_borrow<py::array>(parameter);
    Type own;
    const bool plain = is_plain(argument, a, own);
    const int extra = static_cast<int>(a.ndim()) - ndim;
    bool fits = extra >= 0;
    for (int i = 0; fits && i < a.ndim(); ++i) fits = a.shape(i) == (i < extra ? 1 : shape[i - extra]);
    if (!fits)
        value_error(argument, "shape " + text_of(shape, ndim), "shape " + text_of(a.shape(), static_cast<int>(a.ndim())));
    if (extra == 0 && plain && own == type && (a.flags() & kContiguous)) return a;
    return dense(a, type);
}

}  // namespace fusednorm
