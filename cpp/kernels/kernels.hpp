// The table of kernels: the whole contract between the loops over one tile and the rest of the program.
// Only raw pointers, integers and plain structs cross it. Strides and leading dimensions are in elements.
#pragma once
#include <cstdint>
#include <limits>

namespace fusednorm {

// The first four are what results can be, the first eight what the loops read; the rest is widened to f64 before.
enum class Type : int { f32, f64, f16, bf16, u8, i8, u16, i16, boolean, u32, i32, u64, i64 };
constexpr int kFloatTypes = 4, kReadTypes = 8, kTypes = 13;

// Bytes of a value, as a power of two.
constexpr int shift_of(Type t) {
    constexpr int shifts[kTypes] = {2, 3, 1, 1, 0, 0, 1, 1, 0, 2, 2, 3, 3};
    return shifts[static_cast<int>(t)];
}
constexpr int64_t size_of(Type t) { return int64_t{1} << shift_of(t); }

// Small enough that the sums of the values and of their squares are integers.
constexpr bool is_small_integer(Type t) { return t >= Type::u8 && t <= Type::i16; }

// What is done to a result before it is stored; leaky_relu has the slope 0.01, gelu_tanh is gelu's tanh approximation.
enum class Activation : int { none, relu, silu, gelu, gelu_tanh, sigmoid, tanh, hardswish, leaky_relu };
constexpr int kActivations = 9;

// Values accumulated around one center before a merge. Part of the result's definition: changing it changes bits.
constexpr int64_t kBlock = 4096;     // values of one statistic along rows
constexpr int64_t kBlockRows = 256;  // rows of a tile whose columns are statistics

// Sums are of the values as they are where the square of their mean is at most so many times their variance: an offset then
// costs them no more than a few of 53 bits. Otherwise a number near the values is subtracted first.
constexpr double kNear = 255;
constexpr int64_t kLeastChosen = 256;  // with fewer values in a block, choosing takes as long as it spares

// The moments of n statistics of equal count: value i has the mean mean[i] + low[i] (two doubles, so that large
// offsets cancel) and the sum of squared deviations m2[i].
struct Moments {
    double* mean;
    double* low;
    double* m2;
    Moments operator+(int64_t i) const { return {mean + i, low + i, m2 + i}; }
};

// x(stats, rows, cols): statistic s has the values x[s * stat_ld + r * ld + c].
struct RowsTile {
    const void* x;
    int64_t stats, stat_ld, rows, ld, cols;
};

// Rows of few contiguous columns that are read as one row, so that no lane stays empty; 1 where there is no need.
// kFoldRows: with fewer of them, writing coefficients out as often takes longer.
constexpr int64_t kFoldCols = 1024, kFoldRows = 64;
constexpr int64_t fold_of(int64_t cols) {
    if (cols >= 64 || cols % 32 == 0) return 1;
    int64_t fold = 1;
    while (fold * cols % 16 != 0 || fold * cols < 48) fold *= 2;
    return fold;
}
// How many rows are read as one where columns are summed.
constexpr int64_t fold_of(int64_t rows, int64_t ld, int64_t cols) {
    return ld == cols && rows >= kFoldRows ? fold_of(cols) : 1;
}
constexpr int64_t cols_scratch(int64_t cols) { return 6 * (cols + 16 + kFoldCols); }
// n values, up to where lanes end.
constexpr int64_t whole_lanes(int64_t n) { return (n + 15) / 16 * 16; }

// x(rows, cols): every column is a statistic. scratch: cols_scratch(cols) doubles.
struct ColsTile {
    const void* x;
    int64_t rows, ld, cols;
    double* scratch;
};

// What turns moments into the numbers that normalize multiplies by and adds; see coefficients() in moments.hpp.
struct CoefficientsJob {
    Moments moments;
    double count, eps;
    int64_t stats, per;  // per: consecutive channels that share a statistic
    const double *weight, *bias;
    int64_t affine_ld;  // step of weight and bias from one statistic to the next; those of its channels follow each other
    void *center, *scale, *shift;
};

// y(rows, cols) = ((x - center) * scale + shift) [* weight + bias]. The coefficients belong to rows, to columns, or
// (Coefs::both) center, scale and shift to rows, weight and bias to columns. In float center may be null: it, shift and bias
// are 0.
enum class Coefs : int { rows, cols, both };
struct NormalizeTile {
    const void* x;
    void* y;
    int64_t rows, cols, x_ld, y_ld;
    const void *center, *scale, *shift;
    int64_t coef_ld;  // rows, both: step from one row's coefficients to the next
    const void *weight, *bias;
    int64_t affine_ld;  // both: step from one row's weight and bias to the next
    int64_t ahead;      // x is asked for so many bytes ahead; 0: it is in a cache
    bool stream;        // write past the caches; parallel_for sees to it that others see it
    // fused: y = max(floor, ... + r), r in the type of y, or absent
    const void* r;
    int64_t r_ld;
    double floor;  // kNoFloor: none
};
constexpr double kNoFloor = -std::numeric_limits<double>::infinity();

// What this kind of processor makes of infinity - infinity.
#if defined(__x86_64__)
constexpr double kNan = -std::numeric_limits<double>::quiet_NaN();
#else
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
#endif

// t(rows, cols) += r, in the type that r is stored in.
struct AddTile {
    const void* r;
    double* t;
    int64_t rows, cols, r_ld, t_ld;
};

// y(rows, cols) = t, rounded once.
struct FinishTile {
    const double* t;
    void* y;
    int64_t rows, cols, t_ld, y_ld;
    bool stream;
};

// s(rows, cols) = x + r, rounded once; s may be x.
struct SumTile {
    const void *x, *r;
    void* s;
    int64_t rows, cols, x_ld, r_ld, s_ld;
};

// y(rows, cols) = x: any strides.
struct CopyTile {
    const void* x;
    void* y;
    int64_t rows, cols, x_ld, x_step, y_ld, y_step;
};

// x, grad and grad_x lie alike. Adds the sums of grad and of grad * (x - center) over x(rows, cols), and over stats - 1 more,
// stat_ld apart, to plain and product, each to its own and around its own center. Centers of 0 are faster.
struct GradientRowsTile {
    const void *grad, *x;
    int64_t stats, stat_ld, rows, ld, cols;
    const double* center;
    double *plain, *product;
};

// The moments of x(stats, rows, cols), and around 0 what gradient_sums_rows adds up, for each statistic, or (each) for each
// row: rows follow each other then, and whole lanes fill them. With weights for the columns (rows = 1): what row_gradient_sums
// does.
struct JointRowsTile {
    const void *grad, *x;
    int64_t stats, stat_ld, rows, ld, cols;
    bool each, centered;
    const double* weight;
    double *plain, *product;
};

// The sums of gradient_sums_rows for columns. scratch: cols_scratch(cols) doubles.
struct GradientColsTile {
    const void *grad, *x;
    int64_t rows, ld, cols;
    const double* center;
    double *plain, *product, *scratch;
};

// y(rows, cols) = grad * factor + (x - center) * slope + offset.
struct GradientTile {
    const void *grad, *x;
    void* y;
    int64_t rows, cols, ld;
    const void *factor, *center, *slope, *offset;
    int64_t coef_ld;  // by rows: step from one row's coefficients to the next
    int64_t ahead;    // grad and x are asked for so many bytes ahead; 0: they are in a cache
    bool stream;
};

// Rows are statistics: each row's sums of grad * weight and of grad * weight * (x - center).
struct RowSumsTile {
    const void *grad, *x;
    int64_t rows, ld, cols;
    const double *center, *weight;
    double *plain, *product;
};

// With xhat = (x - center) * scale + shift: y = grad * weight * scale + xhat * slope + offset, and grad_weight and grad_bias
// take in each column's grad * xhat and grad.
struct RowGradientTile {
    const void *grad, *x;
    void* y;
    int64_t rows, ld, cols;
    const void *center, *scale, *shift, *slope, *offset, *weight;
    double *grad_weight, *grad_bias;  // whole_lanes(cols)
    bool stream;
};

struct Kernels {
    const char* isa;
    // [type][centered]: fresh moments of the tile; not centered: mean = 0, m2 = the sum of squares. Of small integers: see
    // sums.hpp.
    void (*moments_rows[kReadTypes][2])(const RowsTile&, Moments);
    void (*moments_cols[kReadTypes])(const ColsTile&, Moments);  // centered: what is not has statistics along rows
    // a (count_a values) becomes the moments of a and b (count_b values) together, n times.
    void (*merge)(Moments a, double count_a, Moments b, double count_b, int64_t n);
    // out[i] becomes the moments of in[i * per ... i * per + per), count values each.
    void (*pool)(Moments in, double count, int64_t per, Moments out, int64_t n);
    // [float or double]: true when the numbers fit the arithmetic.
    bool (*coefficients[2])(const CoefficientsJob&);
    // [type of x][Coefs]: computed in float, y of the type of x, float for u8; null for the types that have none.
    void (*normalize[kReadTypes][3])(const NormalizeTile&);
    // [type of x, r and y][with r][Coefs]: computed in double, rounded once.
    void (*fused[kFloatTypes][2][3])(const NormalizeTile&);
    void (*add[kFloatTypes])(const AddTile&);
    // [activation][float or double]: t(n) in place, as exact as results of that type need it, not rounded. null: none.
    void (*activate[kActivations][2])(double* t, int64_t n);
    void (*finish[kFloatTypes])(const FinishTile&);
    // [type of x and s][r: of that type, or double]
    void (*sum[kFloatTypes][2])(const SumTile&);
    void (*gradient_sums_rows[kFloatTypes])(const GradientRowsTile&);
    // [type][weighted]. False: only the moments are right, since 0 is far from x. null: where one read would not be faster.
    bool (*joint_rows[kFloatTypes][2])(const JointRowsTile&, Moments);
    void (*gradient_sums_cols[kFloatTypes])(const GradientColsTile&);
    // The same for columns, whatever center says; not where several rows are read as one.
    bool (*joint_cols[kFloatTypes])(const GradientColsTile&, Moments);
    // [type][in float or double][by rows or by columns]
    void (*gradient[kFloatTypes][2][2])(const GradientTile&);
    void (*row_gradient_sums[kFloatTypes])(const RowSumsTile&);
    void (*row_gradients[kFloatTypes][2])(const RowGradientTile&);
    // To double.
    void (*widen[kTypes])(const CopyTile&);
    // Values of 1, 2, 4 and 8 bytes, as they are.
    void (*copy[4])(const CopyTile&);
};

}  // namespace fusednorm
