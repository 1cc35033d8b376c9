// Where a result goes: a fresh array in x's memory order, or `out` after its checks; and what may come with it.
#pragma once
#include "arguments.hpp"

namespace fusednorm {

// Where out cannot be written directly (it overlaps an input in part, or its memory is odd), a temporary stands in, and
// finish() copies it. beside: an array of x's shape that may lie in the very same place, as x may. before: arrays that may not.
// Any of them may be nothing.
class Result {
public:
    Result(const Arguments& arguments, const Array& x, Type type, py::handle out, const Array& beside,
           std::initializer_list<py::handle> before);
    Array view;
    py::object finish();
    // Refuses an `out` that shares memory with arrays that the call updates.
    void check_apart(const Arguments& arguments, std::initializer_list<py::object> updated) const;
    // Where the values end: out, or the fresh array.
    Array place() const { return target ? view_of(py::reinterpret_borrow<py::array>(target), view.type) : view; }

private:
    py::object target;  // out, where view is a temporary
};

// A new array of doubles that are rounded once to a float type. strides: null for C order; dense.
py::array rounded(const double* values, Type type, const std::vector<py::ssize_t>& shape, const py::ssize_t* strides = nullptr);

// The values of from in to, an array of its shape and of this type, rounded once.
void copy_rounded(const Array& from, const py::array& to, Type type);

// Writes n values into an array that channels() read and updatable() allowed, in its own dtype. Allocates nothing that grows
// with n: scratch has room for n doubles.
void update_channels(const Arguments& check, const char* argument, const py::object& target, const double* values,
                     double* scratch, int64_t n);

// What return_stats adds to y, as float32, or as float64 where y is. Made before a kernel writes: memory may lack.
class ReturnedStatistics {
public:
    ReturnedStatistics(const Operation& op, Type y, const std::vector<py::ssize_t>& shape);
    // (y, mean, rstd). repeats: so many of the operation's are for every sample.
    py::object beside(const py::object& y, const Operation& op, int64_t count, int64_t repeats) const;

private:
    Type type;
    py::object mean, rstd;
};

}  // namespace fusednorm
