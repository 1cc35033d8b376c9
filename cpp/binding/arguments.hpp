// What a user passed, checked: Python objects become arrays of known type, shape and strides, or a TypeError or
// ValueError that names the function, the argument, what was expected and what came. No kernel is called here.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "arrays.hpp"

namespace fusednorm {

std::string text_of(const py::ssize_t* shape, int ndim);
std::string text_of(py::handle object);

// As many integers as an array may have dimensions, without an allocation.
class Integers {
public:
    static constexpr int kMost = 64;  // NumPy's
    bool push(int64_t value) {
        if (n == kMost) return false;
        values[n++] = value;
        return true;
    }
    int size() const { return n; }
    const int64_t* begin() const { return values; }
    const int64_t* end() const { return values + n; }

private:
    int64_t values[kMost];
    int n = 0;
};

// The checks of one call of one function.
class Arguments {
public:
    explicit Arguments(const char* function_name) : function(function_name) {}

    [[noreturn]] void type_error(const char* argument, const std::string& expected, const std::string& got) const;
    [[noreturn]] void value_error(const char* argument, const std::string& expected, const std::string& got) const;

    // ---- What may run a user's code, which may resize another argument: all of it comes before any memory is looked at.

    // What numpy.asarray makes of it; None stays.
    py::object array(const char* argument, py::handle object) const;
    // The same; integers in a list, which has no dtype of its own, count as float64.
    py::object parameter(const char* argument, py::handle object) const;
    // The same of what training updates: an ndarray, or what shares one's memory.
    py::object updatable(const char* argument, py::handle object) const;
    // A float type, or none for None.
    std::optional<Type> type(py::handle dtype) const;
    double real(const char* argument, py::handle object) const;
    double eps(py::handle object) const;
    int64_t integer(const char* argument, py::handle object) const;
    Integers integers(const char* argument, py::handle object) const;  // one, or a sequence of them
    Activation activation(py::handle object) const;
    // Whatever has a truth value of its own, as a number has and text has not.
    bool flag(const char* argument, py::handle object) const;

    // ---- What looks at the arrays that came of it.

    // Any real array; byte-swapped and unaligned memory comes back as a copy.
    Array input(const char* argument, const py::object& array) const;
    // An array of x's shape; where None may be, it is nothing (its array is null).
    Array shaped_like(const char* argument, const py::object& array, const Array& x) const;
    Array residual(const py::object& array, const Array& x) const;
    int axis(const char* argument, int64_t value, int ndim) const;  // counted from the front
    // Whether a parameter, of a float dtype, can be read and written as it lies.
    bool is_plain(const char* argument, const py::array& parameter, Type& type) const;
    // Running statistics are there, where they are used.
    void check_given(const char* argument, const py::object& parameter) const;
    // What training updates can be written; or it is None.
    void check_writable(const char* argument, const py::object& parameter) const;
    // C values along the channel axis, as doubles: shape (C,), or the broadcast form. None: C times `none`.
    void channels(const char* argument, const py::object& parameter, const Array& x, int channel_axis, double none,
                  double* to) const;
    // Values of the given shape, contiguous, as float or double.
    py::array values(const char* argument, const py::object& parameter, Type type, const py::ssize_t* shape, int ndim,
                     double none) const;

private:
    const char* function;

    std::string text(const char* argument, const std::string& expected, const std::string& got) const;
    // Raises an error of this kind, whose cause is one that an object of the user's raised.
    [[noreturn]] void error_from(py::error_already_set& cause, PyObject* kind, const char* argument,
                                 const std::string& expected, const std::string& got) const;
};

// The type of the result: x's, float64 for integers, or what was asked for.
Type result_type(const Array& x, std::optional<Type> asked);
// The dtype of a parameter's gradient: the parameter's own, or where it is None that of x's statistics.
Type gradient_type(const py::object& parameter, Type x);
// From one channel's parameter to the next's, of an array that channels() read; in bytes.
py::ssize_t channel_step(const py::array& parameter);

}  // namespace fusednorm
