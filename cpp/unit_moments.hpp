// The moments of one unit of a plan: segment by segment, merged in their order, and what of them the caller keeps.
// Knows no schedule.
#pragma once
#include <algorithm>

#include "exact.hpp"
#include "norm.hpp"
#include "plan.hpp"
#include "tiles.hpp"

namespace fusednorm {

class UnitMoments {
public:
    UnitMoments(const Operation& operation, const Plan& plan_, const Kernels& kernels, const Tiles& tiles_)
        : op(operation),
          plan(plan_),
          k(kernels),
          tiles(tiles_),
          exact(is_small_integer(op.x_type)),
          down(plan.direction == Direction::down) {}

    // How many moments a segment has: one for each column, where those are statistics.
    int64_t columns() const { return down ? plan.read.cols.size : 1; }

    // How many values each moment of this segment pools.
    double count_of(int64_t segment) const {
        const int64_t begin = segment * plan.segment, end = std::min(begin + plan.segment, plan.read.pieces());
        if (down) return static_cast<double>(end - begin);
        // The last chunk of every row is shorter.
        const auto values_before = [&](int64_t piece) {
            return piece / plan.read.chunks * plan.read.cols.size +
                   std::min(piece % plan.read.chunks * plan.read.chunk, plan.read.cols.size);
        };
        return static_cast<double>(values_before(end) - values_before(begin));
    }

    // Finds the moments of one segment of one unit.
    void segment(const Offsets& unit, int64_t segment, const Workspace& w, Moments out) const {
        pieces(unit, segment, w, out, [&](const Piece& p, Moments to) {
            int64_t ld;
            const void* x = tiles.read(plan.read, p, w, ld);
            if (down) {
                k.moments_cols[static_cast<int>(tiles.x_type)]({x, p.rows, ld, p.cols, w.scratch}, to);
            } else {
                k.moments_rows[static_cast<int>(tiles.x_type)][op.centered]({x, 1, 0, p.rows, ld, p.cols}, to);
            }
        });
    }

    // The same, where find(a piece, where its moments go) does.
    template <class Find>
    void pieces(const Offsets& unit, int64_t segment, const Workspace& w, Moments out, Find find) const {
        double before = 0;
        const int64_t begin = segment * plan.segment, end = std::min(begin + plan.segment, plan.read.pieces());
        walk(plan.read, unit, begin, end, [&](const Piece& p) {
            find(p, before == 0 ? out : w.piece);
            const double count = static_cast<double>(down ? p.rows : p.rows * p.cols);
            if (before > 0) merge(out, before, w.piece, count, columns());
            before += count;
        });
    }

    // The moments of segment s lie at of(s), and are merged into those of the first. Returns the unit's.
    template <class Of>
    Moments merge_segments(const Offsets& unit, const Workspace& w, Of of) const {
        const Moments first = of(0);
        double before = count_of(0);
        for (int64_t s = 1; s < plan.segments(); ++s) {
            merge(first, before, of(s), count_of(s), columns());
            before += count_of(s);
        }
        return finish(unit, first, w, plan.stats(), 1);
    }

    // Finds the moments of a whole unit on one thread.
    Moments unit(const Offsets& at, const Workspace& w) const {
        segment(at, 0, w, w.unit);
        return merge_segments(at, w, [&](int64_t s) {
            if (s == 0) return w.unit;
            segment(at, s, w, w.segment);
            return w.segment;
        });
    }

    // Finds the moments of a run of small units, each of one tile. Returns x as it was read.
    const void* joined(const Offsets& first, int64_t units, const Workspace& w, Moments out) const {
        const Axis row = last_of(plan.read.rows);
        int64_t ld;
        const void* x = tiles.read(plan.read, {first, units, plan.read.cols.size, last_of(plan.units)}, w, ld);
        double before = 0;
        for (int64_t s = 0, begin = 0; begin < row.size; ++s, begin += plan.segment) {
            k.moments_rows[static_cast<int>(tiles.x_type)][op.centered](
                {at(x, begin * row.x, tiles.x_type), units, ld, std::min(plan.segment, row.size - begin), row.x,
                 plan.read.cols.size},
                s == 0 ? out : w.segment);
            if (s > 0) merge(out, before, w.segment, count_of(s), units);
            before += count_of(s);
        }
        return x;
    }

    // Pools the columns of each statistic, closes integer sums, and stores the result where the caller keeps it, `step` apart.
    Moments finish(const Offsets& unit, Moments columns, const Workspace& w, int64_t stats, int64_t step) const {
        Moments result = columns;
        if (plan.per > 1) {
            result = w.stats;
            if (exact) {
                pool_sums(columns, plan.per, result, stats);
            } else {
                k.pool(columns, static_cast<double>(plan.read.rows.size()), plan.per, result, stats);
            }
        }
        if (exact) close_sums(result, stats, plan.count(), op.centered);
        if (op.moments.mean) {
            const Moments to = op.moments + unit.stat;
            const double repeats = static_cast<double>(plan.repeats);
            for (int64_t i = 0; i < stats; ++i) {
                to.mean[i * step] = result.mean[i], to.low[i * step] = result.low[i];
                to.m2[i * step] = result.m2[i] * repeats;
            }
        }
        return result;
    }

private:
    const Operation& op;
    const Plan& plan;
    const Kernels& k;
    const Tiles& tiles;
    bool exact;  // moments stand for integer sums until they are finished
    bool down;

    // Each of a's n moments (count_a values) takes in b's (count_b).
    void merge(Moments a, double count_a, Moments b, double count_b, int64_t n) const {
        if (exact) return add_sums(a, b, n);
        k.merge(a, count_a, b, count_b, n);
    }
};

}  // namespace fusednorm
