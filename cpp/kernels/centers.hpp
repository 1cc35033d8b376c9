// What a block subtracts from its values before they are summed: d = x - K with K one of its own values, or 0 where that is
// near, so the cancellation in sum(d*d) - sum(d)^2 / n is at most n-fold, whatever the offset.
#pragma once
#include "kernels.hpp"
#include "lanes_bits.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// Of values whose products are exact in double the sums are taken around 0 where kNear allows it: a subtraction less, and a
// fused multiply-add, where there is one, that rounds as two operations do. On two cores in cache: moments 1.1 to 1.4 times as
// fast with AVX-512, 1.3 to 1.5 with AVX2. A block's values alone decide.
template <class T>
constexpr bool is_narrow = !std::is_same_v<T, double>;
// Whether loops have a second form for that. The first one gives the same bits: x - 0 is x.
template <class T>
constexpr bool kPlain = is_narrow<T> && kFused;

// With fewer values, choosing takes as long as it spares.
constexpr int64_t kLeastChosen = 256, kLeastRowsChosen = 64;

// sum += a * a
template <bool Plain>
FUSEDNORM_INLINE void add_square(Lanes<double>& sum, const Lanes<double>& a) {
    if constexpr (Plain) {
        add_exact_product(sum, a, a);
    } else {
        sum += a * a;
    }
}

// Whether the sums of n values and of their squares allow it.
template <class V>
FUSEDNORM_INLINE auto is_near(const V& sum, const V& squares, double n) {
    return is_at_most(sum * sum * (kNear + 1), squares * (n * kNear));
}

// Around what to sum again: the first value, where 0 turned out not to be near; else what it was.
template <class V>
FUSEDNORM_INLINE V next_center(const V& k, const V& first, const V& sum, const V& squares, double n) {
    const V nearer = select(is_near(sum, squares, n), k, select(is_finite(first), first, k));
    return select(is_at_most(absolute(k), V{}), nearer, k);
}

// Whether they will, guessed from a few values: it spares reading the block twice.
template <class V, class... Others>
FUSEDNORM_INLINE auto looks_near(const V& first, const Others&... others) {
    return is_at_most(absolute(first), (absolute(others - first) + ...) * 8.0);
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
