// Blocks: how many values of a statistic are summed, around one center, before a merge. Their order is a part of the result's
// definition.
#pragma once
#include "kernels.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// How rows(rows, ld, cols) are cut: a row is several blocks, or a block several rows.
class Blocks {
public:
    struct Block {
        int64_t at, rows, cols;
        int64_t alike;  // how many as large as it follow each other from it on, step() apart
        double count() const { return static_cast<double>(rows * cols); }
    };

    Blocks(int64_t rows_, int64_t ld_, int64_t cols_)
        : rows(ld_ == cols_ ? 1 : rows_), ld(ld_), cols(ld_ == cols_ ? rows_ * cols_ : cols_), wide(cols > kBlock) {}
    int64_t size() const { return wide ? rows * of_row : divided(rows + block_rows - 1, block_rows); }
    int64_t step() const { return wide ? kBlock : block_rows * ld; }
    Block operator[](int64_t i) const {
        if (!wide) {
            const int64_t r = i * block_rows, left = rows - r;
            return {r * ld, left < block_rows ? left : block_rows, cols, divided(left, block_rows)};
        }
        const int64_t r = divided(i, of_row), c = (i - r * of_row) * kBlock, left = cols - c;
        return {r * ld + c, 1, left < kBlock ? left : kBlock, left / kBlock};
    }

private:
    int64_t rows, ld, cols;
    bool wide;
    int64_t block_rows = wide || rows == 1 ? 1 : kBlock / cols;
    int64_t of_row = wide ? (cols + kBlock - 1) / kBlock : 1;

    // Most often by 1: short rows would feel the divisions.
    static int64_t divided(int64_t a, int64_t b) { return b == 1 ? a : a / b; }
};

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
