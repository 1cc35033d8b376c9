// Memory for one call's numbers.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <type_traits>

#include "memory.hpp"

namespace fusednorm {

// As many values as the product of its arguments, not initialized, from the beginning of a line of the cache on: a register may
// be as wide, and where it crosses lines two are read. Few of them lie in place, since a call on a small array would feel the
// allocations.
template <class T>
class Buffer {
public:
    template <class... Factors>
    explicit Buffer(Factors... factors) : heap(allocate(product({int64_t{factors}...}))), first(beginning()) {}
    Buffer(Buffer&&) = delete;
    T* at(int64_t i) { return first + i; }
    T* data() { return first; }

private:
    static_assert(std::is_trivial_v<T>);
    static constexpr int64_t kInPlace = 2048 / sizeof(T);
    static constexpr size_t kLine = 64;

    // A broadcast array has up to 2^63 values for free.
    static int64_t product(std::initializer_list<int64_t> factors) {
        int64_t n = 1;
        for (const int64_t factor : factors)
            if (__builtin_mul_overflow(n, factor, &n)) throw std::bad_alloc();
        return n;
    }
    static char* allocate(int64_t n) {
        if (n <= kInPlace) return nullptr;
        size_t bytes;
        if (__builtin_mul_overflow(n, sizeof(T), &bytes) || __builtin_add_overflow(bytes, kLine, &bytes))
            throw std::bad_alloc();
        try {
            return new char[bytes];
        } catch (const std::bad_alloc&) {
            if (!empty_cache()) throw;
            return new char[bytes];
        }
    }
    T* beginning() {
        char* const p = heap ? heap.get() : in_place;
        return reinterpret_cast<T*>(p + (kLine - reinterpret_cast<uintptr_t>(p) % kLine) % kLine);
    }

    alignas(kLine) char in_place[2048];
    std::unique_ptr<char[]> heap;  // the allocator's own alignment to lines takes longer
    T* first;
};

}  // namespace fusednorm
