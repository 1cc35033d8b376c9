// How stored values become lanes, and lanes stored values; a part of them: stored_some.hpp. A dtype is what decode and encode
// say, and a line in the lists of kernels.cpp.
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

// ---- encode: a register of A as N stored values, rounded once; half precision is made of floats

template <class T, class A, int N>
FUSEDNORM_INLINE Raw<T, N> encode(const Vector<A, N>& value) {
    if constexpr (std::is_same_v<T, f16>) {
        return float_to_half<N>(value);
    } else if constexpr (std::is_same_v<T, bf16>) {
        return float_to_bfloat<N>(value);
    } else {
        return convert_part<Raw<T, N>>(value);
    }
}

// What encode takes the parts of. Lanes in memory are not copied: GCC does that in halves of registers, and reading such a copy
// as a whole waits for its stores (half of layer norm's gradient with AVX2).
template <class T, class A>
FUSEDNORM_INLINE decltype(auto) encodable(const Lanes<A>& a) {
    if constexpr (is_half<T> && std::is_same_v<A, double>) {
        return roundable<T>(a);
    } else {
        return (a);
    }
}

// How far ahead of a sum its values are asked for. The processor's own prefetching reached 0.65 of the memory's speed
// (moments of 38 MB, two cores), this 1.0. Where moments are found, with AVX-512, twice as far: those of 26 and 38 MB were
// 1.2 times as fast; sums alone of two arrays, 0.97.
constexpr int64_t kPrefetchBytes = 2048, kPrefetchFar = 8192;

// A line of the caches.
constexpr int64_t kLineBytes = 64;

// Asks for sixteen values so many bytes behind p: every line of doubles, too (moments 1.2 to 1.5 times as fast).
template <class T>
FUSEDNORM_INLINE void ask_for(const T* p, int64_t ahead) {
    constexpr int64_t bytes = kLanes * static_cast<int64_t>(sizeof(T));
    FUSEDNORM_LANES_UNROLL
    for (int64_t i = 0; i < bytes; i += kLineBytes) __builtin_prefetch(reinterpret_cast<const char*>(p) + ahead + i);
}

// The whole lanes of a row that is summed: visit(column, how far ahead of it to ask for values). The end of a row is read while
// what follows comes: next values from its beginning, the next row begins, or the next chunk of this one.
template <class T, int64_t Bytes, class F>
FUSEDNORM_INLINE void for_lanes(int64_t whole, int64_t next, F visit) {
    constexpr int64_t kAhead = Bytes / static_cast<int64_t>(sizeof(T));
    const int64_t split = whole > kAhead ? whole - kAhead : 0;
    for (int64_t c = 0; c < whole; c += kLanes) visit(c, c < split ? kAhead : next - split);
}

// ---- crossed lanes

#if defined(__AVX2__) && !defined(__AVX512F__)
// AVX2 takes a register of sixteen bfloat16 apart, and puts it together, by its halves: lanes 0 to 3 and 8 to 11 are one
// register of floats, 4 to 7 and 12 to 15 the other.
FUSEDNORM_INLINE Lanes<float> load_crossed(const bf16* p) {
    using Part = Lanes<float>::Part;
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), zero = _mm256_setzero_si256();
    return {
        {reinterpret_cast<Part>(_mm256_unpacklo_epi16(zero, raw)), reinterpret_cast<Part>(_mm256_unpackhi_epi16(zero, raw))}};
}

// Of lanes that are crossed: the values in order.
FUSEDNORM_INLINE __m256i bfloat_of_crossed(const Lanes<float>& a) {
    const auto pair = [](const auto& low, const auto& high) __attribute__((always_inline)) {
        return _mm256_packus_epi32(reinterpret_cast<__m256i>(low), reinterpret_cast<__m256i>(high));
    };
    // One test for both registers.
    const __m256 nan = _mm256_cmp_ps(reinterpret_cast<__m256>(a.part[0]), reinterpret_cast<__m256>(a.part[1]), _CMP_UNORD_Q);
    if (__builtin_expect(_mm256_movemask_ps(nan) != 0, 0)) return pair(bfloat_bits<8>(a.part[0]), bfloat_bits<8>(a.part[1]));
    return pair(bfloat_bits_of_number<8>(a.part[0]), bfloat_bits_of_number<8>(a.part[1]));
}

// Crossed lanes in order, or the other way round.
FUSEDNORM_INLINE Lanes<float> crossed(const Lanes<float>& a) {
    return {{__builtin_shufflevector(a.part[0], a.part[1], 0, 1, 2, 3, 8, 9, 10, 11),
             __builtin_shufflevector(a.part[0], a.part[1], 4, 5, 6, 7, 12, 13, 14, 15)}};
}
#endif

// ---- whole lanes, any alignment

// Register i of the lanes.
template <class A, class T>
FUSEDNORM_INLINE typename Lanes<A>::Part load_part(const T* p, int i) {
    using L = Lanes<A>;
#if defined(__AVX2__) && !defined(__AVX512F__)
    // One load for two registers.
    if constexpr (std::is_same_v<T, bf16> && std::is_same_v<A, double>) {
        const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i / 2 * 2 * L::kWidth)),
                      zero = _mm_setzero_si128(),
                      bits = i % 2 == 0 ? _mm_unpacklo_epi16(zero, raw) : _mm_unpackhi_epi16(zero, raw);
        return convert_part<typename L::Part>(reinterpret_cast<VectorOf<float, 16>::type>(bits));
    }
#endif
    Raw<T, L::kWidth> raw;
    __builtin_memcpy(&raw, p + i * L::kWidth, sizeof raw);
    return decode<T, A, L::kWidth>(raw);
}

// Where the order of sixteen values does not matter they may be taken apart, in fewer operations: bfloat16 at even places are
// register 0, the others register 1. apart() does so to lanes, together() is the way back.
template <class T>
FUSEDNORM_INLINE Doubles load_part_apart(const T* p, int i) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, bf16>) {
        VectorOf<uint32_t, 32>::type raw;
        __builtin_memcpy(&raw, p, sizeof raw);
        const auto bits = i == 0 ? raw << 16 : raw & 0xffff0000;
        return convert_part<Doubles>(reinterpret_cast<VectorOf<float, 32>::type>(bits));
    }
#endif
    return load_part<double>(p, i);
}
template <class T>
FUSEDNORM_INLINE Lanes<double> apart(const Lanes<double>& a) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, bf16>)
        return {{__builtin_shufflevector(a.part[0], a.part[1], 0, 2, 4, 6, 8, 10, 12, 14),
                 __builtin_shufflevector(a.part[0], a.part[1], 1, 3, 5, 7, 9, 11, 13, 15)}};
#endif
    return a;
}
template <class T>
FUSEDNORM_INLINE Lanes<double> together(const Lanes<double>& a) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, bf16>)
        return {{__builtin_shufflevector(a.part[0], a.part[1], 0, 8, 1, 9, 2, 10, 3, 11),
                 __builtin_shufflevector(a.part[0], a.part[1], 4, 12, 5, 13, 6, 14, 7, 15)}};
#endif
    return a;
}

template <class A, class T>
FUSEDNORM_INLINE Lanes<A> load(const T* p) {
    Lanes<A> r;
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < Lanes<A>::kParts; ++i) r.part[i] = load_part<A>(p, i);
    return r;
}

FUSEDNORM_INLINE void store_part(double* p, int i, const Doubles& a) {
    __builtin_memcpy(p + i * Lanes<double>::kWidth, &a, sizeof a);
}

template <class T, class A>
FUSEDNORM_INLINE void store(T* p, const Lanes<A>& a) {
    const auto& value = encodable<T>(a);
    using L = std::decay_t<decltype(value)>;
#if defined(__AVX2__) && !defined(__AVX512F__)
    // Two registers become one at once.
    if constexpr (std::is_same_v<T, bf16>)
        return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(bfloat_of_crossed(value), 0xd8));
#endif
    FUSEDNORM_LANES_UNROLL
    for (int i = 0; i < L::kParts; ++i) {
        const Raw<T, L::kWidth> raw = encode<T, typename L::Value, L::kWidth>(value.part[i]);
        __builtin_memcpy(p + i * L::kWidth, &raw, sizeof raw);
    }
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
