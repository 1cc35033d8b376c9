// How the values of a row come and go: the one loop that writes results, sixteen at a time.
#pragma once
#include "stored.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// What is read is in a cache; it is asked for ahead; and results are written past the caches.
enum class Traffic { cached, ahead, streamed };

// Values before the first that streaming may write, fewer than sixteen.
template <class T>
FUSEDNORM_INLINE int64_t head_of(const T* y) {
    const auto past = reinterpret_cast<uintptr_t>(y) % kStreamBytes<T>;
    return past == 0 ? 0 : static_cast<int64_t>((kStreamBytes<T> - past) / sizeof(T));
}

// Rows shorter than two stores have no aligned middle.
constexpr int64_t kStreamCols = 2 * kLanes;

// y(cols): value_at(column, what loads lanes of A) gives sixteen of them; ask(column) asks for what is read later.
template <Traffic Way, class A, class T, class V, class F>
FUSEDNORM_INLINE void write_row(T* y, int64_t cols, V value_at, F ask) {
    const auto some = [&](int64_t c, int64_t n) __attribute__((always_inline)) {
        store_some(y + c, value_at(c, [n](const auto* p) __attribute__((always_inline)) { return load_some<A>(p, n); }), n);
    };
    int64_t c = Way == Traffic::streamed ? head_of(y) : 0;
    if (c > 0) some(0, c);
    for (; c + kLanes <= cols; c += kLanes) {
        if constexpr (Way != Traffic::cached) ask(c);
        const Lanes<A> value = value_at(c, [](const auto* p) __attribute__((always_inline)) { return load<A>(p); });
        if constexpr (Way == Traffic::streamed) {
            stream(y + c, value);
        } else {
            store(y + c, value);
        }
    }
    if (c < cols) some(c, cols - c);
}

// rows(way): the loop over the rows of a tile, in arithmetic of type A. Only the narrow one has a form that does not ask: in
// the other, and in the baseline, it would gain little, and the module is large already.
template <class A, class F>
FUSEDNORM_INLINE void choose_traffic(bool streams, int64_t cols, int64_t ahead, F rows) {
    if constexpr (kStreams) {
        if (streams && cols >= kStreamCols) {
            rows(std::integral_constant<Traffic, Traffic::streamed>());
            return stream_fence();
        }
        if constexpr (sizeof(A) == 4)
            if (ahead == 0) return rows(std::integral_constant<Traffic, Traffic::cached>());
    }
    rows(std::integral_constant<Traffic, Traffic::ahead>());
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
