// The gradients of one tile: sums of grad and of grad * (x - center), always in double, and grad_x, in float where its
// numbers fit, as normalize does.
#pragma once
#include "blocks.hpp"
#include "fold.hpp"
#include "kernels.hpp"
#include "moments_cols.hpp"
#include "traffic.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// ---- sums along rows

// products += g * (x - k)
template <bool Plain>
FUSEDNORM_INLINE void add_product(Doubles& products, const Doubles& g, const Doubles& x, const Doubles& k) {
    if constexpr (Plain) {
        add_exact_product(products, g, x);
    } else {
        products += g * plus<-1>(x, k);
    }
}

// One block's sums of grad and of grad * (x - center), in lanes.
struct GradientSums {
    Doubles plain, product;
};

template <bool Plain, class T>
FUSEDNORM_INLINE GradientSums gradient_sums_around(const T* grad, const T* x, int64_t rows, int64_t ld, int64_t cols,
                                                   double center) {
    const Doubles k = broadcast(center).part[0];
    const int64_t whole = cols / kLanes * kLanes;
    Lanes<double> sums = broadcast(0.0), products = sums;
    for (int64_t r = 0; r < rows; ++r, grad += ld, x += ld) {
        const auto add = [&](int64_t c, auto value_at) __attribute__((always_inline)) {
            FUSEDNORM_LANES_UNROLL
            for (int i = 0; i < Lanes<double>::kParts; ++i) {
                const Doubles g = value_at(grad + c, i);
                sums.part[i] = plus<1>(sums.part[i], g);
                add_product<Plain>(products.part[i], g, value_at(x + c, i), k);
            }
        };
        for_lanes<T, kPrefetchBytes>(whole, r + 1 < rows ? ld : cols,
                                     [&](int64_t c, int64_t ahead) __attribute__((always_inline)) {
                                         ask_for(grad + c + ahead, 0);
                                         add(c, AllLanes<double>());
                                     });
        if (whole < cols) add(whole, FirstLanes<double>{cols - whole});
    }
    return {folded(sums), folded(products)};
}

template <class T>
__attribute__((noinline)) GradientSums gradient_block(const T* grad, const T* x, int64_t rows, int64_t ld, int64_t cols,
                                                      double center) {
    if (kPlain<T> && center == 0) return gradient_sums_around<kPlain<T>>(grad, x, rows, ld, cols, 0);
    return gradient_sums_around<false>(grad, x, rows, ld, cols, center);
}

template <class T>
void gradient_sums_rows(const GradientRowsTile& t) {
    const Blocks blocks(t.rows, t.ld, t.cols);
    const T *grad = static_cast<const T*>(t.grad), *x = static_cast<const T*>(t.x);
    const auto sums_of_block = [&](int64_t s, const Blocks::Block& b) {
        const int64_t at = s * t.stat_ld + b.at;
        return gradient_block(grad + at, x + at, b.rows, t.ld, b.cols, t.center[s]);
    };
    if (t.stats > 1 && blocks.size() == 1) {
        const Blocks::Block only = blocks[0];
        for (int64_t s = 0; s < t.stats; s += kLanes) {
            const int64_t some = t.stats - s < kLanes ? t.stats - s : kLanes;
            Doubles plain[kLanes], product[kLanes];
            for (int64_t i = some; i < kLanes; ++i) plain[i] = product[i] = Doubles{};
            for (int64_t i = 0; i < some; ++i) {
                const GradientSums sums = sums_of_block(s + i, only);
                plain[i] = sums.plain, product[i] = sums.product;
            }
            store_some(t.plain + s, load_some<double>(t.plain + s, some) + sums_of(plain), some);
            store_some(t.product + s, load_some<double>(t.product + s, some) + sums_of(product), some);
        }
        return;
    }
    for (int64_t s = 0; s < t.stats; ++s) {
        for (int64_t b = 0; b < blocks.size(); ++b) {
            const GradientSums sums = sums_of_block(s, blocks[b]);
            t.plain[s] += sum(sums.plain), t.product[s] += sum(sums.product);
        }
    }
}

// ---- sums down columns

template <bool Plain, class T>
FUSEDNORM_INLINE void gradient_strip(const T* grad, const T* x, int64_t rows, int64_t ld, int64_t cols, const double* center,
                                     double* plain, double* product) {
    const auto step = [=](int64_t r, int64_t c, int i, auto value_at, const Doubles& k, Doubles& sums, Doubles& products)
                          __attribute__((always_inline)) {
                              const int64_t at = r * ld + c;
                              const Doubles g = value_at(grad + at, i);
                              sums = plus<1>(sums, g);
                              add_product<Plain>(products, g, value_at(x + at, i), k);
                          };
    add_to_columns(rows, cols, center, plain, product, step);
}

// scratch: two arrays of cols rounded up to whole lanes.
template <class T>
void gradient_wide_cols(const T* grad, const T* x, int64_t rows, int64_t ld, int64_t cols, const double* center, double* plain,
                        double* product, double* scratch) {
    const int64_t padded = whole_lanes(cols), strip = strip_rows<T>(2 * cols, ld);
    double *sums = scratch, *products = scratch + padded;
    bool around_zero = kPlain<T>;
    for (int64_t c = 0; c < cols; ++c) around_zero &= center[c] == 0;
    for (int64_t done = 0; done < rows; done += kBlockRows) {
        const int64_t block = rows - done < kBlockRows ? rows - done : kBlockRows;
        for (int64_t c = 0; c < padded; ++c) sums[c] = products[c] = 0;
        for (int64_t r = 0; r < block; r += strip) {
            const int64_t at = (done + r) * ld, n = block - r < strip ? block - r : strip;
            if (kPlain<T> && around_zero) {
                gradient_strip<kPlain<T>>(grad + at, x + at, n, ld, cols, center, sums, products);
            } else {
                gradient_strip<false>(grad + at, x + at, n, ld, cols, center, sums, products);
            }
        }
        for (int64_t c = 0; c < cols; ++c) plain[c] += sums[c], product[c] += products[c];
    }
}

// Few contiguous columns: several rows are read as one, and their sums added.
template <class T>
void gradient_sums_cols(const GradientColsTile& t) {
    const T *grad = static_cast<const T*>(t.grad), *x = static_cast<const T*>(t.x);
    const int64_t cols = t.cols, fold = fold_of(t.rows, t.ld, cols), wide = fold * cols, rows = t.rows / fold;
    if (fold > 1) {
        double *center = t.scratch, *plain = center + wide, *product = plain + wide;
        for (int64_t c = 0; c < wide; c += cols)
            __builtin_memcpy(center + c, t.center, static_cast<size_t>(cols) * sizeof(double));
        for (int64_t c = 0; c < wide; ++c) plain[c] = product[c] = 0;
        gradient_wide_cols(grad, x, rows, wide, wide, center, plain, product, product + wide);
        for (int64_t part = 0; part < wide; part += cols)
            for (int64_t c = 0; c < cols; ++c) t.plain[c] += plain[part + c], t.product[c] += product[part + c];
    }
    const int64_t done = fold > 1 ? rows * fold : 0;
    if (done < t.rows)
        gradient_wide_cols(grad + done * t.ld, x + done * t.ld, t.rows - done, t.ld, cols, t.center, t.plain, t.product,
                           t.scratch);
}

// ---- grad_x, where coefficients belong to columns or to rows

template <class A>
struct RowSlopes {
    template <class T>
    using Order = AnyOrder<A, T>;
    const A *factors, *centers, *slopes, *offsets;
    int64_t ld;
    Lanes<A> factor, center, slope, offset;
    FUSEDNORM_INLINE explicit RowSlopes(const GradientTile& t)
        : factors(static_cast<const A*>(t.factor)),
          centers(static_cast<const A*>(t.center)),
          slopes(static_cast<const A*>(t.slope)),
          offsets(static_cast<const A*>(t.offset)),
          ld(t.coef_ld) {}
    FUSEDNORM_INLINE void row(int64_t r) {
        factor = broadcast(factors[r * ld]), center = broadcast(centers[r * ld]);
        slope = broadcast(slopes[r * ld]), offset = broadcast(offsets[r * ld]);
    }
    template <class F>
    FUSEDNORM_INLINE Lanes<A> apply(const Lanes<A>& g, const Lanes<A>& x, int64_t, F) const {
        return g * factor + ((x - center) * slope + offset);
    }
};

template <class A>
struct ColSlopes {
    template <class T>
    using Order = InOrder<A, T>;
    const A *factor, *center, *slope, *offset;
    FUSEDNORM_INLINE void row(int64_t) {}
    template <class F>
    FUSEDNORM_INLINE Lanes<A> apply(const Lanes<A>& g, const Lanes<A>& x, int64_t c, F get) const {
        return g * get(factor + c) + ((x - get(center + c)) * get(slope + c) + get(offset + c));
    }
};

template <class T, class C, class W>
FUSEDNORM_INLINE void gradient_rows(const GradientTile& t, C coefs, W&& to) {
    const T *grad = static_cast<const T*>(t.grad), *x = static_cast<const T*>(t.x);
    T* y = static_cast<T*>(t.y);
    const int64_t rows = t.rows, cols = t.cols, ld = t.ld, ahead = t.ahead;
    int64_t free = ld == cols ? rows * cols : 0;  // y is neither x nor grad
    for (int64_t r = 0; r < rows; ++r, grad += ld, x += ld, y += ld, free -= cols) {
        coefs.row(r);
        const auto value_at = [&](int64_t c, auto get)
                                  __attribute__((always_inline)) { return coefs.apply(get(grad + c), get(x + c), c, get); };
        const auto ask = [&](int64_t c) __attribute__((always_inline)) {
            ask_for(grad + c, ahead);
            ask_for(x + c, ahead);
        };
        to.row(y, cols, value_at, ask, free);
    }
}

template <class T, class A, class C>
__attribute__((noinline)) void gradient_with(const GradientTile& t, const C& coefs) {
    using Order = typename C::template Order<T>;
    const auto rows = [&](auto&& to) __attribute__((always_inline)) { gradient_rows<T>(t, coefs, to); };
    if constexpr (sizeof(A) > sizeof(T)) {
        rows(Stores<true, Order>());  // numbers that float cannot hold are rare: one form does
    } else {
        choose_traffic<Order>(t.stream, t.cols, t.ahead, rows);
    }
}

template <class T, class A>
void gradient_by_rows(const GradientTile& t) {
    gradient_with<T, A>(t, RowSlopes<A>(t));
}

template <class T, class A>
void gradient_by_cols(const GradientTile& t) {
    const void* given[] = {t.factor, t.center, t.slope, t.offset};
    const Fold fold = fold_rows(static_cast<const T*>(t.y), t.rows, t.cols, t.ld == t.cols, t.stream);
    if (!fold.changes) {
        const auto coef = [&](int i) { return static_cast<const A*>(given[i]); };
        return gradient_with<T, A>(t, ColSlopes<A>{coef(0), coef(1), coef(2), coef(3)});
    }
    Repeated<A> coefs[4];
    for (int i = 0; i < 4; ++i) coefs[i].fill(given[i], t.cols, fold);
    for_parts(fold, [&](int64_t at, int64_t rows, int64_t cols, int64_t first) {
        GradientTile p = t;
        p.grad = static_cast<const T*>(t.grad) + at, p.x = static_cast<const T*>(t.x) + at, p.y = static_cast<T*>(t.y) + at;
        p.rows = rows, p.cols = p.ld = cols;
        const auto coef = [&](int i) { return coefs[i].values + first; };
        gradient_with<T, A>(p, ColSlopes<A>{coef(0), coef(1), coef(2), coef(3)});
    });
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
