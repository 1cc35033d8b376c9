// The checks of arguments, but for those of parameters. See arguments.hpp.
#include "arguments.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "calls.hpp"

namespace fusednorm {
namespace {

PyTypeObject* api_type() { return reinterpret_cast<PyTypeObject*>(py::detail::npy_api::get().PyArray_Type_); }

// Takes back an error of one of these kinds, which a message of ours replaces. What else an object of the user's raised goes
// on.
void take_back(std::initializer_list<PyObject*> kinds) {
    if (!PyErr_Occurred()) return;
    for (PyObject* kind : kinds)
        if (PyErr_ExceptionMatches(kind)) return PyErr_Clear();
    throw py::error_already_set();
}

// Whether an error says what an argument is, which a message of ours then says: not what ended the program, or lacked memory.
bool is_of_argument(const py::error_already_set& e) {
    return e.matches(PyExc_Exception) && !e.matches(PyExc_MemoryError) && !e.matches(PyExc_RecursionError);
}

// Whether an array or a scalar of NumPy's holds what has one of these kinds: as text and complex numbers, too, it would give a
// number. All else is asked for what it is.
bool is_of_kind(py::handle object, const char* kinds) {
    PyObject* o = object.ptr();
    if (PyLong_Check(o) || PyFloat_Check(o) || PyTuple_Check(o) || PyList_Check(o)) return true;  // a small array would feel it
    const bool is_numpy = py::isinstance<py::array>(object) || py::isinstance(object, numpy("generic"));
    return !is_numpy || std::strchr(kinds, object.attr("dtype").cast<py::dtype>().kind()) != nullptr;
}

}  // namespace

std::string text_of(const py::ssize_t* shape, int ndim) {
    std::string text = "(";
    for (int i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + (ndim == 1 ? ",)" : ")");
}

std::string text_of(py::handle object) {
    if (py::isinstance<py::array>(object)) {
        const auto a = py::reinterpret_borrow<py::array>(object);
        return "an array of shape " + text_of(a.shape(), static_cast<int>(a.ndim()));
    }
    // In ASCII: cutting UTF-8 could leave half a character.
    const auto ascii = py::reinterpret_steal<py::object>(PyObject_ASCII(object.ptr()));
    if (!ascii) {
        take_back({PyExc_Exception});
        return "a value of type " + std::string(Py_TYPE(object.ptr())->tp_name);
    }
    std::string text = py::str(ascii);
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text.size() > 80 ? text.substr(0, 77) + "..." : text;
}

// ---- errors

std::string Arguments::text(const char* argument, const std::string& expected, const std::string& got) const {
    return std::string(function) + ": " + argument + ": expected " + expected + ", got " + got;
}

void Arguments::error_from(py::error_already_set& cause, PyObject* kind, const char* argument, const std::string& expected,
                           const std::string& got) const {
    py::raise_from(cause, kind, text(argument, expected, got).c_str());
    throw py::error_already_set();
}

void Arguments::type_error(const char* argument, const std::string& expected, const std::string& got) const {
    throw py::type_error(text(argument, expected, got));
}

void Arguments::value_error(const char* argument, const std::string& expected, const std::string& got) const {
    throw py::value_error(text(argument, expected, got));
}

// ---- arrays

py::object Arguments::array(const char* argument, py::handle object) const {
    if (Py_TYPE(object.ptr()) == api_type() || object.is_none()) return py::reinterpret_borrow<py::object>(object);
    try {
        const bool by_dlpack = !py::hasattr(object, "__array__") && py::hasattr(object, "__dlpack__");
        return call(numpy(by_dlpack ? "from_dlpack" : "asarray"), py::make_tuple(object));
    } catch (py::error_already_set& e) {
        if (!is_of_argument(e)) throw;
        error_from(e, e.matches(PyExc_ValueError) ? PyExc_ValueError : PyExc_TypeError, argument,
                   "an array or what numpy.asarray can read",
                   std::string(py::str(py::type::of(object).attr("__name__"))) + " that it cannot");
    }
}

Array Arguments::input(const char* argument, const py::object& array) const {
    if (array.is_none()) type_error(argument, "an array", "None");
    py::array a = py::reinterpret_borrow<py::array>(array);
    Type type;
    if (!type_of(a.dtype(), type))
        type_error(argument, "a bool, integer, float16, bfloat16, float32 or float64 array",
                   "dtype " + std::string(py::str(a.dtype())));
    if (is_odd(a)) a = native_copy(a);
    return view_of(std::move(a), type);
}

std::optional<Type> Arguments::type(py::handle dtype) const {
    if (dtype.is_none()) return std::nullopt;
    Type type = Type::boolean;
    try {
        const py::dtype asked = py::dtype::from_args(py::reinterpret_borrow<py::object>(dtype));
        if (type_of(asked, type) && is_float(type)) return type;
    } catch (py::error_already_set& e) {
        if (!is_of_argument(e)) throw;
    }
    type_error("dtype", "float16, bfloat16 (of ml_dtypes), float32 or float64", text_of(dtype));
}

Type result_type(const Array& x, std::optional<Type> asked) { return asked.value_or(is_float(x.type) ? x.type : Type::f64); }

Activation Arguments::activation(py::handle object) const {
    if (object.is_none()) return Activation::none;
    static const std::pair<const char*, Activation> names[] = {
        {"relu", Activation::relu},           {"silu", Activation::silu},
        {"gelu", Activation::gelu},           {"gelu_tanh", Activation::gelu_tanh},
        {"sigmoid", Activation::sigmoid},     {"tanh", Activation::tanh},
        {"hardswish", Activation::hardswish}, {"leaky_relu", Activation::leaky_relu}};
    const bool is_text = PyUnicode_Check(object.ptr());
    if (is_text)
        for (const auto& [name, activation] : names)
            if (PyUnicode_CompareWithASCIIString(object.ptr(), name) == 0) return activation;
    std::string all = "one of None";
    for (const auto& [name, activation] : names) all += std::string(", '") + name + "'";
    if (!is_text) type_error("activation", all, text_of(object));
    value_error("activation", all, text_of(object));
}

bool Arguments::flag(const char* argument, py::handle object) const {
    if (PyBool_Check(object.ptr())) return object.ptr() == Py_True;
    const PyNumberMethods* number = Py_TYPE(object.ptr())->tp_as_number;
    const bool has_value = number && number->nb_bool && !object.is_none() && is_of_kind(object, "biufO");
    const int value = has_value ? PyObject_IsTrue(object.ptr()) : -1;
    if (value >= 0) return value != 0;
    if (PyErr_Occurred()) {  // an array, or a tensor, of several values
        py::error_already_set e;
        if (!is_of_argument(e)) throw e;
        error_from(e, PyExc_TypeError, argument, "a bool", text_of(object));
    }
    type_error(argument, "a bool", text_of(object));
}

Array Arguments::shaped_like(const char* argument, const py::object& array, const Array& x) const {
    const Array a = input(argument, array);
    if (a.ndim != x.ndim || !std::equal(x.shape, x.shape + x.ndim, a.shape))
        value_error(argument, "the shape of x, " + text_of(x.shape, x.ndim), "shape " + text_of(a.shape, a.ndim));
    return a;
}

Array Arguments::residual(const py::object& array, const Array& x) const {
    return array.is_none() ? Array{} : shaped_like("residual", array, x);
}

// ---- numbers

double Arguments::real(const char* argument, py::handle object) const {
    if (!is_of_kind(object, "biufOV")) type_error(argument, "a number", text_of(object));
    const double value = PyFloat_AsDouble(object.ptr());
    if (value == -1 && PyErr_Occurred()) {
        const bool is_large = PyErr_ExceptionMatches(PyExc_OverflowError);
        take_back({PyExc_TypeError, PyExc_ValueError, PyExc_OverflowError});
        if (is_large) value_error(argument, "a number that float64 holds", text_of(object));
        type_error(argument, "a number", text_of(object));
    }
    return value;
}

double Arguments::eps(py::handle object) const {
    const double value = real("eps", object);
    if (!(value >= 0) || !std::isfinite(value)) value_error("eps", "a finite number >= 0", text_of(object));
    return value;
}

int64_t Arguments::integer(const char* argument, py::handle object) const {
    const Py_ssize_t value = PyNumber_AsSsize_t(object.ptr(), nullptr);
    if (value == -1 && PyErr_Occurred()) {
        take_back({PyExc_TypeError, PyExc_ValueError});
        type_error(argument, "an integer", text_of(object));
    }
    return value;
}

Integers Arguments::integers(const char* argument, py::handle object) const {
    // An array is both an index and a sequence, if it has dimensions. Text is no sequence of integers, though bytes look so.
    if (!is_of_kind(object, "biuO")) type_error(argument, "an integer or a sequence of integers", text_of(object));
    const bool is_text = PyUnicode_Check(object.ptr()) || PyBytes_Check(object.ptr()) || PyByteArray_Check(object.ptr());
    const bool is_sequence = !is_text && PySequence_Check(object.ptr()) && PySequence_Size(object.ptr()) >= 0;
    take_back({PyExc_TypeError, PyExc_ValueError, PyExc_OverflowError});
    Integers values;
    if (is_sequence) {
        const auto sequence = py::reinterpret_borrow<py::sequence>(object);
        try {
            for (const py::object one : sequence)
                if (!values.push(integer(argument, one)))
                    value_error(argument, "at most 64 integers", std::to_string(sequence.size()));
        } catch (py::error_already_set& e) {  // such as a memoryview of two dimensions raises
            e.restore();
            take_back({PyExc_TypeError, PyExc_ValueError, PyExc_IndexError, PyExc_NotImplementedError});
            type_error(argument, "an integer or a sequence of integers", text_of(object));
        }
    } else if (PyIndex_Check(object.ptr())) {
        values.push(integer(argument, object));
    } else {
        type_error(argument, "an integer or a sequence of integers", text_of(object));
    }
    return values;
}

int Arguments::axis(const char* argument, int64_t value, int ndim) const {
    if (value < -ndim || value >= ndim)
        value_error(argument, "an axis of an array of " + std::to_string(ndim) + " dimensions", std::to_string(value));
    return static_cast<int>(value < 0 ? value + ndim : value);
}

}  // namespace fusednorm
