// How a view becomes tiles. See plan.hpp for what the parts mean.
#include "plan.hpp"

#include <algorithm>
#include <utility>

namespace fusednorm {
namespace {

constexpr int64_t kShortColumns = 16;
// Limits on how many columns one channel becomes, and how many rows there must be for writing the coefficients out to pay.
constexpr int64_t kMostSpread = 64, kLeastSpread = 8;
constexpr int64_t kMostSpreadWeights = int64_t{1} << 15;  // with the biases, as floats, they fit a small second-level cache

// An axis along which nothing distinguishes the two ends is walked forwards.
void flip_negative(Axes& axes, Offsets& origin) {
    for (int i = 0; i < axes.n; ++i) {
        Axis& a = axes[i];
        if (a.x >= 0 || a.stat != 0 || a.affine != 0) continue;
        origin.step(a, a.size - 1);
        a.x = -a.x, a.y = -a.y, a.r = -a.r;
    }
}

// Memory order of x, outermost first. A broadcast axis (stride 0) goes outermost: the rest of the array is reread.
void sort_by_memory(Axes& axes) {
    const auto key = [](const Axis& a) { return a.x == 0 ? INT64_MAX : magnitude(a.x); };
    const auto before = [&](const Axis& a, const Axis& b) {
        return key(a) != key(b) ? key(a) > key(b) : magnitude(a.y) > magnitude(b.y);
    };
    for (int i = 1; i < axes.n; ++i)  // insertion: the axes are few, mostly sorted, and ties keep their order
        for (int j = i; j > 0 && before(axes[j], axes[j - 1]); --j) std::swap(axes[j], axes[j - 1]);
}

bool one_run(const Axis& outer, const Axis& inner) {
    return outer.x == inner.x * inner.size && outer.y == inner.y * inner.size && outer.r == inner.r * inner.size &&
           outer.stat == inner.stat * inner.size && outer.affine == inner.affine * inner.size &&
           (outer.stat == 0) == (inner.stat == 0) && (outer.affine == 0) == (inner.affine == 0);
}

void merge_runs(Axes& axes) {
    for (int i = axes.n - 2; i >= 0; --i) {
        if (!one_run(axes[i], axes[i + 1])) continue;
        axes[i + 1].size *= axes[i].size;
        axes.erase(i);
    }
}

void drop_ones(Axes& axes) {
    for (int i = axes.n - 1; i >= 0; --i)
        if (axes[i].size == 1) axes.erase(i);
}

// A pooled axis that repeats the same values changes nothing but the count: none of them is read twice.
int64_t drop_repeats(Axes& axes) {
    int64_t repeats = 1;
    for (int i = axes.n - 1; i >= 0; --i) {
        if (axes[i].x != 0 || axes[i].stat != 0) continue;
        repeats *= axes[i].size;
        axes.erase(i);
    }
    return repeats;
}

bool is_pooled(const Axis& a) { return a.stat == 0; }

// Nothing is pooled: any axis may be the columns, and is where x is contiguous. Where y is along another axis, the longer
// of the two: each kernel call then has a tile of both.
int columns_of_given(Axes& axes, Plan& plan) {
    const int last = axes.n - 1;
    int cols = last, y = last;
    for (int i = last - 1; i >= 0; --i)
        if (magnitude(axes[i].y) < magnitude(axes[y].y)) y = i;
    if (y != last) {
        if (axes[y].size < axes[last].size && axes[y].size < kShortColumns) {
            const Axis rows = axes[y];
            axes.erase(y);
            axes.push(rows);
            cols = last - 1;
        } else {
            cols = y;
        }
        plan.write.block = kBlockLast;
    }
    plan.coefs = axes[cols].affine != 0 ? Coefs::cols : Coefs::rows;
    return cols;
}

// Nanoseconds (Zen 3) of a channels-last sample whose statistics are of several channels. As rows, whose columns have weights
// of their own: for each row, or row of fewer than sixteen columns, and so many values in one. As columns, whose moments are
// pooled: for each sample, and channel.
struct Costs {
    int64_t row, short_row, values, sample, channel;
};
constexpr Costs kForwardCosts{6, 20, 32, 650, 8}, kGradientCosts{16, 40, 3, 250, 11};

// Whether rows take less: up to 15 times as fast, (64,16,2,2) in one group. Gradients take rows that follow each other, those
// of one statistic behind another's.
bool are_few_rows(const Axes& axes, bool is_gradient) {
    const Axis c = axes.last();
    if (!is_pooled(c) || c.affine != 1) return false;
    int64_t rows = 1, groups = 1, step = 0;
    for (int i = 0; i < axes.n; ++i) {
        if (is_pooled(axes[i]) && axes[i].affine == 0) rows *= axes[i].size, step += axes[i].x;
        if (!is_pooled(axes[i]) && axes[i].affine != 0) groups *= axes[i].size;
    }
    const int64_t channels = groups * c.size;
    if (is_gradient && (rows > kMostRows || step != channels)) return false;
    const Costs& of = is_gradient ? kGradientCosts : kForwardCosts;
    const int64_t each = c.size < kShortColumns ? of.short_row : of.row;
    return rows * groups * each + rows * channels / of.values <= of.sample + of.channel * channels;
}

// The index of the axis that becomes the columns, or -1: every statistic is of a single value.
int choose_columns(Axes& axes, const Operation& op, Plan& plan, bool is_gradient) {
    const int last = axes.n - 1;
    if (last < 0) return -1;
    if (op.given) return columns_of_given(axes, plan);
    int plain = -1, channel = -1;  // the innermost pooled axes, without and with a step in the channels
    for (int i = 0; i < axes.n; ++i) {
        if (!is_pooled(axes[i])) continue;
        if (axes[i].affine == 0) plain = i;
        if (axes[i].affine == 1) channel = i;
    }
    // One value per channel and statistic: a statistic is a row, and its columns have weights of their own.
    if (op.rows_only || plan.spread > 1 || (plain < 0 && channel >= 0) || are_few_rows(axes, is_gradient)) {
        plan.coefs = Coefs::both;
        return channel;
    }
    const bool channels_last = axes[last].affine != 0 || (op.y == nullptr && !is_pooled(axes[last]));
    if (!channels_last) return plain;
    plan.direction = Direction::down;
    plan.coefs = Coefs::cols;
    return last;
}

// Down with groups: joins the axis of groups and that of channels within a group, which are the columns together.
void join_groups(Axes& axes, int& cols, Plan& plan) {
    if (plan.direction != Direction::down || !is_pooled(axes[cols])) return;
    plan.per = axes[cols].size;
    for (int i = cols - 1; i >= 0; --i) {
        if (is_pooled(axes[i]) || axes[i].affine == 0) continue;
        axes[cols].size *= axes[i].size;
        axes.erase(i);
        --cols;
        break;
    }
    axes[cols].stat = 1;
}

// Cuts many independent columns into panels, each a unit. Columns that no panel width divides stay one unit.
void split_panels(Plan& plan) {
    const Axis c = plan.write.cols;
    if (plan.direction != Direction::down || plan.per != 1 || c.size <= kPanel) return;
    int64_t panel = kPanel;
    while (panel > kPanel / 8 && c.size % panel != 0) --panel;
    if (c.size % panel != 0) return;
    plan.units.push({c.size / panel, c.x * panel, c.y * panel, c.stat * panel, c.affine * panel, c.r * panel});
    plan.read.cols.size = plan.write.cols.size = panel;
}

void cut_rows(const Operation& op, const Plan& plan, Tiling& t, int64_t chunk) {
    t.pack_x = t.cols.x != 1 || static_cast<int>(op.x_type) >= kReadTypes;
    t.pack_y = op.y != nullptr && t.cols.y != 1;
    t.pack_r = op.r != nullptr && (t.cols.r != 1 || static_cast<int>(op.r_type) >= kFloatTypes);
    t.chunk = t.cols.size;
    if (t.block > 0) {
        t.block = std::min(t.block, t.rows.last().size);
        t.chunk = std::min(kBlockValues / t.block / kBlockCols * kBlockCols, t.cols.size);
        t.chunks = (t.cols.size + t.chunk - 1) / t.chunk;
        return;
    }
    if (plan.direction == Direction::along && t.cols.size > kChunk) {
        t.chunk = std::min(t.pack_x ? kPackValues : chunk, t.cols.size);
        t.chunks = (t.cols.size + t.chunk - 1) / t.chunk;
        t.long_rows = true;
    }
}

// Where a statistic is of several channels, whose few values follow each other as they do, each value gets a weight of its own,
// and the statistic is one row: rows of fewer than sixteen values take as long as whole ones. x alone decides.
void spread_weights(const Operation& op, bool is_gradient, Axes& axes, Plan& plan) {
    int64_t values = 1;
    int channel = axes.n - 1;
    for (; channel >= 0 && is_pooled(axes[channel]) && axes[channel].affine == 0 && axes[channel].x == values; --channel)
        values *= axes[channel].size;
    if (op.given || op.rows_only || channel < 0 || values == 1 || values >= kShortColumns) return;
    const Axis c = axes[channel];
    if (!is_pooled(c) || c.affine != 1 || c.x != values || channels_of(op) * values > kMostSpreadWeights) return;
    for (int i = 0; i < channel; ++i)
        if (is_gradient && is_pooled(axes[i])) return;  // it takes rows that are one run
    plan.spread = values;
    for (int i = 0; i < axes.n; ++i) axes[i].affine = i > channel ? axes[i].x : axes[i].affine * values;
}

// A channel's few values, which follow each other as the channels do, become as many columns with its coefficients.
void spread_channels(const Operation& op, Plan& plan) {
    Tiling& t = plan.write;
    if (plan.coefs != Coefs::rows || t.rows.n < 2 || t.block > 0 || t.pack_x || t.pack_y || t.pack_r) return;
    const Axis c = t.rows.last();
    const int64_t n = t.cols.size, all = c.size * n;
    if (c.affine != 1 || n > kMostSpread || all > (n < kShortColumns ? kChunk : kPanel) ||
        t.rows.size() < kLeastSpread * c.size)
        return;
    if (c.x != n || c.y != n || (op.r && c.r != n)) return;
    t.rows.erase(t.rows.n - 1);
    t.cols = {all, 1, 1, 0, 1, t.cols.r};
    t.chunk = all;
    plan.coefs = Coefs::cols;
    plan.spread = n;
}

void cut_segments(Plan& plan) {
    const int64_t pieces = plan.read.pieces();
    plan.segment = std::max({kSegmentValues / plan.read.chunk, (pieces + kMaxSegments - 1) / kMaxSegments, int64_t{1}});
    if (plan.direction == Direction::down) plan.segment = (plan.segment + kBlockRows - 1) / kBlockRows * kBlockRows;
    plan.segment = std::min(plan.segment, pieces);
}

// Sorts the axes into columns, rows and units.
void tile(Axes axes, const Operation& op, Plan& plan, bool is_gradient, Tiling& tiling, Axes& units) {
    merge_runs(axes);
    int cols = choose_columns(axes, op, plan, is_gradient);
    if (cols >= 0) {
        join_groups(axes, cols, plan);
        tiling.cols = axes[cols];
        axes.erase(cols);
    } else {
        tiling.cols = {1, 1, 1, 0, op.rows_only, 1};
        if (op.rows_only) plan.coefs = Coefs::both;
    }
    for (int i = 0; i < axes.n; ++i) (op.given || is_pooled(axes[i]) ? tiling.rows : units).push(axes[i]);
}

}  // namespace

int64_t channels_of(const Operation& op) {
    int64_t product = 1;
    for (int i = 0; i < op.axes.n; ++i)
        if (op.axes[i].affine != 0) product *= op.axes[i].size;
    return product;
}

void number_statistics(Axes& axes) {
    Axes sorted;
    for (int i = 0; i < axes.n; ++i) {
        sorted.push(axes[i]);
        sorted[i].affine = i;
    }
    sort_by_memory(sorted);
    int64_t step = 1;
    for (int i = sorted.n - 1; i >= 0; --i) {
        if (is_pooled(sorted[i])) continue;
        axes[static_cast<int>(sorted[i].affine)].stat = step;
        step *= sorted[i].size;
    }
}

int64_t Plan::channels() const {
    if (direction == Direction::down) return write.cols.size;
    int64_t n = 1;
    for (int i = 0; coefs == Coefs::rows && i < write.rows.n; ++i)
        if (write.rows[i].affine != 0) n *= write.rows[i].size;
    return n;
}

bool are_joined(const Plan& plan) {
    const auto is_one_tile = [](const Tiling& t) { return t.rows.n <= 1 && t.chunks == 1 && !t.pack_x && !t.pack_y; };
    if (plan.direction == Direction::down || plan.units.n == 0 || !is_one_tile(plan.read) || !is_one_tile(plan.write))
        return false;
    const int64_t step = plan.units.last().affine;
    return step == 0 || step == plan.channels() || plan.coefs == Coefs::both;
}

void sort_units(Plan& plan) {
    Axes& units = plan.units;
    const int last = units.n - 1;
    int longest = last;
    for (int i = last - 1; i >= 0; --i)
        if (units[i].size > units[longest].size) longest = i;
    if (longest == last) return;
    std::swap(units[longest], units[last]);
    if (!are_joined(plan)) std::swap(units[longest], units[last]);
}

Plan make_plan(const Operation& op, bool is_gradient) {
    Plan plan;
    Axes axes = op.axes, units_of_read;
    drop_ones(axes);
    if (op.y == nullptr) plan.repeats = drop_repeats(axes);
    flip_negative(axes, plan.origin);
    sort_by_memory(axes);
    spread_weights(op, is_gradient, axes, plan);
    tile(axes, op, plan, is_gradient, plan.write, plan.units);
    cut_rows(op, plan, plan.write, kChunk);
    if (op.given) {
        spread_channels(op, plan);
        return plan;
    }
    for (int i = 0; i < axes.n; ++i) axes[i].y = axes[i].r = 0;
    tile(axes, op, plan, is_gradient, plan.read, units_of_read);
    split_panels(plan);
    cut_rows(op, plan, plan.read, kReadChunk);
    plan.read.pack_y = plan.read.pack_r = false;
    cut_rows(op, plan, plan.write, kChunk);
    cut_segments(plan);
    return plan;
}

}  // namespace fusednorm
