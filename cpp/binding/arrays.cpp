// NumPy's arrays. See arrays.hpp.
#include "arrays.hpp"

#include <algorithm>
#include <atomic>
#include <new>
#include <numeric>

#include "calls.hpp"
#include "machine/memory.hpp"

namespace fusednorm {
namespace {

bool is_native(const py::dtype& dtype) {
    const char order = dtype.byteorder();
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return order != '>';
#else
    return order != '<';
#endif
}

// What owns the memory of a large result, as the array's base: a buffer, because NumPy asks the base whether an array that was
// made read-only may be written again.
struct LargeMemory {
    PyObject_HEAD;
    size_t bytes;
    void* memory;
};
PyTypeObject* large_memory = nullptr;

void free_large(PyObject* self) {
    const auto* large = reinterpret_cast<LargeMemory*>(self);
    if (large->memory) give_memory(large->memory, large->bytes);
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

int buffer_of_large(PyObject* self, Py_buffer* view, int flags) {
    const auto* large = reinterpret_cast<LargeMemory*>(self);
    return PyBuffer_FillInfo(view, self, large->memory, static_cast<Py_ssize_t>(large->bytes), 0, flags);
}

py::object take_large(size_t bytes, void*& memory) {
    auto owner = py::reinterpret_steal<py::object>(large_memory->tp_alloc(large_memory, 0));
    if (!owner) throw py::error_already_set();
    auto* large = reinterpret_cast<LargeMemory*>(owner.ptr());
    large->bytes = bytes;
    memory = large->memory = take_memory(bytes);
    return owner;
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

constexpr int kFloat = 11, kHalf = 23;  // NumPy's numbers of dtypes: NPY_FLOAT, which NPY_DOUBLE follows, and NPY_HALF

// bfloat16 is a dtype that ml_dtypes registers: its number is known once it was seen, by any thread.
std::atomic<int> bfloat16_number{-1};

bool is_bfloat16(const py::dtype& dtype) {
    if (dtype.kind() != 'V' || dtype.itemsize() != 2 || dtype.has_fields()) return false;
    if (bfloat16_number < 0 && std::string(py::str(dtype.attr("name"))) == "bfloat16") bfloat16_number = dtype.num();
    return dtype.num() == bfloat16_number;
}

}  // namespace

py::detail::PyArray_Proxy* proxy(const py::array& a) { return py::detail::array_proxy(a.ptr()); }

py::object numpy(const char* name) { return py::module_::import("numpy").attr(name); }

bool type_of(const py::dtype& dtype, Type& type) {
    constexpr bool is_long_64 = sizeof(long) == 8;
    // By NumPy's numbers of its dtypes: bool, C's integers from char to long long, float, double; and half.
    constexpr Type types[] = {Type::boolean,
                              Type::i8,
                              Type::u8,
                              Type::i16,
                              Type::u16,
                              Type::i32,
                              Type::u32,
                              is_long_64 ? Type::i64 : Type::i32,
                              is_long_64 ? Type::u64 : Type::u32,
                              Type::i64,
                              Type::u64,
                              Type::f32,
                              Type::f64};
    const int number = dtype.num();
    if (number >= 0 && number < static_cast<int>(std::size(types))) {
        type = types[number];
        return true;
    }
    type = number == kHalf ? Type::f16 : Type::bf16;
    return number == kHalf || is_bfloat16(dtype);
}

py::dtype dtype_of(Type type) {
    const int numbers[] = {kFloat, kFloat + 1, kHalf, bfloat16_number};
    const int number = numbers[static_cast<int>(type)];
    if (number < 0) return py::dtype(numpy("dtype")("bfloat16"));
    return py::reinterpret_steal<py::dtype>(py::detail::npy_api::get().PyArray_DescrFromType_(number));
}

const char* name_of(Type type) {
    constexpr const char* names[] = {"float32", "float64", "float16", "bfloat16"};
    return names[static_cast<int>(type)];
}

bool is_odd(const py::array& a) {
    const int flags = a.flags();
    if (!is_native(a.dtype()) || !(flags & kAligned)) return true;
    if (flags & kContiguous) return false;
    for (py::ssize_t i = 0; i < a.ndim(); ++i)
        if (a.shape(i) > 1 && a.strides(i) % a.itemsize() != 0) return true;
    return false;
}

py::array native_copy(const py::array& a) {
    return call(numpy("array"), py::make_tuple(a),
                py::dict(py::arg("dtype") = a.dtype().attr("newbyteorder")("="), py::arg("order") = "K", py::arg("copy") = true,
                         py::arg("subok") = false));
}

py::object call_quietly(const py::object& function, const py::tuple& arguments, const py::dict& named) {
    const py::object state = call(numpy("errstate"), py::tuple(), py::dict(py::arg("all") = "ignore"));
    call(state.attr("__enter__"));
    const auto leave = [&] { call(state.attr("__exit__"), py::make_tuple(py::none(), py::none(), py::none())); };
    try {
        py::object result = call(function, arguments, named);
        leave();
        return result;
    } catch (py::error_already_set&) {
        leave();
        throw;
    }
}

Extent::Extent(const Array& a) : first(a.data), last(a.data) {
    if (a.size() == 0) return;
    for (int i = 0; i < a.ndim; ++i) (a.strides[i] < 0 ? first : last) += a.strides[i] * (a.shape[i] - 1);
    // What is longer than a double stands for one (results.cpp).
    last += a.type == Type::f64 ? py::reinterpret_borrow<py::array>(a.array).itemsize() : size_of(a.type);
}

Array view_of(py::array array, Type type) {
    Array a;
    const auto* p = proxy(array);
    a.type = type, a.data = p->data, a.ndim = p->nd, a.shape = p->dimensions, a.strides = p->strides;
    a.count = 1;
    for (int i = 0; i < a.ndim; ++i) a.count *= a.shape[i];
    a.array = std::move(array);
    return a;
}

void make_types() {
    if (large_memory) return;
    PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(free_large)},
                           {Py_bf_getbuffer, reinterpret_cast<void*>(buffer_of_large)},
                           {0, nullptr}};
    PyType_Spec spec = {"fusednorm._core.LargeMemory", sizeof(LargeMemory), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    large_memory = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    if (!large_memory) throw py::error_already_set();
}

py::array new_array(Type type, int ndim, const py::ssize_t* shape, const py::ssize_t* strides) {
    auto& api = py::detail::npy_api::get();
    int64_t product = size_of(type);
    for (int i = 0; i < ndim; ++i)
        if (__builtin_mul_overflow(product, shape[i], &product)) throw std::bad_alloc();
    const auto bytes = static_cast<size_t>(product);
    py::object owner;
    void* memory = nullptr;
    if (bytes >= kLargeBytes) owner = take_large(bytes, memory);
    PyObject* a = api.PyArray_NewFromDescr_(api.PyArray_Type_, dtype_of(type).release().ptr(), ndim, shape, strides, memory,
                                            memory ? kWriteable : 0, nullptr);
    if (!a) throw py::error_already_set();
    const auto array = py::reinterpret_steal<py::array>(a);
    if (owner && api.PyArray_SetBaseObject_(a, owner.release().ptr()) != 0) throw py::error_already_set();
    return array;
}

Array array_like(const Array& x, Type type) {
    const bool c_order = proxy(py::reinterpret_borrow<py::array>(x.array))->flags & kContiguous;
    if (c_order) return view_of(new_array(type, x.ndim, x.shape, nullptr), type);
    return view_of(new_array(type, x.ndim, x.shape, keep_order(x, size_of(type)).data()), type);
}

bool share_memory(const Array& a, const Array& b) {
    constexpr int kMaxWork = 10000;
    return Extent(a).overlaps(Extent(b)) &&
           call(numpy("may_share_memory"), py::make_tuple(a.array, b.array, kMaxWork)).cast<bool>();
}

void copy_values(py::handle to, py::handle from) {
    call(numpy("copyto"), py::make_tuple(call(numpy("asarray"), py::make_tuple(to)), from));
}

bool is_dense(const Array& x) {
    if (proxy(py::reinterpret_borrow<py::array>(x.array))->flags & kContiguous) return true;
    const std::vector<py::ssize_t> strides = keep_order(x, size_of(x.type));
    return std::equal(strides.begin(), strides.end(), x.strides);
}

Array dense_copy(const Array& x, Type type) { return copy_of(x, array_like(x, type).array, type); }

Array copy_of(const Array& from, py::array to, Type type) {
    const Array result = view_of(std::move(to), type);
    if (from.type != type) {
        call_quietly(numpy("copyto"), py::make_tuple(result.array, from.array));
    } else if (from.size() > 0) {
        Operation op;
        op.given = true;
        op.x = from.data, op.y = result.data, op.x_type = op.y_type = type;
        for (int i = 0; i < from.ndim; ++i) op.axes.push({from.shape[i], from.step(i), result.step(i), 0, 0, 0});
        copy(op);
    }
    return result;
}

bool same_strides(const Array& a, const Array& b) {
    for (int i = 0; i < a.ndim; ++i)
        if (a.shape[i] > 1 && a.strides[i] != b.strides[i]) return false;
    return true;
}

bool lies_like(const Array& a, const Array& b) { return a.type == b.type && same_strides(a, b); }

}  // namespace fusednorm
