// The numbers of the channels of one unit of backward.cpp.
#pragma once
#include <cstdint>

namespace fusednorm {

// What one unit's channels have, `channels` numbers each, and its statistics.
struct Numbers {
    double *plain, *product;  // sums of grad and of grad * (x - center)
    double *center, *factor, *slope, *offset;
    double *low, *rstd;
    float* narrow;  // center, factor, slope and offset
    double* wide;   // 1: these are not used

    static int64_t doubles(int64_t channels) { return 10 * channels + 1; }
    Numbers(double* memory, int64_t n)
        : plain(memory),
          product(plain + n),
          center(product + n),
          factor(center + n),
          slope(factor + n),
          offset(slope + n),
          low(offset + n),
          rstd(low + n),
          narrow(reinterpret_cast<float*>(rstd + n)),
          wide(rstd + 3 * n) {}
};

}  // namespace fusednorm
