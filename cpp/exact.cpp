// Integer arithmetic on sums. See exact.hpp.
#include "exact.hpp"

#include <cmath>

namespace fusednorm {
namespace {

__extension__ using Wide = __int128;

}  // namespace

void add_sums(Moments a, Moments b, int64_t n) {
    for (int64_t i = 0; i < n; ++i) a.mean[i] += b.mean[i], a.low[i] += b.low[i], a.m2[i] += b.m2[i];
}

void pool_sums(Moments in, int64_t per, Moments out, int64_t n) {
    for (int64_t i = 0; i < n; ++i, in = in + per) {
        out.mean[i] = in.mean[0], out.low[i] = in.low[0], out.m2[i] = in.m2[0];
        for (int64_t j = 1; j < per; ++j) add_sums(out + i, in + j, 1);
    }
}

void close_sums(Moments m, int64_t n, int64_t count, bool centered) {
    const double values = static_cast<double>(count);
    for (int64_t i = 0; i < n; ++i) {
        const Wide sum = static_cast<int64_t>(m.mean[i]);
        const Wide squares = (Wide{static_cast<int64_t>(m.low[i])} << 32) + static_cast<int64_t>(m.m2[i]);
        if (centered) {
            const double mean = m.mean[i] / values;
            m.low[i] = std::fma(-mean, values, m.mean[i]) / values;
            m.mean[i] = mean;
            m.m2[i] = static_cast<double>(squares * count - sum * sum) / values;
        } else {
            m.mean[i] = m.low[i] = 0;
            m.m2[i] = static_cast<double>(squares);
        }
    }
}

}  // namespace fusednorm
