// Threads: the default number (OMP_NUM_THREADS, affinity, the cgroup's CPU quota), fork, and the one parallel region.
#include "threads.hpp"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <fstream>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <sstream>
#include <thread>
#include <vector>

namespace fusednorm {
namespace {

// Quota / period of one cgroup, or infinity. Version 2 has one file with both numbers, version 1 has two.
double quota_of(const std::string& folder) {
    std::ifstream v2(folder + "/cpu.max");
    std::string quota;
    double period = 0;
    if (v2 >> quota >> period) return quota == "max" || period <= 0 ? INFINITY : std::strtod(quota.c_str(), nullptr) / period;
    std::ifstream v1_quota(folder + "/cpu.cfs_quota_us"), v1_period(folder + "/cpu.cfs_period_us");
    double microseconds = 0;
    if (v1_quota >> microseconds && v1_period >> period && microseconds > 0 && period > 0) return microseconds / period;
    return INFINITY;
}

// The least quota of this process's cgroup and those above it. Nothing readable: no limit.
double cgroup_cpus() {
    double cpus = INFINITY;
    std::ifstream file("/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        if (!controllers.empty() && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
        const std::string root = controllers.empty() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controllers;
        for (std::string path = line.substr(second + 1);; path.erase(path.rfind('/'))) {
            cpus = std::min(cpus, quota_of(root + path));
            if (path.empty() || path.rfind('/') == std::string::npos) break;
        }
        cpus = std::min(cpus, quota_of(root));
    }
    return cpus;
}

std::atomic<int> limit{1};
std::atomic<bool> forked{false};
int openmp_default = 1;  // what OpenMP said at the start: OMP_NUM_THREADS, else affinity

// Before any call: a static object, so that the numbers are those of the process's start.
const bool started = [] {
    openmp_default = std::clamp(omp_get_max_threads(), 1, kMostThreads);
    const double cpus = cgroup_cpus();
    limit = std::isfinite(cpus) ? std::min(openmp_default, std::max(1, static_cast<int>(std::ceil(cpus)))) : openmp_default;
    // The runtime's threads do not exist in a child, and the runtime would wait for them.
    pthread_atfork(nullptr, nullptr, [] { forked = true; });
    return true;
}();

// A worker that finds itself on the caller's core moves to another one. The scheduler leaves it there, since its cache is
// warm: then the two take turns, and the caller's waiting is the time that the worker lacks. Measured on two cores: layer norm
// (128,384) 130 us so, 20 us once they are apart. The set of cores allowed stays as it was.
void leave_core(int core) {
#if defined(__linux__)
    if (core < 0 || sched_getcpu() != core) return;
    cpu_set_t allowed, others;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    CPU_CLR(static_cast<size_t>(core), &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
    sched_setaffinity(0, sizeof allowed, &allowed);
#else
    (void)core;
#endif
}

constexpr int kMostSpare = 64;

// Returns how many of these threads can be started: fewer where the system refuses them (a limit on the user's processes, or a
// container's): OpenMP would end the process. It keeps those of a calling thread's last team, so that only more of them are
// tried: 0.1 to 0.2 ms. And so that they need not be started again, the team is as large as the last one, where `most` allows
// it.
int startable(int threads, int most) {
    constexpr int kNever = std::numeric_limits<int>::max();
    thread_local int kept = 1, granted = 1, refused = kNever;
    thread_local unsigned calls = 0;
    threads = std::max(threads, std::min(kept, most));
    // Limits are lifted: now and then it is asked for again.
    if (threads >= refused && ++calls % 256 != 0) threads = granted;
    if (threads <= kept) return kept = threads;
    // Some more than needed are tried: a thread that was joined counts until the system has put it away, a moment later.
    const int more = threads - kept;
    const auto tried = static_cast<size_t>(more + std::min(more, kMostSpare));
    std::mutex gate;
    std::vector<std::thread> waiting;
    {
        const std::lock_guard<std::mutex> closed(gate);
        try {
            waiting.reserve(tried);
            while (waiting.size() < tried) waiting.emplace_back([&gate] { const std::lock_guard<std::mutex> open(gate); });
        } catch (const std::exception&) {  // so many, then
        }
    }
    for (std::thread& thread : waiting) thread.join();
    if (waiting.size() == tried) {
        refused = kNever;
        return kept = threads;
    }
    refused = threads;
    const auto began = static_cast<int>(waiting.size());
    return kept = granted = kept + std::max(began / 2, began - kMostSpare);
}

// The edges of the parallel region, for ThreadSanitizer: OpenMP's runtime is not built with it.
char fork_edge, join_edge;
#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_acquire(void*);
extern "C" void __tsan_release(void*);
void before(char& edge) { __tsan_release(&edge); }
void after(char& edge) { __tsan_acquire(&edge); }
#else
void before(char&) {}
void after(char&) {}
#endif

// What this thread has written past the caches is seen by whoever sees what follows. Once for all of its items: the processor
// waits for the memory meanwhile (an image from HWC to CHW took 1.3 times as long with a fence for each of its tiles).
void publish() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

// A thread's own items, next to each other: those that it had in the last call, and their results, are in its cache still.
// Who is done takes what others have left.
struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t begin, end;
};

int current_core() {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

}  // namespace

int get_num_threads() {
    if (forked) return 1;
    // A number of OpenMP's own that changed since the start was set for this thread, by threadpoolctl for one.
    const int openmp = omp_get_max_threads();
    return openmp == openmp_default ? limit.load() : std::max(1, std::min(limit.load(), openmp));
}

void set_num_threads(int n) { limit = n; }

std::string openmp_runtime() {
    std::ostringstream text;
#if defined(__clang__)
    text << "libomp";
#else
    text << "libgomp";
#endif
    text << ", OpenMP " << _OPENMP;
    return text.str();
}

// What ThreadSanitizer looks at is the body: what OpenMP hands over was written after its first edge.
__attribute__((no_sanitize("thread"))) void parallel_for(int64_t items, int threads, Order order, Body body, void* context) {
    const int most = threads;
    threads = static_cast<int>(std::min<int64_t>(threads, items));
    if (threads > 1) threads = startable(threads, most);
    // Something may have been written already: no memory is no error here.
    const std::unique_ptr<Share[]> shares(threads > 1 ? new (std::nothrow) Share[static_cast<size_t>(threads)] : nullptr);
    if (!shares) {
        for (int64_t i = 0; i < items; ++i) body(context, order == Order::forwards ? i : items - 1 - i, 0);
        return publish();
    }
    for (int i = 0; i < threads; ++i)
        shares[i].next = shares[i].begin = items * i / threads, shares[i].end = items * (i + 1) / threads;
    const int core = current_core();
    before(fork_edge);
#pragma omp parallel num_threads(threads)
    {
        after(fork_edge);
        const int slot = omp_get_thread_num();
        if (slot != 0) leave_core(core);
        for (int i = 0; i < threads; ++i) {
            Share& share = shares[static_cast<size_t>((slot + i) % threads)];
            for (int64_t n; (n = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;)
                body(context, order == Order::forwards ? n : share.begin + share.end - 1 - n, slot);
        }
        publish();
        before(join_edge);
    }
    after(join_edge);
}

}  // namespace fusednorm
