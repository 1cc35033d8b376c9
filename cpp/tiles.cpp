// Pieces of an operation. See tiles.hpp.
#include "tiles.hpp"

#include <algorithm>

#include "schedule.hpp"

namespace fusednorm {
namespace {

// Values that go through double on their way: what a first-level cache holds beside x, r and y.
constexpr int64_t kThroughValues = 1024;

constexpr int64_t kMomentsEach = 4;  // of a workspace: piece, segment, unit, stats

}  // namespace

Workspaces::Workspaces(const Tiles& of, int64_t n, int64_t columns, int64_t coefficients, int threads)
    : tiles(of),
      stats(whole_lanes(n)),
      scratch(columns > 0 ? whole_lanes(cols_scratch(columns)) : 0),
      doubles_each(kMomentsEach * 3 * stats + scratch + whole_lanes(3 * coefficients)),
      packed_each(tiles.packed_bytes()),
      doubles(doubles_each, threads),
      packed(packed_each, threads) {}

Workspace Workspaces::at(int slot) {
    Workspace w;
    tiles.place_packed(w, packed.at(packed_each * slot));
    double* d = doubles.at(doubles_each * slot);
    for (Moments* each : {&w.piece, &w.segment, &w.unit, &w.stats}) *each = moments_at(d, stats), d += 3 * stats;
    w.scratch = d;
    w.coefficients = reinterpret_cast<char*>(d + scratch);
    return w;
}

Tiles::Tiles(const Operation& operation, const Plan& plan_, const Kernels& kernels)
    : x_type(static_cast<int>(operation.x_type) < kReadTypes ? operation.x_type : Type::f64),
      single(in_float(operation)),
      stream(false),
      ahead(0),
      row_weight(operation.weight),
      row_bias(operation.bias),
      op(operation),
      plan(plan_),
      k(kernels) {}

int64_t Tiles::pack_values() const {
    const Axis unit = last_of(plan.units);
    const bool crossed = is_crossed(unit.x, plan.read.cols.x) || is_crossed(unit.y, plan.write.cols.y);
    return crossed ? kCrossedValues : kPackValues;
}

int64_t Tiles::packed_bytes() const {
    const bool x = plan.read.pack_x || plan.write.pack_x;
    const int64_t of_x = std::max({pack_values(), plan.read.chunk, plan.write.chunk});
    return (x ? of_x * size_of(x_type) : 0) + (plan.write.pack_y ? kBlockValues * 8 : 0) +
           (plan.write.pack_r ? kBlockValues * 8 : 0);
}

void Tiles::place_packed(Workspace& w, char* memory) const {
    w.y = memory;
    w.r = w.y + (plan.write.pack_y ? kBlockValues * 8 : 0);
    w.x = w.r + (plan.write.pack_r ? kBlockValues * 8 : 0);
}

const void* Tiles::read(const Tiling& tiling, const Piece& p, const Workspace& w, int64_t& ld) const {
    const char* x = at(op.x, p.at.x, op.x_type);
    ld = p.row.x;
    if (!tiling.pack_x) return x;
    const CopyTile tile{x, w.x, p.rows, p.cols, p.row.x, tiling.cols.x, p.cols, 1};
    (x_type == op.x_type ? k.copy[shift_of(x_type)] : k.widen[static_cast<int>(op.x_type)])(tile);
    ld = p.cols;
    return w.x;
}

Tiles::Way Tiles::way(const Coefficients& c) const {
    if (!c.wide) return Way::own;
    const bool is_short = op.activation == Activation::none || op.activation == Activation::relu;
    const bool alike = op.x_type == op.y_type && (!op.r || (op.r_type == op.y_type && !plan.write.pack_r));
    return !single && is_short && alike ? Way::fused : Way::through;
}

NormalizeTile Tiles::describe(const Piece& p, const Coefficients& c, int64_t first, int64_t step) const {
    NormalizeTile t{};
    t.rows = p.rows, t.cols = p.cols, t.stream = stream, t.ahead = ahead;
    const int64_t skip = first * (c.wide ? 8 : 4);
    t.center = c.center + skip, t.scale = c.scale + skip, t.shift = c.shift + skip;
    t.coef_ld = step;
    if (plan.coefs == Coefs::both) {
        const Type type = weight_type(single);
        t.weight = at(row_weight, p.at.affine, type), t.bias = at(row_bias, p.at.affine, type);
        t.affine_ld = p.row.affine;
        if (!op.centered && !c.wide) t.center = nullptr;
    }
    return t;
}

void Tiles::normalize(const Piece& p, const Coefficients& c, int64_t first, int64_t step, const Workspace& w,
                      const void* kept) const {
    NormalizeTile whole = describe(p, c, first, step);
    const Way how = way(c);
    const bool packed = plan.write.pack_x || plan.write.pack_y;
    const bool fits = !packed || (plan.write.block > 0 && !kept);
    if (how != Way::through && fits) return normalize_tile(p, whole, how, w);
    const int64_t fit = how != Way::through ? kBlockValues : kThroughValues;
    // Where rows are next to each other in memory, a part has many of them.
    const bool crossed = is_crossed(p.row.x, plan.write.cols.x) || is_crossed(p.row.y, plan.write.cols.y);
    const int64_t least = plan.write.block > 0 ? p.rows : crossed ? std::min(p.rows, kBlockLast) : 1;
    int64_t cols = std::min(p.cols, std::max<int64_t>(1, fit / least));
    if (cols < p.cols && cols > 16) cols -= cols % 16;
    const int64_t rows = std::min(p.rows, std::max<int64_t>(1, fit / cols)), size = c.wide ? 8 : 4;
    for (int64_t r = 0; r < p.rows; r += rows) {
        for (int64_t col = 0; col < p.cols; col += cols) {
            Piece part{p.at, std::min(rows, p.rows - r), std::min(cols, p.cols - col), p.row};
            part.at.step(p.row, r), part.at.step(plan.write.cols, col);
            NormalizeTile t = describe(part, c, first + r * step, step);
            if (plan.coefs == Coefs::cols) {
                const int64_t skip = col * size;
                t.center = static_cast<const char*>(t.center) + skip;
                t.scale = static_cast<const char*>(t.scale) + skip;
                t.shift = static_cast<const char*>(t.shift) + skip;
            }
            if (kept) t.x = at(kept, r * p.cols + col, x_type), t.x_ld = p.cols;
            normalize_tile(part, t, how, w);
        }
    }
}

void Tiles::normalize_tile(const Piece& p, NormalizeTile& t, Way how, const Workspace& w) const {
    if (!t.x) t.x = read(plan.write, p, w, t.x_ld);
    char* y = const_cast<char*>(at(op.y, p.at.y, op.y_type));
    const bool pack_y = plan.write.pack_y;
    t.y = pack_y ? w.y : y;
    t.y_ld = pack_y ? p.cols : p.row.y;
    const auto type = static_cast<int>(x_type), coefs = static_cast<int>(plan.coefs);
    if (how == Way::through) {
        through_double(p, t, w);
    } else if (how == Way::fused) {
        if (op.r) t.r = at(op.r, p.at.r, op.r_type), t.r_ld = p.row.r;
        t.floor = op.activation == Activation::relu ? 0 : kNoFloor;
        k.fused[type][op.r != nullptr][coefs](t);
    } else {
        k.normalize[type][coefs](t);
    }
    if (pack_y) k.copy[shift_of(op.y_type)]({w.y, y, p.rows, p.cols, p.cols, 1, p.row.y, plan.write.cols.y});
}

void Tiles::through_double(const Piece& p, NormalizeTile t, const Workspace& w) const {
    alignas(64) double values[kThroughValues], weights[kThroughValues], biases[kThroughValues];
    void* const y = t.y;
    const int64_t y_ld = t.y_ld;
    if (plan.coefs == Coefs::both && single) {  // it was to be computed in float
        k.widen[static_cast<int>(Type::f32)]({t.weight, weights, t.rows, t.cols, t.affine_ld, 1, t.cols, 1});
        k.widen[static_cast<int>(Type::f32)]({t.bias, biases, t.rows, t.cols, t.affine_ld, 1, t.cols, 1});
        t.weight = weights, t.bias = biases, t.affine_ld = t.cols;
    }
    if (x_type != Type::f64) {
        k.widen[static_cast<int>(x_type)]({t.x, values, t.rows, t.cols, t.x_ld, 1, t.cols, 1});
        t.x = values, t.x_ld = t.cols;
    }
    t.y = values, t.y_ld = t.cols, t.floor = kNoFloor, t.stream = false, t.ahead = 0;
    k.fused[static_cast<int>(Type::f64)][0][static_cast<int>(plan.coefs)](t);
    if (op.r) add_residual(p, values, w);
    const auto activate = k.activate[static_cast<int>(op.activation)][op.y_type == Type::f64 ? 1 : 0];
    if (activate) activate(values, p.rows * p.cols);
    FinishTile f{values, y, p.rows, p.cols, p.cols, y_ld, stream};
    if (f.y_ld == f.cols) f.cols *= f.rows, f.rows = 1;
    k.finish[static_cast<int>(op.y_type)](f);
}

void Tiles::add_residual(const Piece& p, double* t, const Workspace& w) const {
    AddTile a{at(op.r, p.at.r, op.r_type), t, p.rows, p.cols, p.row.r, p.cols};
    Type type = op.r_type;
    if (plan.write.pack_r) {
        k.widen[static_cast<int>(type)]({a.r, w.r, p.rows, p.cols, p.row.r, plan.write.cols.r, p.cols, 1});
        a.r = w.r, a.r_ld = p.cols, type = Type::f64;
    }
    if (a.r_ld == a.cols) a.cols *= a.rows, a.rows = 1;
    k.add[static_cast<int>(type)](a);
}

}  // namespace fusednorm
