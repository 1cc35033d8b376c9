// Gradients where statistics are rows, or a few that follow each other: a column of x(rows, channels) has a weight, and takes
// in sums over the rows.
#include "backward_rows.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backward_numbers.hpp"
#include "machine/dispatch.hpp"
#include "machine/threads.hpp"
#include "schedule.hpp"

namespace fusednorm {
namespace {

class RowGradients {
public:
    RowGradients(const GradientOperation& operation, const Plan& plan_)
        : gradient(operation),
          op(operation.of),
          plan(plan_),
          k(kernels()),
          type(static_cast<int>(op.x_type)),
          cols(plan.read.cols.size) {
        for (int i = 0; i < plan.units.n; ++i)
            if (plan.units[i].affine != 0) groups *= plan.units[i].size;
        per = plan.read.rows.size(), rows = plan.units.size() / groups * per, channels = groups * cols;
        const int64_t values = rows * channels;
        threads = values < kSerialFound ? 1 : get_num_threads();
        stream = is_streamed(values * size_of(op.x_type) * 3, true);
        block = whole_statistics(std::max(kLeastRows, (rows + kMostBlocks - 1) / kMostBlocks));
        const int64_t fit = run_bytes() / (4 * size_of(op.x_type)) / cols;
        strip = std::min(whole_statistics(std::clamp(fit, kLeastStrip, kMostStrip)), kMostStrip / per * per);
        lanes = cols < kNarrow ? cols : whole_lanes(cols);
        const double* weight = static_cast<const double*>(op.weight);
        if (!gradient.exact && op.x_type != Type::f64 && std::all_of(weight, weight + channels, fits_float))
            weights.assign(weight, weight + channels);
    }

    void run() {
        const int64_t blocks = (rows + block - 1) / block;
        Buffer<double> sums(2, blocks, groups, lanes);
        auto run_block = [&](int64_t item, int) {
            double* mine = sums.at(2 * item * groups * lanes);
            std::fill_n(mine, 2 * groups * lanes, 0.0);
            const int64_t end = std::min(rows, (item + 1) * block);
            for (int64_t row = item * block; row < end; row += strip)
                for (int64_t g = 0; g < groups; ++g) run_strip(row, g, std::min(strip, end - row), mine + g * lanes);
        };
        parallel_for(blocks, threads, run_block);
        const int64_t runs = lanes > cols ? groups : 1, run = channels / runs, parts = (run + kColumns - 1) / kColumns;
        auto add_blocks = [&](int64_t item, int) {
            const int64_t g = item / parts, begin = item % parts * kColumns, end = std::min(run, begin + kColumns);
            double *grad_weight = gradient.grad_weight + g * run, *grad_bias = gradient.grad_bias + g * run;
            for (int64_t b = 0; b < blocks; ++b) {
                const double *to_weight = sums.at(2 * b * groups * lanes + g * lanes), *to_bias = to_weight + groups * lanes;
                for (int64_t c = begin; c < end; ++c) grad_weight[c] += to_weight[c], grad_bias[c] += to_bias[c];
            }
        };
        parallel_for(runs * parts, threads, add_blocks);
    }

private:
    // How many rows one partial sum of a column takes: a part of the result's definition, as the blocks of the moments are.
    static constexpr int64_t kLeastRows = 32, kMostBlocks = 64;
    // Rows taken at once, so that x, grad and the result of all of them are in the cache, beside the columns' weights and sums:
    // runs of a third of it were 0.97 to 1.0 times as fast, of 4,096 values 0.95.
    static constexpr int64_t kLeastStrip = 8, kMostStrip = kMostRows;
    static constexpr int64_t kColumns = 256;
    // Fewer columns than this have their sums copied for each strip, since the kernel writes whole lanes: in `sums` they lie
    // without gaps.
    static constexpr int64_t kNarrow = 16;

    const GradientOperation& gradient;
    const Operation& op;
    const Plan& plan;
    const Kernels& k;
    int type, threads;
    bool stream;
    int64_t cols, rows, groups = 1, channels, block, strip;
    int64_t lanes;               // from a group's sums to the next one's
    int64_t per;                 // rows of a statistic
    std::vector<float> weights;  // where float arithmetic is enough, and holds them

    // The coefficients of the rows of a strip.
    template <class A>
    struct Rows {
        A center[kMostStrip], scale[kMostStrip], shift[kMostStrip], slope[kMostStrip], offset[kMostStrip];
    };

    int64_t whole_statistics(int64_t n) const { return (n + per - 1) / per * per; }

    // Finds, or takes as given, center, scale and shift of `stats` statistics, the first of which begins with this row, and
    // what is subtracted for their sums, whose tile this is. Returns whether these are found, too: around 0.
    bool set_statistics(int64_t row, int64_t group, int64_t stats, const RowSumsTile& tile, Rows<double>& to,
                        const Sums& sums) const {
        const bool zero = op.x_type != Type::f64;
        if (gradient.rstd) {
            for (int64_t s = 0; s < stats; ++s) {
                const int64_t stat = place(plan.units, plan.origin, (divided(row, per) + s) * groups + group).stat;
                to.center[s] = gradient.mean ? gradient.mean[stat] : 0, to.scale[s] = gradient.rstd[stat], to.shift[s] = 0;
                sums.origin[s] = origin_of(to.center[s], to.center[s] * to.scale[s], 1, zero);
            }
            return false;
        }
        double low[kMostStrip], m2[kMostStrip];
        const Moments moments{to.center, low, m2};
        bool summed = false;
        if (per == 1 && cols >= kLeastChosen && k.joint_rows[type][1]) {
            sums.clear(stats);
            summed = k.joint_rows[type][1]({tile.grad, tile.x, stats, channels, 1, channels, cols, false, op.centered,
                                            tile.weight, sums.plain, sums.product},
                                           moments);
        } else {
            k.moments_rows[type][op.centered]({tile.x, stats, per * channels, per, channels, cols}, moments);
        }
        for (int64_t s = 0; s < stats; ++s) {
            const double var = m2[s] / count();
            to.scale[s] = 1 / std::sqrt(var + op.eps);
            to.shift[s] = -low[s] * to.scale[s];
            sums.origin[s] = origin_of(to.center[s], to.center[s], var, zero);
        }
        return summed;
    }

    // The sums of grad * weight and of grad * weight * (x - origin) of a tile's rows, if they are not there yet, around 0.
    void add_up(const RowSumsTile& tile, const double* center, bool summed, const Sums& sums) const {
        if (!summed || !are_zero(sums.origin, tile.rows)) k.row_gradient_sums[type](tile);
        if (are_finite(sums.plain, tile.rows)) return;
        // The sign of an infinite grad * (x - mean) is known around the mean alone.
        for (int64_t i = 0; i < tile.rows; i += per)
            if (!are_finite(sums.plain + i, per)) std::fill_n(sums.origin + i, per, origin_of(center[i], 0, 0, false));
        k.row_gradient_sums[type](tile);
    }

    // Copies the value of each statistic to each of its `per` rows.
    void spread(double* values, int64_t stats) const {
        for (int64_t s = stats - 1; s >= 0 && per > 1; --s) std::fill_n(values + s * per, per, double{values[s]});
    }
    // Adds up the values of the rows of each statistic.
    void add_rows(double* values, int64_t stats) const {
        for (int64_t s = 0; s < stats && per > 1; ++s)
            values[s] = std::accumulate(values + s * per + 1, values + (s + 1) * per, values[s * per]);
    }
    // How many values a statistic has.
    double count() const { return static_cast<double>(cols * per); }

    bool narrow(const Rows<double>& rows_of, int64_t n, Rows<float>& to) const {
        bool fits = true;
        for (int64_t i = 0; i < n; ++i) {
            to.center[i] = static_cast<float>(rows_of.center[i]), to.scale[i] = static_cast<float>(rows_of.scale[i]);
            const double lost = to.center[i] - rows_of.center[i];
            to.shift[i] = static_cast<float>(rows_of.shift[i] + correction(lost, rows_of.scale[i]));
            to.slope[i] = static_cast<float>(rows_of.slope[i]), to.offset[i] = static_cast<float>(rows_of.offset[i]);
            fits = fits && fits_float(rows_of.scale[i]) && fits_float_center(rows_of.center[i]) &&
                   fits_float(rows_of.slope[i]) && fits_float_sum(rows_of.offset[i]);
        }
        return fits;
    }

    void run_strip(int64_t row, int64_t group, int64_t n, double* columns) const {
        Rows<double> wide;
        Rows<float> floats;
        double memory[3 * kMostStrip];
        const Sums sums(memory, kMostStrip);
        const int64_t stats = divided(n, per), offset = row * channels + group * cols;
        const void *grad = at(gradient.grad, offset, op.x_type), *x = at(op.x, offset, op.x_type);
        const double* weight = static_cast<const double*>(op.weight) + group * cols;
        const RowSumsTile sums_tile{grad, x, n, channels, cols, sums.origin, weight, sums.plain, sums.product};
        const bool summed = set_statistics(row, group, stats, sums_tile, wide, sums);
        for (double* each : {wide.center, wide.scale, wide.shift, sums.origin}) spread(each, stats);
        add_up(sums_tile, wide.center, summed, sums);
        add_rows(sums.plain, stats), add_rows(sums.product, stats);
        sums.settle(stats);
        for (int64_t s = 0; s < stats; ++s) {
            sums.move(s, wide.center[s * per] - sums.origin[s * per]);
            const double scale = wide.scale[s * per], plain = sums.plain[s], mean = op.centered ? plain / count() : 0;
            const double mean_xhat = (sums.product[s] * scale + correction(plain, wide.shift[s * per])) / count();
            wide.offset[s] = -mean * scale, wide.slope[s] = -mean_xhat * scale;
        }
        spread(wide.offset, stats), spread(wide.slope, stats);
        const bool fits = !weights.empty() && narrow(wide, n, floats);
        // A statistic's bits do not depend on its neighbours: where one does not fit, each is taken alone.
        if (!fits && !weights.empty() && n > per) {
            for (int64_t i = 0; i < n; i += per) run_strip(row + i, group, per, columns);
            return;
        }
        RowGradientTile tile{grad,
                             x,
                             const_cast<char*>(at(op.y, offset, op.x_type)),
                             n,
                             channels,
                             cols,
                             wide.center,
                             wide.scale,
                             wide.shift,
                             wide.slope,
                             wide.offset,
                             weight,
                             columns,
                             columns + groups * lanes,
                             stream};
        if (fits) {
            tile.center = floats.center, tile.scale = floats.scale, tile.shift = floats.shift;
            tile.slope = floats.slope, tile.offset = floats.offset, tile.weight = weights.data() + group * cols;
        }
        double few[2][kNarrow] = {};
        if (cols < kNarrow) {
            std::copy_n(tile.grad_weight, cols, few[0]), std::copy_n(tile.grad_bias, cols, few[1]);
            tile.grad_weight = few[0], tile.grad_bias = few[1];
        }
        k.row_gradients[type][fits ? 0 : 1](tile);
        if (cols < kNarrow) std::copy_n(few[0], cols, columns), std::copy_n(few[1], cols, columns + groups * lanes);
    }
};

}  // namespace

void backward_rows(const GradientOperation& op, const Plan& plan) { RowGradients(op, plan).run(); }

}  // namespace fusednorm
