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

template <class In, class Out>
void copy(const CopyTile& t) {
    if constexpr (std::is_same_v<In, Out>)
        if (copy_pixels<2, In>(t) || copy_pixels<3, In>(t) || copy_pixels<4, In>(t)) return;
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
