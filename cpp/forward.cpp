// The two schedules of every norm. Per statistic: each unit of work finds its moments and normalizes its own tiles while
// they are in cache. Pooled: moments of all segments, merge, normalize; where there are fewer units than threads.
// Both do the same arithmetic in the same order.
#include <algorithm>
#include <cstring>

#include "machine/dispatch.hpp"
#include "machine/threads.hpp"
#include "norm.hpp"
#include "plan.hpp"
#include "schedule.hpp"
#include "tiles.hpp"
#include "unit_moments.hpp"

namespace fusednorm {
namespace {

constexpr int64_t kManyRows = 16;

class Forward {
public:
    explicit Forward(const Operation& operation)
        : op(operation),
          plan(make_plan(op, false)),
          k(kernels()),
          tiles(op, plan, k),
          found(op, plan, k, tiles),
          weights(weights_are_laid() ? 2 : 0, whole_lanes(channels_of(op)), plan.spread) {
        sort_units(plan);
        units = plan.units.size();
        runs = Runs(plan.units);
        down = plan.direction == Direction::down;
        n = found.columns();
        values = units * plan.write.rows.size() * plan.write.cols.size;
        threads = values < (op.given ? kSerialGiven : kSerialFound) ? 1 : get_num_threads();
        const int64_t each = size_of(op.x_type) + size_of(op.y_type) + (op.r ? size_of(op.r_type) : 0);
        tiles.stream = op.y != op.x && !plan.write.pack_y && is_streamed(values * each, threads == 1 || op.r != nullptr);
        unit_channels = plan.channels();
        // Small units are taken many at a time.
        if (one_row() || are_joined(plan)) {
            const bool packed = plan.write.pack_x || plan.write.pack_y;
            // What nothing is written of need not stay in the cache: the longer the runs, the more of memory is read in order.
            const int64_t fit = packed ? tiles.pack_values() : op.y ? run_bytes() / each : INT64_MAX;
            runs.join(fit / plan.count(), threads, op.y ? 4 : 2);
        }
        by_batch = one_row() || runs.batch > 1;
        if (weights_are_laid()) lay_weights();
        tiles.ahead = ahead();
        channels = unit_channels * runs.batch;
    }

    void run() {
        if (op.given) return normalize_given();
        if (are_enough(runs.count(), threads)) return per_statistic();
        pooled();
    }

private:
    const Operation& op;
    Plan plan;
    const Kernels& k;
    Tiles tiles;
    UnitMoments found;
    Buffer<double> weights;
    bool down, by_batch;
    int threads;
    int64_t units, n, values, unit_channels, channels;
    Runs runs;

    // Weights per channel come as doubles; beside the columns of a row they are of the arithmetic's type. Those of many rows
    // begin with a line of the cache: with AVX-512 layer norm took 1.04 to 1.07 times as long where they did not.
    bool weights_are_laid() const { return plan.coefs == Coefs::both && (!op.rows_only || are_many_rows()); }
    bool are_many_rows() const {
        const auto is_in_line = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; };
        return plan.units.size() >= kManyRows && !(is_in_line(op.weight) && is_in_line(op.bias));
    }
    void lay_weights() {
        if (op.rows_only) {
            const auto bytes = static_cast<size_t>(channels_of(op) * size_of(weight_type(tiles.single)));
            double *weight = weights.data(), *bias = weights.at(whole_lanes(channels_of(op)));
            std::memcpy(weight, op.weight, bytes), std::memcpy(bias, op.bias, bytes);
            tiles.row_weight = weight, tiles.row_bias = bias;
            return;
        }
        const auto* weight = static_cast<const double*>(op.weight);
        tiles.single = tiles.single && std::all_of(weight, weight + channels_of(op), fits_float);
        tiles.single ? lay_weights<float>() : lay_weights<double>();
    }
    template <class A>
    void lay_weights() {
        const int64_t n_channels = channels_of(op), n_all = n_channels * plan.spread;
        A *weight = reinterpret_cast<A*>(weights.data()), *bias = weight + n_all;
        for (int64_t c = 0; c < n_channels; ++c) {
            std::fill_n(weight + c * plan.spread, plan.spread, static_cast<A>(static_cast<const double*>(op.weight)[c]));
            std::fill_n(bias + c * plan.spread, plan.spread, static_cast<A>(static_cast<const double*>(op.bias)[c]));
        }
        tiles.row_weight = weight, tiles.row_bias = bias;
    }

    // Whether a statistic is one row of x and of y.
    bool one_row() const { return !op.given && !down && plan.read.pieces() == 1 && plan.write.pieces() == 1; }

    // How far ahead normalize asks for x, in bytes. After a unit's sums its x is in the cache; and where the results go past
    // it, so may be that of the next one, or of the next run, which is what is asked for.
    int64_t ahead() const {
        const int64_t size = size_of(op.x_type), bytes = values * size;
        if (plan.write.pack_x) return 0;
        if (!op.given && !down && tiles.stream) {
            const int64_t next = to_next(plan.units, runs, size, bytes / units * runs.batch, threads);
            if (next != 0) return next;
        }
        if (by_batch || size == 1) return 0;
        return op.r || is_far(bytes, plan.coefs != Coefs::rows) ? kAheadBytes : 0;
    }

    Workspaces workspaces(int64_t coefficients) const {
        return {tiles, std::max(n, runs.batch), down ? n : 0, coefficients, threads};
    }

    // ---- coefficients

    Coefficients make_coefficients(Moments stats, int64_t n_stats, int64_t affine, int64_t affine_ld, int64_t count_of_channels,
                                   double count, char* memory) const {
        static const double one = 1, zeros[] = {-0.0, 0.0};
        const bool own_weights = plan.coefs == Coefs::both;
        Coefficients c{memory, memory + 8 * count_of_channels, memory + 16 * count_of_channels, !tiles.single};
        CoefficientsJob job{stats, count,    op.eps,  n_stats, divided(count_of_channels, n_stats), &one, &zeros[op.centered],
                            0,     c.center, c.scale, c.shift};
        if (!own_weights) {
            job.weight = static_cast<const double*>(op.weight) + affine;
            job.bias = static_cast<const double*>(op.bias) + affine;
            job.affine_ld = affine_ld;
        }
        if (!k.coefficients[tiles.single ? 0 : 1](job) && tiles.single) {
            c.wide = true;
            k.coefficients[1](job);
        }
        return c;
    }

    // Writes the coefficients of each channel out for its plan.spread columns.
    Coefficients spread(const Coefficients& c, char* memory) const {
        const int64_t n_channels = channels_of(op), n_all = n_channels * plan.spread;
        const Coefficients all{memory, memory + 8 * n_all, memory + 16 * n_all, c.wide};
        const auto repeat = k.copy[shift_of(c.wide ? Type::f64 : Type::f32)];
        const auto write = [&](const char* from, char* to) {
            repeat({from, to, n_channels, plan.spread, 1, 0, plan.spread, 1});
        };
        write(c.center, all.center), write(c.scale, all.scale), write(c.shift, all.shift);
        return all;
    }

    // ---- normalize

    void normalize_pieces(const Offsets& unit, const Coefficients& c, int64_t begin, int64_t end, const Workspace& w) const {
        walk(plan.write, unit, begin, end, [&](const Piece& p) {
            const bool by_channel = plan.coefs != Coefs::both;
            tiles.normalize(p, c, by_channel ? p.at.affine - unit.affine : 0, plan.coefs == Coefs::rows ? p.row.affine : 0, w);
        });
    }

    // ---- the sum that x is

    // Whether the sum is made row by row, just before the row is normalized: not where neighbours in memory are of many rows.
    bool adds_by_row() const { return op.terms[0] && one_row() && plan.read.cols.x == 1; }

    void add_terms(const Piece& p) const {
        const SumTile tile{at(op.terms[0], p.at.x, op.x_type),
                           at(op.terms[1], p.at.x, op.term_type),
                           const_cast<char*>(at(op.x, p.at.x, op.x_type)),
                           p.rows,
                           p.cols,
                           p.row.x,
                           p.row.x,
                           p.row.x};
        k.sum[static_cast<int>(op.x_type)][op.term_type == op.x_type ? 0 : 1](tile);
    }

    // Makes all of the sum at once: the arrays are dense.
    void add_terms() const {
        auto body = [&](int64_t item, int) {
            const int64_t begin = item * kItemValues;
            add_terms(Piece{{begin}, 1, std::min(kItemValues, values - begin), kNoAxis});
        };
        parallel_for((values + kItemValues - 1) / kItemValues, threads, body);
    }

    // ---- the schedules

    void normalize_given() {
        const int64_t n_channels = channels_of(op);
        Buffer<char> memory(24, n_channels), spread_memory(plan.spread > 1 ? 24 : 0, n_channels, plan.spread);
        Coefficients c = make_coefficients(op.moments, n_channels, 0, 1, n_channels, 1, memory.at(0));
        if (plan.spread > 1) c = spread(c, spread_memory.at(0));
        const int64_t pieces = plan.write.pieces(), items = parts_of(values, pieces, threads);
        Workspaces each = workspaces(0);
        auto body = [&](int64_t item, int slot) {
            normalize_pieces(plan.origin, c, divided(pieces * item, items), divided(pieces * (item + 1), items), each.at(slot));
        };
        parallel_for(items, threads, body);
    }

    void run_batch(const Offsets& unit, int64_t size, const Workspace& w) const {
        const Axis step = last_of(plan.units);
        const void* x = found.joined(unit, size, w, w.unit);
        found.finish(unit, w.unit, w, size, step.stat);
        if (!op.y) return;
        const Coefficients c = make_coefficients(w.unit, size, unit.affine, step.affine, size * unit_channels,
                                                 static_cast<double>(plan.count()), w.coefficients);
        // A statistic's bits do not depend on its neighbours: where one does not fit, each is taken alone.
        if (c.wide && tiles.single && size > 1) {
            for (int64_t i = 0; i < size; ++i) {
                Offsets one = unit;
                one.step(step, i);
                run_batch(one, 1, w);
            }
            return;
        }
        walk_joined(plan, unit, size, [&](const Piece& p, int64_t first, int64_t step_of_channels) {
            tiles.normalize(p, c, first, step_of_channels, w, keeps_packed() ? x : nullptr);
        });
    }

    // Whether x is normalized as it was packed for its moments.
    bool keeps_packed() const {
        const Axis &read = plan.read.cols, &write = plan.write.cols;
        return one_row() && plan.read.pack_x && read.x == write.x && read.size == write.size;
    }

    void run_unit(const Offsets& unit, const Workspace& w) const {
        const Moments stats = found.unit(unit, w);
        if (!op.y) return;
        const Coefficients c = unit_coefficients(unit, stats, w.coefficients);
        normalize_pieces(unit, c, 0, plan.write.pieces(), w);
    }

    Coefficients unit_coefficients(const Offsets& unit, Moments stats, char* memory) const {
        return make_coefficients(stats, plan.stats(), unit.affine, channels / plan.stats(), channels,
                                 static_cast<double>(plan.count()), memory);
    }

    void per_statistic() {
        Workspaces each = workspaces(channels);
        if (op.terms[0] && !adds_by_row()) add_terms();
        auto body = [&](int64_t item, int slot) {
            const Workspace w = each.at(slot);
            const Offsets unit = place(plan.units, plan.origin, runs.first(item));
            if (!by_batch) return run_unit(unit, w);
            const int64_t size = runs.size(item);
            if (adds_by_row()) add_terms(Piece{unit, size, plan.write.cols.size, last_of(plan.units)});
            run_batch(unit, size, w);
        };
        parallel_for(runs.count(), threads, body);
    }

    void pooled() {
        const int64_t segments = plan.segments();
        Buffer<double> partial(units, segments, n, 3);
        Buffer<char> memory(op.y ? units : 0, channels, 24);
        Buffer<Coefficients> coefficients(units);
        Workspaces each = workspaces(0);
        if (op.terms[0]) add_terms();
        const auto partial_of = [&](int64_t unit, int64_t s) {
            return moments_at(partial.at((unit * segments + s) * n * 3), n);
        };

        for_segments(plan, threads, [&](int64_t unit, const Offsets& begin, int64_t s, int slot) {
            found.segment(begin, s, each.at(slot), partial_of(unit, s));
        });
        for (int64_t unit = 0; unit < units; ++unit) {
            const Offsets begin = place(plan.units, plan.origin, unit);
            const Moments stats = found.merge_segments(begin, each.at(0), [&](int64_t s) { return partial_of(unit, s); });
            if (op.y) *coefficients.at(unit) = unit_coefficients(begin, stats, memory.at(unit * channels * 24));
        }
        if (!op.y) return;
        for_written_parts(plan, values / units, threads, Order::backwards,
                          [&](int64_t unit, const Offsets& begin, int64_t first, int64_t last, int slot) {
                              normalize_pieces(begin, *coefficients.at(unit), first, last, each.at(slot));
                          });
    }
};

}  // namespace

void forward(const Operation& op) { Forward(op).run(); }

}  // namespace fusednorm
