// Half precision: a register of float16 or bfloat16 to float and back, in hardware where there is, with the same bits in
// software where not.
#pragma once
#include "lanes.hpp"

// What takes many instructions is not repeated in every loop.
#if defined(__AVX512F__)
#define FUSEDNORM_SOFTWARE FUSEDNORM_INLINE
#else
#define FUSEDNORM_SOFTWARE __attribute__((noinline))
#endif

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// IEEE binary16, and the upper half of a float.
struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

template <class A, int N>
using Vector = typename VectorOf<A, N* static_cast<int>(sizeof(A))>::type;

template <int N>
FUSEDNORM_SOFTWARE Vector<float, N> half_to_float_in_software(const Vector<uint16_t, N>& half) {
    using F = Vector<float, N>;
    using U = Vector<uint32_t, N>;
    const U wide = convert_part<U>(half);
    // The exponent's bias differs by 112; the product is exact, for subnormal numbers too.
    const U size = reinterpret_cast<U>(reinterpret_cast<F>((wide & 0x7fff) << 13) * 0x1p112f);
    const U special = reinterpret_cast<U>((wide & 0x7c00) == 0x7c00);
    const U nan = special & reinterpret_cast<U>((wide & 0x3ff) != 0);
    return reinterpret_cast<F>(size | (special & 0x7f800000) | (nan & 0x00400000) | ((wide & 0x8000) << 16));
}

template <int N>
FUSEDNORM_INLINE Vector<float, N> half_to_float(const Vector<uint16_t, N>& half) {
#if defined(__AVX512F__)
    if constexpr (N == 16)
        return reinterpret_cast<Vector<float, 16>>(_mm512_maskz_cvtph_ps(0xffff, reinterpret_cast<__m256i>(half)));
#endif
#if defined(__F16C__)
    if constexpr (N == 8) return reinterpret_cast<Vector<float, 8>>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(half)));
    if constexpr (N == 4) {
        long long bits;
        __builtin_memcpy(&bits, &half, sizeof bits);
        return reinterpret_cast<Vector<float, 4>>(_mm_cvtph_ps(_mm_cvtsi64_si128(bits)));
    }
#endif
    return half_to_float_in_software<N>(half);
}

template <int N>
FUSEDNORM_INLINE Vector<float, N> bfloat_to_float(const Vector<uint16_t, N>& value) {
#if defined(__AVX512F__)
    if constexpr (N == 16) {  // by one permutation
        const auto wide = __builtin_shufflevector(value, value, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, -1, -1,
                                                  -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
        const Vector<uint16_t, 2 * N> from = {0, 0, 1, 1, 2,  2,  3,  3,  4,  4,  5,  5,  6,  6,  7,  7,
                                              8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15};
        return reinterpret_cast<Vector<float, N>>(
            _mm512_maskz_permutexvar_epi16(0xaaaaaaaa, reinterpret_cast<__m512i>(from), reinterpret_cast<__m512i>(wide)));
    }
#endif
    return reinterpret_cast<Vector<float, N>>(convert_part<Vector<uint32_t, N>>(value) << 16);
}

// ---- rounded once, to the nearest, ties to even

template <int N>
FUSEDNORM_SOFTWARE Vector<uint16_t, N> float_to_half_in_software(const Vector<float, N>& value) {
    using F = Vector<float, N>;
    using U = Vector<uint32_t, N>;
    const U bits = reinterpret_cast<U>(value), size = bits & 0x7fffffff;
    const U normal = (size + (((15u - 127u) << 23) + 0xfff) + ((size >> 13) & 1)) >> 13;
    // Below the smallest normal number, adding 0.5 rounds to a multiple of the smallest subnormal one.
    const U small = reinterpret_cast<U>(reinterpret_cast<F>(size) + 0.5f) - 0x3f000000;
    const U special = size > 0x7f800000 ? 0x7e00 | ((size >> 13) & 0x3ff) : U{} + 0x7c00;
    const U finite = size < 113u << 23 ? small : normal;
    const U half = size >= 143u << 23 ? special : finite;
    return convert_part<Vector<uint16_t, N>>(half | ((bits >> 16) & 0x8000));
}

template <int N>
FUSEDNORM_INLINE Vector<uint16_t, N> float_to_half(const Vector<float, N>& value) {
#if defined(__AVX512F__)
    if constexpr (N == 16)
        return reinterpret_cast<Vector<uint16_t, 16>>(_mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(value), 0));
#endif
#if defined(__F16C__)
    if constexpr (N == 8) return reinterpret_cast<Vector<uint16_t, 8>>(_mm256_cvtps_ph(reinterpret_cast<__m256>(value), 0));
    if constexpr (N == 4) {
        const long long bits = _mm_cvtsi128_si64(_mm_cvtps_ph(reinterpret_cast<__m128>(value), 0));
        Vector<uint16_t, 4> half;
        __builtin_memcpy(&half, &bits, sizeof half);
        return half;
    }
#endif
    return float_to_half_in_software<N>(value);
}

// In the lower half of each lane; the upper one is 0.
template <int N>
FUSEDNORM_INLINE Vector<uint32_t, N> bfloat_bits_of_number(const Vector<float, N>& value) {
    const auto bits = reinterpret_cast<Vector<uint32_t, N>>(value);
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// Every NaN becomes the same one, as in torch: 1.1 times as fast with AVX2 as keeping what is in it.
template <int N>
FUSEDNORM_INLINE Vector<uint32_t, N> bfloat_bits(const Vector<float, N>& value) {
    return value != value ? Vector<uint32_t, N>{} + 0x7fc0 : bfloat_bits_of_number<N>(value);
}

template <int N>
FUSEDNORM_INLINE Vector<uint16_t, N> float_to_bfloat(const Vector<float, N>& value) {
#if defined(__AVX512F__)
    if constexpr (N == 16) {
        // The table makes any NaN (its first two entries) the first operand, and leaves what else there is.
        const __m512 one_nan = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000));
        using Bits = Vector<uint32_t, N>;
        const auto bits = reinterpret_cast<Bits>(
            _mm512_fixupimm_ps(one_nan, reinterpret_cast<__m512>(value), _mm512_set1_epi32(0x11111100), 0));
        // One is added by a mask of the odd ones: eval 1.08 times as fast as with shifts.
        const __mmask16 odd = _mm512_test_epi32_mask(reinterpret_cast<__m512i>(bits), _mm512_set1_epi32(0x10000));
        const auto sum = reinterpret_cast<__m512i>(bits + 0x7fff);
        const auto upper =
            reinterpret_cast<Vector<uint16_t, 2 * N>>(_mm512_mask_add_epi32(sum, odd, sum, _mm512_set1_epi32(1)));
        return __builtin_shufflevector(upper, upper, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    }
#endif
    return convert_part<Vector<uint16_t, N>>(bfloat_bits<N>(value));
}

// ---- double to half precision, by way of float

// Rounded to odd: toward zero, with the last bit set where something was lost. Rounding that to fewer bits is rounding once.
template <int N>
FUSEDNORM_SOFTWARE Vector<float, N> round_to_odd(const Vector<double, N>& value) {
#if defined(__AVX512F__)
    if constexpr (N == 8) {
        const auto wide = reinterpret_cast<__m512d>(value);
        const __m256 cut = _mm512_maskz_cvt_roundpd_ps(0xff, wide, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
        const __mmask8 inexact = _mm512_cmp_pd_mask(_mm512_maskz_cvtps_pd(0xff, cut), wide, _CMP_NEQ_UQ);
        const __m256i bits = _mm256_castps_si256(cut);
        return reinterpret_cast<Vector<float, N>>(_mm256_mask_or_epi32(bits, inexact, bits, _mm256_set1_epi32(1)));
    }
#endif
    using U = Vector<uint32_t, N>;
    using U64 = Vector<uint64_t, N>;
    const auto nearest = convert_part<Vector<float, N>>(value);
    const auto back = convert_part<Vector<double, N>>(nearest);
    const U64 size = reinterpret_cast<U64>(value) & ~(uint64_t{1} << 63),
              back_size = reinterpret_cast<U64>(back) & ~(uint64_t{1} << 63);
    const U beyond = convert_part<U>(reinterpret_cast<U64>(back_size > size));
    const U inexact = convert_part<U>(reinterpret_cast<U64>(back_size != size));
    return reinterpret_cast<Vector<float, N>>((reinterpret_cast<U>(nearest) + beyond) | (inexact & 1));
}

template <class V, size_t... I>
FUSEDNORM_INLINE auto joined(const V& a, const V& b, std::index_sequence<I...>) {
#if defined(__AVX2__)
    if constexpr (sizeof(V) == 16)  // GCC 12 copies a first
        return reinterpret_cast<VectorOf<float, 32>::type>(
            _mm256_insertf128_ps(_mm256_castps128_ps256(reinterpret_cast<__m128>(a)), reinterpret_cast<__m128>(b), 1));
#endif
    return __builtin_shufflevector(a, b, static_cast<int>(I)...);
}

template <class F>
FUSEDNORM_INLINE Lanes<float> narrowed(const Lanes<double>& a, F narrow) {
    Lanes<float> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<float>::kParts; ++i)
        r.part[i] = joined(narrow(a.part[2 * i]), narrow(a.part[2 * i + 1]), std::make_index_sequence<Lanes<float>::kWidth>());
    return r;
}

// Lanes that rounding to T turns into the numbers nearest to a. The nearest floats are, unless one lies halfway between two
// neighbours in T: it may have been rounded there.
template <class T>
FUSEDNORM_INLINE Lanes<float> roundable(const Lanes<double>& a) {
    using Part = Lanes<double>::Part;
    using I = VectorOf<int32_t, kBytes>::type;
    constexpr int kWidth = Lanes<double>::kWidth;
    const Lanes<float> nearest =
        narrowed(a, [](const Part& part) __attribute__((always_inline)) { return convert_part<Vector<float, kWidth>>(part); });
    I halfway{};
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<float>::kParts; ++i) {
        const I bits = reinterpret_cast<I>(nearest.part[i]);
        if constexpr (std::is_same_v<T, bf16>) {
            halfway |= (bits & 0xffff) == 0x8000;
        } else {  // or is not normal in T
            const auto size = reinterpret_cast<Lanes<float>::Part>(bits & INT32_MAX);
            halfway |= ((bits & 0x1fff) == 0x1000) | ((size < 0x1p-14f) & (size != 0.0f));
        }
    }
    if (__builtin_expect(!is_any(halfway), 1)) return nearest;
    return narrowed(a, [](const Part& part) __attribute__((always_inline)) { return round_to_odd<kWidth>(part); });
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
