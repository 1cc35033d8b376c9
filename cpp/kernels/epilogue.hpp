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

// Functions that round on their way are given the precision of the result; the others round as they are stored.
template <class T, Activation K>
using Activated = std::conditional_t<std::is_same_v<T, double> || K == Activation::none || K == Activation::relu ||
                                         K == Activation::hardswish || K == Activation::leaky_relu,
                                     double, float>;

template <bool Stream, class T, Activation K>
FUSEDNORM_INLINE void finish_rows(const FinishTile& tile) {
    using R = Activated<T, K>;
    const double* t = tile.t;
    T* y = static_cast<T*>(tile.y);
    for (int64_t i = 0; i < tile.rows; ++i, t += tile.t_ld, y += tile.y_ld) {
        const auto some = [&](int64_t c, int64_t n) __attribute__((always_inline)) {
            store_some(y + c, activate<K, R>(load_some<double>(t + c, n)), n);
        };
        int64_t c = Stream ? head_of(y) : 0;
        if (c > 0) some(0, c);
        for (; c + kLanes <= tile.cols; c += kLanes) {
            const Lanes<R> value = activate<K, R>(load<double>(t + c));
            if constexpr (Stream) {
                stream(y + c, value);
            } else {
                store(y + c, value);
            }
        }
        if (c < tile.cols) some(c, tile.cols - c);
    }
}

template <class T, Activation K>
void finish(const FinishTile& tile) {
    if (tile.stream && tile.cols >= kStreamCols) {
        finish_rows<true, T, K>(tile);
        stream_fence();
    } else {
        finish_rows<false, T, K>(tile);
    }
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
