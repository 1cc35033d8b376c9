// The choice of the kernel table: the only place that asks the processor and the environment.
#include "dispatch.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <stdexcept>

namespace fusednorm {

// FUSEDNORM_ISAS is the list of CMakeLists.txt: X(baseline) X(avx2) ..., best last.
#define X(isa)                  \
    namespace isa {             \
    extern const Kernels table; \
    }
FUSEDNORM_ISAS
#undef X

namespace {

struct Choice {
    const Kernels* table;
    bool runs;
};

#if defined(__x86_64__)
// Clang's __builtin_cpu_supports does not know this one.
bool supports_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

bool runs_here(const std::string& isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (isa == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && supports_f16c();
    if (isa == "avx512")
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && supports_f16c();
#endif
    return isa == "baseline" || isa == "neon";
}

std::vector<Choice> choices() {
    std::vector<Choice> list;
#define X(isa) list.push_back({&isa::table, runs_here(#isa)});
    FUSEDNORM_ISAS
#undef X
    return list;
}

std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
    return text;
}

const Kernels& choose() {
    const char* forced = std::getenv("FUSEDNORM_ISA");
    const Kernels* best = nullptr;
    for (const Choice& c : choices()) {
        if (forced && *forced && std::string(forced) == c.table->isa) {
            if (!c.runs)
                throw std::runtime_error("FUSEDNORM_ISA: expected one of " + joined(available_isas()) +
                                         ", which this processor runs; got '" + forced + "', which it does not");
            return *c.table;
        }
        if (c.runs) best = c.table;
    }
    if (forced && *forced)
        throw std::runtime_error("FUSEDNORM_ISA: expected one of " + joined(available_isas()) + "; got '" + forced + "'");
    return *best;
}

}  // namespace

const Kernels& kernels() {
    static const Kernels& chosen = choose();
    return chosen;
}

std::vector<std::string> compiled_isas() {
    std::vector<std::string> names;
    for (const Choice& c : choices()) names.push_back(c.table->isa);
    return names;
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Choice& c : choices())
        if (c.runs) names.push_back(c.table->isa);
    return names;
}

}  // namespace fusednorm
