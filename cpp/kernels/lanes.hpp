// The vocabulary of the loops: sixteen lanes of float or double, whatever the instruction set's registers hold.
// Lane i of every operation is the same on each instruction set, which is what makes the bits the same.
// Built on the compiler's vector types. Intrinsics only for what these lack: partial and streaming memory access.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define FUSEDNORM_LANES_UNROLL _Pragma("GCC unroll 16")
#define FUSEDNORM_LANES_LOOP _Pragma("GCC unroll 1")
#define FUSEDNORM_INLINE __attribute__((always_inline)) inline

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

constexpr int kLanes = 16;
#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

template <class A, int Bytes>
struct VectorOf {
    typedef A type __attribute__((vector_size(Bytes)));
};

// One register's values as another type. The compiler's own conversion splits registers where one instruction would do.
template <class To, class From>
FUSEDNORM_INLINE To convert_part(const From& a) {
#if defined(__AVX512F__)
    // maskz with every lane on: GCC 12 warns of the plain forms' undefined lanes.
    if constexpr (std::is_same_v<From, VectorOf<float, 32>::type> && std::is_same_v<To, VectorOf<double, 64>::type>)
        return reinterpret_cast<To>(_mm512_maskz_cvtps_pd(0xff, reinterpret_cast<__m256>(a)));
    if constexpr (std::is_same_v<From, VectorOf<double, 64>::type> && std::is_same_v<To, VectorOf<float, 32>::type>)
        return reinterpret_cast<To>(_mm512_maskz_cvtpd_ps(0xff, reinterpret_cast<__m512d>(a)));
#elif defined(__AVX2__)
    if constexpr (std::is_same_v<From, VectorOf<float, 16>::type> && std::is_same_v<To, VectorOf<double, 32>::type>)
        return reinterpret_cast<To>(_mm256_cvtps_pd(reinterpret_cast<__m128>(a)));
    if constexpr (std::is_same_v<From, VectorOf<double, 32>::type> && std::is_same_v<To, VectorOf<float, 16>::type>)
        return reinterpret_cast<To>(_mm256_cvtpd_ps(reinterpret_cast<__m256d>(a)));
#elif defined(__x86_64__)
    if constexpr (std::is_same_v<From, VectorOf<float, 8>::type> && std::is_same_v<To, VectorOf<double, 16>::type>)
        return reinterpret_cast<To>(_mm_cvtps_pd(_mm_castsi128_ps(_mm_cvtsi64_si128(reinterpret_cast<long long>(a)))));
#endif
    return __builtin_convertvector(a, To);
}

template <class A>
struct Lanes {
    static constexpr int kWidth = kBytes / static_cast<int>(sizeof(A));
    static constexpr int kParts = kLanes / kWidth;
    using Part = typename VectorOf<A, kBytes>::type;
    Part part[kParts];

    // A scalar beside lanes stands for sixteen of it.
    friend FUSEDNORM_INLINE Lanes operator+(const Lanes& a, A b) {
        Lanes r;
        FUSEDNORM_LANES_UNROLL
        for (int i = 0; i < kParts; ++i) r.part[i] = a.part[i] + b;
        return r;
    }
    FUSEDNORM_INLINE Lanes& operator+=(const Lanes& b) { return *this = *this + b; }

#define FUSEDNORM_LANES_OPERATOR(op)                                            \
    friend FUSEDNORM_INLINE Lanes operator op(const Lanes& a, const Lanes& b) { \
        Lanes r;                                                                \
        FUSEDNORM_LANES_UNROLL                                                  \
        for (int i = 0; i < kParts; ++i) r.part[i] = a.part[i] op b.part[i];    \
        return r;                                                               \
    }
    FUSEDNORM_LANES_OPERATOR(+)
    FUSEDNORM_LANES_OPERATOR(-)
    FUSEDNORM_LANES_OPERATOR(*)
    FUSEDNORM_LANES_OPERATOR(/)
#undef FUSEDNORM_LANES_OPERATOR
};

template <class A>
FUSEDNORM_INLINE Lanes<A> broadcast(A value) {
    Lanes<A> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<A>::kParts; ++i) r.part[i] = value - typename Lanes<A>::Part{};
    return r;
}

// Where a is neither infinite nor NaN.
template <class A>
struct Mask {
    decltype(typename Lanes<A>::Part{} == typename Lanes<A>::Part{}) part[Lanes<A>::kParts];
};

template <class A>
FUSEDNORM_INLINE Mask<A> is_finite(const Lanes<A>& a) {
    Mask<A> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<A>::kParts; ++i) r.part[i] = a.part[i] - a.part[i] == typename Lanes<A>::Part{};
    return r;
}

// Lane by lane: a where the mask is on, else b.
template <class A>
FUSEDNORM_INLINE Lanes<A> select(const Mask<A>& mask, const Lanes<A>& a, const Lanes<A>& b) {
    Lanes<A> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<A>::kParts; ++i) r.part[i] = mask.part[i] ? a.part[i] : b.part[i];
    return r;
}

// a, but 0 where it is negative; NaN stays.
template <class A>
FUSEDNORM_INLINE Lanes<A> not_negative(const Lanes<A>& a) {
    Lanes<A> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<A>::kParts; ++i)
        r.part[i] = a.part[i] < typename Lanes<A>::Part{} ? typename Lanes<A>::Part{} : a.part[i];
    return r;
}

FUSEDNORM_INLINE Lanes<double> square_root(const Lanes<double>& a) {
    Lanes<double> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<double>::kParts; ++i) {
#if defined(__AVX512F__)
        r.part[i] = reinterpret_cast<Lanes<double>::Part>(_mm512_maskz_sqrt_pd(0xff, reinterpret_cast<__m512d>(a.part[i])));
#else
        for (int j = 0; j < Lanes<double>::kWidth; ++j) r.part[i][j] = __builtin_sqrt(a.part[i][j]);
#endif
    }
    return r;
}

// The same words for one double.
FUSEDNORM_INLINE bool is_finite(double a) { return a - a == 0; }
FUSEDNORM_INLINE double select(bool mask, double a, double b) { return mask ? a : b; }
FUSEDNORM_INLINE double not_negative(double a) { return a < 0 ? 0 : a; }

// p(16), any alignment, converted to A.
template <class A, class T>
FUSEDNORM_INLINE Lanes<A> load(const T* p) {
    using L = Lanes<A>;
    using Raw = typename VectorOf<T, L::kWidth* static_cast<int>(sizeof(T))>::type;
    L r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < L::kParts; ++i) {
        Raw raw;
        __builtin_memcpy(&raw, p + i * L::kWidth, sizeof raw);
        r.part[i] = convert_part<typename L::Part>(raw);
    }
    return r;
}

template <class T, class A>
FUSEDNORM_INLINE void store(T* p, const Lanes<A>& a) {
    using L = Lanes<A>;
    using Raw = typename VectorOf<T, L::kWidth* static_cast<int>(sizeof(T))>::type;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < L::kParts; ++i) {
        const Raw raw = convert_part<Raw>(a.part[i]);
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

template <class Raw, class T>
FUSEDNORM_INLINE Raw load_part_some(const T* p, int64_t n, T fill) {
    constexpr int kWidth = static_cast<int>(sizeof(Raw) / sizeof(T));
    const Raw rest = fill - Raw{};
#if defined(__AVX512F__)
    const auto mask = mask_of<kWidth>(n);
    if constexpr (sizeof(Raw) == 64 && sizeof(T) == 4)
        return reinterpret_cast<Raw>(_mm512_mask_loadu_ps(reinterpret_cast<__m512>(rest), static_cast<__mmask16>(mask), p));
    if constexpr (sizeof(Raw) == 64 && sizeof(T) == 8)
        return reinterpret_cast<Raw>(_mm512_mask_loadu_pd(reinterpret_cast<__m512d>(rest), static_cast<__mmask8>(mask), p));
    if constexpr (sizeof(Raw) == 32 && sizeof(T) == 4)
        return reinterpret_cast<Raw>(_mm256_mask_loadu_ps(reinterpret_cast<__m256>(rest), static_cast<__mmask8>(mask), p));
#elif defined(__AVX2__)
    if constexpr (sizeof(Raw) == 32 && sizeof(T) == 4) {
        const __m256i mask = mask_of_4(n);
        return reinterpret_cast<Raw>(
            _mm256_blendv_ps(reinterpret_cast<__m256>(rest), _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask)));
    }
    if constexpr (sizeof(Raw) == 32 && sizeof(T) == 8) {
        const __m256i mask = mask_of_8(n);
        return reinterpret_cast<Raw>(
            _mm256_blendv_pd(reinterpret_cast<__m256d>(rest), _mm256_maskload_pd(p, mask), _mm256_castsi256_pd(mask)));
    }
    if constexpr (sizeof(Raw) == 16 && sizeof(T) == 4) {
        const __m128i mask = _mm256_castsi256_si128(mask_of_4(n));
        return reinterpret_cast<Raw>(
            _mm_blendv_ps(reinterpret_cast<__m128>(rest), _mm_maskload_ps(p, mask), _mm_castsi128_ps(mask)));
    }
#endif
    T buffer[kWidth];
    __builtin_memcpy(buffer, &rest, sizeof buffer);
    FUSEDNORM_LANES_LOOP
    for (int64_t i = 0; i < n && i < kWidth; ++i) buffer[i] = p[i];
    Raw raw;
    __builtin_memcpy(&raw, buffer, sizeof raw);
    return raw;
}

template <class Raw, class T>
FUSEDNORM_INLINE void store_part_some(T* p, const Raw& raw, int64_t n) {
    constexpr int kWidth = static_cast<int>(sizeof(Raw) / sizeof(T));
#if defined(__AVX512F__)
    const auto mask = mask_of<kWidth>(n);
    if constexpr (sizeof(Raw) == 64 && sizeof(T) == 4)
        return _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), reinterpret_cast<__m512>(raw));
    if constexpr (sizeof(Raw) == 64 && sizeof(T) == 8)
        return _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), reinterpret_cast<__m512d>(raw));
    if constexpr (sizeof(Raw) == 32 && sizeof(T) == 4)
        return _mm256_mask_storeu_ps(p, static_cast<__mmask8>(mask), reinterpret_cast<__m256>(raw));
#elif defined(__AVX2__)
    if constexpr (sizeof(Raw) == 32 && sizeof(T) == 4)
        return _mm256_maskstore_ps(p, mask_of_4(n), reinterpret_cast<__m256>(raw));
    if constexpr (sizeof(Raw) == 32 && sizeof(T) == 8)
        return _mm256_maskstore_pd(p, mask_of_8(n), reinterpret_cast<__m256d>(raw));
    if constexpr (sizeof(Raw) == 16 && sizeof(T) == 4)
        return _mm_maskstore_ps(p, _mm256_castsi256_si128(mask_of_4(n)), reinterpret_cast<__m128>(raw));
#endif
    FUSEDNORM_LANES_LOOP
    for (int64_t i = 0; i < n && i < kWidth; ++i) p[i] = raw[i];
}

// The first n < 16 values of p; the other lanes are fill. No byte past p(n) is touched.
template <class A, class T>
FUSEDNORM_INLINE Lanes<A> load_some(const T* p, int64_t n, T fill = 0) {
    using L = Lanes<A>;
    using Raw = typename VectorOf<T, L::kWidth* static_cast<int>(sizeof(T))>::type;
    L r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < L::kParts; ++i)
        r.part[i] = convert_part<typename L::Part>(load_part_some<Raw>(p + i * L::kWidth, n - i * L::kWidth, fill));
    return r;
}

template <class T, class A>
FUSEDNORM_INLINE void store_some(T* p, const Lanes<A>& a, int64_t n) {
    using L = Lanes<A>;
    using Raw = typename VectorOf<T, L::kWidth* static_cast<int>(sizeof(T))>::type;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < L::kParts; ++i) store_part_some(p + i * L::kWidth, convert_part<Raw>(a.part[i]), n - i * L::kWidth);
}

// Past the caches; p is aligned to kBytes.
template <class T, class A>
FUSEDNORM_INLINE void stream(T* p, const Lanes<A>& a) {
#if defined(__x86_64__)
    alignas(kBytes) T buffer[kLanes];
    store(buffer, a);
    constexpr int kStep = kBytes / static_cast<int>(sizeof(T));
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < kLanes; i += kStep) {
#if defined(__AVX512F__)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(p + i), *reinterpret_cast<const __m512i*>(buffer + i));
#elif defined(__AVX2__)
        _mm256_stream_si256(reinterpret_cast<__m256i*>(p + i), *reinterpret_cast<const __m256i*>(buffer + i));
#else
        _mm_stream_si128(reinterpret_cast<__m128i*>(p + i), *reinterpret_cast<const __m128i*>(buffer + i));
#endif
    }
#else
    store(p, a);
#endif
}

// After streaming: what was written is seen by whoever sees what follows.
FUSEDNORM_INLINE void stream_fence() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

// The sum of the lanes, pairing lane i with i + 8, then + 4, + 2, + 1.
FUSEDNORM_INLINE double sum(const Lanes<double>& a) {
    double lane[kLanes];
    store(lane, a);
    FUSEDNORM_LANES_UNROLL
    for (int step = kLanes / 2; step > 0; step /= 2)
        for (int i = 0; i < step; ++i) lane[i] += lane[i + step];
    return lane[0];
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
