// How stored values become lanes, and lanes stored values: whole, in part, past the caches. A dtype is what decode and
// encode say, and a line in the lists of kernels.cpp.
#pragma once
#include "half.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

template <class T>
constexpr bool is_half = std::is_same_v<T, f16> || std::is_same_v<T, bf16>;
template <class T>
using BitsOf = std::conditional_t<is_half<T>, uint16_t, T>;
template <class T, int N>
using Raw = Vector<BitsOf<T>, N>;

// ---- decode: N stored values as a register of A

template <class T, int N>
FUSEDNORM_INLINE Vector<int32_t, N> widen_integers(const Vector<T, N>& raw) {
#if defined(__AVX512F__)
    if constexpr (N == 16) {
        using V = Vector<int32_t, 16>;
        if constexpr (std::is_same_v<T, uint8_t>)
            return reinterpret_cast<V>(_mm512_maskz_cvtepu8_epi32(0xffff, reinterpret_cast<__m128i>(raw)));
        if constexpr (std::is_same_v<T, int8_t>)
            return reinterpret_cast<V>(_mm512_maskz_cvtepi8_epi32(0xffff, reinterpret_cast<__m128i>(raw)));
        if constexpr (std::is_same_v<T, uint16_t>)
            return reinterpret_cast<V>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(raw)));
        if constexpr (std::is_same_v<T, int16_t>)
            return reinterpret_cast<V>(_mm512_maskz_cvtepi16_epi32(0xffff, reinterpret_cast<__m256i>(raw)));
    }
#endif
#if defined(__AVX2__)
    if constexpr (N == 8 || N == 4) {
        using V = Vector<int32_t, N>;
        __m128i low = _mm_setzero_si128();
        __builtin_memcpy(&low, &raw, sizeof raw);
        const auto widened = [low](auto eight, auto four) __attribute__((always_inline)) {
            if constexpr (N == 8) {
                return reinterpret_cast<V>(eight(low));
            } else {
                return reinterpret_cast<V>(four(low));
            }
        };
        if constexpr (std::is_same_v<T, uint8_t>) return widened(_mm256_cvtepu8_epi32, _mm_cvtepu8_epi32);
        if constexpr (std::is_same_v<T, int8_t>) return widened(_mm256_cvtepi8_epi32, _mm_cvtepi8_epi32);
        if constexpr (std::is_same_v<T, uint16_t>) return widened(_mm256_cvtepu16_epi32, _mm_cvtepu16_epi32);
        if constexpr (std::is_same_v<T, int16_t>) return widened(_mm256_cvtepi16_epi32, _mm_cvtepi16_epi32);
    }
#endif
    return __builtin_convertvector(raw, Vector<int32_t, N>);
}

template <class T, class A, int N>
FUSEDNORM_INLINE Vector<A, N> decode(const Raw<T, N>& raw) {
    if constexpr (std::is_same_v<T, f16>) {
        return convert_part<Vector<A, N>>(half_to_float<N>(raw));
    } else if constexpr (std::is_same_v<T, bf16>) {
        return convert_part<Vector<A, N>>(bfloat_to_float<N>(raw));
    } else if constexpr (std::is_integral_v<T> && sizeof(T) <= 2 && !std::is_same_v<A, T>) {
        return convert_part<Vector<A, N>>(widen_integers<T, N>(raw));
    } else {
        return convert_part<Vector<A, N>>(raw);
    }
}

// ---- encode: a register of A as N stored values, rounded once

template <class T, class A, int N>
FUSEDNORM_INLINE Raw<T, N> encode(const Vector<A, N>& value) {
    if constexpr (is_half<T> && std::is_same_v<A, double>) {
        return encode<T, float, N>(round_to_odd<N>(value));
    } else if constexpr (std::is_same_v<T, f16>) {
        return float_to_half<N>(value);
    } else if constexpr (std::is_same_v<T, bf16>) {
        return float_to_bfloat<N>(value);
    } else {
        return convert_part<Raw<T, N>>(value);
    }
}

// How far ahead of a sum its values are asked for. The processor's own prefetching reached 0.65 of the memory's speed
// (moments of 38 MB, two cores), this 1.0.
constexpr int64_t kPrefetchBytes = 2048;

// ---- whole lanes, any alignment

template <class A, class T>
FUSEDNORM_INLINE Lanes<A> load(const T* p) {
    using L = Lanes<A>;
    L r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < L::kParts; ++i) {
        Raw<T, L::kWidth> raw;
        __builtin_memcpy(&raw, p + i * L::kWidth, sizeof raw);
        r.part[i] = decode<T, A, L::kWidth>(raw);
    }
    return r;
}

template <class T, class A>
FUSEDNORM_INLINE void store(T* p, const Lanes<A>& a) {
    using L = Lanes<A>;
#if defined(__AVX2__) && !defined(__AVX512F__)
    // Two registers become one at once.
    if constexpr (std::is_same_v<T, bf16> && std::is_same_v<A, float>) {
        const __m256i pairs = _mm256_packus_epi32(reinterpret_cast<__m256i>(bfloat_bits<L::kWidth>(a.part[0])),
                                                  reinterpret_cast<__m256i>(bfloat_bits<L::kWidth>(a.part[1])));
        return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(pairs, 0xd8));
    }
#endif
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < L::kParts; ++i) {
        const Raw<T, L::kWidth> raw = encode<T, A, L::kWidth>(a.part[i]);
        __builtin_memcpy(p + i * L::kWidth, &raw, sizeof raw);
    }
}

// ---- the first n values of a register's worth; n below 0 means none, n above its width all

#if defined(__AVX512F__)
template <int Width>
FUSEDNORM_INLINE uint32_t mask_of(int64_t n) {
    return n >= Width ? (1u << Width) - 1 : n <= 0 ? 0 : (1u << n) - 1;
}
#elif defined(__AVX2__)
// Lanes below n have all bits on.
FUSEDNORM_INLINE __m256i mask_of_4(int64_t n) {
    const int count = n > 8 ? 8 : n < 0 ? 0 : static_cast<int>(n);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FUSEDNORM_INLINE __m256i mask_of_8(int64_t n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
#endif

template <class R, class T>
FUSEDNORM_SOFTWARE R load_one_by_one(const T* p, int64_t n, R raw) {
    constexpr int kWidth = static_cast<int>(sizeof(R) / sizeof(T));
    const int64_t count = n < 0 ? 0 : n < kWidth ? n : kWidth;
    BitsOf<T> buffer[kWidth];
    __builtin_memcpy(buffer, &raw, sizeof buffer);
    FUSEDNORM_LANES_LOOP
    for (int64_t i = 0; i < count; ++i) __builtin_memcpy(buffer + i, p + i, sizeof(T));
    __builtin_memcpy(&raw, buffer, sizeof raw);
    return raw;
}

template <class R, class T>
FUSEDNORM_SOFTWARE void store_one_by_one(T* p, const R& raw, int64_t n) {
    constexpr int kWidth = static_cast<int>(sizeof(R) / sizeof(T));
    const int64_t count = n < 0 ? 0 : n < kWidth ? n : kWidth;
    FUSEDNORM_LANES_LOOP
    for (int64_t i = 0; i < count; ++i) {
        const BitsOf<T> one = raw[i];
        __builtin_memcpy(p + i, &one, sizeof one);
    }
}

template <class R, class T>
FUSEDNORM_INLINE R load_part_some(const T* p, int64_t n, BitsOf<T> fill) {
    [[maybe_unused]] constexpr int kWidth = static_cast<int>(sizeof(R) / sizeof(T));
    const R rest = fill - R{};
#if defined(__AVX512F__)
    const auto mask = mask_of<kWidth>(n);
    if constexpr (sizeof(R) == 64 && sizeof(T) == 4)
        return reinterpret_cast<R>(_mm512_mask_loadu_ps(reinterpret_cast<__m512>(rest), static_cast<__mmask16>(mask), p));
    if constexpr (sizeof(R) == 64 && sizeof(T) == 8)
        return reinterpret_cast<R>(_mm512_mask_loadu_pd(reinterpret_cast<__m512d>(rest), static_cast<__mmask8>(mask), p));
    if constexpr (sizeof(R) == 32 && sizeof(T) == 4)
        return reinterpret_cast<R>(_mm256_mask_loadu_ps(reinterpret_cast<__m256>(rest), static_cast<__mmask8>(mask), p));
    if constexpr (sizeof(R) == 32 && sizeof(T) == 2)
        return reinterpret_cast<R>(_mm256_mask_loadu_epi16(reinterpret_cast<__m256i>(rest), static_cast<__mmask16>(mask), p));
    if constexpr (sizeof(R) == 16 && sizeof(T) == 2)
        return reinterpret_cast<R>(_mm_mask_loadu_epi16(reinterpret_cast<__m128i>(rest), static_cast<__mmask8>(mask), p));
    if constexpr (sizeof(R) == 16 && sizeof(T) == 1)
        return reinterpret_cast<R>(_mm_mask_loadu_epi8(reinterpret_cast<__m128i>(rest), static_cast<__mmask16>(mask), p));
#elif defined(__AVX2__)
    if constexpr (sizeof(R) == 32 && sizeof(T) == 4) {
        const __m256i mask = mask_of_4(n);
        return reinterpret_cast<R>(_mm256_blendv_ps(reinterpret_cast<__m256>(rest),
                                                    _mm256_maskload_ps(reinterpret_cast<const float*>(p), mask),
                                                    _mm256_castsi256_ps(mask)));
    }
    if constexpr (sizeof(R) == 32 && sizeof(T) == 8) {
        const __m256i mask = mask_of_8(n);
        return reinterpret_cast<R>(_mm256_blendv_pd(reinterpret_cast<__m256d>(rest),
                                                    _mm256_maskload_pd(reinterpret_cast<const double*>(p), mask),
                                                    _mm256_castsi256_pd(mask)));
    }
    if constexpr (sizeof(R) == 16 && sizeof(T) == 4) {
        const __m128i mask = _mm256_castsi256_si128(mask_of_4(n));
        return reinterpret_cast<R>(_mm_blendv_ps(
            reinterpret_cast<__m128>(rest), _mm_maskload_ps(reinterpret_cast<const float*>(p), mask), _mm_castsi128_ps(mask)));
    }
#endif
    return load_one_by_one<R>(p, n, rest);
}

template <class R, class T>
FUSEDNORM_INLINE void store_part_some(T* p, const R& raw, int64_t n) {
    [[maybe_unused]] constexpr int kWidth = static_cast<int>(sizeof(R) / sizeof(T));
#if defined(__AVX512F__)
    const auto mask = mask_of<kWidth>(n);
    if constexpr (sizeof(R) == 64 && sizeof(T) == 4)
        return _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), reinterpret_cast<__m512>(raw));
    if constexpr (sizeof(R) == 64 && sizeof(T) == 8)
        return _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), reinterpret_cast<__m512d>(raw));
    if constexpr (sizeof(R) == 32 && sizeof(T) == 4)
        return _mm256_mask_storeu_ps(p, static_cast<__mmask8>(mask), reinterpret_cast<__m256>(raw));
    if constexpr (sizeof(R) == 32 && sizeof(T) == 2)
        return _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(mask), reinterpret_cast<__m256i>(raw));
    if constexpr (sizeof(R) == 16 && sizeof(T) == 2)
        return _mm_mask_storeu_epi16(p, static_cast<__mmask8>(mask), reinterpret_cast<__m128i>(raw));
#elif defined(__AVX2__)
    if constexpr (sizeof(R) == 32 && sizeof(T) == 4)
        return _mm256_maskstore_ps(reinterpret_cast<float*>(p), mask_of_4(n), reinterpret_cast<__m256>(raw));
    if constexpr (sizeof(R) == 32 && sizeof(T) == 8)
        return _mm256_maskstore_pd(reinterpret_cast<double*>(p), mask_of_8(n), reinterpret_cast<__m256d>(raw));
    if constexpr (sizeof(R) == 16 && sizeof(T) == 4)
        return _mm_maskstore_ps(reinterpret_cast<float*>(p), _mm256_castsi256_si128(mask_of_4(n)),
                                reinterpret_cast<__m128>(raw));
#endif
    store_one_by_one(p, raw, n);
}

// Whether a part of a register is stored nearly as fast as all of it, as AVX2 does not (Zen 3). Nor does the baseline, which is
// a fifth of the module already.
constexpr bool kMasks = kBytes != 32;

// The first n < 16 values of p; the other lanes are fill. No byte past p(n) is touched.
template <class A, class T>
FUSEDNORM_INLINE Lanes<A> load_some(const T* p, int64_t n, BitsOf<T> fill = 0) {
    using L = Lanes<A>;
    L r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < L::kParts; ++i)
        r.part[i] = decode<T, A, L::kWidth>(load_part_some<Raw<T, L::kWidth>>(p + i * L::kWidth, n - i * L::kWidth, fill));
    return r;
}

template <class T, class A>
FUSEDNORM_INLINE void store_some(T* p, const Lanes<A>& a, int64_t n) {
    using L = Lanes<A>;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < L::kParts; ++i)
        store_part_some(p + i * L::kWidth, encode<T, A, L::kWidth>(a.part[i]), n - i * L::kWidth);
}

// The same, but not repeated in every loop where it takes many instructions.
template <class T, class A>
constexpr bool kFewInline = kBytes == 64 || (kBytes == 32 && std::is_same_v<T, float> && std::is_same_v<A, float>);

template <class A, class T>
__attribute__((noinline)) Lanes<A> load_few_apart(const T* p, int64_t n) {
    return load_some<A>(p, n);
}
template <class A, class T>
FUSEDNORM_INLINE Lanes<A> load_few(const T* p, int64_t n) {
    if constexpr (kFewInline<T, A>) return load_some<A>(p, n);
    return load_few_apart<A>(p, n);
}

template <class T, class A>
__attribute__((noinline)) void store_few_apart(T* p, const Lanes<A>& a, int64_t n) {
    store_some(p, a, n);
}
template <class T, class A>
FUSEDNORM_INLINE void store_few(T* p, const Lanes<A>& a, int64_t n) {
    if constexpr (kFewInline<T, A>) return store_some(p, a, n);
    store_few_apart(p, a, n);
}

// One value.
template <class T>
FUSEDNORM_INLINE double as_double(const T& value) {
    if constexpr (is_half<T>) {
        constexpr int width = Lanes<double>::kWidth;
        return decode<T, double, width>(Raw<T, width>{value.bits})[0];
    } else {
        return static_cast<double>(value);
    }
}

// ---- past the caches

// Whether loops have a second form that streams. Not where it would store as the first does (Arm), nor in the baseline: it is
// a third of the whole module already.
constexpr bool kStreams = kBytes > 16;

// A line of the caches, and what is streamed at once: whole lines, and sixteen values at least.
constexpr int64_t kLineBytes = 64;
template <class T>
constexpr int64_t line_values =
    kLineBytes / static_cast<int64_t>(sizeof(T)) < kLanes ? kLanes : kLineBytes / static_cast<int64_t>(sizeof(T));

template <class R>
FUSEDNORM_INLINE void stream_part(void* p, const R& raw) {
#if defined(__AVX512F__)
    if constexpr (sizeof raw == 64) return _mm512_stream_si512(static_cast<__m512i*>(p), reinterpret_cast<__m512i>(raw));
#endif
#if defined(__AVX2__)
    if constexpr (sizeof raw == 32) return _mm256_stream_si256(static_cast<__m256i*>(p), reinterpret_cast<__m256i>(raw));
#endif
#if defined(__x86_64__)
    if constexpr (sizeof raw == 16) return _mm_stream_si128(static_cast<__m128i*>(p), reinterpret_cast<__m128i>(raw));
    if constexpr (sizeof raw == 8) return _mm_stream_si64(static_cast<long long*>(p), reinterpret_cast<long long>(raw));
#endif
    __builtin_memcpy(p, &raw, sizeof raw);
}

// p lies on a line's boundary, or sixteen values from it.
template <class T, class A>
FUSEDNORM_INLINE void stream(T* p, const Lanes<A>& a) {
    using L = Lanes<A>;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < L::kParts; ++i) stream_part(p + i * L::kWidth, encode<T, A, L::kWidth>(a.part[i]));
}

// line_values<T> of them.
template <class T>
FUSEDNORM_INLINE void stream_line(T* p, const T* values) {
    using Part = Vector<uint8_t, kBytes>;
    FUSEDNORM_LANES_UNROLL
    for (int64_t i = 0; i < line_values<T> * static_cast<int64_t>(sizeof(T)); i += kBytes) {
        Part part;
        __builtin_memcpy(&part, reinterpret_cast<const char*>(values) + i, sizeof part);
        stream_part(reinterpret_cast<char*>(p) + i, part);
    }
}

// After streaming: what was written is seen by whoever sees what follows.
FUSEDNORM_INLINE void stream_fence() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
