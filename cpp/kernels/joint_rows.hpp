// The moments of x and the sums that its gradient needs in one read, along rows. Blocks, and so the bits, are those of
// moments_rows.hpp and gradients.hpp.
#pragma once
#include "gradients.hpp"
#include "moments_rows.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {
namespace {

// Whether registers hold all the sums. To convert a value takes as long as what is done with it, and here x is converted
// once: gradients of batch norm and group norm were 1.1 to 1.3 times as fast.
template <class T>
constexpr bool kJoint = kPaired<T>;

// A block's sums of x and of x * x, and of g and of g * x: g is grad, or (Weighted) grad * weight.
struct JointSums {
    Lanes<double> sums, squares, plain, product;
};

// Adds rows to them.
template <bool Weighted, class T>
__attribute__((noinline)) void add_rows(JointSums& to, const T* grad, const T* x, int64_t rows, int64_t ld, int64_t cols,
                                        const double* weight) {
    Lanes<double> sums = to.sums, squares = to.squares, plain = to.plain, product = to.product;
    const int64_t whole = cols / kLanes * kLanes;
    for (int64_t r = 0; r < rows; ++r, grad += ld, x += ld) {
        const auto add = [&](int64_t c, auto value_at) __attribute__((always_inline)) {
            FUSEDNORM_LANES_UNROLL
            for (int i = 0; i < Lanes<double>::kParts; ++i) {
                const Doubles value = value_at(x + c, i);
                sums.part[i] += value;
                add_exact_product(squares.part[i], value, value);
                Doubles g = value_at(grad + c, i);
                if constexpr (Weighted) g *= value_at(weight + c, i);
                plain.part[i] += g;
                add_product<!Weighted>(product.part[i], g, value, Doubles{});
            }
        };
        for_lanes<T, kPrefetchFar>(whole, r + 1 < rows ? ld : cols,
                                   [&](int64_t c, int64_t ahead) __attribute__((always_inline)) {
                                       ask_for(grad + c + ahead, 0), ask_for(x + c + ahead, 0);
                                       add(c, AllLanes<double>());
                                   });
        if (whole < cols) add(whole, FirstLanes<double>{cols - whole});
    }
    to = {sums, squares, plain, product};
}

// Sums of grad that are folded, but not yet added to where they belong: sixteen are closed side by side.
class OpenSums {
public:
    OpenSums(double* plain_, double* product_) : plain(plain_), product(product_) {}

    FUSEDNORM_INLINE void add(int64_t stat, JointSums& sums) {
        if (n == kLanes) close();
        stats[n] = stat, plains[n] = folded(sums.plain), products[n] = folded(sums.product);
        sums.plain = sums.product = broadcast(0.0);
        ++n;
    }
    __attribute__((noinline)) void close() {
        if (n == 0) return;
        for (int64_t i = n; i < kLanes; ++i) plains[i] = products[i] = Doubles{};
        double each[2][kLanes];
        store(each[0], sums_of(plains)), store(each[1], sums_of(products));
        for (int64_t i = 0; i < n; ++i) plain[stats[i]] += each[0][i], product[stats[i]] += each[1][i];
        n = 0;
    }

private:
    double *plain, *product;
    int64_t n = 0, stats[kLanes];
    Doubles plains[kLanes], products[kLanes];
};

// The gradient's sums of a tile that is read block by block.
template <class T, bool Weighted>
class JointRows {
public:
    explicit JointRows(const JointRowsTile& tile)
        : t(tile), grad(static_cast<const T*>(t.grad)), x(static_cast<const T*>(t.x)), open(t.plain, t.product) {}

    // Whether all blocks were summed around 0; if not, the gradient's sums are not those of the tile.
    bool run(Moments out) {
        const Blocks blocks(t.rows, t.ld, t.cols);
        if (blocks.size() == 1) {
            for (int64_t s = 0; s < t.stats; s += kLanes)
                moments_of_some(blocks[0], s, t.stats - s < kLanes ? t.stats - s : kLanes, out + s);
        } else {
            for (int64_t s = 0; s < t.stats; ++s) moments_of_blocks(blocks, s, out + s);
        }
        open.close();
        return is_joint;
    }

private:
    const JointRowsTile& t;
    const T *grad, *x;
    OpenSums open;
    Lanes<double> plain = broadcast(0.0), product = plain;  // of the row that a block ends within
    bool is_joint = true;

    // Those of one statistic.
    void moments_of_blocks(const Blocks& blocks, int64_t stat, Moments out) {
        MomentsOf<double> total{0, 0, 0};
        double count = 0;
        for (int64_t b = 0; b < blocks.size(); ++b) {
            const Blocks::Block block = blocks[b];
            const MomentsOf<double> value = moments_of_block(block, stat);
            total = b == 0 ? value : merged(total, count, value, block.count());
            count += block.count();
        }
        put(out, 0, total);
    }

    MomentsOf<double> moments_of_block(const Blocks::Block& block, int64_t stat) {
        const T* first = x + stat * t.stat_ld + block.at;
        if (stays_joint(first, block)) {
            const JointSums found = sum_block(block, stat);
            const double total = sum(found.sums), squares = sum(found.squares), n = block.count();
            if (!t.centered) return closed_block<false>(0.0, total, squares, n);
            if (n >= kLeastChosen && are_near(total, squares, n)) return closed_block<true>(0.0, total, squares, n);
        }
        if (t.centered) return block_moments<T, true>(first, block.rows, t.ld, block.cols);
        return block_moments<T, false>(first, block.rows, t.ld, block.cols);
    }

    // Whether a block, as its first values say, will be summed around 0. One that is too small for a choice is: for the sums of
    // grad, and its moments are found once more.
    bool stays_joint(const T* first, const Blocks::Block& block) {
        const bool chosen = t.centered && block.count() >= kLeastChosen;
        if (is_joint && chosen) is_joint = center_of(as_double(first[0]), first, block.rows, block.cols) == 0;
        return is_joint;
    }
    JointSums sum_block(const Blocks::Block& block, int64_t stat) {
        JointSums sums{broadcast(0.0), broadcast(0.0), plain, product};
        const int64_t begin = block.at, values = block.rows * block.cols, from = stat * t.stat_ld;
        if (!t.each) {
            add_rows<Weighted>(sums, grad + from + begin, x + from + begin, block.rows, t.ld, block.cols,
                               Weighted ? t.weight + begin : nullptr);
            open.add(stat, sums);
            return sums;
        }
        // Rows follow each other, and have blocks of their own.
        for (int64_t at = begin, end = begin + values; at < end;) {
            const int64_t row = at / t.cols, within = at % t.cols, own = (within / kBlock + 1) * kBlock;
            const int64_t left = (own < t.cols ? own : t.cols) - within, n = left < end - at ? left : end - at;
            add_rows<Weighted>(sums, grad + from + at, x + from + at, 1, n, n, nullptr);
            if (n == left) open.add(stat * t.rows + row, sums);
            at += n;
        }
        plain = sums.plain, product = sums.product;
        return sums;
    }

    // Those of up to sixteen statistics of one block.
    void moments_of_some(const Blocks::Block& block, int64_t stat, int64_t some, Moments out) {
        const T* first = x + stat * t.stat_ld;
        for (int64_t i = 0; i < some && is_joint; ++i) stays_joint(first + i * t.stat_ld, block);
        if (is_joint) {
            BlockSums found(some);
            for (int64_t i = 0; i < some; ++i) {
                const JointSums of_one = sum_block(block, stat + i);
                found.sums[i] = folded(of_one.sums), found.squares[i] = folded(of_one.squares);
                found.firsts[i] = found.centers[i] = 0;
            }
            const double n = block.count();
            if (!t.centered) return void(close_blocks<false, true>(found, some, n, true, out));
            if (n >= kLeastChosen && close_blocks<true, true>(found, some, n, false, out)) return;
        }
        if (t.centered) return block_moments<T, true>(first, some, t.stat_ld, block.rows, t.ld, block.cols, out);
        block_moments<T, false>(first, some, t.stat_ld, block.rows, t.ld, block.cols, out);
    }
};

template <class T, bool Weighted>
bool joint_rows(const JointRowsTile& t, Moments out) {
    return JointRows<T, Weighted>(t).run(out);
}

template <class T, bool Weighted>
constexpr auto joint_rows_or_none() -> bool (*)(const JointRowsTile&, Moments) {
    if constexpr (kJoint<T>) return joint_rows<T, Weighted>;
    return nullptr;
}

}  // namespace
}  // namespace fusednorm::FUSEDNORM_ISA_NAME
