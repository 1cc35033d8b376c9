// The one loop that normalizes: y = epilogue(((x - center) * scale + shift) [* weight + bias]).
#pragma once
#include "fold.hpp"
#include "kernels.hpp"
#include "lanes_bits.hpp"
#include "traffic.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// Where the coefficients of a tile come from: each gives sixteen columns' results of the current row. get: what loads them.
// Subtract before scaling: folding center into shift would lose the digits that an offset takes.
// The pointers are copied: through the tile they would be read again after every store.
template <class A>
struct RowCoefs {
    template <class T>
    using Order = AnyOrder<A, T>;
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
    template <class F>
    FUSEDNORM_INLINE Lanes<A> apply(const Lanes<A>& x, int64_t, F) const {
        return plus<1>(plus<-1>(x, center) * scale, shift);
    }
};

template <class A>
struct ColCoefs {
    template <class T>
    using Order = InOrder<A, T>;
    const A *center, *scale, *shift;
    FUSEDNORM_INLINE explicit ColCoefs(const NormalizeTile& t)
        : center(static_cast<const A*>(t.center)),
          scale(static_cast<const A*>(t.scale)),
          shift(static_cast<const A*>(t.shift)) {}
    FUSEDNORM_INLINE void row(int64_t) {}
    template <class F>
    FUSEDNORM_INLINE Lanes<A> apply(const Lanes<A>& x, int64_t c, F get) const {
        return plus<1>(plus<-1, A>(x, get(center + c)) * get(scale + c), get(shift + c));
    }
};

template <class A>
struct BothCoefs {
    template <class T>
    using Order = InOrder<A, T>;
    RowCoefs<A> rows;
    const A *weights, *biases, *weight = nullptr, *bias = nullptr;
    int64_t ld;
    FUSEDNORM_INLINE explicit BothCoefs(const NormalizeTile& t)
        : rows(t), weights(static_cast<const A*>(t.weight)), biases(static_cast<const A*>(t.bias)), ld(t.affine_ld) {}
    FUSEDNORM_INLINE void row(int64_t r) {
        rows.row(r);
        weight = weights + r * ld, bias = biases + r * ld;
    }
    template <class F>
    FUSEDNORM_INLINE Lanes<A> apply(const Lanes<A>& x, int64_t c, F get) const {
        return plus<1, A>(rows.apply(x, c, get) * get(weight + c), get(bias + c));
    }
};

// The same where nothing is subtracted or added, in float.
template <class A>
struct ScaleCoefs {
    template <class T>
    using Order = InOrder<A, T>;
    const A *scales, *weights, *weight = nullptr;
    int64_t ld, weight_ld;
    Lanes<A> scale;
    FUSEDNORM_INLINE explicit ScaleCoefs(const NormalizeTile& t)
        : scales(static_cast<const A*>(t.scale)),
          weights(static_cast<const A*>(t.weight)),
          ld(t.coef_ld),
          weight_ld(t.affine_ld) {}
    FUSEDNORM_INLINE void row(int64_t r) { scale = broadcast(scales[r * ld]), weight = weights + r * weight_ld; }
    template <class F>
    FUSEDNORM_INLINE Lanes<A> apply(const Lanes<A>& x, int64_t c, F get) const {
        return x * scale * get(weight + c);
    }
};

// What follows, in the same pass: nothing; a residual and relu, in double.
struct Plain {
    FUSEDNORM_INLINE explicit Plain(const NormalizeTile&) {}
    FUSEDNORM_INLINE void row(int64_t) {}
    FUSEDNORM_INLINE void ask(int64_t) const {}
    template <class V, class F>
    FUSEDNORM_INLINE V apply(const V& value, int64_t, F) const {
        return value;
    }
};

struct Floor {
    double floor;
    FUSEDNORM_INLINE explicit Floor(const NormalizeTile& t) : floor(t.floor) {}
    FUSEDNORM_INLINE void row(int64_t) {}
    FUSEDNORM_INLINE void ask(int64_t) const {}
    template <class F>
    FUSEDNORM_INLINE Lanes<double> apply(const Lanes<double>& value, int64_t, F) const {
        return at_least(value, floor);
    }
};

template <class R>
struct ResidualFloor {
    const R *first, *r = nullptr;
    int64_t ld;
    double floor;
    FUSEDNORM_INLINE explicit ResidualFloor(const NormalizeTile& t)
        : first(static_cast<const R*>(t.r)), ld(t.r_ld), floor(t.floor) {}
    FUSEDNORM_INLINE void row(int64_t i) { r = first + i * ld; }
    FUSEDNORM_INLINE void ask(int64_t c) const { ask_for(r + c, kPrefetchBytes); }
    template <class F>
    FUSEDNORM_INLINE Lanes<double> apply(const Lanes<double>& value, int64_t c, F get) const {
        return at_least(value + get(r + c), floor);
    }
};

template <class In, class Out, class C, class E, class W>
FUSEDNORM_INLINE void normalize_rows(const NormalizeTile& t, C coefs, E epilogue, W&& to) {
    const In* x = static_cast<const In*>(t.x);
    Out* y = static_cast<Out*>(t.y);
    const int64_t rows = t.rows, cols = t.cols, x_ld = t.x_ld, y_ld = t.y_ld, ahead = t.ahead;
    // The rows that follow are written later, and nothing else is read from there.
    int64_t free = y_ld == cols && t.x != t.y && t.r != t.y ? rows * cols : 0;
    for (int64_t r = 0; r < rows; ++r, x += x_ld, y += y_ld, free -= cols) {
        coefs.row(r), epilogue.row(r);
        const auto value_at = [&](int64_t c, auto get) __attribute__((always_inline)) {
            return epilogue.apply(coefs.apply(get(x + c), c, get), c, get);
        };
        const auto ask = [&](int64_t c) __attribute__((always_inline)) {
            ask_for(x + c, ahead);
            epilogue.ask(c);
        };
        to.row(y, cols, value_at, ask, free);
    }
}

// Not inlined: the folded columns below would repeat it.
template <class In, class Out, class A, class E, class C>
__attribute__((noinline)) void normalize_with(const NormalizeTile& t, const C& coefs) {
    choose_traffic<typename C::template Order<Out>>(t.stream, t.cols, t.ahead, [&](auto&& to) __attribute__((always_inline)) {
        normalize_rows<In, Out>(t, coefs, E(t), to);
    });
}

template <class In, class Out, class A, class E>
void normalize_by_rows(const NormalizeTile& t) {
    normalize_with<In, Out, A, E>(t, RowCoefs<A>(t));
}

template <class In, class Out, class A, class E>
void normalize_by_both(const NormalizeTile& t) {
    if constexpr (sizeof(A) == 4)
        if (t.center == nullptr) return normalize_with<In, Out, A, E>(t, ScaleCoefs<A>(t));
    normalize_with<In, Out, A, E>(t, BothCoefs<A>(t));
}

template <class In, class Out, class A, class E>
void normalize_by_cols(const NormalizeTile& t) {
    const bool contiguous = t.x_ld == t.cols && t.y_ld == t.cols && (t.r == nullptr || t.r_ld == t.cols);
    const Fold fold = fold_rows(static_cast<const Out*>(t.y), t.rows, t.cols, contiguous, t.stream);
    if (!fold.changes) return normalize_with<In, Out, A, E>(t, ColCoefs<A>(t));
    Repeated<A> center, scale, shift;
    center.fill(t.center, t.cols, fold), scale.fill(t.scale, t.cols, fold), shift.fill(t.shift, t.cols, fold);
    for_parts(fold, [&](int64_t at, int64_t rows, int64_t cols, int64_t first) {
        NormalizeTile p = t;
        p.x = static_cast<const In*>(t.x) + at, p.y = static_cast<Out*>(t.y) + at;
        if (t.r) p.r = static_cast<const Out*>(t.r) + at;
        p.rows = rows, p.cols = p.x_ld = p.y_ld = p.r_ld = cols;
        p.center = center.values + first, p.scale = scale.values + first, p.shift = shift.values + first;
        normalize_with<In, Out, A, E>(p, ColCoefs<A>(p));
    });
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
