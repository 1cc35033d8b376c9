// The moments of x and the sums that its gradient needs in one read, down columns. Blocks, and so the bits, are those of
// moments_cols.hpp and gradients.hpp.
#pragma once
#include "gradients.hpp"
#include "joint_rows.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// sums: of x, of x * x, of grad and of grad * x, `padded` values each.
template <int Groups, class T, class G>
FUSEDNORM_INLINE void add_both_columns(const T* grad, const T* x, int64_t rows, int64_t ld, double* sums, int64_t padded,
                                       int64_t ahead, G value_at) {
    constexpr int kSums = 4, kParts = Lanes<double>::kParts;
    Lanes<double> all[Groups][kSums];
    FUSEDNORM_LANES_UNROLL
    for (int j = 0; j < Groups; ++j) {
        FUSEDNORM_LANES_UNROLL
        for (int s = 0; s < kSums; ++s) all[j][s] = load<double>(sums + s * padded + j * kLanes);
    }
    for (int64_t r = 0; r < rows; ++r, grad += ld, x += ld) {
        FUSEDNORM_LANES_UNROLL
        for (int j = 0; j < Groups; ++j) {
            const T *g_at = grad + j * kLanes, *x_at = x + j * kLanes;
            ask_for(g_at + ahead, 0), ask_for(x_at + ahead, 0);
            FUSEDNORM_LANES_UNROLL
            for (int i = 0; i < kParts; ++i) {
                const Doubles g = value_at(g_at, i), value = value_at(x_at, i);
                all[j][0].part[i] += value, all[j][2].part[i] += g;
                add_exact_product(all[j][1].part[i], value, value);
                add_exact_product(all[j][3].part[i], g, value);
            }
        }
    }
    FUSEDNORM_LANES_UNROLL
    for (int j = 0; j < Groups; ++j) {
        FUSEDNORM_LANES_UNROLL
        for (int s = 0; s < kSums; ++s) store(sums + s * padded + j * kLanes, all[j][s]);
    }
}

// Those of a block of rows, in strips whose rows stay in the first-level cache.
template <class T>
FUSEDNORM_INLINE void sum_both_columns(const T* grad, const T* x, int64_t rows, int64_t ld, int64_t cols, double* sums,
                                       int64_t padded) {
    const int64_t strip = strip_rows<T>(2 * cols, ld);
    for (int64_t c = 0; c < 4 * padded; c += kLanes) store(sums + c, broadcast(0.0));
    for (int64_t r = 0; r < rows; r += strip, grad += strip * ld, x += strip * ld) {
        const int64_t n = rows - r < strip ? rows - r : strip, ahead = n * ld;
        const AllLanes<double> whole;
        int64_t c = 0;
        for (; c + 2 * kLanes <= cols; c += 2 * kLanes)
            add_both_columns<2>(grad + c, x + c, n, ld, sums + c, padded, ahead, whole);
        for (; c + kLanes <= cols; c += kLanes) add_both_columns<1>(grad + c, x + c, n, ld, sums + c, padded, ahead, whole);
        if (c < cols) add_both_columns<1>(grad + c, x + c, n, ld, sums + c, padded, ahead, FirstLanes<double>{cols - c});
    }
}

// False: as joint_rows says.
template <class T>
bool joint_cols(const GradientColsTile& t, Moments out) {
    const T *grad = static_cast<const T*>(t.grad), *x = static_cast<const T*>(t.x);
    const int64_t cols = t.cols, ld = t.ld, padded = whole_lanes(cols);
    double* sums = t.scratch;
    const Moments found{sums + 3 * padded, sums + 4 * padded, sums + 5 * padded};
    bool is_joint = true;
    for (int64_t done = 0; done < t.rows; done += kBlockRows, grad += kBlockRows * ld, x += kBlockRows * ld) {
        const int64_t block = t.rows - done < kBlockRows ? t.rows - done : kBlockRows;
        const double count = static_cast<double>(block);
        const bool chosen = block >= kLeastRowsChosen;
        is_joint = is_joint && (!chosen || choose_centers(x, block, ld, cols, sums));
        bool closed = false;
        if (is_joint) {
            sum_both_columns(grad, x, block, ld, cols, sums, padded);
            for (int64_t c = 0; c < cols; ++c) t.plain[c] += sums[2 * padded + c], t.product[c] += sums[3 * padded + c];
            closed = chosen;
            for (int64_t c = 0; c < cols && closed; c += kLanes)
                closed = are_near(load<double>(sums + c), load<double>(sums + padded + c), count);
        }
        const double before = static_cast<double>(done);
        if (closed) {
            close_columns(nullptr, sums, sums + padded, count, cols, before, out);
        } else {
            moments_wide_cols(x, block, ld, cols, t.scratch, done == 0 ? out : found);
            if (done > 0) merge(out, before, found, count, cols);
        }
    }
    return is_joint;
}

template <class T>
constexpr auto joint_cols_or_none() -> bool (*)(const GradientColsTile&, Moments) {
    if constexpr (kJoint<T>) return joint_cols<T>;
    return nullptr;
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
