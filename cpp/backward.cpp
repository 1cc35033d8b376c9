// The gradients of every norm (where statistics are rows: backward_rows.cpp), in forward's two schedules. With
// xhat = (x - mean) * rstd and g = grad * weight:
//   grad_x = rstd * (g - mean(g) - xhat * mean(g * xhat)), means over a statistic's values; constant statistics: rstd * g;
//   grad_weight = sum(grad * xhat), grad_bias = sum(grad), over a channel's values.
// Sums have the blocks, segments and order of the moments: no bit depends on the number of threads.
#include "backward.hpp"

#include <cmath>
#include <numeric>

#include "backward_numbers.hpp"
#include "backward_rows.hpp"
#include "machine/dispatch.hpp"
#include "machine/threads.hpp"
#include "plan.hpp"
#include "schedule.hpp"
#include "tiles.hpp"
#include "unit_moments.hpp"

namespace fusednorm {
namespace {

// The gradients where statistics belong to channels, or to channels of a sample.
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
          channels(plan.channels()) {
        const int64_t values = units * plan.write.rows.size() * plan.write.cols.size;
        threads = values < kSerialFound ? 1 : get_num_threads();
        stream = is_streamed(values * size_of(op.x_type) * (gradient.constant ? 2 : 3), threads == 1 || !gradient.constant);
        unit_values = values / units;
        // Small units are taken many at a time.
        if (are_joined(plan) && plan.segments() == 1) runs.join(run_bytes() / (3 * size_of(op.x_type)) / unit_values, threads);
        // Otherwise grad and x were just read; those of the next units are asked for.
        const int64_t size = size_of(op.x_type);
        ahead = down && is_far(values * size, true) ? kAheadBytes : 0;
        if (!down && stream && !gradient.rstd)
            ahead = to_next(plan.units, runs, size, 2 * size * unit_values * runs.batch, threads);
        const Axis row = last_of(plan.read.rows);
        own_rows = row.affine != 0 && row.size > 1 && !plan.read.long_rows;
        const int64_t cols = plan.read.cols.size;
        joint = !gradient.rstd && plan.count() >= kLeastChosen &&
                (down ? k.joint_cols[type] && fold_of(cols) == 1
                      : k.joint_rows[type][0] && (!own_rows || (row.x == cols && whole_lanes(cols) == cols)));
    }

    void run() {
        // Each unit's share in its channels' gradients, added up in the order of the units.
        Buffer<double> shares(2, units, channels);
        if (are_enough(units, threads)) {
            per_statistic(shares.at(0));
        } else {
            pooled(shares.at(0));
        }
        for (int64_t unit = 0; unit < units; ++unit) {
            const int64_t first = place(plan.units, plan.origin, unit).affine;
            const double *to_weight = shares.at(unit * channels), *to_bias = to_weight + units * channels;
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
    bool own_rows;  // rows have channels of their own
    bool joint;     // moments and sums are found together, where x is near 0
    int threads;
    int64_t units, n, channels, unit_values, ahead;
    Runs runs{plan.units};

    Workspaces workspaces() const { return {tiles, std::max(n, runs.batch), down ? n : 0, 0, threads}; }

    // The statistics that are closed at once: those of one unit, or of a run of units that have one each.
    struct Several {
        Offsets first;
        int64_t n, per;        // per: channels of each
        int64_t stat, affine;  // from one to the next
    };
    Several of_unit(const Offsets& unit, int64_t stats) const {
        const int64_t per = channels / stats;
        return {unit, stats, per, 1, per};
    }
    Several of_unit(const Offsets& unit) const { return of_unit(unit, plan.stats()); }

    // ---- the steps

    // moments: the segment's own, where statistics were not given.
    void set_origins(const Several& of, const Moments& moments, double count, bool zero, double* origin) const {
        for (int64_t s = 0; s < of.n; ++s) {
            const int64_t stat = of.first.stat + s * of.stat;
            const double mean = gradient.rstd ? gradient.mean[stat] : moments.mean[s];
            const double offset = gradient.rstd ? mean * gradient.rstd[stat] : mean;
            const double spread = gradient.rstd ? 1 : moments.m2[s] / count;
            std::fill_n(origin + s * of.per, of.per, origin_of(mean, offset, spread, zero && op.x_type != Type::f64));
        }
    }

    // Sets center, rstd and low from the moments found, or from what was given.
    void set_statistics(const Several& of, const Moments& m, const Numbers& to) const {
        const double count = static_cast<double>(plan.count());
        for (int64_t s = 0; s < of.n; ++s) {
            const int64_t stat = of.first.stat + s * of.stat;
            to.low[s] = gradient.rstd ? 0 : m.low[s];
            to.rstd[s] = gradient.rstd ? gradient.rstd[stat] : 1 / std::sqrt(m.m2[s] / count + op.eps);
            std::fill_n(to.wide[kCenter] + s * of.per, of.per, gradient.rstd ? gradient.mean[stat] : m.mean[s]);
        }
    }

    // The moments of a segment, where they are not given, and its sums.
    void find_segment(const Offsets& unit, int64_t segment, const Moments& moments, const Sums& to, const Workspace& w) const {
        if (!joint) {
            if (!gradient.rstd) found.segment(unit, segment, w, moments);
            return sum_segment(unit, segment, moments, to, w, false);
        }
        bool summed = true;
        to.clear(channels);
        found.pieces(unit, segment, w, moments, [&](const Piece& p, Moments piece) {
            summed &= down ? find(p, to, w, piece) : find(p, 1, 0, to.at(p.at.affine - unit.affine), piece);
        });
        sum_segment(unit, segment, moments, to, w, summed);
    }

    // Finds the moments of a piece. Returns whether the sums are found, too: around 0.
    bool find(const Piece& p, const Sums& to, const Workspace& w, const Moments& moments) const {
        const void *grad = at(gradient.grad, p.at.x, op.x_type), *x = at(op.x, p.at.x, op.x_type);
        return k.joint_cols[type]({grad, x, p.rows, p.row.x, p.cols, nullptr, to.plain, to.product, w.scratch}, moments);
    }
    bool find(const Piece& p, int64_t stats, int64_t stat_ld, const Sums& to, const Moments& moments) const {
        const void *grad = at(gradient.grad, p.at.x, op.x_type), *x = at(op.x, p.at.x, op.x_type);
        const bool each = own_rows && p.rows > 1;
        return k.joint_rows[type][0](
            {grad, x, stats, stat_ld, p.rows, p.row.x, p.cols, each, op.centered, nullptr, to.plain, to.product}, moments);
    }

    // summed: the sums around 0 are there.
    void sum_segment(const Offsets& unit, int64_t segment, const Moments& moments, const Sums& to, const Workspace& w,
                     bool summed) const {
        // The sign of an infinite grad * (x - mean) is known around the mean alone.
        for (const bool zero : {true, false}) {
            // The moments of a segment are one for each column, before columns of a group are pooled.
            set_origins(of_unit(unit, gradient.rstd ? plan.stats() : n), moments, found.count_of(segment), zero, to.origin);
            if (!summed || !are_zero(to.origin, channels)) add_up(unit, segment, to, w);
            if (are_finite(to.plain, channels)) return;
            summed = false;
        }
    }

    void add_up(const Offsets& unit, int64_t segment, const Sums& to, const Workspace& w) const {
        to.clear(channels);
        const int64_t begin = segment * plan.segment, end = std::min(begin + plan.segment, plan.read.pieces());
        walk(plan.read, unit, begin, end, [&](const Piece& p) {
            if (!down) return add_up(p, {1, 1, 1, 0, 0, 0}, to.at(p.at.affine - unit.affine));
            const void *grad = at(gradient.grad, p.at.x, op.x_type), *x = at(op.x, p.at.x, op.x_type);
            k.gradient_sums_cols[type]({grad, x, p.rows, p.row.x, p.cols, to.origin, to.plain, to.product, w.scratch});
        });
    }

    // Adds up a piece along its rows, and the pieces behind it (next), whose channels follow. Rows of one channel are pooled.
    void add_up(const Piece& p, const Axis& next, const Sums& to) const {
        const void *grad = at(gradient.grad, p.at.x, op.x_type), *x = at(op.x, p.at.x, op.x_type);
        const bool pooled = p.row.affine == 0;
        const int64_t rows = pooled ? p.rows : 1, stats = pooled ? next.size : p.rows, ld = pooled ? next.x : p.row.x;
        if (pooled || next.size == 1 || next.x == p.rows * p.row.x) {
            const int64_t all = pooled ? stats : stats * next.size;
            k.gradient_sums_rows[type]({grad, x, all, ld, rows, p.row.x, p.cols, to.origin, to.plain, to.product});
            return;
        }
        for (int64_t i = 0; i < next.size; ++i) {
            Piece one = p;
            one.at.step(next, i);
            add_up(one, {1, 1, 1, 0, 0, 0}, to.at(i * p.rows));
        }
    }

    // find_segment() for a run of units.
    void find_run(const Several& of, const Moments& moments, const Sums& to, const Workspace& w) const {
        const Axis step = plan.units.last(), row = last_of(plan.read.rows);
        const Piece all{of.first, row.size, plan.read.cols.size, row};
        bool summed = false;
        if (joint) {
            to.clear(of.n * of.per);
            summed = find(all, of.n, step.x, to, moments);
        } else if (!gradient.rstd) {
            found.joined(of.first, of.n, w, moments);
        }
        set_origins(of, moments, found.count_of(0), true, to.origin);
        if (!summed || !are_zero(to.origin, of.n * of.per)) {
            to.clear(of.n * of.per);
            add_up(all, {of.n, step.x, step.y, step.stat, step.affine, step.r}, to);
        }
        if (are_finite(to.plain, of.n * of.per)) return;
        for (int64_t i = 0; i < of.n; ++i) {
            Offsets one = of.first;
            one.step(step, i);
            sum_segment(one, 0, moments + i, to.at(i * of.per), w, false);
        }
    }

    // Turns the sums into the coefficients of grad_x, and into the channels' shares in the gradients of weight and bias.
    // Returns whether float holds the coefficients.
    bool close(const Several& of, const Numbers& u, double* share) const {
        const double count = static_cast<double>(plan.count()),
                     *weights = static_cast<const double*>(op.weight) + of.first.affine;
        double *to_weight = share, *to_bias = share + units * channels;
        u.sums.settle(of.n * of.per);
        // Not of.per where that is 1: many channels of few values would feel the loops within.
        const auto close_each = [&](auto per) {
            for (int64_t s = 0; s < of.n; ++s) {
                const double rstd = u.rstd[s], low = u.low[s], *weight = weights + s * of.affine;
                double plain = 0, product = 0;
                for (int64_t i = 0, c = s * per; i < per; ++i, ++c) {
                    u.sums.move(c, (u.wide[kCenter][c] - u.sums.origin[c]) + low);
                    plain += weight[i] * u.sums.plain[c], product += weight[i] * u.sums.product[c];
                    u.wide[kFactor][c] = weight[i] * rstd;
                    to_weight[c] = u.sums.product[c] * rstd, to_bias[c] = u.sums.plain[c];
                }
                const double slope = -(product * rstd / count * rstd) * rstd;
                const double offset = -(plain * rstd / count) - correction(low, slope);
                for (int64_t c = s * per; c < (s + 1) * per; ++c) u.wide[kSlope][c] = slope, u.wide[kOffset][c] = offset;
            }
        };
        of.per == 1 ? close_each(std::integral_constant<int64_t, 1>()) : close_each(of.per);
        // With constant statistics grad_x is grad times a factor, which is what normalize does around 0.
        if (gradient.constant)
            for (const int unused : {kCenter, kSlope, kOffset}) std::fill_n(u.wide[unused], of.n * of.per, 0.0);
        *u.fits = op.x_type != Type::f64 && u.round(of.n * of.per);
        return *u.fits != 0;
    }

    // c: the channel of the first row, or column; step: from row to row.
    void write_piece(const Piece& p, const Numbers& u, int64_t c, int64_t step) const {
        const bool in_float = *u.fits != 0;
        const int64_t ld = p.row.x;
        const auto of = [&](int which) { return u.coefficients(which, in_float, c); };
        const void* grad = at(gradient.grad, p.at.x, op.x_type);
        void* y = const_cast<char*>(at(op.y, p.at.x, op.x_type));
        if (gradient.constant) {
            NormalizeTile t{};
            t.x = grad, t.y = y, t.rows = p.rows, t.cols = p.cols, t.x_ld = t.y_ld = ld;
            t.center = of(kCenter), t.scale = of(kFactor), t.shift = of(kOffset), t.coef_ld = step;
            t.ahead = ahead, t.stream = stream, t.floor = kNoFloor;
            (in_float ? k.normalize[type] : k.fused[type][0])[down](t);
        } else {
            k.gradient[type][!in_float][down]({grad, at(op.x, p.at.x, op.x_type), y, p.rows, p.cols, ld, of(kFactor),
                                               of(kCenter), of(kSlope), of(kOffset), step, ahead, stream});
        }
    }

    void write_pieces(const Offsets& unit, const Numbers& u, int64_t begin, int64_t end) const {
        walk(plan.write, unit, begin, end,
             [&](const Piece& p) { write_piece(p, u, down ? 0 : p.at.affine - unit.affine, p.row.affine); });
    }

    // ---- the schedules

    void run_unit(int64_t index, const Numbers& u, const Sums& rest, double* share, const Workspace& w) const {
        const Offsets unit = place(plan.units, plan.origin, index);
        const auto find_one = [&](int64_t s, const Moments& moments) {
            find_segment(unit, s, moments, s == 0 ? u.sums : rest, w);
            if (s > 0) u.sums.take_in(rest, channels);
        };
        Moments m{};
        if (gradient.rstd) {
            for (int64_t s = 0; s < plan.segments(); ++s) find_one(s, m);
        } else {
            m = found.merge_segments(unit, w, [&](int64_t s) {
                const Moments to = s == 0 ? w.unit : w.segment;
                find_one(s, to);
                return to;
            });
        }
        set_statistics(of_unit(unit), m, u);
        close(of_unit(unit), u, share);
        write_pieces(unit, u, 0, plan.write.pieces());
    }

    // Runs `size` units from this one on, each of one segment.
    void run_joined(int64_t index, int64_t size, const Numbers& all, double* share, const Workspace& w) const {
        const Offsets unit = place(plan.units, plan.origin, index);
        const Axis step = plan.units.last();
        const Several of{unit, size, channels, step.stat, step.affine};
        find_run(of, w.unit, all.sums, w);
        set_statistics(of, w.unit, all);
        if (close(of, all, share) || op.x_type == Type::f64)
            return walk_joined(plan, unit, size,
                               [&](const Piece& p, int64_t c, int64_t step_of_c) { write_piece(p, all, c, step_of_c); });
        // A unit's bits do not depend on its neighbours: where float does not hold the numbers of one, each is taken alone.
        for (int64_t i = 0; i < size; ++i) {
            Offsets one = unit;
            one.step(step, i);
            const Numbers u = all.at(i * channels);
            *u.fits = u.round(channels);
            write_pieces(one, u, 0, plan.write.pieces());
        }
    }

    void per_statistic(double* shares) const {
        const int64_t of_numbers = Numbers::doubles(channels * runs.batch), each = of_numbers + Sums::doubles(channels);
        Workspaces memory = workspaces();
        Buffer<double> numbers(each, threads);
        auto body = [&](int64_t item, int slot) {
            const Workspace w = memory.at(slot);
            double* mine = numbers.at(each * slot);
            const Numbers u(mine, channels * runs.batch);
            const int64_t index = runs.first(item);
            double* share = shares + index * channels;
            if (runs.batch == 1) return run_unit(index, u, Sums(mine + of_numbers, channels), share, w);
            run_joined(index, runs.size(item), u, share, w);
        };
        parallel_for(runs.count(), threads, body);
    }

    void pooled(double* shares) const {
        const int64_t segments = plan.segments(), each = Numbers::doubles(channels);
        Workspaces memory = workspaces();
        Buffer<double> numbers(each, units);
        Buffer<double> moments(gradient.rstd ? 0 : units, segments, n, 3), sums(units, segments, Sums::doubles(channels));
        const auto moments_of = [&](int64_t unit, int64_t s) {
            return moments_at(moments.at((unit * segments + s) * n * 3), n);
        };
        const auto sums_of = [&](int64_t unit, int64_t s) {
            return Sums(sums.at((unit * segments + s) * Sums::doubles(channels)), channels);
        };

        for_segments(plan, threads, [&](int64_t unit, const Offsets& begin, int64_t s, int slot) {
            const Workspace w = memory.at(slot);
            const Moments to = gradient.rstd ? Moments{} : moments_of(unit, s);
            find_segment(begin, s, to, sums_of(unit, s), w);
        });
        for (int64_t unit = 0; unit < units; ++unit) {
            const Offsets where = place(plan.units, plan.origin, unit);
            const auto of = [&](int64_t s) { return moments_of(unit, s); };
            Numbers u(numbers.at(unit * each), channels);
            set_statistics(of_unit(where), gradient.rstd ? Moments{} : found.merge_segments(where, memory.at(0), of), u);
            std::copy_n(sums_of(unit, 0).origin, Sums::doubles(channels), u.sums.origin);
            for (int64_t s = 1; s < segments; ++s) u.sums.take_in(sums_of(unit, s), channels);
            close(of_unit(where), u, shares + unit * channels);
        }
        for_written_parts(plan, unit_values, threads, Order::forwards,
                          [&](int64_t unit, const Offsets& begin, int64_t first, int64_t last, int) {
                              write_pieces(begin, Numbers(numbers.at(unit * each), channels), first, last);
                          });
    }
};

// Group norm whose plan has a weight for each value (plan.spread of them for a channel): backward_rows with those weights, then
// the sums of each channel.
void backward_spread(const GradientOperation& op, const Plan& plan) {
    const int64_t channels = channels_of(op.of), all = channels * plan.spread;
    Buffer<double> memory(3, all);
    double *weight = memory.data(), *grad_weight = weight + all, *grad_bias = grad_weight + all;
    for (int64_t c = 0; c < channels; ++c)
        std::fill_n(weight + c * plan.spread, plan.spread, static_cast<const double*>(op.of.weight)[c]);
    std::fill_n(grad_weight, 2 * all, 0.0);
    GradientOperation each = op;
    each.of.weight = weight, each.grad_weight = grad_weight, each.grad_bias = grad_bias;
    backward_rows(each, plan);
    for (int64_t c = 0; c < channels; ++c, grad_weight += plan.spread, grad_bias += plan.spread) {
        op.grad_weight[c] = std::accumulate(grad_weight, grad_weight + plan.spread, 0.0);
        op.grad_bias[c] = std::accumulate(grad_bias, grad_bias + plan.spread, 0.0);
    }
}

}  // namespace

bool is_readable(const Operation& op) {
    const Plan plan = make_plan(op, true);
    if (plan.read.pack_x || plan.write.pack_x) return false;
    return plan.coefs != Coefs::both || plan.read.rows.n == 0 || last_of(plan.read.rows).affine == 0;
}

void backward(const GradientOperation& op) {
    Plan plan = make_plan(op.of, true);
    if (plan.coefs == Coefs::both) return plan.spread == 1 ? backward_rows(op, plan) : backward_spread(op, plan);
    sort_units(plan);
    ChannelGradients(op, plan).run();
}

}  // namespace fusednorm
