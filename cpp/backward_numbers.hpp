// The numbers of the channels of one unit of backward.cpp.
#pragma once
#include <algorithm>
#include <cstdint>

namespace fusednorm {

// Sums of grad and of grad * (x - origin), one of each for every channel.
struct Sums {
    double *origin, *plain, *product;

    static int64_t doubles(int64_t channels) { return 3 * channels; }
    Sums(double* memory, int64_t n) : origin(memory), plain(memory + n), product(memory + 2 * n) {}

    void clear(int64_t n) const { std::fill_n(plain, n, 0.0), std::fill_n(product, n, 0.0); }

    void take_in(const Sums& other, int64_t n) const {
        for (int64_t c = 0; c < n; ++c) {
            plain[c] += other.plain[c];
            product[c] += other.product[c];
            // Not where they are equal: 0 times an infinite sum is NaN.
            if (origin[c] != other.origin[c]) product[c] += (other.origin[c] - origin[c]) * other.plain[c];
        }
    }
};

// What one unit's channels have, `channels` numbers each, and its statistics.
struct Numbers {
    Sums sums;
    double *center, *factor, *slope, *offset;
    double *low, *rstd;
    float* narrow;  // center, factor, slope and offset
    double* wide;   // 1: these are not used

    static int64_t doubles(int64_t channels) { return 11 * channels + 1; }
    Numbers(double* memory, int64_t n)
        : sums(memory, n),
          center(memory + Sums::doubles(n)),
          factor(center + n),
          slope(factor + n),
          offset(slope + n),
          low(offset + n),
          rstd(low + n),
          narrow(reinterpret_cast<float*>(rstd + n)),
          wide(rstd + 3 * n) {}
};

}  // namespace fusednorm
