// The module fusednorm._core: its parts, and what is said of the machine.
#include "module.hpp"

#include <stdexcept>

#include "arguments.hpp"
#include "machine/dispatch.hpp"
#include "machine/memory.hpp"
#include "machine/threads.hpp"

namespace fusednorm {
namespace {

py::dict config() {
    py::dict d;
    d["version"] = FUSEDNORM_VERSION;
    d["isa"] = kernels().isa;
    d["isas_available"] = py::cast(available_isas());
    d["isas_compiled"] = py::cast(compiled_isas());
    d["openmp"] = openmp_runtime();
    d["threads"] = get_num_threads();
#if defined(__clang__)
    d["compiler"] = "Clang " __clang_version__;
#else
    d["compiler"] = "GCC " __VERSION__;
#endif
    return d;
}

py::object set_threads(const py::handle* a) {
    const Arguments check("set_num_threads");
    const int64_t n = check.integer("n", a[0]);
    if (n < 1 || n > kMostThreads)
        check.value_error("n", "a number of threads from 1 to " + std::to_string(kMostThreads), std::to_string(n));
    set_num_threads(static_cast<int>(n));
    return py::none();
}

PyMethodDef machine_functions[] = {
    {"set_num_threads", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(entry<set_threads, 1>)), METH_FASTCALL,
     "set_num_threads(n, /)\n--\n\n"},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace
}  // namespace fusednorm

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
    using namespace fusednorm;
    try {
        kernels();
        cache_limit();
    } catch (const std::runtime_error& e) {
        throw py::import_error(e.what());
    }
    for (PyMethodDef* functions : {channel_functions(), row_functions(), moments_functions(), gradient_functions(),
                                   direct_functions(), machine_functions})
        if (PyModule_AddFunctions(m.ptr(), functions) != 0) throw py::error_already_set();
    make_types();
    m.def("get_num_threads", &get_num_threads);
    m.def("config", &config);
}
