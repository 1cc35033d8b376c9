// One thread's work on one piece of an operation: bring it into the form that the kernels read, normalize it, and what
// follows. Knows no schedule.
#pragma once
#include "machine/buffer.hpp"
#include "norm.hpp"
#include "plan.hpp"

namespace fusednorm {

struct Coefficients {
    char *center, *scale, *shift;  // float or double
    bool wide;                     // double
};

// What one thread needs besides x and y.
struct Workspace {
    char *x, *y, *r;  // packed tiles
    double* scratch;
    Moments piece, segment, unit, stats;
    char* coefficients;
};

class Tiles;

// The workspaces of the threads: moments of `stats` statistics, scratch for columns where there are any, packed tiles, and so
// many coefficients.
class Workspaces {
public:
    Workspaces(const Tiles& tiles, int64_t stats, int64_t columns, int64_t coefficients, int threads);
    Workspace at(int slot);

private:
    const Tiles& tiles;
    int64_t stats, scratch, doubles_each, packed_each;
    Buffer<double> doubles;
    Buffer<char> packed;
};

class Tiles {
public:
    Tiles(const Operation& operation, const Plan& plan_, const Kernels& kernels);

    Type x_type;    // as the kernels read it
    bool single;    // float arithmetic, where the numbers fit
    bool stream;    // write past the caches
    int64_t ahead;  // how far ahead normalize asks for x, in bytes; 0: it does not

    // How many values are packed at once, of units that are one row each.
    int64_t pack_values() const;
    // Bytes of a thread's packed tiles, and where they begin in its memory.
    int64_t packed_bytes() const;
    void place_packed(Workspace& w, char* memory) const;

    // x of the piece, packed if it must be. Returns the pointer and the leading dimension.
    const void* read(const Tiling& tiling, const Piece& p, const Workspace& w, int64_t& ld) const;
    // y of a piece of plan.write. first: the row whose coefficients come first; step: from one row of the piece to the next.
    // kept: x of the piece as read() has packed it; null: it has not.
    void normalize(const Piece& p, const Coefficients& c, int64_t first, int64_t step, const Workspace& w,
                   const void* kept = nullptr) const;

    // Coefs::both: of weight_type().
    const void *row_weight, *row_bias;

private:
    const Operation& op;
    const Plan& plan;
    const Kernels& k;

    // How a tile is computed: in float; in double, with a residual and relu, all of one type; in double, step by step.
    enum class Way { own, fused, through };
    Way way(const Coefficients& c) const;
    NormalizeTile describe(const Piece& p, const Coefficients& c, int64_t first, int64_t step) const;
    void normalize_tile(const Piece& p, NormalizeTile& t, Way how, const Workspace& w) const;
    void through_double(const Piece& p, NormalizeTile t, const Workspace& w) const;
    void add_residual(const Piece& p, double* t, const Workspace& w) const;
};

}  // namespace fusednorm
