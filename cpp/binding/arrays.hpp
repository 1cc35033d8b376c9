// NumPy's arrays as C++ sees them: dtype, pointer, shape and strides, and new arrays. Checks nothing.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "norm.hpp"

namespace fusednorm {

namespace py = pybind11;

// An ndarray as pointer and strides; array keeps it alive.
struct Array {
    py::object array;  // not py::array: that one makes an array when it is given none
    Type type = Type::f32;
    char* data = nullptr;
    int ndim = 0;
    const py::ssize_t *shape = nullptr, *strides = nullptr;  // strides in bytes
    int64_t count = 0;                                       // of elements

    int64_t size() const { return count; }
    int64_t step(int axis) const { return strides[axis] >> shift_of(type); }  // elements
};

// The bytes that an array's elements lie in: [first, last).
struct Extent {
    const char *first, *last;
    explicit Extent(const Array& a);
    bool overlaps(const Extent& other) const { return first < other.last && other.first < last; }
};

Array view_of(py::array array, Type type);

// Once, before the first new_array.
void make_types();
// strides: null for C order.
py::array new_array(Type type, int ndim, const py::ssize_t* shape, const py::ssize_t* strides);
// Not initialized, of x's shape and memory order, as numpy.empty_like gives it.
Array array_like(const Array& x, Type type);

// Whether x has the strides of array_like(x), but for its item size.
bool is_dense(const Array& x);
Array dense_copy(const Array& x, Type type);
// The values of from in to, an array of its shape and of this type.
Array copy_of(const Array& from, py::array to, Type type);
// Whether two arrays of one shape have the same steps between elements; whether they have one type too.
bool same_strides(const Array& a, const Array& b);
bool lies_like(const Array& a, const Array& b);
// Whether any element does, or it is too hard to tell.
bool share_memory(const Array& a, const Array& b);
// Of an array of a subclass, its memory: whatever copyto does for that class.
void copy_values(py::handle to, py::handle from);

constexpr bool is_float(Type type) { return static_cast<int>(type) < kFloatTypes; }
// False for a type that the kernels do not know.
bool type_of(const py::dtype& dtype, Type& type);
py::dtype dtype_of(Type type);  // of a float type
const char* name_of(Type type);
// Whether memory is byte-swapped, unaligned, or strided by parts of values.
bool is_odd(const py::array& a);
py::array native_copy(const py::array& a);
py::detail::PyArray_Proxy* proxy(const py::array& a);
py::object numpy(const char* name);  // what numpy has of that name

constexpr int kContiguous = 0x0001, kFortran = 0x0002, kAligned = 0x0100, kWriteable = 0x0400;  // NumPy's array flags

// Calls a function of NumPy whose casts shall neither warn nor raise, whatever the user's errstate is.
py::object call_quietly(const py::object& function, const py::tuple& arguments, const py::dict& named = py::dict());

}  // namespace fusednorm
