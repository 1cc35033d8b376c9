// What follows normalize, on a few values that are still in the cache, in double: add a residual, activate, round once.
#pragma once
#include "activation.hpp"
#include "kernels.hpp"
#include "traffic.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

template <class T>
void add(const AddTile& tile) {
    const T* r = static_cast<const T*>(tile.r);
    double* t = tile.t;
    for (int64_t i = 0; i < tile.rows; ++i, r += tile.r_ld, t += tile.t_ld)
        Stores<false, InOrder<double, double>>().row(
            t, tile.cols, [=](int64_t c, auto get) __attribute__((always_inline)) { return get(t + c) + get(r + c); },
            [](int64_t) {});
}

// t(n) in place. What lies behind it, up to a multiple of sixteen, is memory too, and becomes anything.
template <Activation K, class R>
void activate_all(double* t, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes) store(t + i, activate<K, R>(load<double>(t + i)));
}

template <class T>
void finish(const FinishTile& tile) {
    choose_traffic<InOrder<double, T>>(tile.stream, tile.cols, 0, [&](auto&& to) __attribute__((always_inline)) {
        const double* t = tile.t;
        T* y = static_cast<T*>(tile.y);
        for (int64_t i = 0; i < tile.rows; ++i, t += tile.t_ld, y += tile.y_ld)
            to.row(
                y, tile.cols, [t](int64_t c, auto get) __attribute__((always_inline)) { return get(t + c); }, [](int64_t) {});
    });
}

// In double: the one rounding is that to T.
template <class T, class R>
void sum(const SumTile& tile) {
    const T* x = static_cast<const T*>(tile.x);
    const R* r = static_cast<const R*>(tile.r);
    T* s = static_cast<T*>(tile.s);
    for (int64_t i = 0; i < tile.rows; ++i, x += tile.x_ld, r += tile.r_ld, s += tile.s_ld) {
        const auto value_at = [=](int64_t c, auto get) __attribute__((always_inline)) { return get(x + c) + get(r + c); };
        const auto ask = [=](int64_t c) __attribute__((always_inline)) {
            ask_for(x + c, kPrefetchBytes);
            ask_for(r + c, kPrefetchBytes);
        };
        Stores<true, InOrder<double, T>>().row(s, tile.cols, value_at, ask);
    }
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
