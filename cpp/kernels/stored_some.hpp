// The first n values of a register's worth, and no byte past them; n below 0 means none, n above its width all, 16 the most.
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
// Lanes below n have all bits on; n <= 16, and may be below 0. Read from memory, since comparisons take longer: a tail of
// sixteen doubles has eight masks.
alignas(64) constexpr int32_t kMasks[3 * kLanes] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
FUSEDNORM_INLINE const int32_t* mask_at(int64_t n) { return kMasks + kLanes - n; }
FUSEDNORM_INLINE __m256i mask_of_4(int64_t n) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask_at(n))); }
FUSEDNORM_INLINE __m256i mask_of_8(int64_t n) {
    return _mm256_cvtepi32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(mask_at(n))));
}
#endif

template <class R, class T>
FUSEDNORM_SOFTWARE R load_one_by_one(const T* p, int64_t n) {
    constexpr int kWidth = static_cast<int>(sizeof(R) / sizeof(T));
    const int64_t count = n < 0 ? 0 : n < kWidth ? n : kWidth;
    BitsOf<T> buffer[kWidth] = {};
    FUSEDNORM_LANES_LOOP
    for (int64_t i = 0; i < count; ++i) __builtin_memcpy(buffer + i, p + i, sizeof(T));
    R raw;
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
FUSEDNORM_INLINE R load_part_some(const T* p, int64_t n) {
    [[maybe_unused]] constexpr int kWidth = static_cast<int>(sizeof(R) / sizeof(T));
#if defined(__AVX512F__)
    const auto mask = mask_of<kWidth>(n);
    if constexpr (sizeof(R) == 64 && sizeof(T) == 4)
        return reinterpret_cast<R>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p));
    if constexpr (sizeof(R) == 64 && sizeof(T) == 8)
        return reinterpret_cast<R>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p));
    if constexpr (sizeof(R) == 32 && sizeof(T) == 4)
        return reinterpret_cast<R>(_mm256_maskz_loadu_ps(static_cast<__mmask8>(mask), p));
    if constexpr (sizeof(R) == 32 && sizeof(T) == 2)
        return reinterpret_cast<R>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p));
    if constexpr (sizeof(R) == 16 && sizeof(T) == 2)
        return reinterpret_cast<R>(_mm_maskz_loadu_epi16(static_cast<__mmask8>(mask), p));
    if constexpr (sizeof(R) == 16 && sizeof(T) == 1)
        return reinterpret_cast<R>(_mm_maskz_loadu_epi8(static_cast<__mmask16>(mask), p));
#elif defined(__AVX2__)
    if constexpr (sizeof(R) == 32 && sizeof(T) == 4)
        return reinterpret_cast<R>(_mm256_maskload_ps(reinterpret_cast<const float*>(p), mask_of_4(n)));
    if constexpr (sizeof(R) == 32 && sizeof(T) == 8)
        return reinterpret_cast<R>(_mm256_maskload_pd(reinterpret_cast<const double*>(p), mask_of_8(n)));
    if constexpr (sizeof(R) == 16 && sizeof(T) == 4)
        return reinterpret_cast<R>(_mm_maskload_ps(reinterpret_cast<const float*>(p), _mm256_castsi256_si128(mask_of_4(n))));
#endif
    return load_one_by_one<R>(p, n);
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

// Register i of what a loop's body reads: of whole lanes, or of the first n <= 16 values. A body of several sums that takes one
// register of everything after the other needs few at once: a sum that has none waits for its own store.
template <class A>
struct AllLanes {
    template <class T>
    FUSEDNORM_INLINE typename Lanes<A>::Part operator()(const T* p, int i) const {
        return load_part<A>(p, i);
    }
};
template <class A>
struct FirstLanes {
    int64_t n;
    template <class T>
    FUSEDNORM_INLINE typename Lanes<A>::Part operator()(const T* p, int i) const {
        constexpr int width = Lanes<A>::kWidth;
        return decode<T, A, width>(load_part_some<Raw<T, width>>(p + i * width, n - i * width));
    }
};

// The first n values of p; the other lanes are 0. No byte past p(n) is touched.
template <class A, class T>
FUSEDNORM_INLINE Lanes<A> load_some(const T* p, int64_t n) {
    Lanes<A> r;
    if (n > kLanes) n = kLanes;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<A>::kParts; ++i) r.part[i] = FirstLanes<A>{n}(p, i);
    return r;
}

template <class T, class A>
FUSEDNORM_INLINE void store_some(T* p, const Lanes<A>& a, int64_t n) {
    const auto& value = encodable<T>(a);
    using L = std::decay_t<decltype(value)>;
    if (n > kLanes) n = kLanes;
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

// One stored value as a double.
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
