// How many threads work, and the only OpenMP region: work below a threshold never comes here.
#pragma once
#include <cstdint>
#include <string>

namespace fusednorm {

constexpr int kMostThreads = 4096;
int get_num_threads();        // what a call from this thread would use
void set_num_threads(int n);  // n >= 1, for the whole process
std::string openmp_runtime();

// Calls body(context, item, slot) for every item in [0, items), from at most `threads` threads. Slots are < threads, and
// no two calls at the same time have the same slot. The body must not throw.
// Backwards: a thread takes its items from the last on, where what a pass before has read last is still in a cache.
enum class Order { forwards, backwards };
using Body = void (*)(void* context, int64_t item, int slot);
void parallel_for(int64_t items, int threads, Order order, Body body, void* context);

template <class F>
void parallel_for(int64_t items, int threads, F& f, Order order = Order::forwards) {
    parallel_for(
        items, threads, order, [](void* context, int64_t item, int slot) { (*static_cast<F*>(context))(item, slot); }, &f);
}

}  // namespace fusednorm
