// Values from one memory order to another: pieces of both, as evaluation cuts them. NumPy takes values one by one, up to ten
// times as long.
#include "machine/dispatch.hpp"
#include "norm.hpp"
#include "plan.hpp"
#include "schedule.hpp"

namespace fusednorm {

void copy(const Operation& op) {
    const Plan plan = make_plan(op, false);
    const Tiling& tiling = plan.write;
    const auto copy_tile = kernels().copy[shift_of(op.x_type)];
    const int64_t values = tiling.rows.size() * tiling.cols.size, pieces = tiling.pieces();
    const int threads = values < kSerialGiven ? 1 : get_num_threads();
    const int64_t items = parts_of(values, pieces, threads);
    auto body = [&](int64_t item, int) {
        walk(tiling, plan.origin, pieces * item / items, pieces * (item + 1) / items, [&](const Piece& p) {
            char* y = const_cast<char*>(at(op.y, p.at.y, op.y_type));
            copy_tile({at(op.x, p.at.x, op.x_type), y, p.rows, p.cols, p.row.x, tiling.cols.x, p.row.y, tiling.cols.y});
        });
    };
    parallel_for(items, threads, body);
}

}  // namespace fusednorm
