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

// Rounding to odd takes few where a register holds four doubles or more.
#if defined(__AVX2__)
#define FUSEDNORM_ODD FUSEDNORM_INLINE
#else
#define FUSEDNORM_ODD __attribute__((noinline))
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
    return convert_part<Vector<uint16_t, N>>(bfloat_bits<N>(value));
}

// ---- double to half precision, by way of float rounded to odd: toward zero, with the last bit set where something was lost.
// Rounding that to fewer bits is rounding once.

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

// The same of numbers in the range of normal floats, or 0, infinite or NaN, in a few operations on integers. tiny: gets bits
// where a number is none of these.
template <int N>
FUSEDNORM_INLINE Vector<float, N> round_normal_to_odd(const Vector<double, N>& value, Vector<int64_t, N>& tiny) {
    using I64 = Vector<int64_t, N>;
    constexpr int64_t kLost = (int64_t{1} << 29) - 1, kLast = kLost + 1, kLeastNormal = int64_t{0x381} << 52;
    const I64 bits = reinterpret_cast<I64>(value), size = bits & INT64_MAX;
    tiny |= (size < kLeastNormal) & (size != 0);
    const I64 odd = (bits & ~kLost) | ((bits & kLost) != 0 ? I64{} + kLast : I64{});
    return convert_part<Vector<float, N>>(reinterpret_cast<Vector<double, N>>(odd));
}

template <class V, size_t... I>
FUSEDNORM_INLINE auto joined(const V& a, const V& b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, static_cast<int>(I)...);
}

// Sixteen at once.
FUSEDNORM_ODD Lanes<float> rounded_to_odd(const Lanes<double>& a) {
    constexpr int kWidth = Lanes<double>::kWidth, kParts = Lanes<double>::kParts;
    Vector<float, kWidth> halves[kParts];
    if constexpr (kBytes == 64) {
        FUSEDNORM_LANES_UNROLL
        for (int i = 0; i < kParts; ++i) halves[i] = round_to_odd<kWidth>(a.part[i]);
    } else {
        Vector<int64_t, kWidth> tiny{};
        FUSEDNORM_LANES_UNROLL
        for (int i = 0; i < kParts; ++i) halves[i] = round_normal_to_odd<kWidth>(a.part[i], tiny);
        if (is_any(tiny)) {
            FUSEDNORM_LANES_LOOP
            for (int i = 0; i < kParts; ++i) halves[i] = round_to_odd<kWidth>(a.part[i]);
        }
    }
    Lanes<float> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<float>::kParts; ++i)
        r.part[i] = joined(halves[2 * i], halves[2 * i + 1], std::make_index_sequence<2 * kWidth>());
    return r;
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
