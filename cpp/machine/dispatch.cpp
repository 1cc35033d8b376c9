// The choice of the kernel table: the only place that asks the processor.
#include "dispatch.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
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

bool is_amd() {
    __builtin_cpu_init();
    return __builtin_cpu_is("amd");
}

// Of this core's cache of that level, as Intel's leaf and AMD's tell; 0: not known. What sysconf says of the third is the whole
// socket's on some.
int64_t cache_bytes(int64_t level) {
    const unsigned leaf = is_amd() ? 0x8000001D : 4;
    unsigned a = 0, b = 0, c = 0, d = 0;
    for (unsigned i = 0; __get_cpuid_count(leaf, i, &a, &b, &c, &d) && (a & 31) != 0; ++i) {
        const auto bits = [](unsigned value, int from, int n) { return int64_t{value >> from & ((1u << n) - 1)}; };
        if (bits(a, 5, 3) != level || (a & 31) == 2) continue;  // 2: of instructions
        return (bits(b, 22, 10) + 1) * (bits(b, 12, 10) + 1) * (bits(b, 0, 12) + 1) * (int64_t{c} + 1);
    }
    return 0;
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

// Where writing past the caches begins to pay. Zen 3, 32 MiB: from 24 MiB on, since the cache is others' too; 1.1 to 1.7 times
// as fast (eval and training (4,64,112,112) to (10,64,112,112), their gradients, in both memory orders), below 16 MiB up to
// twice as slow. Zen 5, 32 MiB: (4,64,112,112), 26 MB, took 1.0 to 1.6 times as long, layer norm and RMS norm 1.1 to 1.3; from
// 32 MiB on 0.8 to 1.08. Cascade Lake, 36 MiB, writes past them more slowly: eval and training (8,64,112,112), 51 MB, took 1.04
// to 1.4 times as long, (32,64,112,112), 206 MB, 0.7. Sooner: a single thread, and where two thirds of the bytes are read, as
// by gradients and beside a residual. Zen 5, 25 to 31 MB: eval, training and norms on one thread are 1.15 to 1.8 times as fast
// so, of 17 MB 0.9 to 0.95; gradients on two 1.04 to 1.48, of 19 MB 1.0, a residual's eval 0.98 to 1.13, of 19 MB 0.74.
int64_t streamed_bytes([[maybe_unused]] bool sooner) {
    constexpr int64_t kMiB = int64_t{1} << 20;
#if defined(__x86_64__)
    const bool is_fast = is_amd();
    const int64_t found = cache_bytes(3);
    const int64_t last_cache = found > 0 ? std::clamp(found, 8 * kMiB, 64 * kMiB) : 32 * kMiB;
    if (is_fast && __builtin_cpu_supports("avx512f")) return sooner ? last_cache / 3 * 2 : last_cache;
    if (is_fast) return last_cache / 4 * 3;
    return 2 * last_cache;
#else
    return 64 * kMiB;
#endif
}

// Half of the second-level cache, so that what was read for its statistics is there when it is normalized.
int64_t run_bytes_here() {
    constexpr int64_t kLeast = int64_t{1} << 18;
#if defined(__x86_64__)
    return std::clamp(cache_bytes(2) / 2, kLeast, 4 * kLeast);
#else
    return kLeast;
#endif
}

}  // namespace

int64_t run_bytes() {
    static const int64_t bytes = run_bytes_here();
    return bytes;
}

bool is_streamed(int64_t bytes, bool sooner) {
    static const int64_t least = streamed_bytes(false), least_sooner = streamed_bytes(true);
    return bytes >= (sooner ? least_sooner : least);
}

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
