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
    int64_t size() const { return (rows + block_rows - 1) / block_rows * of_row; }
    int64_t step() const { return wide ? block_cols : block_rows * ld; }
    Block operator[](int64_t i) const {
        const int64_t r = i / of_row * block_rows, c = i % of_row * block_cols, left = rows - r, left_of_row = cols - c;
        return {r * ld + c, left < block_rows ? left : block_rows, left_of_row < block_cols ? left_of_row : block_cols,
                wide ? left_of_row / block_cols : left / block_rows};
    }

private:
    int64_t rows, ld, cols;
    bool wide;
    int64_t block_rows = wide ? 1 : kBlock / cols, block_cols = wide ? kBlock : cols;
    int64_t of_row = (cols + block_cols - 1) / block_cols;
};

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
