// placeholder while the functions are written
#pragma once
#include "kernels.hpp"
#include "stored.hpp"
namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {
template <Activation K, class R>
FUSEDNORM_INLINE Lanes<R> activate(const Lanes<double>& t) {
    Lanes<R> r;
    for (int i = 0; i < Lanes<R>::kParts; ++i)
        for (int j = 0; j < Lanes<R>::kWidth; ++j) {
            int k = i * Lanes<R>::kWidth + j;
            double v = t.part[k / Lanes<double>::kWidth][k % Lanes<double>::kWidth];
            if (K == Activation::relu && v < 0) v = 0;
            r.part[i][j] = static_cast<R>(v);
        }
    return r;
}
}
}
