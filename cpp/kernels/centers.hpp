// What a block subtracts from its values before they are summed: d = x - K. K is 0 or the block's first value, and where
// neither is within sixteen standard deviations of the mean, what the sums then say the mean is: so the cancellation in
// sum(d*d) - sum(d)^2 / n costs at most 8 bits, whatever the offset and whatever the first value.
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

// With fewer rows, choosing takes as long as it spares.
constexpr int64_t kLeastRowsChosen = 64;

// sum += a * a
template <bool Plain>
FUSEDNORM_INLINE void add_square(Doubles& sum, const Doubles& a) {
    if constexpr (Plain) {
        add_exact_product(sum, a, a);
    } else {
        sum += a * a;
    }
}

// Returns whether the center of a block's sums was near enough to its mean for the sums to be exact: see kNear.
template <class V>
FUSEDNORM_INLINE auto is_near(const V& sum, const V& squares, double n) {
    return is_at_most(sum * sum * (kNear + 1), squares * (n * kNear));
}

// Returns whether all sixteen blocks were summed near their means, and no sum left the range of doubles.
template <class V>
FUSEDNORM_INLINE bool are_near(const V& sums, const V& squares, double n) {
    const V zero = squares - squares;  // NaN beyond the range
    return sum(select(is_near(sums, squares, n), zero, V{} + 1.0)) == 0;
}

// Returns the center to sum n values around once more, after sums around k (Narrow: not doubles); k itself where it was near.
// The first value comes before the mean, since it is exact: a constant has no variance. Not inlined: every type's loops would
// repeat it.
template <bool Narrow, class V>
__attribute__((noinline)) V next_center(const V& k, const V& first, const V& sum, const V& squares, double n) {
    const V zero{}, mean = k + sum / n;
    const auto is_zero = [&](const V& a) __attribute__((always_inline)) { return is_at_most(absolute(a), zero); };
    const auto in_range = is_finite(squares);
    const V from_zero = select(in_range, select(is_zero(first), mean, first), k);
    // Values near both ends of a double's range may have a sum around 0 alone. Others are infinite if their sum is, or NaN.
    const V from_other = select(is_finite(sum), select(is_finite(mean), mean, k), Narrow ? k : zero);
    const V next = select(is_zero(k), from_zero, from_other);
    return select(in_range, select(is_near(sum, squares, n), k, next), next);
}
constexpr int kMostCenters = 3;  // 0, the first value, the mean

// Guesses from a few values whether sums around 0 will be near: that spares reading the block twice.
template <class V, class... Others>
FUSEDNORM_INLINE auto looks_near(const V& first, const Others&... others) {
    return is_at_most(absolute(first), (absolute(others - first) + ...) * 8.0);
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
