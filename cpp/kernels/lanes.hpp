// The vocabulary of the loops: sixteen lanes of float or double, whatever the instruction set's registers hold.
// Lane i of every operation is the same on each instruction set, which is what makes the bits the same.
// Built on the compiler's vector types. How lanes come from memory and go there is stored.hpp's.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

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
    if constexpr (std::is_same_v<From, VectorOf<int32_t, 64>::type> && std::is_same_v<To, VectorOf<float, 64>::type>)
        return reinterpret_cast<To>(_mm512_maskz_cvtepi32_ps(0xffff, reinterpret_cast<__m512i>(a)));
    if constexpr (std::is_same_v<From, VectorOf<int32_t, 32>::type> && std::is_same_v<To, VectorOf<double, 64>::type>)
        return reinterpret_cast<To>(_mm512_maskz_cvtepi32_pd(0xff, reinterpret_cast<__m256i>(a)));
    if constexpr (std::is_same_v<From, VectorOf<uint32_t, 64>::type> && std::is_same_v<To, VectorOf<uint16_t, 32>::type>)
        return reinterpret_cast<To>(_mm512_maskz_cvtepi32_epi16(0xffff, reinterpret_cast<__m512i>(a)));
    if constexpr (std::is_same_v<From, VectorOf<uint32_t, 32>::type> && std::is_same_v<To, VectorOf<uint16_t, 16>::type>)
        return reinterpret_cast<To>(_mm256_maskz_cvtepi32_epi16(0xff, reinterpret_cast<__m256i>(a)));
    if constexpr (std::is_same_v<From, VectorOf<uint64_t, 64>::type> && std::is_same_v<To, VectorOf<uint32_t, 32>::type>)
        return reinterpret_cast<To>(_mm512_maskz_cvtepi64_epi32(0xff, reinterpret_cast<__m512i>(a)));
    if constexpr (std::is_same_v<From, VectorOf<uint16_t, 32>::type> && std::is_same_v<To, VectorOf<uint32_t, 64>::type>)
        return reinterpret_cast<To>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(a)));
    if constexpr (std::is_same_v<From, VectorOf<uint16_t, 16>::type> && std::is_same_v<To, VectorOf<uint32_t, 32>::type>)
        return reinterpret_cast<To>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(a)));
#elif defined(__AVX2__)
    if constexpr (std::is_same_v<From, VectorOf<float, 16>::type> && std::is_same_v<To, VectorOf<double, 32>::type>)
        return reinterpret_cast<To>(_mm256_cvtps_pd(reinterpret_cast<__m128>(a)));
    if constexpr (std::is_same_v<From, VectorOf<double, 32>::type> && std::is_same_v<To, VectorOf<float, 16>::type>)
        return reinterpret_cast<To>(_mm256_cvtpd_ps(reinterpret_cast<__m256d>(a)));
    if constexpr (std::is_same_v<From, VectorOf<uint32_t, 32>::type> && std::is_same_v<To, VectorOf<uint16_t, 16>::type>) {
        const __m256i low = _mm256_and_si256(reinterpret_cast<__m256i>(a), _mm256_set1_epi32(0xffff));
        return reinterpret_cast<To>(_mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x88)));
    }
    if constexpr (std::is_same_v<From, VectorOf<uint16_t, 16>::type> && std::is_same_v<To, VectorOf<uint32_t, 32>::type>)
        return reinterpret_cast<To>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(a)));
    // Half registers, beside four doubles: GCC 12 takes them apart.
    if constexpr (std::is_same_v<From, VectorOf<uint16_t, 8>::type> && std::is_same_v<To, VectorOf<uint32_t, 16>::type>)
        return reinterpret_cast<To>(_mm_cvtepu16_epi32(_mm_cvtsi64_si128(reinterpret_cast<long long>(a))));
    if constexpr (std::is_same_v<From, VectorOf<uint32_t, 16>::type> && std::is_same_v<To, VectorOf<uint16_t, 8>::type>) {
        const __m128i low = _mm_and_si128(reinterpret_cast<__m128i>(a), _mm_set1_epi32(0xffff));
        return reinterpret_cast<To>(_mm_cvtsi128_si64(_mm_packus_epi32(low, low)));
    }
#elif defined(__x86_64__)
    if constexpr (std::is_same_v<From, VectorOf<float, 8>::type> && std::is_same_v<To, VectorOf<double, 16>::type>)
        return reinterpret_cast<To>(_mm_cvtps_pd(_mm_castsi128_ps(_mm_cvtsi64_si128(reinterpret_cast<long long>(a)))));
#endif
    return __builtin_convertvector(a, To);
}

template <class A>
struct Lanes {
    using Value = A;
    static constexpr int kWidth = kBytes / static_cast<int>(sizeof(A));
    static constexpr int kParts = kLanes / kWidth;
    using Part = typename VectorOf<A, kBytes>::type;
    Part part[kParts];

    FUSEDNORM_INLINE Lanes& operator+=(const Lanes& b) { return *this = *this + b; }

// A scalar beside lanes stands for sixteen of it.
#define FUSEDNORM_LANES_OPERATOR_OF(op, Left, a, Right, b)              \
    friend FUSEDNORM_INLINE Lanes operator op(Left left, Right right) { \
        Lanes r;                                                        \
        FUSEDNORM_LANES_UNROLL                                          \
        for (int i = 0; i < kParts; ++i) r.part[i] = left a op right b; \
        return r;                                                       \
    }
#define FUSEDNORM_LANES_OPERATOR(op)                                                \
    FUSEDNORM_LANES_OPERATOR_OF(op, const Lanes&, .part[i], const Lanes&, .part[i]) \
    FUSEDNORM_LANES_OPERATOR_OF(op, const Lanes&, .part[i], A, )                    \
    FUSEDNORM_LANES_OPERATOR_OF(op, A, , const Lanes&, .part[i])
    FUSEDNORM_LANES_OPERATOR(+)
    FUSEDNORM_LANES_OPERATOR(-)
    FUSEDNORM_LANES_OPERATOR(*)
    FUSEDNORM_LANES_OPERATOR(/)
#undef FUSEDNORM_LANES_OPERATOR_OF
#undef FUSEDNORM_LANES_OPERATOR
};

#if defined(__AVX512F__) || defined(__FMA__)
constexpr bool kFused = true;
#else
constexpr bool kFused = false;
#endif

// sum += a * b, where the products are exact: fused or not, the bits are the same.
using Doubles = Lanes<double>::Part;
FUSEDNORM_INLINE void add_exact_product(Doubles& sum, const Doubles& a, const Doubles& b) {
#if defined(__AVX512F__)
    sum = reinterpret_cast<Doubles>(
        _mm512_fmadd_pd(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b), reinterpret_cast<__m512d>(sum)));
#elif defined(__FMA__)
    sum = reinterpret_cast<Doubles>(
        _mm256_fmadd_pd(reinterpret_cast<__m256d>(a), reinterpret_cast<__m256d>(b), reinterpret_cast<__m256d>(sum)));
#else
    sum += a * b;
#endif
}

template <class A>
FUSEDNORM_INLINE Lanes<A> broadcast(A value) {
    Lanes<A> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<A>::kParts; ++i) r.part[i] = value - typename Lanes<A>::Part{};
    return r;
}

// a + b * One, which is 1 or -1: doubles by the units that multiply. Those that add convert floats, too, and are the busy ones
// where little is multiplied. On Zen 5, in cache: a residual and relu 1.1 times as fast with AVX-512, 1.25 with AVX2,
// gradients' sums 1.05 and 1.25. Not the sums of moments, whose additions wait for each other: 0.8 to 1.
template <int One>
FUSEDNORM_INLINE Doubles plus(Doubles a, const Doubles& b) {
    if constexpr (!kFused) return One > 0 ? a + b : a - b;
    add_exact_product(a, b, broadcast<double>(One).part[0]);
    return a;
}
template <int One, class A>
FUSEDNORM_INLINE Lanes<A> plus(Lanes<A> a, const Lanes<A>& b) {
    if constexpr (std::is_same_v<A, double>) {
        FUSEDNORM_LANES_UNROLL
        for (int i = 0; i < Lanes<A>::kParts; ++i) a.part[i] = plus<One>(a.part[i], b.part[i]);
        return a;
    } else {
        return One > 0 ? a + b : a - b;
    }
}

template <class A>
struct Mask {
    decltype(typename Lanes<A>::Part{} == typename Lanes<A>::Part{}) part[Lanes<A>::kParts];
};

// Where a is neither infinite nor NaN.
template <class A>
FUSEDNORM_INLINE Mask<A> is_finite(const Lanes<A>& a) {
    Mask<A> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<A>::kParts; ++i) r.part[i] = a.part[i] - a.part[i] == typename Lanes<A>::Part{};
    return r;
}

template <class A>
FUSEDNORM_INLINE Mask<A> is_at_most(const Lanes<A>& a, const Lanes<A>& b) {
    Mask<A> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<A>::kParts; ++i) r.part[i] = a.part[i] <= b.part[i];
    return r;
}

// Whether any bit is on in a register.
template <class V>
FUSEDNORM_INLINE bool is_any(const V& bits) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64)
        return _mm512_test_epi64_mask(reinterpret_cast<__m512i>(bits), reinterpret_cast<__m512i>(bits)) != 0;
#elif defined(__AVX2__)
    if constexpr (sizeof(V) == 32)
        return _mm256_testz_si256(reinterpret_cast<__m256i>(bits), reinterpret_cast<__m256i>(bits)) == 0;
#endif
    const auto words = reinterpret_cast<typename VectorOf<int64_t, sizeof(V)>::type>(bits);
    int64_t all = 0;
    for (size_t i = 0; i < sizeof(V) / sizeof all; ++i) all |= words[i];
    return all != 0;
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

// The nearest numbers of type A.
template <class A>
FUSEDNORM_INLINE Lanes<double> rounded_to(const Lanes<double>& a) {
    if constexpr (std::is_same_v<A, double>) return a;
    Lanes<double> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<double>::kParts; ++i) {
        using Narrow = typename VectorOf<A, kBytes / static_cast<int>(sizeof(double) / sizeof(A))>::type;
        r.part[i] = convert_part<Lanes<double>::Part>(convert_part<Narrow>(a.part[i]));
    }
    return r;
}

// The same words for one double.
FUSEDNORM_INLINE bool is_finite(double a) { return a - a == 0; }
FUSEDNORM_INLINE bool is_at_most(double a, double b) { return a <= b; }
FUSEDNORM_INLINE double absolute(double a) { return __builtin_fabs(a); }
FUSEDNORM_INLINE double select(bool mask, double a, double b) { return mask ? a : b; }
FUSEDNORM_INLINE double not_negative(double a) { return a < 0 ? 0 : a; }

// The sum of the lanes, pairing lane i with i + 8, then + 4, + 2, + 1.
FUSEDNORM_INLINE double sum(const VectorOf<double, 16>::type& a) { return a[0] + a[1]; }
FUSEDNORM_INLINE double sum(const VectorOf<double, 32>::type& a) {
    return sum(__builtin_shufflevector(a, a, 0, 1) + __builtin_shufflevector(a, a, 2, 3));
}
FUSEDNORM_INLINE double sum(const VectorOf<double, 64>::type& a) {
    return sum(__builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7));
}
// Adds up the registers: one register of partial sums is left.
FUSEDNORM_INLINE Lanes<double>::Part folded(Lanes<double> a) {
    FUSEDNORM_LANES_UNROLL
    for (int step = Lanes<double>::kParts / 2; step > 0; step /= 2) {
        FUSEDNORM_LANES_UNROLL
        for (int i = 0; i < step; ++i) a.part[i] += a.part[i + step];
    }
    return a.part[0];
}
FUSEDNORM_INLINE double sum(const Lanes<double>& a) { return sum(folded(a)); }
FUSEDNORM_INLINE double sum(double a) { return a; }

// Of a and b, one after the other, each run of 2 * Half lanes becomes Half lanes: its halves' sum.
template <int Half, class V, size_t... I>
FUSEDNORM_INLINE V halves_added(const V& a, const V& b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, (static_cast<int>(I) / Half * 2 * Half + static_cast<int>(I) % Half)...) +
           __builtin_shufflevector(a, b, (static_cast<int>(I) / Half * 2 * Half + static_cast<int>(I) % Half + Half)...);
}

// sum() of as many registers as one has lanes, side by side: a third of the operations.
template <int Half, class V>
FUSEDNORM_INLINE V sums_of(V* a) {
    constexpr int width = sizeof(V) / sizeof(double);
    if constexpr (Half > 0) {
        FUSEDNORM_LANES_UNROLL
        for (int i = 0; i < Half; ++i) a[i] = halves_added<Half>(a[2 * i], a[2 * i + 1], std::make_index_sequence<width>());
        return sums_of<Half / 2>(a);
    } else {
        return a[0];
    }
}

// sum() of sixteen, side by side.
FUSEDNORM_INLINE Lanes<double> sums_of(const Lanes<double>::Part (&a)[kLanes]) {
    constexpr int width = Lanes<double>::kWidth;
    Lanes<double> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<double>::kParts; ++i) {
        Lanes<double>::Part some[width];
        FUSEDNORM_LANES_UNROLL
        for (int j = 0; j < width; ++j) some[j] = a[i * width + j];
        r.part[i] = sums_of<width / 2>(some);
    }
    return r;
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
