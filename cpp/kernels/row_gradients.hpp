// The gradients where statistics are rows, with weights of their own for the columns.
#pragma once
#include "kernels.hpp"
#include "traffic.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// The sums of up to sixteen rows, which are closed side by side: closing one takes as long as a short row does.
template <class T>
FUSEDNORM_INLINE void row_gradient_sums_of(const RowSumsTile& t, int64_t first, int64_t rows) {
    Lanes<double> plain = broadcast(0.0), product = plain;
    for (int64_t begin = 0; begin < t.cols; begin += kBlock) {
        const int64_t end = t.cols - begin < kBlock ? t.cols : begin + kBlock;
        Doubles all_plain[kLanes], all_product[kLanes];
        for (int64_t i = rows; i < kLanes; ++i) all_plain[i] = all_product[i] = Doubles{};
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t r = first + i;
            const T *grad = static_cast<const T*>(t.grad) + r * t.ld, *x = static_cast<const T*>(t.x) + r * t.ld;
            const Doubles center = broadcast(t.center[r]).part[0];
            Lanes<double> sums = broadcast(0.0), products = sums;
            const auto add = [&](int64_t c, auto value_at) __attribute__((always_inline)) {
                FUSEDNORM_LANES_UNROLL
                for (int p = 0; p < Lanes<double>::kParts; ++p) {
                    const Doubles g = value_at(grad + c, p) * value_at(t.weight + c, p);
                    sums.part[p] = plus<1>(sums.part[p], g);
                    products.part[p] += g * plus<-1>(value_at(x + c, p), center);
                }
            };
            int64_t c = begin;
            for (; c + kLanes <= end; c += kLanes) {
                ask_for(grad + c, kPrefetchBytes);
                add(c, AllLanes<double>());
            }
            if (c < end) add(c, FirstLanes<double>{end - c});
            all_plain[i] = folded(sums), all_product[i] = folded(products);
        }
        plain += sums_of(all_plain), product += sums_of(all_product);
    }
    store_some(t.plain + first, plain, rows), store_some(t.product + first, product, rows);
}

template <class T>
void row_gradient_sums(const RowSumsTile& t) {
    for (int64_t r = 0; r < t.rows; r += kLanes) row_gradient_sums_of<T>(t, r, t.rows - r < kLanes ? t.rows - r : kLanes);
}

template <int First, class V, size_t... I>
FUSEDNORM_INLINE auto half_of(const V& a, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, a, (First + static_cast<int>(I))...);
}

// Half i of a register of floats, as doubles.
FUSEDNORM_INLINE Doubles as_doubles(const Lanes<float>::Part& a, int i) {
    constexpr auto half = std::make_index_sequence<Lanes<double>::kWidth>();
    return convert_part<Doubles>(i == 0 ? half_of<0>(a, half) : half_of<Lanes<double>::kWidth>(a, half));
}

// Rows that are read before any of them is written: rows a multiple of 4 KiB apart would wait for each other's stores. As many
// as registers hold: four with AVX2 took 1.2 times as long.
constexpr int kRowsAtOnce = kBytes == 64 ? 4 : 2;

// N rows from row r on, side by side: their columns' sums, which are double, are loaded and stored once for all of them.
// From column `begin` on; returns the first that is left, which of several rows are fewer than sixteen.
template <bool Stream, int N, class T, class A>
FUSEDNORM_INLINE int64_t row_gradients_of(const RowGradientTile& t, int64_t r, int64_t begin) {
    const T *grad = static_cast<const T*>(t.grad) + r * t.ld, *x = static_cast<const T*>(t.x) + r * t.ld;
    T* y = static_cast<T*>(t.y) + r * t.ld;
    const A* weights = static_cast<const A*>(t.weight);
    double *grad_weight = t.grad_weight, *grad_bias = t.grad_bias;
    const int64_t ld = t.ld, cols = t.cols;
    using Part = typename Lanes<A>::Part;
    Part center[N], scale[N], shift[N], slope[N], offset[N];
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < N; ++i) {
        const auto of_row = [&](const void* values) __attribute__((always_inline)) {
            return broadcast(static_cast<const A*>(values)[r + i]).part[0];
        };
        center[i] = of_row(t.center), scale[i] = of_row(t.scale), shift[i] = of_row(t.shift);
        slope[i] = of_row(t.slope), offset[i] = of_row(t.offset);
    }
    constexpr int kDoubles = Lanes<double>::kParts / Lanes<A>::kParts;
    const auto column = [&](int64_t c, auto value_at, auto double_at, auto put) __attribute__((always_inline)) {
        Lanes<A> values[N];
        FUSEDNORM_LANES_UNROLL
        for (int p = 0; p < Lanes<A>::kParts; ++p) {
            double *sums_of_weight = grad_weight + c + p * Lanes<A>::kWidth,
                   *sums_of_bias = grad_bias + c + p * Lanes<A>::kWidth;
            Doubles to_weight[kDoubles], to_bias[kDoubles];
            FUSEDNORM_LANES_UNROLL
            for (int d = 0; d < kDoubles; ++d)
                to_weight[d] = load_part<double>(sums_of_weight, d), to_bias[d] = load_part<double>(sums_of_bias, d);
            const Part weight = value_at(weights + c, p);
            FUSEDNORM_LANES_UNROLL
            for (int i = 0; i < N; ++i) {
                const int64_t at = i * ld + c;
                const Part xhat = (value_at(x + at, p) - center[i]) * scale[i] + shift[i];
                FUSEDNORM_LANES_UNROLL
                for (int d = 0; d < kDoubles; ++d) {
                    const Doubles g = double_at(grad + at, p * kDoubles + d);
                    to_bias[d] += g;
                    if constexpr (std::is_same_v<A, float>) {
                        add_exact_product(to_weight[d], g, as_doubles(xhat, d));
                    } else {
                        to_weight[d] += g * xhat;
                    }
                }
                values[i].part[p] = value_at(grad + at, p) * weight * scale[i] + (xhat * slope[i] + offset[i]);
            }
            FUSEDNORM_LANES_UNROLL
            for (int d = 0; d < kDoubles; ++d)
                store_part(sums_of_weight, d, to_weight[d]), store_part(sums_of_bias, d, to_bias[d]);
        }
        FUSEDNORM_LANES_UNROLL
        for (int i = 0; i < N; ++i) put(y + i * ld + c, values[i]);
    };
    int64_t c = begin;
    for (; c + kLanes <= cols; c += kLanes) {
        column(c, AllLanes<A>(), AllLanes<double>(), [](T* to, const Lanes<A>& value) __attribute__((always_inline)) {
            if constexpr (Stream) {
                stream(to, value);
            } else {
                store(to, value);
            }
        });
    }
    const int64_t n = cols - c;
    if (N > 1 || n == 0) return c;
    const auto put_some = [n](T* p, const Lanes<A>& value) __attribute__((always_inline)) { store_some(p, value, n); };
    column(c, FirstLanes<A>{n}, FirstLanes<double>{n}, put_some);
    return cols;
}

// Not inlined: both forms below would repeat it.
template <class T, class A>
__attribute__((noinline)) void row_gradient_rest(const RowGradientTile& t, int64_t r, int64_t begin) {
    row_gradients_of<false, 1, T, A>(t, r, begin);
}

template <bool Stream, class T, class A>
FUSEDNORM_INLINE void row_gradient_with(const RowGradientTile& t) {
    int64_t r = 0;
    for (; r + kRowsAtOnce <= t.rows; r += kRowsAtOnce) {
        const int64_t c = row_gradients_of<Stream, kRowsAtOnce, T, A>(t, r, 0);
        for (int64_t i = 0; i < kRowsAtOnce && c < t.cols; ++i) row_gradient_rest<T, A>(t, r + i, c);
    }
    for (; r < t.rows; ++r) row_gradient_rest<T, A>(t, r, 0);
}

template <class T, class A>
void row_gradients(const RowGradientTile& t) {
    if constexpr (kStreams) {
        const int64_t past = past_line(static_cast<const T*>(t.y));
        if (t.stream && past == 0 && (t.ld | t.cols) % line_values<T> == 0) return row_gradient_with<true, T, A>(t);
    }
    row_gradient_with<false, T, A>(t);
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
