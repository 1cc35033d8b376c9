// Calls from here into Python.
#pragma once
#include <pybind11/pybind11.h>
#include <unistd.h>

namespace fusednorm {

namespace py = pybind11;

// While the interpreter ends, CPython ends a thread that asks for the GIL by unwinding its stack, past objects that need the
// GIL. Such a thread waits here for the process to end instead, as in CPython from 3.14 on.
[[noreturn]] inline void wait_for_exit() {
    for (;;) pause();
}

// What runs Python code, or works for long, may give up the GIL and ask for it again. Nothing between that and the handler has
// a destructor.
inline py::object call(const py::object& function, const py::tuple& arguments = py::tuple(),
                       const py::dict& named = py::dict()) {
    PyObject* result;
    try {
        result = PyObject_Call(function.ptr(), arguments.ptr(), named.ptr());
    } catch (...) {
        wait_for_exit();
    }
    if (!result) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
}

}  // namespace fusednorm
