// The gradients of every norm, in forward's two schedules. With xhat = (x - mean) * rstd and g = grad * weight:
//   grad_x = rstd * (g - mean(g) - xhat * mean(g * xhat)), means over a statistic's values; constant statistics: rstd * g;
//   grad_weight = sum(grad * xhat), grad_bias = sum(grad), over a channel's values.
// Sums have the blocks, segments and order of the moments: no bit depends on the number of threads.
#include "backward.hpp"

#include <cmath>
#include <vector>

#include "dispatch.hpp"
#include "plan.hpp"
#include "schedule.hpp"
#include "threads.hpp"
#include "tiles.hpp"
#include "unit_moments.hpp"

namespace fusednorm {
namespace {

const char* at(const void* array, int64_t offset, Type type) {
    return static_cast<const char*>(array) + offset * size_of(type);
}

// Whether float holds the numbers that grad_x is made of. NaN, infinities and 0 give the same in any arithmetic.
bool fits_float(double factor) {
    const double size = std::fabs(factor);
    return !(size > 0 && size < 0x1p-126) && !(size > 0x1p126 && size < HUGE_VAL);
}

// What one unit's channels have, `channels` numbers each, and its statistics.
struct Numbers {
    double *plain, *product;  // sums of grad and of grad * (x - center)
    double *center, *factor, *slope, *offset;
    double *low, *rstd;
    float* narrow;  // center, factor, slope and offset
    double* wide;   // 1: these are not used

    static int64_t doubles(int64_t channels) { return 10 * channels + 1; }
    Numbers(double* memory, int64_t n)
        : plain(memory),
          product(plain + n),
          center(product + n),
          factor(center + n),
          slope(factor + n),
          offset(slope + n),
          low(offset + n),
          rstd(low + n),
          narrow(reinterpret_cast<float*>(rstd + n)),
          wide(rstd + 3 * n) {}
};

// Where statistics belong to channels, or to channels of a sample.
class ChannelGradients {
public:
    ChannelGradients(const GradientOperation& operation, const Plan& plan_)
        : gradient(operation),
          op(operation.of),
          plan(plan_),
          k(kernels()),
          tiles(op, plan, k),
          found(op, plan, k, tiles),
          type(static_cast<int>(op.x_type)),
          down(plan.direction == Direction::down),
          units(plan.units.size()),
          n(found.columns()),
          channels(n) {
        const int64_t values = units * plan.write.rows.size() * plan.write.cols.size;
        threads = values < kSerialFound ? 1 : get_num_threads();
        stream = values * size_of(op.y_type) >= stream_bytes();
        unit_values = values / units;
        for (int i = 0; !down && i < plan.write.rows.n; ++i)
            if (plan.write.rows[i].affine != 0) channels *= plan.write.rows[i].size;
        // As in forward: what the next unit's sums will read is asked for, while grad_x is written.
        ahead = down || plan.units.n == 0 ? tiles.ahead : threads * plan.units.last().x * size_of(op.x_type);
    }

    void run() {
        // Each unit's share in its channels' gradients, added up in the order of the units.
        Buffer<double> shares(2 * units * channels);
        if (are_enough(units, threads)) {
            per_statistic(shares.at(0));
        } else {
            pooled(shares.at(0));
        }
        for (int64_t unit = 0; unit < units; ++unit) {
            const int64_t first = place(plan.units, plan.origin, unit).affine;
            const double *to_weight = shares.at(2 * unit * channels), *to_bias = to_weight + channels;
            for (int64_t c = 0; c < channels; ++c)
                gradient.grad_weight[first + c] += to_weight[c], gradient.grad_bias[first + c] += to_bias[c];
        }
    }

private:
    const GradientOperation& gradient;
    const Operation& op;
    const Plan& plan;
    const Kernels& k;
    Tiles tiles;
    UnitMoments found;
    int type;
    bool down, stream;
    int threads;
    int64_t units, n, channels, unit_values, ahead;

    // ---- memory of the threads

    int64_t doubles_each() const { return 12 * n + (down ? cols_scratch(n) : 0); }

    Workspace workspace(Buffer<double>& memory, int slot) const {
        Workspace w{};
        double* d = memory.at(doubles_each() * slot);
        for (Moments* each : {&w.piece, &w.segment, &w.unit, &w.stats}) *each = moments_at(d, n), d += 3 * n;
        w.scratch = d;
        return w;
    }

    // ---- the steps

    // Statistics come from the moments found, or were given.
    void set_statistics(const Offsets& unit, Moments m, Numbers& to) const {
        const int64_t stats = plan.stats(), per = channels / stats;
        for (int64_t s = 0; s < stats; ++s) {
            to.low[s] = gradient.rstd ? 0 : m.low[s];
            to.rstd[s] = gradient.rstd ? gradient.rstd[unit.stat + s]
                                       : 1 / std::sqrt(m.m2[s] / static_cast<double>(plan.count()) + op.eps);
            std::fill_n(to.center + s * per, per, gradient.rstd ? gradient.mean[unit.stat + s] : m.mean[s]);
        }
    }

    void sum_segment(const Offsets& unit, int64_t segment, const double* center, double* plain, double* product,
                     const Workspace& w) const {
        std::fill_n(plain, channels, 0.0), std::fill_n(product, channels, 0.0);
        const int64_t begin = segment * plan.segment, end = std::min(begin + plan.segment, plan.read.pieces());
        walk(plan.read, unit, begin, end, [&](const Piece& p) {
            const void *grad = at(gradient.grad, p.at.x, op.x_type), *x = at(op.x, p.at.x, op.x_type);
            if (down) {
                k.gradient_sums_cols[type]({grad, x, p.rows, p.row.x, p.cols, center, plain, product, w.scratch});
            } else {
                const int64_t c = p.at.affine - unit.affine;
                k.gradient_sums_rows[type](
                    {grad, x, p.rows, p.row.x, p.cols, center + c, plain + c, product + c, p.row.affine});
            }
        });
    }

    void add(double* to, const double* from, int64_t size) const {
        for (int64_t i = 0; i < size; ++i) to[i] += from[i];
    }

    // From the sums to what grad_x is made of, and to the unit's share in the gradients of weight and bias.
    void close(const Offsets& unit, Numbers& u, double* share) const {
        const int64_t stats = plan.stats(), per = channels / stats;
        const double count = static_cast<double>(plan.count());
        const double* weight = static_cast<const double*>(op.weight) + unit.affine;
        for (int64_t s = 0; s < stats; ++s) {
            const double rstd = u.rstd[s], low = u.low[s];
            double plain = 0, product = 0;
            for (int64_t c = s * per; c < (s + 1) * per; ++c) {
                u.product[c] -= low * u.plain[c];
                plain += weight[c] * u.plain[c], product += weight[c] * u.product[c];
                u.factor[c] = weight[c] * rstd;
                share[c] = u.product[c] * rstd, share[channels + c] = u.plain[c];
            }
            const double slope = -(product * rstd / count * rstd) * rstd;
            std::fill_n(u.slope + s * per, per, slope);
            std::fill_n(u.offset + s * per, per, -(plain * rstd / count) - low * slope);
        }
        *u.wide = op.x_type == Type::f64 || !narrow(u);
    }

    // What rounding the center loses comes back in the offset.
    bool narrow(Numbers& u) const {
        bool fits = true;
        for (int64_t c = 0; c < channels; ++c) {
            const auto center = static_cast<float>(u.center[c]);
            const double lost = center - u.center[c], offset = u.offset[c] + (lost - lost == 0 ? lost * u.slope[c] : 0);
            u.narrow[c] = center, u.narrow[channels + c] = static_cast<float>(u.factor[c]);
            u.narrow[2 * channels + c] = static_cast<float>(u.slope[c]);
            u.narrow[3 * channels + c] = static_cast<float>(offset);
            fits = fits && fits_float(u.factor[c]) && fits_float(u.slope[c]) && fits_float(center) &&
                   !(std::fabs(offset) > 0x1p126);
        }
        return fits;
    }

    void write_pieces(const Offsets& unit, const Numbers& u, int64_t begin, int64_t end) const {
        const bool wide = *u.wide != 0;
        const auto gradient_x = k.gradient[type][wide][down][gradient.constant ? 0 : 1];
        const auto coefs = [&](int which, const double* doubles, int64_t c) {
            return wide ? static_cast<const void*>(doubles + c) : static_cast<const void*>(u.narrow + which * channels + c);
        };
        walk(plan.write, unit, begin, end, [&](const Piece& p) {
            const int64_t c = down ? 0 : p.at.affine - unit.affine;
            gradient_x({at(gradient.grad, p.at.x, op.x_type), at(op.x, p.at.x, op.x_type),
                        const_cast<char*>(at(op.y, p.at.x, op.x_type)), p.rows, p.cols, p.row.x, coefs(1, u.factor, c),
                        coefs(0, u.center, c), coefs(2, u.slope, c), coefs(3, u.offset, c), p.row.affine, ahead, stream});
        });
    }

    // ---- the schedules

    void run_unit(int64_t index, Numbers& u, double* rest, double* share, const Workspace& w) const {
        const Offsets unit = place(plan.units, plan.origin, index);
        set_statistics(unit, gradient.rstd ? Moments{} : found.unit(unit, w), u);
        sum_segment(unit, 0, u.center, u.plain, u.product, w);
        for (int64_t s = 1; s < plan.segments(); ++s) {
            sum_segment(unit, s, u.center, rest, rest + channels, w);
            add(u.plain, rest, 2 * channels);
        }
        close(unit, u, share);
        write_pieces(unit, u, 0, plan.write.pieces());
    }

    void per_statistic(double* shares) const {
        const int64_t each = Numbers::doubles(channels) + 2 * channels;
        Buffer<double> memory(doubles_each() * threads), numbers(each * threads);
        const int64_t batch = std::clamp<int64_t>(kItemValues / unit_values, 1, std::max<int64_t>(1, units / (4 * threads)));
        auto body = [&](int64_t item, int slot) {
            const Workspace w = workspace(memory, slot);
            double* mine = numbers.at(each * slot);
            Numbers u(mine, channels);
            for (int64_t i = item * batch; i < std::min(units, (item + 1) * batch); ++i)
                run_unit(i, u, mine + Numbers::doubles(channels), shares + 2 * i * channels, w);
        };
        parallel_for((units + batch - 1) / batch, threads, body);
    }

    void pooled(double* shares) const {
        const int64_t segments = plan.segments(), each = Numbers::doubles(channels);
        Buffer<double> memory(doubles_each() * threads), numbers(each * units);
        Buffer<double> moments(gradient.rstd ? 0 : units * segments * n * 3), sums(units * segments * channels * 2);
        const auto unit_at = [&](int64_t unit) { return place(plan.units, plan.origin, unit); };
        const auto moments_of = [&](int64_t unit, int64_t s) {
            return moments_at(moments.at((unit * segments + s) * n * 3), n);
        };
        const auto sums_of = [&](int64_t unit, int64_t s) { return sums.at((unit * segments + s) * channels * 2); };

        auto find_moments = [&](int64_t item, int slot) {
            const int64_t unit = item / segments, s = item % segments;
            found.segment(unit_at(unit), s, workspace(memory, slot), moments_of(unit, s));
        };
        if (!gradient.rstd) parallel_for(units * segments, threads, find_moments);
        for (int64_t unit = 0; unit < units; ++unit) {
            const auto of = [&](int64_t s) { return moments_of(unit, s); };
            Numbers u(numbers.at(unit * each), channels);
            const Offsets where = unit_at(unit);
            set_statistics(where, gradient.rstd ? Moments{} : found.merge_segments(where, workspace(memory, 0), of), u);
        }
        auto find_sums = [&](int64_t item, int slot) {
            const int64_t unit = item / segments, s = item % segments;
            const Numbers u(numbers.at(unit * each), channels);
            double* to = sums_of(unit, s);
            sum_segment(unit_at(unit), s, u.center, to, to + channels, workspace(memory, slot));
        };
        parallel_for(units * segments, threads, find_sums);
        for (int64_t unit = 0; unit < units; ++unit) {
            Numbers u(numbers.at(unit * each), channels);
            std::copy_n(sums_of(unit, 0), 2 * channels, u.plain);
            for (int64_t s = 1; s < segments; ++s) add(u.plain, sums_of(unit, s), 2 * channels);
            close(unit_at(unit), u, shares + 2 * unit * channels);
        }
        write_all(numbers, each);
    }

    void write_all(Buffer<double>& numbers, int64_t each) const {
        const int64_t pieces = plan.write.pieces();
        const int64_t parts =
            std::clamp<int64_t>(unit_values / kItemValues, 1, std::min<int64_t>(pieces, int64_t{threads} * 4));
        auto write = [&](int64_t item, int) {
            const int64_t unit = item / parts, part = item % parts;
            write_pieces(place(plan.units, plan.origin, unit), Numbers(numbers.at(unit * each), channels),
                         pieces * part / parts, pieces * (part + 1) / parts);
        };
        parallel_for(units * parts, threads, write);
    }
};

// ---- statistics that are rows: a column of samples(rows, channels) has a weight, and takes in sums over the rows

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
        rows = plan.units.size() / groups, channels = groups * cols;
        const int64_t values = rows * channels;
        threads = values < kSerialFound ? 1 : get_num_threads();
        stream = values * size_of(op.y_type) >= stream_bytes();
        block = std::max(kLeastRows, (rows + kMostBlocks - 1) / kMostBlocks);
        strip = std::clamp(kStripValues / cols, kLeastStrip, kMostStrip);
        const double* weight = static_cast<const double*>(op.weight);
        if (op.x_type != Type::f64 && std::all_of(weight, weight + channels, fits_float))
            weights.assign(weight, weight + channels);
    }

    void run() {
        const int64_t blocks = (rows + block - 1) / block;
        Buffer<double> sums(2 * blocks * channels);
        auto run_block = [&](int64_t item, int) {
            double* mine = sums.at(2 * item * channels);
            std::fill_n(mine, 2 * channels, 0.0);
            const int64_t end = std::min(rows, (item + 1) * block);
            for (int64_t row = item * block; row < end; row += strip)
                for (int64_t g = 0; g < groups; ++g) run_strip(row, g, std::min(strip, end - row), mine + g * cols);
        };
        parallel_for(blocks, threads, run_block);
        auto add_blocks = [&](int64_t item, int) {
            const int64_t begin = item * kColumns, end = std::min(channels, begin + kColumns);
            for (int64_t b = 0; b < blocks; ++b) {
                const double *to_weight = sums.at(2 * b * channels), *to_bias = to_weight + channels;
                for (int64_t c = begin; c < end; ++c)
                    gradient.grad_weight[c] += to_weight[c], gradient.grad_bias[c] += to_bias[c];
            }
        };
        parallel_for((channels + kColumns - 1) / kColumns, threads, add_blocks);
    }

private:
    // Rows whose columns' sums are one partial sum: a part of the result's definition, as the blocks of the moments are.
    static constexpr int64_t kLeastRows = 16, kMostBlocks = 64;
    // Rows taken at once, so that x and grad of all of them are in the cache, and few loads of the columns' sums are needed.
    static constexpr int64_t kStripValues = 4096, kLeastStrip = 8, kMostStrip = 64;
    static constexpr int64_t kColumns = 256;

    const GradientOperation& gradient;
    const Operation& op;
    const Plan& plan;
    const Kernels& k;
    int type, threads;
    bool stream;
    int64_t cols, rows, groups = 1, channels, block, strip;
    std::vector<float> weights;  // where float arithmetic is enough, and holds them

    // What the rows of a strip have.
    template <class A>
    struct Rows {
        A center[kMostStrip], scale[kMostStrip], shift[kMostStrip], slope[kMostStrip], offset[kMostStrip];
    };

    void set_statistics(int64_t row, int64_t group, int64_t n, Rows<double>& to) const {
        if (gradient.rstd) {
            for (int64_t i = 0; i < n; ++i) {
                const int64_t stat = place(plan.units, plan.origin, (row + i) * groups + group).stat;
                to.center[i] = gradient.mean ? gradient.mean[stat] : 0, to.scale[i] = gradient.rstd[stat], to.shift[i] = 0;
            }
            return;
        }
        double low[kMostStrip], m2[kMostStrip];
        const void* x = at(op.x, row * channels + group * cols, op.x_type);
        k.moments_rows[type][op.centered]({x, n, channels, 1, 0, cols}, {to.center, low, m2});
        for (int64_t i = 0; i < n; ++i) {
            to.scale[i] = 1 / std::sqrt(m2[i] / static_cast<double>(cols) + op.eps);
            to.shift[i] = -low[i] * to.scale[i];
        }
    }

    bool narrow(const Rows<double>& rows_of, int64_t n, Rows<float>& to) const {
        bool fits = true;
        for (int64_t i = 0; i < n; ++i) {
            to.center[i] = static_cast<float>(rows_of.center[i]), to.scale[i] = static_cast<float>(rows_of.scale[i]);
            const double lost = to.center[i] - rows_of.center[i];
            to.shift[i] = static_cast<float>(rows_of.shift[i] + (lost - lost == 0 ? lost * rows_of.scale[i] : 0));
            to.slope[i] = static_cast<float>(rows_of.slope[i]), to.offset[i] = static_cast<float>(rows_of.offset[i]);
            fits = fits && fits_float(rows_of.scale[i]) && fits_float(rows_of.center[i]) && fits_float(rows_of.slope[i]) &&
                   !(std::fabs(rows_of.offset[i]) > 0x1p126);
        }
        return fits;
    }

    void run_strip(int64_t row, int64_t group, int64_t n, double* columns) const {
        Rows<double> wide;
        Rows<float> floats;
        double plain[kMostStrip], product[kMostStrip];
        set_statistics(row, group, n, wide);
        const int64_t offset = row * channels + group * cols;
        const void *grad = at(gradient.grad, offset, op.x_type), *x = at(op.x, offset, op.x_type);
        const double* weight = static_cast<const double*>(op.weight) + group * cols;
        k.row_gradient_sums[type]({grad, x, n, channels, cols, wide.center, weight, plain, product});
        for (int64_t i = 0; i < n; ++i) {
            const double mean = op.centered ? plain[i] / static_cast<double>(cols) : 0;
            const double mean_xhat = (product[i] * wide.scale[i] + plain[i] * wide.shift[i]) / static_cast<double>(cols);
            wide.offset[i] = -mean * wide.scale[i], wide.slope[i] = -mean_xhat * wide.scale[i];
        }
        const bool fits = !weights.empty() && narrow(wide, n, floats);
        // A row's bits do not depend on its neighbours: where one does not fit, each is taken alone.
        if (!fits && !weights.empty() && n > 1) {
            for (int64_t i = 0; i < n; ++i) run_strip(row + i, group, 1, columns);
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
                             columns + channels,
                             stream};
        if (fits) {
            tile.center = floats.center, tile.scale = floats.scale, tile.shift = floats.shift;
            tile.slope = floats.slope, tile.offset = floats.offset, tile.weight = weights.data() + group * cols;
        }
        k.row_gradients[type][fits ? 0 : 1](tile);
    }
};

}  // namespace

bool is_readable(const Operation& op) {
    const Plan plan = make_plan(op);
    if (plan.read.pack_x || plan.write.pack_x) return false;
    return plan.coefs != Coefs::both || plan.read.rows.n == 0;
}

void backward(const GradientOperation& op) {
    const Plan plan = make_plan(op.of);
    if (plan.coefs == Coefs::both) return RowGradients(op, plan).run();
    ChannelGradients(op, plan).run();
}

}  // namespace fusednorm
