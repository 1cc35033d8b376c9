// What follows normalize, on a few values that are still in the cache, in double: add a residual, activate, round once.
#pragma once
#include "activation.hpp"
#include "normalize.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

template <class T>
void add(const AddTile& tile) {
    const T* r = static_cast<const T*>(tile.r);
    double* t = tile.t;
    for (int64_t i = 0; i < tile.rows; ++i, r += tile.r_ld, t += tile.t_ld) {
        int64_t c = 0;
        for (; c + kLanes <= tile.cols; c += kLanes) store(t + c, load<double>(t + c) + load<double>(r + c));
        const int64_t left = tile.cols - c;
        if (left > 0) store_some(t + c, load_some<double>(t + c, left) + load_some<double>(r + c, left), left);
    }
}

// t(n) in place. What lies behind it, up to a multiple of sixteen, is memory too, and becomes anything.
template <Activation K, class R>
void activate_all(double* t, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes) store(t + i, activate<K, R>(load<double>(t + i)));
}

template <bool Stream, class T>
FUSEDNORM_INLINE void finish_rows(const FinishTile& tile) {
    const double* t = tile.t;
    T* y = static_cast<T*>(tile.y);
    for (int64_t i = 0; i < tile.rows; ++i, t += tile.t_ld, y += tile.y_ld) {
        int64_t c = Stream ? head_of(y) : 0;
        if (c > 0) store_some(y, load_some<double>(t, c), c);
        for (; c + kLanes <= tile.cols; c += kLanes) {
            if constexpr (Stream) {
                stream(y + c, load<double>(t + c));
            } else {
                store(y + c, load<double>(t + c));
            }
        }
        const int64_t left = tile.cols - c;
        if (left > 0) store_some(y + c, load_some<double>(t + c, left), left);
    }
}

template <class T>
void finish(const FinishTile& tile) {
    if constexpr (kStreams) {
        if (tile.stream && tile.cols >= kStreamCols) {
            finish_rows<true, T>(tile);
            return stream_fence();
        }
    }
    finish_rows<false, T>(tile);
}

// In double: the one rounding is that to T.
template <class T, class R>
void sum(const SumTile& tile) {
    const T* x = static_cast<const T*>(tile.x);
    const R* r = static_cast<const R*>(tile.r);
    T* s = static_cast<T*>(tile.s);
    for (int64_t i = 0; i < tile.rows; ++i, x += tile.x_ld, r += tile.r_ld, s += tile.s_ld) {
        int64_t c = 0;
        for (; c + kLanes <= tile.cols; c += kLanes) {
            __builtin_prefetch(reinterpret_cast<const char*>(x + c) + kPrefetchBytes);
            __builtin_prefetch(reinterpret_cast<const char*>(r + c) + kPrefetchBytes);
            store(s + c, load<double>(x + c) + load<double>(r + c));
        }
        const int64_t left = tile.cols - c;
        if (left > 0) store_some(s + c, load_some<double>(x + c, left) + load_some<double>(r + c, left), left);
    }
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
