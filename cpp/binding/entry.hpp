// How Python calls the module's functions: positional arguments, with CPython's own calling convention. pybind11's dispatch
// would cost as much as the work on a small array.
#pragma once
#include <new>
#include <stdexcept>
#include <string>

#include "arrays.hpp"
#include "calls.hpp"

namespace fusednorm {

constexpr int64_t kKeepGilValues = 1 << 13;  // less work than handing the GIL over and back is worth

template <class F>
void without_gil(int64_t values, F work) {
    if (values < kKeepGilValues) return work();
    struct Released {
        PyThreadState* state = PyEval_SaveThread();
        ~Released() {
            try {
                PyEval_RestoreThread(state);
            } catch (...) {
                wait_for_exit();
            }
        }
    } const released;
    work();
}

template <py::object (*Function)(const py::handle*), int N>
PyObject* entry(PyObject*, PyObject* const* arguments, Py_ssize_t n) noexcept {
    try {
        if (n != N) throw py::type_error("expected " + std::to_string(N) + " arguments, got " + std::to_string(n));
        py::handle handles[N];
        for (int i = 0; i < N; ++i) handles[i] = arguments[i];
        return Function(handles).release().ptr();
    } catch (py::error_already_set& e) {
        e.restore();
    } catch (const py::builtin_exception& e) {
        e.set_error();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::length_error&) {  // of a std::vector: more than could ever be had
        PyErr_NoMemory();
    } catch (const std::exception& e) {
        PyErr_SetString(PyExc_RuntimeError, e.what());
    } catch (...) {  // no exception of C++
        wait_for_exit();
    }
    return nullptr;
}

#define FUSEDNORM_FUNCTION(function, n, signature)                                                              \
    {#function, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(entry<function, n>)), METH_FASTCALL, \
     #function signature "\n--\n\n"}

}  // namespace fusednorm
