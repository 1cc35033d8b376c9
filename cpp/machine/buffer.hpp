// Memory for one call's numbers.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>

#include "memory.hpp"

namespace fusednorm {

// As many values as the product of its arguments, not initialized; few of them lie in place, since a call on a small array
// would feel the allocations.
template <class T>
class Buffer {
public:
    template <class... Factors>
    explicit Buffer(Factors... factors) : heap(allocate(product({int64_t{factors}...}))) {}
    Buffer(Buffer&&) = delete;
    T* at(int64_t i) { return (heap ? heap.get() : reinterpret_cast<T*>(in_place)) + i; }
    T* data() { return at(0); }

private:
    static constexpr int64_t kInPlace = 2048 / sizeof(T);

    // A broadcast array has up to 2^63 values for free.
    static int64_t product(std::initializer_list<int64_t> factors) {
        int64_t n = 1;
        for (const int64_t factor : factors)
            if (__builtin_mul_overflow(n, factor, &n)) throw std::bad_alloc();
        return n;
    }
    static T* allocate(int64_t n) {
        if (n <= kInPlace) return nullptr;
        try {
            return new T[static_cast<size_t>(n)];
        } catch (const std::bad_alloc&) {
            if (!empty_cache()) throw;
            return new T[static_cast<size_t>(n)];
        }
    }

    alignas(64) char in_place[2048];
    std::unique_ptr<T[]> heap;
};

}  // namespace fusednorm
