// How the values of a row come and go: the loops that write results, sixteen at a time, to the caches or past them.
#pragma once
#include "stored_some.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// ---- past the caches

// Whether loops have a second form that streams. Not where it would store as the first does (Arm), nor in the baseline: it is
// a third of the whole module already.
constexpr bool kStreams = kBytes > 16;

// What is streamed at once: whole lines, and sixteen values at least.
template <class T>
constexpr int64_t line_values =
    kLineBytes / static_cast<int64_t>(sizeof(T)) < kLanes ? kLanes : kLineBytes / static_cast<int64_t>(sizeof(T));

// How many values p lies behind the beginning of its unit.
template <class T>
FUSEDNORM_INLINE int64_t past_line(const T* p) {
    return static_cast<int64_t>(reinterpret_cast<uintptr_t>(p) / sizeof(T) % line_values<T>);
}

template <class R>
FUSEDNORM_INLINE void stream_part(void* p, const R& raw) {
#if defined(__AVX512F__)
    if constexpr (sizeof raw == 64) return _mm512_stream_si512(static_cast<__m512i*>(p), reinterpret_cast<__m512i>(raw));
#endif
#if defined(__AVX2__)
    if constexpr (sizeof raw == 32) return _mm256_stream_si256(static_cast<__m256i*>(p), reinterpret_cast<__m256i>(raw));
#endif
#if defined(__x86_64__)
    if constexpr (sizeof raw == 16) return _mm_stream_si128(static_cast<__m128i*>(p), reinterpret_cast<__m128i>(raw));
    if constexpr (sizeof raw == 8) return _mm_stream_si64(static_cast<long long*>(p), reinterpret_cast<long long>(raw));
#endif
    __builtin_memcpy(p, &raw, sizeof raw);
}

// Streams sixteen values to p, which lies on the boundary of a line or sixteen values from one.
template <class T, class A>
FUSEDNORM_INLINE void stream(T* p, const Lanes<A>& a) {
    const auto& value = encodable<T>(a);
    using L = std::decay_t<decltype(value)>;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < L::kParts; ++i) stream_part(p + i * L::kWidth, encode<T, typename L::Value, L::kWidth>(value.part[i]));
}

// line_values<T> of them.
template <class T>
FUSEDNORM_INLINE void stream_line(T* p, const T* values) {
    using Part = Vector<uint8_t, kBytes>;
    FUSEDNORM_LANES_UNROLL
    for (int64_t i = 0; i < line_values<T> * static_cast<int64_t>(sizeof(T)); i += kBytes) {
        Part part;
        __builtin_memcpy(&part, reinterpret_cast<const char*>(values) + i, sizeof part);
        stream_part(reinterpret_cast<char*>(p) + i, part);
    }
}

// ---- rows

// How lanes of A come to arithmetic whose results are of type T, from whatever memory, and go to where those lie.
template <class A, class T>
struct InOrder {
    using Arithmetic = A;
    using Result = T;
    template <class X>
    static FUSEDNORM_INLINE Lanes<A> get(const X* p) {
        return load<A>(p);
    }
    template <class X>
    static FUSEDNORM_INLINE Lanes<A> get_few(const X* p, int64_t n) {
        return load_few<A>(p, n);
    }
    static FUSEDNORM_INLINE void put(T* p, const Lanes<A>& a) { store(p, a); }
    static FUSEDNORM_INLINE void put_few(T* p, const Lanes<A>& a, int64_t n) { store_few(p, a, n); }
    static FUSEDNORM_INLINE void put_past(T* p, const Lanes<A>& a) { stream(p, a); }
};

// For loops where nothing beside x differs from lane to lane.
template <class A, class T>
struct AnyOrder : InOrder<A, T> {};

#if defined(__AVX2__) && !defined(__AVX512F__)
// Eval 1.3 times as fast. With coefficients for each column, which would have to be crossed too, it was 0.9.
template <>
struct AnyOrder<float, bf16> {
    using Arithmetic = float;
    using Result = bf16;
    static FUSEDNORM_INLINE Lanes<float> get(const bf16* p) { return load_crossed(p); }
    static FUSEDNORM_INLINE Lanes<float> get_few(const bf16* p, int64_t n) { return crossed(load_few<float>(p, n)); }
    static FUSEDNORM_INLINE void put(bf16* p, const Lanes<float>& a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bfloat_of_crossed(a));
    }
    static FUSEDNORM_INLINE void put_few(bf16* p, const Lanes<float>& a, int64_t n) { store_few(p, crossed(a), n); }
    static FUSEDNORM_INLINE void put_past(bf16* p, const Lanes<float>& a) { stream_part(p, bfloat_of_crossed(a)); }
};
#endif

// Whether a row's last values are stored together with some before them, which is once more: where storing a part of a register
// is slow, as it is with AVX2 (Zen 3). It is in the baseline too, but that is a fifth of the module already.
constexpr bool kStoresTwice = kBytes == 32;

// Results that go to the caches. Asks: what is read is asked for ahead.
template <bool Asks, class Order>
struct Stores {
    using A = typename Order::Arithmetic;
    using T = typename Order::Result;
    // y(cols): value_at(column, what loads lanes of A) gives sixteen of them; ask(column) asks for what is read later. So many
    // values from y on may be overwritten: whole registers are stored faster than parts.
    template <class V, class F>
    FUSEDNORM_INLINE void row(T* y, int64_t cols, V value_at, F ask, int64_t free = 0) const {
        const auto whole = [](const auto* p) __attribute__((always_inline)) { return Order::get(p); };
        // Read before y, which may be x, is written.
        const bool twice = kStoresTwice && cols >= kLanes && cols % kLanes != 0;
        Lanes<A> last{};
        if (twice) last = value_at(cols - kLanes, whole);
        int64_t c = 0;
        for (; c + kLanes <= cols; c += kLanes) {
            if constexpr (Asks) ask(c);
            Order::put(y + c, value_at(c, whole));
        }
        const int64_t n = cols - c;
        if (n == 0) return;
        if (twice) return Order::put(y + cols - kLanes, last);
        const auto get = [n](const auto* p) __attribute__((always_inline)) { return Order::get_few(p, n); };
        const auto value = value_at(c, get);
        if constexpr (kStoresTwice && sizeof(A) == 4)
            if (c + kLanes <= free) return Order::put(y + c, value);
        Order::put_few(y + c, value, n);
    }
};

// Results that go past the caches, in whole lines: where a part of a line goes past them and another does not, the processor
// has the line brought, merged and written back in between (Zen 3: 200 ns each, a channels-last eval ten times as long). What a
// row leaves of a line waits here for the next row to go on.
template <class Order>
class Streams {
    using T = typename Order::Result;

public:
    static constexpr int64_t kUnit = line_values<T>;
    static constexpr int64_t kLeastCols = 2 * kLanes;

    // cols >= kLeastCols
    template <class V, class F>
    FUSEDNORM_INLINE void row(T* y, int64_t cols, V value_at, F ask, int64_t = 0) {
        const auto whole = [](const auto* p) __attribute__((always_inline)) { return Order::get(p); };
        if (y != unit + end) start(y);
        int64_t c = 0;
        if (end > 0) {
            for (; c < kUnit - end; c += kLanes) Order::put(values + end + c, value_at(c, whole));
            c = kUnit - end;
            write(kUnit);
        }
        for (; c + kUnit <= cols; c += kUnit) {
            FUSEDNORM_LANES_UNROLL
            for (int64_t i = 0; i < kUnit; i += kLanes) {
                ask(c + i);
                Order::put_past(y + c + i, value_at(c + i, whole));
            }
        }
        unit = y + c, begin = 0, end = cols - c;
        if (kUnit > kLanes && end > kLanes) Order::put(values, value_at(c, whole));
        if (end > 0) Order::put(values + end - kLanes, value_at(cols - kLanes, whole));
    }

    FUSEDNORM_INLINE void finish() { write(end); }

private:
    T* unit = nullptr;                                      // where the values belong; what is there before begin is others'
    int64_t begin = 0, end = 0;                             // which are there
    alignas(kLineBytes) T memory[kLanes + kUnit + kLanes];  // sixteen are written where fewer are left, too
    T* const values = memory + kLanes;

    FUSEDNORM_INLINE void start(T* y) {
        write(end);
        begin = end = past_line(y);
        unit = y - begin;
    }

    FUSEDNORM_INLINE void write(int64_t to) {
        if (begin == to) return;
        if (begin == 0 && to == kUnit) return stream_line(unit, values);
        __builtin_memcpy(unit + begin, values + begin, static_cast<size_t>(to - begin) * sizeof(T));
    }
};

// rows(to): the loop over the rows of a tile. Only the narrow arithmetic has a form that does not ask: in the other, and in the
// baseline, it would gain little, and the module is large already.
template <class Order, class F>
FUSEDNORM_INLINE void choose_traffic(bool streams, int64_t cols, int64_t ahead, F rows) {
    if constexpr (kStreams) {
        if (streams && cols >= Streams<Order>::kLeastCols) {
            Streams<Order> to;
            rows(to);
            return to.finish();
        }
        if constexpr (sizeof(typename Order::Arithmetic) == 4)
            if (ahead == 0) return rows(Stores<false, Order>());
    }
    rows(Stores<true, Order>());
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
