// An operation's view of its arrays: a list of axes, each with its size and how far one step along it moves in x, in y, in
// the residual, among the statistics and among the channels. Shape arithmetic only; no array is touched.
#pragma once
#include <cstdint>

namespace fusednorm {

// One axis. Strides of x, y and r are in elements. stat: step to the next statistic, 0 where values are pooled.
// affine: step to the next weight and bias, 0 where they are shared. r: the residual's, 0 without one.
struct Axis {
    int64_t size, x, y, stat, affine, r;
};

constexpr Axis kNoAxis{1, 0, 0, 0, 0, 0};

inline int64_t magnitude(int64_t a) { return a < 0 ? -a : a; }

constexpr int kMaxAxes = 66;  // NumPy's 64, the channel axis split into groups, and one more

// Only the first n are ever initialized or copied: a call on a small array would feel it. They lie
// beside n, in few lines of a cache: such a call took 1.05 to 1.1 times as long with n behind all of them.
struct Axes {
    int n;
    Axis axis[kMaxAxes];

    Axes() : n(0) {}
    Axes(const Axes& other) : n(other.n) {
        for (int i = 0; i < n; ++i) axis[i] = other.axis[i];
    }
    Axes& operator=(const Axes&) = delete;

    void push(const Axis& a) { axis[n++] = a; }
    void erase(int i) {
        for (--n; i < n; ++i) axis[i] = axis[i + 1];
    }
    Axis& operator[](int i) { return axis[i]; }
    const Axis& operator[](int i) const { return axis[i]; }
    const Axis& last() const { return axis[n - 1]; }
    int64_t size() const {
        int64_t product = 1;
        for (int i = 0; i < n; ++i) product *= axis[i].size;
        return product;
    }
};

// A place in every operand at once.
struct Offsets {
    int64_t x = 0, y = 0, stat = 0, affine = 0, r = 0;
    void step(const Axis& a, int64_t count) {
        x += a.x * count, y += a.y * count, stat += a.stat * count, affine += a.affine * count, r += a.r * count;
    }
};

// a / b, where b is mostly 1: a call on a small array would feel the divisions.
inline int64_t divided(int64_t a, int64_t b) { return b == 1 ? a : a / b; }

// The place of element `index` of the axes in row-major order; at: the index along the last axis.
inline Offsets place(const Axes& axes, Offsets at_zero, int64_t index, int64_t* at = nullptr) {
    if (at) *at = 0;
    for (int i = axes.n - 1; i >= 0 && index > 0; --i) {
        const int64_t here = index % axes[i].size;
        index /= axes[i].size;
        at_zero.step(axes[i], here);
        if (at && i == axes.n - 1) *at = here;
    }
    return at_zero;
}

}  // namespace fusednorm
