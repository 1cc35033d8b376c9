// Rows of few contiguous columns as fewer, longer ones, with the columns' coefficients written out as often.
#pragma once
#include "kernels.hpp"
#include "traffic.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// (rows, cols), one value after the other: `head` of them, so that the rest begins with a line where results go past the
// caches; `rows` rows of `wide`; and `rest`.
struct Fold {
    int64_t head, wide, rows, rest;
    bool changes;  // anything
};

template <class T>
FUSEDNORM_INLINE Fold fold_rows(const T* y, int64_t rows, int64_t cols, bool contiguous, bool streams) {
    int64_t wide = cols, head = 0;
    if (contiguous && rows >= kFoldRows) wide *= fold_of(cols);
    if (kStreams && contiguous && streams) {
        while (wide % line_values<T> != 0 && 2 * wide <= kFoldCols) wide *= 2;
        const int64_t past = past_line(y);
        if (past != 0 && wide <= kFoldCols && rows * cols >= 8 * wide) head = line_values<T> - past;
    }
    const int64_t left = rows * cols - head;
    return {head, wide, left / wide, left % wide, wide != cols || head != 0};
}

// part(where it begins, rows, columns, the first of their repeated coefficients)
template <class F>
FUSEDNORM_INLINE void for_parts(const Fold& fold, F part) {
    if (fold.head > 0) part(0, 1, fold.head, 0);
    if (fold.rows > 0) part(fold.head, fold.rows, fold.wide, fold.head);
    if (fold.rest > 0) part(fold.head + fold.rows * fold.wide, 1, fold.rest, fold.head);
}

// Coefficients of the columns, over and over: those of a head, and of the row behind it, which begin with a line.
template <class A>
struct Repeated {
    alignas(kLineBytes) A memory[kFoldCols + 2 * kLanes];
    A* values;
    FUSEDNORM_INLINE void fill(const void* coefs, int64_t cols, const Fold& fold) {
        values = memory + (kLanes - fold.head % kLanes) % kLanes;
        const int64_t all = fold.head + fold.wide;
        for (int64_t n = 0, part; n < all; n += part) {
            part = n == 0 ? cols : n;
            if (part > all - n) part = all - n;
            __builtin_memcpy(values + n, n == 0 ? coefs : values, static_cast<size_t>(part) * sizeof(A));
        }
    }
};

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
