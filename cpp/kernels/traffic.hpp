// How the values of a row come and go: the loops that write results, sixteen at a time.
#pragma once
#include "stored.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// Results that go to the caches. Asks: what is read is asked for ahead.
template <bool Asks, class A>
struct Stores {
    // y(cols): value_at(column, what loads lanes of A) gives sixteen of them; ask(column) asks for what is read later.
    template <class T, class V, class F>
    FUSEDNORM_INLINE void row(T* y, int64_t cols, V value_at, F ask) const {
        const auto whole = [](const auto* p) __attribute__((always_inline)) { return load<A>(p); };
        // The last sixteen, some of them twice, where storing a part is slow; read before y, which may be x, is written.
        const bool twice = !kMasks && cols >= kLanes && cols % kLanes != 0;
        Lanes<A> last{};
        if (twice) last = value_at(cols - kLanes, whole);
        int64_t c = 0;
        for (; c + kLanes <= cols; c += kLanes) {
            if constexpr (Asks) ask(c);
            store(y + c, value_at(c, whole));
        }
        const int64_t n = cols - c;
        if (n == 0) return;
        if (twice) return store(y + cols - kLanes, last);
        const auto get = [n](const auto* p) __attribute__((always_inline)) { return load_few<A>(p, n); };
        store_few(y + c, value_at(c, get), n);
    }
};

// Results that go past the caches, in whole lines: where a part of a line goes past them and another does not, the processor
// has the line brought, merged and written back in between (Zen 3: 200 ns each, a channels-last eval ten times as long). What a
// row leaves of a line waits here for the next row to go on.
template <class A, class T>
class Streams {
public:
    static constexpr int64_t kUnit = line_values<T>;
    static constexpr int64_t kLeastCols = 2 * kLanes;

    // cols >= kLeastCols
    template <class V, class F>
    FUSEDNORM_INLINE void row(T* y, int64_t cols, V value_at, F ask) {
        const auto whole = [](const auto* p) __attribute__((always_inline)) { return load<A>(p); };
        if (y != unit + end) start(y);
        int64_t c = 0;
        if (end > 0) {
            for (; c < kUnit - end; c += kLanes) store(values + end + c, value_at(c, whole));
            c = kUnit - end;
            write(kUnit);
        }
        for (; c + kUnit <= cols; c += kUnit) {
            FUSEDNORM_LANES_UNROLL
            for (int64_t i = 0; i < kUnit; i += kLanes) {
                ask(c + i);
                stream(y + c + i, value_at(c + i, whole));
            }
        }
        unit = y + c, begin = 0, end = cols - c;
        if (kUnit > kLanes && end > kLanes) store(values, value_at(c, whole));
        if (end > 0) store(values + end - kLanes, value_at(cols - kLanes, whole));
    }

    FUSEDNORM_INLINE void finish() {
        write(end);
        stream_fence();
    }

private:
    T* unit = nullptr;                                      // where the values belong; what is there before begin is others'
    int64_t begin = 0, end = 0;                             // which are there
    alignas(kLineBytes) T memory[kLanes + kUnit + kLanes];  // sixteen are written where fewer are left, too
    T* const values = memory + kLanes;

    FUSEDNORM_INLINE void start(T* y) {
        write(end);
        begin = end = static_cast<int64_t>(reinterpret_cast<uintptr_t>(y) / sizeof(T) % kUnit);
        unit = y - begin;
    }

    FUSEDNORM_INLINE void write(int64_t to) {
        if (begin == to) return;
        if (begin == 0 && to == kUnit) return stream_line(unit, values);
        __builtin_memcpy(unit + begin, values + begin, static_cast<size_t>(to - begin) * sizeof(T));
    }
};

// rows(to): the loop over the rows of a tile, in arithmetic of type A, to results of type T. Only the narrow one has a form
// that does not ask: in the other, and in the baseline, it would gain little, and the module is large already.
template <class A, class T, class F>
FUSEDNORM_INLINE void choose_traffic(bool streams, int64_t cols, int64_t ahead, F rows) {
    if constexpr (kStreams) {
        if (streams && cols >= Streams<A, T>::kLeastCols) {
            Streams<A, T> to;
            rows(to);
            return to.finish();
        }
        if constexpr (sizeof(A) == 4)
            if (ahead == 0) return rows(Stores<false, A>());
    }
    rows(Stores<true, A>());
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
