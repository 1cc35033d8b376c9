// From a view to tiles: which axis is the columns, which the rows, what one unit of work is, and how it is cut.
// Pure arithmetic on sizes and strides, and a function of the sizes alone where the order of summation is concerned:
// neither the number of threads nor the instruction set may change it.
#pragma once
#include "norm.hpp"

namespace fusednorm {

// along: a row of the tile lies in one statistic. down: every column is a statistic (or a channel of one).
enum class Direction { along, down };

// How the pooled axes of a unit (eval: all axes) are walked: rows of columns.
struct Tiling {
    Axis cols = kNoAxis;
    int64_t chunk = 1;       // columns taken at once along a row
    int64_t chunks = 1;      // pieces of a row
    bool long_rows = false;  // no piece has several rows
    // Where x and y are contiguous along different axes, the columns and the last rows, a piece has so many rows; else 0.
    int64_t block = 0;
    bool pack_x = false, pack_y = false, pack_r = false;  // the columns are not contiguous, or the loops do not read the type
    Axes rows;

    int64_t blocks() const { return block == 0 ? 1 : (rows.last().size + block - 1) / block; }
    int64_t pieces() const { return (block == 0 ? rows.size() : rows.size() / rows.last().size * blocks()) * chunks; }
};

struct Plan {
    Direction direction = Direction::along;
    Coefs coefs = Coefs::rows;
    int64_t per = 1;      // down: columns that share a statistic
    int64_t segment = 1;  // pieces of read whose moments are summed up in order before they are merged
    // Columns of one channel, next to each other, where columns have coefficients (given) or weights: so often they are written
    // out, and steps among the channels count them.
    int64_t spread = 1;
    int64_t repeats = 1;  // how often every value counts: the sizes of broadcast pooled axes, where nothing is written
    Offsets origin;       // of x, y: where axes with negative strides begin
    Tiling read, write;   // for moments, as x alone has it, so that no bit depends on y's layout; for normalize
    Axes units;           // statistics: one unit each, or, down, one unit a panel of columns

    int64_t segments() const { return (read.pieces() + segment - 1) / segment; }
    int64_t stats() const { return direction == Direction::down ? divided(read.cols.size, per) : 1; }  // of one unit
    // How many channels one unit has: its columns, or the channels of its rows.
    int64_t channels() const;
    int64_t count() const { return read.rows.size() * (direction == Direction::down ? per : read.cols.size); }
};

constexpr int64_t kChunk = 8192;  // values of a row that one kernel call takes
// The same where they are summed. With 8,192 closing their blocks took a sixth of the time in cache.
constexpr int64_t kReadChunk = int64_t{1} << 16;
constexpr int64_t kPanel = 2048;       // columns of a unit, where columns are independent statistics
constexpr int64_t kMostRows = 64;      // of one statistic, where gradients take statistics as rows
constexpr int64_t kPackValues = 8192;  // values packed at once: 64 KiB of doubles, half of a small second-level cache
// The same where rows lie side by side: 64 rows of 1,024 values, which the second-level cache holds.
constexpr int64_t kCrossedValues = int64_t{1} << 16;
constexpr int64_t kBlockValues = 4096;  // values of a piece of kBlockLast rows at most, where x and y lie differently
constexpr int64_t kBlockLast = 32;
constexpr int64_t kBlockCols = 64;                    // its columns are a multiple: packed rows begin with lines of the cache
constexpr int64_t kSegmentValues = int64_t{1} << 16;  // at least, per segment
constexpr int64_t kMaxSegments = 128;                 // per unit: bounds the memory for partial moments

// Whether rows lie side by side in memory: a step from row to row is shorter than one along them.
inline bool is_crossed(int64_t row, int64_t col) { return magnitude(row) < magnitude(col) && row != 0; }

// rows x cols values at one place of a unit.
struct Piece {
    Offsets at;
    int64_t rows, cols;
    Axis row;  // the step from row to row
};

Plan make_plan(const Operation& op, bool is_gradient);

// How many channels there are.
int64_t channels_of(const Operation& op);

// Whether a run of units along their last axis may be taken at once: each is one tile, and their channels are the same ones, or
// lie next to each other.
bool are_joined(const Plan& plan);
// Makes the longest axis of the units their last one, where they may be taken so.
void sort_units(Plan& plan);
inline Axis last_of(const Axes& axes) { return axes.n > 0 ? axes.last() : kNoAxis; }

// The rows of a run of units as tiles, each of one unit's rows or of one row of all units, whichever are fewer:
// visit(the tile, its first row's channel, the step of the channels from row to row).
template <class Visit>
void walk_joined(const Plan& plan, const Offsets& unit, int64_t units, Visit visit) {
    struct Step {
        Axis axis;
        int64_t size, channels;
    };
    const Axis row = last_of(plan.write.rows);
    const Step rows{row, row.size, plan.coefs == Coefs::rows ? row.affine : 0},
        run{last_of(plan.units), units, plan.channels()};
    const Step &outer = rows.size > run.size ? run : rows, &inner = rows.size > run.size ? rows : run;
    for (int64_t i = 0; i < outer.size; ++i) {
        Offsets at = unit;
        at.step(outer.axis, i);
        visit(Piece{at, inner.size, plan.write.cols.size, inner.axis}, i * outer.channels, inner.channels);
    }
}

// Numbers the statistics of axes with stat != 0 in the memory order of x, as make_plan wants where there are no channels.
void number_statistics(Axes& axes);

template <class Visit>
void walk_blocks(const Tiling& tiling, const Offsets& at, int64_t begin, int64_t end, Visit visit) {
    const Axis row = tiling.rows.last();
    int64_t which = begin / tiling.chunks, chunk = begin % tiling.chunks;
    for (; begin < end; ++which, chunk = 0) {
        const int64_t first_row = which % tiling.blocks() * tiling.block, rows = row.size - first_row;
        const Offsets first = place(tiling.rows, at, which / tiling.blocks() * row.size + first_row);
        for (; chunk < tiling.chunks && begin < end; ++chunk, ++begin) {
            const int64_t first_col = chunk * tiling.chunk, cols = tiling.cols.size - first_col;
            Offsets here = first;
            here.step(tiling.cols, first_col);
            visit(Piece{here, rows < tiling.block ? rows : tiling.block, cols < tiling.chunk ? cols : tiling.chunk, row});
        }
    }
}

// Calls visit(Piece) for pieces [begin, end) of the unit at `at`, in order; packed pieces have at most kPackValues.
template <class Visit>
void walk(const Tiling& tiling, const Offsets& at, int64_t begin, int64_t end, Visit visit) {
    const Axis row = tiling.rows.n > 0 ? tiling.rows.last() : kNoAxis;
    if (tiling.block > 0) return walk_blocks(tiling, at, begin, end, visit);
    const bool packed = tiling.pack_x || tiling.pack_y;
    const int64_t fit = packed ? kPackValues / tiling.chunk : INT64_MAX, max_rows = fit > 1 ? fit : 1;
    while (begin < end) {
        int64_t index = 0;
        Offsets here = place(tiling.rows, at, divided(begin, tiling.chunks), &index);
        if (tiling.long_rows) {
            const int64_t first = begin % tiling.chunks * tiling.chunk;
            const int64_t left = tiling.cols.size - first;
            here.step(tiling.cols, first);
            visit(Piece{here, 1, left < tiling.chunk ? left : tiling.chunk, row});
            ++begin;
        } else {
            int64_t run = row.size - index < end - begin ? row.size - index : end - begin;
            run = run < max_rows ? run : max_rows;
            visit(Piece{here, run, tiling.cols.size, row});
            begin += run;
        }
    }
}

}  // namespace fusednorm
