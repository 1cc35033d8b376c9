// The one loop that writes results: y = ((x - center) * scale + shift) [* weight + bias], and the strided copy that
// turns any stored type and layout into what the loops read, and back.
#pragma once
#include <type_traits>

#include "kernels.hpp"
#include "lanes.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// Where the coefficients of a tile come from: each gives sixteen columns' results of the current row.
// Subtract before scaling: folding center into shift would lose the digits that an offset takes.
// The pointers are copied: through the tile they would be read again after every store.
template <class A>
struct RowCoefs {
    const A *centers, *scales, *shifts;
    int64_t ld;
    Lanes<A> center, scale, shift;
    FUSEDNORM_INLINE explicit RowCoefs(const NormalizeTile& t)
        : centers(static_cast<const A*>(t.center)),
          scales(static_cast<const A*>(t.scale)),
          shifts(static_cast<const A*>(t.shift)),
          ld(t.coef_ld) {}
    FUSEDNORM_INLINE void row(int64_t r) {
        center = broadcast(centers[r * ld]), scale = broadcast(scales[r * ld]), shift = broadcast(shifts[r * ld]);
    }
    FUSEDNORM_INLINE Lanes<A> whole(const Lanes<A>& x, int64_t) const { return (x - center) * scale + shift; }
    FUSEDNORM_INLINE Lanes<A> some(const Lanes<A>& x, int64_t, int64_t) const { return whole(x, 0); }
};

template <class A>
struct ColCoefs {
    const A *center, *scale, *shift;
    FUSEDNORM_INLINE explicit ColCoefs(const NormalizeTile& t)
        : center(static_cast<const A*>(t.center)),
          scale(static_cast<const A*>(t.scale)),
          shift(static_cast<const A*>(t.shift)) {}
    FUSEDNORM_INLINE void row(int64_t) {}
    FUSEDNORM_INLINE Lanes<A> whole(const Lanes<A>& x, int64_t c) const {
        return (x - load<A>(center + c)) * load<A>(scale + c) + load<A>(shift + c);
    }
    FUSEDNORM_INLINE Lanes<A> some(const Lanes<A>& x, int64_t c, int64_t n) const {
        return (x - load_some<A>(center + c, n)) * load_some<A>(scale + c, n) + load_some<A>(shift + c, n);
    }
};

template <class A, class W>
struct BothCoefs {
    RowCoefs<A> rows;
    const W *weights, *biases, *weight = nullptr, *bias = nullptr;
    int64_t ld;
    FUSEDNORM_INLINE explicit BothCoefs(const NormalizeTile& t)
        : rows(t), weights(static_cast<const W*>(t.weight)), biases(static_cast<const W*>(t.bias)), ld(t.affine_ld) {}
    FUSEDNORM_INLINE void row(int64_t r) {
        rows.row(r);
        weight = weights + r * ld, bias = biases + r * ld;
    }
    FUSEDNORM_INLINE Lanes<A> whole(const Lanes<A>& x, int64_t c) const {
        return rows.whole(x, c) * load<A>(weight + c) + load<A>(bias + c);
    }
    FUSEDNORM_INLINE Lanes<A> some(const Lanes<A>& x, int64_t c, int64_t n) const {
        return rows.whole(x, c) * load_some<A>(weight + c, n) + load_some<A>(bias + c, n);
    }
};

template <bool Stream, class In, class Out, class A, class C>
FUSEDNORM_INLINE void normalize_rows(const NormalizeTile& t, C coefs) {
    const In* x = static_cast<const In*>(t.x);
    Out* y = static_cast<Out*>(t.y);
    const int64_t rows = t.rows, cols = t.cols, x_ld = t.x_ld, y_ld = t.y_ld, ahead = t.ahead;
    for (int64_t r = 0; r < rows; ++r, x += x_ld, y += y_ld) {
        coefs.row(r);
        const auto some = [&](int64_t c, int64_t n) __attribute__((always_inline)) {
            store_some(y + c, coefs.some(load_some<A>(x + c, n), c, n), n);
        };
        int64_t c = 0;
        if constexpr (Stream) {
            const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(y) % kBytes / sizeof(Out));
            const int64_t head = past == 0 ? 0 : kBytes / static_cast<int64_t>(sizeof(Out)) - past;
            if (head > 0 && head < cols) some(0, head), c = head;
        }
        for (; c + kLanes <= cols; c += kLanes) {
            __builtin_prefetch(reinterpret_cast<const char*>(x + c) + ahead, 0, 2);
            const Lanes<A> value = coefs.whole(load<A>(x + c), c);
            if constexpr (Stream) {
                stream(y + c, value);
            } else {
                store(y + c, value);
            }
        }
        if (c < cols) some(c, cols - c);
    }
}

template <class In, class Out, class A, class C>
FUSEDNORM_INLINE void normalize_with(const NormalizeTile& t, const C& coefs) {
    // Rows shorter than two stores have no aligned middle.
    if (t.stream && t.cols >= 2 * kLanes) {
        normalize_rows<true, In, Out, A>(t, coefs);
        stream_fence();
    } else {
        normalize_rows<false, In, Out, A>(t, coefs);
    }
}

template <class In, class Out, class A>
void normalize_by_rows(const NormalizeTile& t) {
    normalize_with<In, Out, A>(t, RowCoefs<A>(t));
}

template <class In, class Out, class A>
void normalize_by_both(const NormalizeTile& t) {
    using W = std::conditional_t<sizeof(In) == 4 && sizeof(Out) == 4, float, double>;
    normalize_with<In, Out, A>(t, BothCoefs<A, W>(t));
}

// Few contiguous columns: several rows are one, with the coefficients written out as often.
template <class In, class Out, class A>
void normalize_by_cols(const NormalizeTile& t) {
    const int64_t fold = t.x_ld == t.cols && t.y_ld == t.cols ? fold_of(t.cols) : 1;
    if (fold == 1 || t.rows < fold) return normalize_with<In, Out, A>(t, ColCoefs<A>(t));
    A center[kFoldCols], scale[kFoldCols], shift[kFoldCols];
    const int64_t wide = fold * t.cols, rows = t.rows / fold;
    for (int64_t c = 0, from = 0; c < wide; ++c, from = from + 1 == t.cols ? 0 : from + 1) {
        center[c] = static_cast<const A*>(t.center)[from];
        scale[c] = static_cast<const A*>(t.scale)[from];
        shift[c] = static_cast<const A*>(t.shift)[from];
    }
    NormalizeTile folded = t;
    folded.rows = rows, folded.cols = folded.x_ld = folded.y_ld = wide;
    folded.center = center, folded.scale = scale, folded.shift = shift;
    normalize_with<In, Out, A>(folded, ColCoefs<A>(folded));
    folded.x = static_cast<const In*>(t.x) + rows * wide;
    folded.y = static_cast<Out*>(t.y) + rows * wide;
    folded.rows = 1, folded.cols = (t.rows - rows * fold) * t.cols;
    if (folded.cols > 0) normalize_with<In, Out, A>(folded, ColCoefs<A>(folded));
}

template <class In, class Out>
void convert(const CopyTile& t) {
    // The shorter step goes inside, so that a transposed tile is read along its memory.
    const bool along_rows = t.x_ld != 0 && (t.x_step == 0 || t.x_ld < t.x_step) && t.x_ld > 0;
    const int64_t outer = along_rows ? t.cols : t.rows, inner = along_rows ? t.rows : t.cols;
    const int64_t x_outer = along_rows ? t.x_step : t.x_ld, x_inner = along_rows ? t.x_ld : t.x_step;
    const int64_t y_outer = along_rows ? t.y_step : t.y_ld, y_inner = along_rows ? t.y_ld : t.y_step;
    for (int64_t i = 0; i < outer; ++i) {
        const In* __restrict x = static_cast<const In*>(t.x) + i * x_outer;
        Out* __restrict y = static_cast<Out*>(t.y) + i * y_outer;
        if (x_inner == 1 && y_inner == 1) {
            for (int64_t j = 0; j < inner; ++j) y[j] = static_cast<Out>(x[j]);
        } else {
            for (int64_t j = 0; j < inner; ++j) y[j * y_inner] = static_cast<Out>(x[j * x_inner]);
        }
    }
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
