// From a view to tiles: which axis is the columns, which the rows, what one unit of work is, and how it is cut.
// Pure arithmetic on sizes and strides, and a function of the sizes alone where the order of summation is concerned:
// neither the number of threads nor the instruction set may change it.
#pragma once
#include "norm.hpp"

namespace fusednorm {

// along: a row of the tile lies in one statistic. down: every column is a statistic (or a channel of one).
enum class Direction { along, down };

struct Plan {
    Direction direction = Direction::along;
    Coefs coefs = Coefs::rows;
    Offsets origin;  // of x, y: where axes with negative strides begin
    Axes units;      // statistics: one unit each, or, down, one unit a panel of columns
    Axes rows;       // the pooled axes (eval: all axes) outside the columns
    Axis cols = kNoAxis;
    int64_t per = 1;      // down: columns that share a statistic
    int64_t chunk = 1;    // columns taken at once along a row
    int64_t chunks = 1;   // pieces of a row
    int64_t segment = 1;  // pieces of rows whose moments are summed up in order before they are merged
    int64_t repeats = 1;  // how often every value counts: the sizes of broadcast pooled axes, where nothing is written
    bool pack_x = false, pack_y = false;  // the columns are not contiguous (or x has another type)

    int64_t pieces() const { return rows.size() * chunks; }
    int64_t segments() const { return (pieces() + segment - 1) / segment; }
    int64_t stats() const { return direction == Direction::down ? cols.size / per : 1; }  // of one unit
    int64_t count() const { return rows.size() * (direction == Direction::down ? per : cols.size); }
};

constexpr int64_t kChunk = 8192;       // values of a row that one kernel call takes
constexpr int64_t kPanel = 2048;       // columns of a unit, where columns are independent statistics
constexpr int64_t kPackValues = 8192;  // values packed at once: 64 KiB of doubles, half of a small second-level cache
constexpr int64_t kSegmentValues = int64_t{1} << 16;  // at least, per segment
constexpr int64_t kMaxSegments = 128;                 // per unit: bounds the memory for partial moments

Plan make_plan(const Operation& op);

// Numbers the statistics of axes with stat != 0 in the memory order of x, as make_plan wants where there are no channels.
void number_statistics(Axes& axes);

// rows x cols values at one place of a unit.
struct Piece {
    Offsets at;
    int64_t rows, cols;
    Axis row;  // the step from row to row
};

// Calls visit(Piece) for pieces [begin, end) of the unit at `at`, in order; a piece has at most max_rows rows.
template <class Visit>
void walk(const Plan& plan, const Offsets& at, int64_t begin, int64_t end, int64_t max_rows, Visit visit) {
    const Axis row = plan.rows.n > 0 ? plan.rows.last() : kNoAxis;
    while (begin < end) {
        int64_t index = 0;
        Offsets here = place(plan.rows, at, begin / plan.chunks, &index);
        if (plan.chunks > 1) {
            const int64_t first = begin % plan.chunks * plan.chunk;
            const int64_t left = plan.cols.size - first;
            here.step(plan.cols, first);
            visit(Piece{here, 1, left < plan.chunk ? left : plan.chunk, row});
            ++begin;
        } else {
            int64_t run = row.size - index < end - begin ? row.size - index : end - begin;
            run = run < max_rows ? run : max_rows;
            visit(Piece{here, run, plan.cols.size, row});
            begin += run;
        }
    }
}

}  // namespace fusednorm
