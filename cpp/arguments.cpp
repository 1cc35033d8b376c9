// The checks of arguments. See arguments.hpp.
#include "arguments.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "memory.hpp"

namespace fusednorm {
namespace {

constexpr int kContiguous = 0x0001, kFortran = 0x0002, kAligned = 0x0100, kWriteable = 0x0400;  // NumPy's array flags

py::detail::PyArray_Proxy* proxy(const py::array& a) { return py::detail::array_proxy(a.ptr()); }

// False for a type that the kernels do not read.
bool type_of(const py::dtype& dtype, Type& type) {
    const char kind = dtype.kind();
    const auto bytes = dtype.itemsize();
    const auto pick = [&](Type one, Type two, Type four, Type eight) {
        type = bytes == 1 ? one : bytes == 2 ? two : bytes == 4 ? four : eight;
        return bytes <= 8;
    };
    switch (kind) {
        case 'f':
            type = bytes == 4 ? Type::f32 : Type::f64;
            return bytes == 4 || bytes == 8;
        case 'b':
            type = Type::boolean;
            return true;
        case 'u':
            return pick(Type::u8, Type::u16, Type::u32, Type::u64);
        case 'i':
            return pick(Type::i8, Type::i16, Type::i32, Type::i64);
        default:
            return false;
    }
}

bool is_native(const py::dtype& dtype) {
    const char order = dtype.byteorder();
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return order != '>';
#else
    return order != '<';
#endif
}

bool is_odd(const py::array& a) {
    if (!is_native(a.dtype()) || !(a.flags() & kAligned)) return true;
    for (py::ssize_t i = 0; i < a.ndim(); ++i)
        if (a.shape(i) > 1 && a.strides(i) % a.itemsize() != 0) return true;
    return false;
}

py::module_ numpy() { return py::module_::import("numpy"); }

py::array native_copy(const py::array& a) {
    return numpy().attr("array")(a, py::arg("dtype") = a.dtype().attr("newbyteorder")("="), py::arg("order") = "K",
                                 py::arg("copy") = true, py::arg("subok") = false);
}

// NumPy's casts neither warn nor raise while this lives, whatever the user's errstate is.
class QuietCasts {
public:
    QuietCasts() : state(numpy().attr("errstate")(py::arg("all") = "ignore")) { state.attr("__enter__")(); }
    ~QuietCasts() {
        try {
            state.attr("__exit__")(py::none(), py::none(), py::none());
        } catch (py::error_already_set& e) {
            e.discard_as_unraisable("fusednorm");
        }
    }

private:
    py::object state;
};

// A dense copy in C order; the array itself where it is one already.
py::array dense(const py::array& a, Type type) {
    const QuietCasts quiet;
    return a.attr("astype")(type == Type::f32 ? "f4" : "f8", py::arg("order") = "C", py::arg("copy") = false);
}

bool overlap(const Array& a, const Array& b) {
    const char *a_first, *a_last, *b_first, *b_last;
    a.extent(a_first, a_last), b.extent(b_first, b_last);
    return a_first < b_last && b_first < a_last;
}

bool same_places(const Array& a, const Array& b) {
    if (a.data != b.data || size_of(a.type) != size_of(b.type)) return false;
    for (int i = 0; i < a.ndim; ++i)
        if (a.shape[i] > 1 && a.strides[i] != b.strides[i]) return false;
    return true;
}

// Strides of a dense array in the memory order of x, which is not C's: what numpy.empty_like gives.
std::vector<py::ssize_t> keep_order(const Array& x, int64_t item) {
    std::vector<int> order(static_cast<size_t>(x.ndim));
    std::iota(order.begin(), order.end(), 0);
    const int flags = proxy(py::reinterpret_borrow<py::array>(x.array))->flags;
    if (flags & kFortran) {
        std::reverse(order.begin(), order.end());
    } else {
        std::stable_sort(order.begin(), order.end(),
                         [&](int i, int j) { return std::abs(x.strides[i]) > std::abs(x.strides[j]); });
    }
    std::vector<py::ssize_t> strides(static_cast<size_t>(x.ndim));
    for (int i = x.ndim - 1; i >= 0; --i) {
        const auto axis = static_cast<size_t>(order[static_cast<size_t>(i)]);
        strides[axis] = item;
        item *= x.shape[axis];
    }
    return strides;
}

}  // namespace

int64_t Array::size() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= shape[i];
    return n;
}

void Array::extent(const char*& first, const char*& last) const {
    first = last = data;
    if (size() == 0) return;
    for (int i = 0; i < ndim; ++i) (strides[i] < 0 ? first : last) += strides[i] * (shape[i] - 1);
    last += size_of(type);
}

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
    std::string text = py::str(py::repr(object));
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text.size() > 80 ? text.substr(0, 77) + "..." : text;
}

Array view_of(py::array array, Type type) {
    Array a;
    const auto* p = proxy(array);
    a.type = type, a.data = p->data, a.ndim = p->nd, a.shape = p->dimensions, a.strides = p->strides;
    a.array = std::move(array);
    return a;
}

namespace {

// What owns the memory of a large result, as the array's base.
struct LargeMemory {
    void* memory;
    size_t bytes;
};

py::capsule take_large(size_t bytes) {
    auto block = std::make_unique<LargeMemory>(LargeMemory{nullptr, bytes});
    block->memory = take_memory(bytes);
    return py::capsule(block.release(), [](void* p) {
        const std::unique_ptr<LargeMemory> owned(static_cast<LargeMemory*>(p));
        give_memory(owned->memory, owned->bytes);
    });
}

}  // namespace

py::array new_array(Type type, int ndim, const py::ssize_t* shape, const py::ssize_t* strides) {
    static const int numbers[] = {11, 12};  // NPY_FLOAT, NPY_DOUBLE
    auto& api = py::detail::npy_api::get();
    auto bytes = static_cast<size_t>(size_of(type));
    for (int i = 0; i < ndim; ++i) bytes *= static_cast<size_t>(shape[i]);
    py::object owner;
    void* memory = nullptr;
    if (bytes >= kLargeBytes) {
        const py::capsule capsule = take_large(bytes);
        memory = capsule.get_pointer<LargeMemory>()->memory;
        owner = capsule;
    }
    PyObject* descr = api.PyArray_DescrFromType_(numbers[static_cast<int>(type)]);
    PyObject* a =
        api.PyArray_NewFromDescr_(api.PyArray_Type_, descr, ndim, shape, strides, memory, memory ? kWriteable : 0, nullptr);
    if (!a) throw py::error_already_set();
    const auto array = py::reinterpret_steal<py::array>(a);
    if (owner && api.PyArray_SetBaseObject_(a, owner.release().ptr()) != 0) throw py::error_already_set();
    return array;
}

// ---- errors

void Arguments::type_error(const char* argument, const std::string& expected, const std::string& got) const {
    throw py::type_error(std::string(function) + ": " + argument + ": expected " + expected + ", got " + got);
}

void Arguments::value_error(const char* argument, const std::string& expected, const std::string& got) const {
    throw py::value_error(std::string(function) + ": " + argument + ": expected " + expected + ", got " + got);
}

// ---- arrays

py::array Arguments::convert(const char* argument, py::handle object) const {
    if (py::isinstance<py::array>(object)) return py::reinterpret_borrow<py::array>(object);
    if (object.is_none()) type_error(argument, "an array", "None");
    try {
        const bool by_dlpack = !py::hasattr(object, "__array__") && py::hasattr(object, "__dlpack__");
        return numpy().attr(by_dlpack ? "from_dlpack" : "asarray")(object);
    } catch (py::error_already_set& e) {
        if (!e.matches(PyExc_Exception)) throw;
        const std::string what = std::string(function) + ": " + argument + ": expected what numpy.asarray reads, got " +
                                 std::string(py::str(py::type::of(object).attr("__name__"))) + " that it does not";
        py::raise_from(e, e.matches(PyExc_ValueError) ? PyExc_ValueError : PyExc_TypeError, what.c_str());
        throw py::error_already_set();
    }
}

Array Arguments::input(const char* argument, py::handle object) const {
    py::array a = convert(argument, object);
    Type type;
    if (!type_of(a.dtype(), type))
        type_error(argument, "a bool, integer, float32 or float64 array", "dtype " + std::string(py::str(a.dtype())));
    if (is_odd(a)) a = native_copy(a);
    return view_of(std::move(a), type);
}

Type Arguments::result_type(const Array& x, py::handle dtype) const {
    if (dtype.is_none()) return x.type == Type::f32 ? Type::f32 : Type::f64;
    Type type = Type::boolean;
    try {
        const py::dtype asked = py::dtype::from_args(py::reinterpret_borrow<py::object>(dtype));
        if (type_of(asked, type) && (type == Type::f32 || type == Type::f64)) return type;
    } catch (py::error_already_set& e) {
        if (!e.matches(PyExc_TypeError)) throw;
    }
    type_error("dtype", "float32 or float64", text_of(dtype));
}

void Arguments::absent(const char* argument, py::handle object) const {
    if (!object.is_none())
        throw std::runtime_error(std::string(function) + ": " + argument + ": not supported yet, expected None, got " +
                                 text_of(object));
}

// ---- numbers

double Arguments::real(const char* argument, py::handle object) const {
    const double value = PyFloat_AsDouble(object.ptr());
    if (value == -1 && PyErr_Occurred()) {
        PyErr_Clear();
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
        PyErr_Clear();
        type_error(argument, "an integer", text_of(object));
    }
    return value;
}

std::vector<int64_t> Arguments::integers(const char* argument, py::handle object) const {
    // An array is both an index and a sequence, if it has dimensions.
    const bool is_sequence = PySequence_Check(object.ptr()) && PySequence_Size(object.ptr()) >= 0;
    PyErr_Clear();
    std::vector<int64_t> values;
    if (is_sequence) {
        for (py::handle one : py::reinterpret_borrow<py::sequence>(object)) values.push_back(integer(argument, one));
    } else if (PyIndex_Check(object.ptr())) {
        values.push_back(integer(argument, object));
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

// ---- parameters

py::array Arguments::floats(const char* argument, py::handle object) const {
    py::array a = convert(argument, object);
    // A list of Python integers has no dtype of its own.
    const bool is_list = py::isinstance<py::list>(object) || py::isinstance<py::tuple>(object);
    const char kind = a.dtype().kind();
    const bool is_float = kind == 'f' || std::string(py::str(a.dtype())) == "bfloat16";
    if (!is_float && !(is_list && (kind == 'i' || kind == 'u')))
        type_error(argument, "an array of a float dtype", "dtype " + std::string(py::str(a.dtype())));
    return a;
}

py::array Arguments::updatable(const char* argument, py::handle object) const {
    if (py::isinstance<py::list>(object) || py::isinstance<py::tuple>(object) || PyNumber_Check(object.ptr()) == 0)
        if (!py::isinstance<py::array>(object)) type_error(argument, "an array that can be updated in place", text_of(object));
    py::array a = floats(argument, object);
    if (!(a.flags() & kWriteable)) value_error(argument, "an array that can be updated in place", "a read-only one");
    return a;
}

namespace {

// The one axis of a parameter that is not 1: its step in bytes.
py::ssize_t channel_step(const py::array& a) {
    for (py::ssize_t i = 0; i < a.ndim(); ++i)
        if (a.shape(i) != 1) return a.strides(i);
    return 0;
}

template <class T>
void read_strided(const void* from, py::ssize_t step, int64_t n, double* to) {
    const char* p = static_cast<const char*>(from);
    if (step == sizeof(T)) {
        std::copy_n(reinterpret_cast<const T*>(p), n, to);
    } else {
        for (int64_t i = 0; i < n; ++i) to[i] = *reinterpret_cast<const T*>(p + i * step);
    }
}

bool is_plain_float(const py::array& a, Type& type) {
    return type_of(a.dtype(), type) && (type == Type::f32 || type == Type::f64) && !is_odd(a);
}

}  // namespace

void Arguments::channels(const char* argument, py::handle object, const Array& x, int channel_axis, double none,
                         double* to) const {
    const int64_t n = x.shape[channel_axis];
    if (object.is_none()) {
        std::fill_n(to, n, none);
        return;
    }
    py::array a = floats(argument, object);
    const int ndim = static_cast<int>(a.ndim());
    // (C,), or aligned from the right with x as NumPy broadcasts, every other axis 1.
    const int along = ndim == 1 ? 0 : channel_axis - x.ndim + ndim;
    bool fits = along >= 0 && along < ndim;
    for (int i = 0; i < ndim; ++i) fits = fits && a.shape(i) == (i == along ? n : 1);
    if (!fits)
        value_error(argument, "shape (" + std::to_string(n) + ",), one value per channel", "shape " + text_of(a.shape(), ndim));
    Type type;
    if (!is_plain_float(a, type)) {
        a = dense(a, Type::f64);
        type = Type::f64;
    }
    const auto step = channel_step(a);
    if (type == Type::f32) {
        read_strided<float>(a.data(), step, n, to);
    } else {
        read_strided<double>(a.data(), step, n, to);
    }
}

void update_channels(py::handle target, const double* values, int64_t n) {
    const py::array a = py::reinterpret_borrow<py::array>(target);
    Type type;
    if (!is_plain_float(a, type)) {
        const QuietCasts quiet;
        const py::array_t<double> wide(n, values);
        numpy().attr("copyto")(a, wide.attr("reshape")(a.attr("shape")), py::arg("casting") = "unsafe");
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

py::array Arguments::values(const char* argument, py::handle object, Type type, const py::ssize_t* shape, int ndim,
                            double none) const {
    if (object.is_none()) {
        std::vector<py::ssize_t> strides(static_cast<size_t>(ndim));
        int64_t item = size_of(type);
        for (int i = ndim - 1; i >= 0; --i) strides[static_cast<size_t>(i)] = item, item *= std::max<py::ssize_t>(1, shape[i]);
        py::array a = new_array(type, ndim, shape, strides.data());
        if (type == Type::f32) std::fill_n(static_cast<float*>(a.mutable_data()), a.size(), static_cast<float>(none));
        if (type == Type::f64) std::fill_n(static_cast<double*>(a.mutable_data()), a.size(), none);
        return a;
    }
    const py::array a = floats(argument, object);
    const int extra = static_cast<int>(a.ndim()) - ndim;
    bool fits = extra >= 0;
    for (int i = 0; fits && i < a.ndim(); ++i) fits = a.shape(i) == (i < extra ? 1 : shape[i - extra]);
    if (!fits)
        value_error(argument, "shape " + text_of(shape, ndim), "shape " + text_of(a.shape(), static_cast<int>(a.ndim())));
    Type own;
    if (extra == 0 && type_of(a.dtype(), own) && own == type && (a.flags() & kContiguous) && !is_odd(a)) return a;
    return dense(a, type);
}

// ---- results

Result::Result(const Arguments& arguments, const Array& x, Type type, py::handle out,
               std::initializer_list<py::handle> inputs) {
    const auto fresh = [&](const Array& like) {
        const bool c_order = proxy(py::reinterpret_borrow<py::array>(like.array))->flags & kContiguous;
        if (c_order) return view_of(new_array(type, like.ndim, like.shape, nullptr), type);
        return view_of(new_array(type, like.ndim, like.shape, keep_order(like, size_of(type)).data()), type);
    };
    if (out.is_none()) {
        view = fresh(x);
        return;
    }
    if (!py::isinstance<py::array>(out)) arguments.type_error("out", "a numpy.ndarray", text_of(py::type::of(out)));
    const py::array a = py::reinterpret_borrow<py::array>(out);
    Type out_type = Type::boolean;
    if (!type_of(a.dtype(), out_type) || out_type != type)
        arguments.type_error("out", type == Type::f32 ? "dtype float32" : "dtype float64",
                             "dtype " + std::string(py::str(a.dtype())));
    if (a.ndim() != x.ndim || !std::equal(x.shape, x.shape + x.ndim, a.shape()))
        arguments.value_error("out", "shape " + text_of(x.shape, x.ndim),
                              "shape " + text_of(a.shape(), static_cast<int>(a.ndim())));
    if (!(a.flags() & kWriteable)) arguments.value_error("out", "a writeable array", "a read-only one");
    for (int i = 0; x.size() > 0 && i < x.ndim; ++i)
        if (a.shape(i) > 1 && a.strides(i) == 0)
            arguments.value_error("out", "an array whose elements do not share memory", "a stride of 0");
    view = view_of(a, type);
    bool direct = !is_odd(a) && (!overlap(view, x) || same_places(view, x));
    for (py::handle input : inputs)
        if (py::isinstance<py::array>(input)) {
            const py::array other = py::reinterpret_borrow<py::array>(input);
            direct = direct && !overlap(view, view_of(other, Type::f64));
        }
    if (direct) return;
    target = a;
    view = fresh(x);
}

py::object Result::finish() {
    if (!target) return view.array;
    numpy().attr("copyto")(target, view.array);
    return target;
}

}  // namespace fusednorm
