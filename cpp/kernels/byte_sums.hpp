// Sums of bytes and of their squares, a register of them at a time. They are integers: no order changes a bit.
#pragma once
#include "lanes.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

using Bytes = VectorOf<uint8_t, kBytes>::type;
using Words = VectorOf<int16_t, kBytes>::type;
using UnsignedWords = VectorOf<uint16_t, kBytes>::type;
using DoubleWords = VectorOf<int32_t, kBytes>::type;

#if defined(__x86_64__)
constexpr bool kAddsPairs = true;
#else
constexpr bool kAddsPairs = false;
#endif

// a[2i] * b[2i] + a[2i + 1] * b[2i + 1]
FUSEDNORM_INLINE DoubleWords pairs_of_products(const Words& a, const Words& b) {
#if defined(__AVX512BW__)
    return reinterpret_cast<DoubleWords>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
    return reinterpret_cast<DoubleWords>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__x86_64__)
    return reinterpret_cast<DoubleWords>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
    return DoubleWords{} * (a[0] + b[0]);  // kAddsPairs is false
#endif
}

// The upper byte of every word, as a number.
template <class T>
FUSEDNORM_INLINE Words upper(const Bytes& a) {
    if constexpr (std::is_signed_v<T>) return reinterpret_cast<Words>(a) >> 8;
    return reinterpret_cast<Words>(reinterpret_cast<UnsignedWords>(a) >> 8);
}
// The lower one.
template <class T>
FUSEDNORM_INLINE Words lower(const Bytes& a) {
    if constexpr (std::is_signed_v<T>) return reinterpret_cast<Words>(reinterpret_cast<UnsignedWords>(a) << 8) >> 8;
    return reinterpret_cast<Words>(a) & 0xff;
}

// A lane takes four bytes at once: 16,384 times are safe.
struct ByteSums {
    DoubleWords values{}, squares{};

    FUSEDNORM_INLINE void add(const Words& a) {
        values += pairs_of_products(a, Words{} + 1);
        squares += pairs_of_products(a, a);
    }
    // One statistic's.
    template <class T>
    FUSEDNORM_INLINE void add_row(const Bytes& a) {
        const Words even = lower<T>(a), odd = upper<T>(a);
        values += pairs_of_products(even + odd, Words{} + 1);
        squares += pairs_of_products(even, even) + pairs_of_products(odd, odd);
    }
};

FUSEDNORM_INLINE Bytes load_bytes(const void* p) {
    Bytes a;
    __builtin_memcpy(&a, p, sizeof a);
    return a;
}

// Of the bytes of a and b, one after the other, those of each run of sixteen from First on, in turn: a0 b0 a1 b1 ...
template <int First, size_t... I>
FUSEDNORM_INLINE Bytes interleaved(const Bytes& a, const Bytes& b, std::index_sequence<I...>) {
    return __builtin_shufflevector(
        a, b, (static_cast<int>(I) / 16 * 16 + First + static_cast<int>(I) % 16 / 2 + static_cast<int>(I) % 2 * kBytes)...);
}

// The sums of a register's columns: those of bytes 4 * j ... 4 * j + 3 of each run of sixteen are of[j].
struct ByteColumns {
    static constexpr int kRuns = 4;
    ByteSums of[kRuns];

    // Adds two rows.
    template <class T>
    FUSEDNORM_INLINE void add(const Bytes& a, const Bytes& b) {
        constexpr auto all = std::make_index_sequence<kBytes>();
        const Bytes low = interleaved<0>(a, b, all), high = interleaved<8>(a, b, all);
        of[0].add(upper<T>(interleaved<0>(low, low, all))), of[1].add(upper<T>(interleaved<8>(low, low, all)));
        of[2].add(upper<T>(interleaved<0>(high, high, all))), of[3].add(upper<T>(interleaved<8>(high, high, all)));
    }
    // Calls to(byte of the register, its column's sum, sum of squares).
    template <class F>
    FUSEDNORM_INLINE void visit(F to) const {
        for (int j = 0; j < kRuns; ++j)
            for (int i = 0; i < kBytes / 4; ++i)
                to(i / 4 * 16 + 4 * j + i % 4, of[j].values[i], static_cast<uint32_t>(of[j].squares[i]));
    }
};

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
