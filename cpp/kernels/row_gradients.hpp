// The gradients where statistics are rows, with weights of their own for the columns.
#pragma once
#include "kernels.hpp"
#include "stored.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

template <class T>
void row_gradient_sums(const RowSumsTile& t) {
    constexpr int64_t kAhead = kPrefetchBytes / static_cast<int64_t>(sizeof(T));
    for (int64_t r = 0; r < t.rows; ++r) {
        const T *grad = static_cast<const T*>(t.grad) + r * t.ld, *x = static_cast<const T*>(t.x) + r * t.ld;
        const Lanes<double> center = broadcast(t.center[r]);
        double plain = 0, product = 0;
        for (int64_t begin = 0; begin < t.cols; begin += kBlock) {
            const int64_t end = t.cols - begin < kBlock ? t.cols : begin + kBlock;
            Lanes<double> sums = broadcast(0.0), products = sums;
            const auto add = [&](const Lanes<double>& g, const Lanes<double>& value) __attribute__((always_inline)) {
                sums += g;
                products += g * (value - center);
            };
            int64_t c = begin;
            for (; c + kLanes <= end; c += kLanes) {
                __builtin_prefetch(grad + c + kAhead);
                add(load<double>(grad + c) * load<double>(t.weight + c), load<double>(x + c));
            }
            const int64_t n = end - c;
            if (n > 0) add(load_some<double>(grad + c, n) * load_some<double>(t.weight + c, n), load_some<double>(x + c, n));
            plain += sum(sums);
            product += sum(products);
        }
        t.plain[r] = plain, t.product[r] = product;
    }
}

FUSEDNORM_INLINE Lanes<double> as_doubles(const Lanes<float>& a) {
    Lanes<double> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<double>::kParts; ++i) {
        Vector<float, Lanes<double>::kWidth> part;
        __builtin_memcpy(&part, reinterpret_cast<const char*>(a.part) + i * sizeof part, sizeof part);
        r.part[i] = convert_part<Lanes<double>::Part>(part);
    }
    return r;
}

// Rows that are read before any of them is written: rows a multiple of 4 KiB apart would wait for each other's stores.
constexpr int kRowsAtOnce = 4;
// Written out only where registers hold four rows: elsewhere they go through memory anyway.
#if defined(__AVX512F__)
#define FUSEDNORM_ROWS_UNROLL FUSEDNORM_LANES_UNROLL
#else
#define FUSEDNORM_ROWS_UNROLL FUSEDNORM_LANES_LOOP
#endif

// Columns outside, rows inside: the sums over the rows, which are double, stay in registers.
template <bool Stream, class T, class A>
FUSEDNORM_INLINE void row_gradient_with(const RowGradientTile& t) {
    const A *centers = static_cast<const A*>(t.center), *scales = static_cast<const A*>(t.scale);
    const A *shifts = static_cast<const A*>(t.shift), *slopes = static_cast<const A*>(t.slope);
    const A *offsets = static_cast<const A*>(t.offset), *weights = static_cast<const A*>(t.weight);
    const T *grad = static_cast<const T*>(t.grad), *x = static_cast<const T*>(t.x);
    const int64_t rows = t.rows, ld = t.ld;
    const auto column = [&](int64_t c, auto at_once, auto get, auto get_double, auto put,
                            auto put_double) __attribute__((always_inline)) {
        const Lanes<A> weight = get(weights + c);
        Lanes<double> to_weight = get_double(t.grad_weight + c), to_bias = get_double(t.grad_bias + c);
        const auto value_of = [&](int64_t r) __attribute__((always_inline)) {
            const int64_t at = r * ld + c;
            const Lanes<A> xhat = (get(x + at) - broadcast(centers[r])) * broadcast(scales[r]) + broadcast(shifts[r]);
            const Lanes<double> g = get_double(grad + at);
            to_bias += g;
            if constexpr (std::is_same_v<A, float>) {
                add_exact_product(to_weight, g, as_doubles(xhat));
            } else {
                to_weight += g * xhat;
            }
            return get(grad + at) * weight * broadcast(scales[r]) + (xhat * broadcast(slopes[r]) + broadcast(offsets[r]));
        };
        int64_t r = 0;
        if constexpr (at_once)
            for (; r + kRowsAtOnce <= rows; r += kRowsAtOnce) {
                Lanes<A> values[kRowsAtOnce];
                FUSEDNORM_ROWS_UNROLL
                for (int i = 0; i < kRowsAtOnce; ++i) values[i] = value_of(r + i);
                FUSEDNORM_ROWS_UNROLL
                for (int i = 0; i < kRowsAtOnce; ++i) put(static_cast<T*>(t.y) + (r + i) * ld + c, values[i]);
            }
        for (; r < rows; ++r) put(static_cast<T*>(t.y) + r * ld + c, value_of(r));
        put_double(t.grad_weight + c, to_weight);
        put_double(t.grad_bias + c, to_bias);
    };
    int64_t c = 0;
    for (; c + kLanes <= t.cols; c += kLanes) {
        column(
            c, std::true_type(), [](const auto* p) __attribute__((always_inline)) { return load<A>(p); },
            [](const auto* p) __attribute__((always_inline)) { return load<double>(p); },
            [](T* y, const Lanes<A>& value) __attribute__((always_inline)) {
                if constexpr (Stream) {
                    stream(y, value);
                } else {
                    store(y, value);
                }
            },
            [](double* p, const Lanes<double>& value) __attribute__((always_inline)) { store(p, value); });
    }
    const int64_t n = t.cols - c;
    const auto put = [n](auto* p, const auto& value) __attribute__((always_inline)) { store_some(p, value, n); };
    if (n > 0)
        column(
            c, std::false_type(), [n](const auto* p) __attribute__((always_inline)) { return load_some<A>(p, n); },
            [n](const auto* p) __attribute__((always_inline)) { return load_some<double>(p, n); }, put, put);
}

template <class T, class A>
void row_gradients(const RowGradientTile& t) {
    const auto past = (reinterpret_cast<uintptr_t>(t.y) | static_cast<uintptr_t>(t.ld) * sizeof(T)) % kStreamBytes<T>;
    if constexpr (kStreams) {
        if (t.stream && past == 0) {
            row_gradient_with<true, T, A>(t);
            return stream_fence();
        }
    }
    row_gradient_with<false, T, A>(t);
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
