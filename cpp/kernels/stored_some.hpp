// The first n values of a register's worth, and no byte past them; n below 0 means none, n above its width all.
#pragma once
#include "stored.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

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
    const auto& value = encodable<T>(a);
    using L = std::decay_t<decltype(value)>;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < L::kParts; ++i)
        store_part_some(p + i * L::kWidth, encode<T, typename L::Value, L::kWidth>(value.part[i]), n - i * L::kWidth);
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

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
