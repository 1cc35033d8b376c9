// The running state of one statistic, and the merge of two: what travels between batches, processes and machines.
// Each number is two doubles, a value and what its rounding left, so that neither the number of merges nor their order
// costs digits, and counts beyond 2^53 stay exact. No array and no Python here.
#pragma once
#include <cmath>

namespace fusednorm {

struct Pair {
    double value, low;
};

// _core.pooled and _core.merge show it to Python as six float64 along the last axis.
struct State {
    Pair count, mean, m2;
};
constexpr int kStateValues = sizeof(State) / sizeof(double);

// a + b (Knuth 1969: the error of an addition is a double). Infinities leave no rest.
inline Pair sum_of(Pair a, Pair b) {
    const double sum = a.value + b.value, part = sum - a.value;
    if (!std::isfinite(sum)) return {sum, 0};
    const double rest = (a.low + b.low) + ((a.value - (sum - part)) + (b.value - part));
    const double rounded = sum + rest;
    return {rounded, rest - (rounded - sum)};
}

// Chan, Golub and LeVeque 1979.
inline State merged(const State& a, const State& b) {
    if (!(b.count.value > 0)) return a;
    if (!(a.count.value > 0)) return b;
    const Pair count = sum_of(a.count, b.count);
    const double part = b.count.value / count.value;
    const double delta = (b.mean.value - a.mean.value) + (b.mean.low - a.mean.low);
    State r{count, sum_of(a.mean, {delta * part, 0}), sum_of(sum_of(a.m2, b.m2), {delta * delta * (a.count.value * part), 0})};
    // An infinite value leaves a mean that no difference may be taken of.
    if (!std::isfinite(delta)) r.mean = {a.mean.value * (1 - part) + b.mean.value * part, 0};
    return r;
}

}  // namespace fusednorm
