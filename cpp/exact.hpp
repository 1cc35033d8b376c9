// The exact moments of small integers: while they are gathered, moments stand for sums (see kernels/sums.hpp).
#pragma once
#include "kernels/kernels.hpp"

namespace fusednorm {

// a becomes the sums of a and b, n times.
void add_sums(Moments a, Moments b, int64_t n);
// out[i] becomes the sums of in[i * per ... i * per + per).
void pool_sums(Moments in, int64_t per, Moments out, int64_t n);
// The sums of `count` values become their moments, each number rounded as few times as its formula has steps.
void close_sums(Moments m, int64_t n, int64_t count, bool centered);

}  // namespace fusednorm
