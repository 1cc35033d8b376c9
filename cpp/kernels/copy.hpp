// Strided copies: what brings odd layouts and rare types into the form that the loops read, and results to where they go.
#pragma once
#include "stored_some.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

template <class In, class Out>
FUSEDNORM_INLINE Out copied(const In& value) {
    if constexpr (std::is_same_v<In, Out>) {
        return value;
    } else if constexpr (std::is_same_v<In, bool>) {  // any byte may lie there: a view of other memory
        return *reinterpret_cast<const unsigned char*>(&value) != 0;
    } else {
        return as_double(value);
    }
}

template <class In, class Out>
FUSEDNORM_INLINE void copy_run(const In* __restrict x, Out* __restrict y, int64_t n) {
    int64_t i = 0;
    if constexpr (is_half<In>)  // the compiler does not see that sixteen go at once
        for (; i + kLanes <= n; i += kLanes) store(y + i, load<Out>(x + i));
    for (; i < n; ++i) y[i] = copied<In, Out>(x[i]);
}

// Channels of interleaved pixels apart (x_ld = 1, x_step = Channels) or together: with the number known, the compiler
// shuffles registers.
template <int Channels, class T>
FUSEDNORM_INLINE void split(const T* __restrict x, T* __restrict y, int64_t pixels, int64_t y_ld) {
    for (int64_t i = 0; i < pixels; ++i) FUSEDNORM_LANES_UNROLL
    for (int c = 0; c < Channels; ++c) y[c * y_ld + i] = x[i * Channels + c];
}
template <int Channels, class T>
FUSEDNORM_INLINE void join(const T* __restrict x, T* __restrict y, int64_t pixels, int64_t x_ld) {
    for (int64_t i = 0; i < pixels; ++i) FUSEDNORM_LANES_UNROLL
    for (int c = 0; c < Channels; ++c) y[i * Channels + c] = x[c * x_ld + i];
}

template <int Channels, class T>
FUSEDNORM_INLINE void reverse(const T* __restrict x, T* __restrict y, int64_t pixels) {
    for (int64_t i = 0; i < pixels * Channels; i += Channels) FUSEDNORM_LANES_UNROLL
    for (int c = 0; c < Channels; ++c) y[i + c] = x[i - c];
}

template <int Channels, class T>
bool copy_pixels(const CopyTile& t) {
    const T* x = static_cast<const T*>(t.x);
    T* y = static_cast<T*>(t.y);
    if (t.cols == Channels && t.x_step == -1 && t.x_ld == Channels && t.y_step == 1 && t.y_ld == Channels)
        return reverse<Channels>(x, y, t.rows), true;
    if (t.rows != Channels) return false;
    if (t.y_step == 1 && t.x_step == Channels) {
        constexpr int kLast = Channels - 1;
        if (t.x_ld == 1) return split<Channels>(x, y, t.cols, t.y_ld), true;
        if (t.x_ld == -1) return split<Channels>(x - kLast, y + kLast * t.y_ld, t.cols, -t.y_ld), true;
    }
    if (t.y_ld == 1 && t.y_step == Channels && t.x_step == 1) return join<Channels>(x, y, t.cols, t.x_ld), true;
    return false;
}

// The values of a and of b in turn: those of their lower half, and those of their upper.
template <class V, size_t... I>
FUSEDNORM_INLINE void in_turn(const V& a, const V& b, V* to, std::index_sequence<I...> /*unused*/) {
    constexpr int n = sizeof...(I);
    to[0] = __builtin_shufflevector(a, b, (static_cast<int>(I) / 2 + static_cast<int>(I) % 2 * n)...);
    to[1] = __builtin_shufflevector(a, b, (static_cast<int>(I) / 2 + n / 2 + static_cast<int>(I) % 2 * n)...);
}

// A square of n registers of n values, turned: done log2(n) times, rows i and i + n / 2 in turn.
template <int Left, class V, size_t... I>
FUSEDNORM_INLINE void turn(V* a, std::index_sequence<I...> lanes) {
    constexpr int n = sizeof...(I);
    if constexpr (Left > 1) {
        V b[n];
        FUSEDNORM_LANES_UNROLL
        for (int i = 0; i < n / 2; ++i) in_turn(a[i], a[i + n / 2], b + 2 * i, lanes);
        FUSEDNORM_LANES_UNROLL
        for (int i = 0; i < n; ++i) a[i] = b[i];
        turn<Left / 2>(a, lanes);
    }
}

// y[i * y_ld + j] = x[j * x_ld + i] for i < n, j < m. Not inlined: it is called twice.
template <class T>
__attribute__((noinline)) void transpose(const T* x, int64_t x_ld, T* y, int64_t y_ld, int64_t n, int64_t m) {
    constexpr int kSide = kBytes / sizeof(T) < 8 ? kBytes / sizeof(T) : 8;
    using V = Vector<T, kSide>;
    const int64_t whole_n = n / kSide * kSide, whole_m = m / kSide * kSide;
    for (int64_t j = 0; j < whole_m; j += kSide) {
        for (int64_t i = 0; i < whole_n; i += kSide) {
            V a[kSide];
            FUSEDNORM_LANES_UNROLL
            for (int k = 0; k < kSide; ++k) __builtin_memcpy(&a[k], x + (j + k) * x_ld + i, sizeof(V));
            turn<kSide>(a, std::make_index_sequence<kSide>());
            FUSEDNORM_LANES_UNROLL
            for (int k = 0; k < kSide; ++k) __builtin_memcpy(y + (i + k) * y_ld + j, &a[k], sizeof(V));
        }
        for (int64_t i = whole_n; i < n; ++i)
            for (int64_t k = j; k < j + kSide; ++k) y[i * y_ld + k] = x[k * x_ld + i];
    }
    for (int64_t j = whole_m; j < m; ++j)
        for (int64_t i = 0; i < n; ++i) y[i * y_ld + j] = x[j * x_ld + i];
}

template <class In, class Out>
void copy(const CopyTile& t) {
    if constexpr (std::is_same_v<In, Out>) {
        if (copy_pixels<2, In>(t) || copy_pixels<3, In>(t) || copy_pixels<4, In>(t)) return;
    }
    if constexpr (std::is_same_v<In, Out> && sizeof(In) > 1) {
        const In* x = static_cast<const In*>(t.x);
        In* y = static_cast<In*>(t.y);
        if (t.x_ld == 1 && t.y_step == 1) return transpose(x, t.x_step, y, t.y_ld, t.rows, t.cols);
        if (t.x_step == 1 && t.y_ld == 1) return transpose(x, t.x_ld, y, t.y_step, t.cols, t.rows);
    }
    // The shorter step goes inside, so that a transposed tile is read along its memory.
    const bool along_rows = t.x_ld != 0 && (t.x_step == 0 || t.x_ld < t.x_step) && t.x_ld > 0;
    const int64_t outer = along_rows ? t.cols : t.rows, inner = along_rows ? t.rows : t.cols;
    const int64_t x_outer = along_rows ? t.x_step : t.x_ld, x_inner = along_rows ? t.x_ld : t.x_step;
    const int64_t y_outer = along_rows ? t.y_step : t.y_ld, y_inner = along_rows ? t.y_ld : t.y_step;
    for (int64_t i = 0; i < outer; ++i) {
        const In* __restrict x = static_cast<const In*>(t.x) + i * x_outer;
        Out* __restrict y = static_cast<Out*>(t.y) + i * y_outer;
        if (x_inner == 1 && y_inner == 1) {
            copy_run(x, y, inner);
        } else {
            for (int64_t j = 0; j < inner; ++j) y[j * y_inner] = copied<In, Out>(x[j * x_inner]);
        }
    }
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
