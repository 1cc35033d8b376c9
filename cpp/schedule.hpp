// What the schedules share: thresholds, and how work is cut into items.
#pragma once
#include <algorithm>

#include "kernels/kernels.hpp"
#include "machine/buffer.hpp"
#include "machine/dispatch.hpp"
#include "machine/threads.hpp"
#include "plan.hpp"

namespace fusednorm {

// Values below which a second thread costs more than it brings, without and with statistics to find. On two cores of a Zen 5,
// one thread and two: eval of 63 k values 4.2 to 7.1 us and 3.9 to 6.9, of 100 k 5.7 to 11.6 and 3.8 to 13, but 76 when the
// thread had fallen asleep and another process was busy; layer norm (96,384), 37 k, 4.9 and 7.3, (128,384), 49 k, 6.0 and 4.9.
constexpr int64_t kSerialGiven = 1 << 17, kSerialFound = 3 << 14;
// Values of one item of work, so that items outnumber threads and none is too small to be worth fetching.
constexpr int64_t kItemValues = 1 << 14;
// x of so many bytes is asked for ahead, so far; beside columns' coefficients, of four times as many. Of a smaller one the
// processor's own prefetching has it in time, and asking costs: eval (1,64,56,56) was 1.05 to 1.12 times as fast without,
// (4,64,56,56), (8,256,28,28) and (4096,512) 0.86 to 0.98, channels-last (8,64,56,56) 1.02 to 1.04; with a residual beside x
// even (1,64,56,56) was 0.95 to 0.98. Bytes come in time by themselves: (1080,1920,3) 1.03 to 1.3.
constexpr int64_t kFarBytes = int64_t{2} << 20, kAheadBytes = 2048;
inline bool is_far(int64_t bytes, bool has_columns) { return bytes >= (has_columns ? 4 * kFarBytes : kFarBytes); }
// Where results go past the caches, a thread that writes those of one run asks for the next one, if it has at most so many
// bytes and the last cache holds both of every thread: memory is read and written at once. On two cores: training and instance
// norm of units of 1.6 and 2 MB 1.15 to 1.28 times as fast, group norm (8,512,64,64) 1.08, layer norm 1.05 to 1.2, units of 0.4
// MB as before, of 12 MB 0.87; gradients of 0.4 to 1.6 MB 1.06 to 1.16, but for those whose statistics are given: 0.92 to 1.04.
constexpr int64_t kNextBytes = int64_t{1} << 22;
constexpr int64_t kMaxBatch = 64;  // statistics that one kernel call takes

// Units along their last axis, of which small ones are taken many at a time. Runs next to each other in memory follow each
// other.
struct Runs {
    int64_t units = 1, last = 1, batch = 1, each = 1;  // each: runs along the last axis
    bool along = true;                                 // that axis comes first, then the others

    Runs() = default;
    explicit Runs(const Axes& axes) : units(axes.size()), last(axes.n > 0 ? axes.last().size : 1), each(last) {
        along = axes.n < 2 || magnitude(axes.last().x) <= magnitude(axes[axes.n - 2].x);
    }
    // Makes runs of as many units as `fit`, as long as every thread has so many runs.
    void join(int64_t fit, int threads, int64_t runs_each = 4) {
        const int64_t share = threads == 1 ? units : std::max<int64_t>(1, units / (threads * runs_each));
        batch = std::min({kMaxBatch, std::max<int64_t>(1, fit), share, last});
        each = divided(last + batch - 1, batch);
    }
    int64_t count() const { return units == last ? each : units / last * each; }
    // The first unit of a run, and how many it has.
    int64_t first(int64_t run) const {
        const Place p = place_of(run);
        return p.before * last + p.along;
    }
    int64_t size(int64_t run) const { return std::min(batch, last - place_of(run).along); }

private:
    struct Place {
        int64_t before, along;
    };
    Place place_of(int64_t run) const {
        if (units == last) return {0, run * batch};
        if (along) return {run / each, run % each * batch};
        const int64_t others = units / last;
        return {run % others, run / others * batch};
    }
};

inline Moments moments_at(double* memory, int64_t n) { return {memory, memory + n, memory + 2 * n}; }

// Whether each thread takes units of its own.
inline bool are_enough(int64_t units, int threads) {
    return threads == 1 || (units >= threads && (units >= 4 * threads || units % threads == 0));
}

// From a run to the next one, in bytes, where that is asked for; 0: it is not. bytes: of a run.
inline int64_t to_next(const Axes& units, const Runs& runs, int64_t value_bytes, int64_t bytes, int threads) {
    if (units.n == 0 || bytes > kNextBytes || !are_enough(runs.count(), threads) ||
        is_streamed(2 * threads * bytes, threads == 1))
        return 0;
    return value_bytes * (runs.along ? units.last().x * runs.batch : units[units.n - 2].x);
}

// The pooled schedule, where units are fewer than threads: find(unit, where it begins, segment, slot) for every segment ...
template <class Find>
void for_segments(const Plan& plan, int threads, Find find) {
    const int64_t segments = plan.segments();
    auto body = [&](int64_t item, int slot) {
        const int64_t unit = item / segments;
        find(unit, place(plan.units, plan.origin, unit), item % segments, slot);
    };
    parallel_for(plan.units.size() * segments, threads, body);
}

// Into how many parts the writing of so many values in so many pieces is cut, where threads share it.
inline int64_t parts_of(int64_t values, int64_t pieces, int threads) {
    return std::clamp<int64_t>(values / kItemValues, 1, std::min<int64_t>(pieces, int64_t{threads} * 4));
}

// ... and, once all is found, write(unit, where it begins, first piece, last, slot) for every unit's pieces.
template <class Write>
void for_written_parts(const Plan& plan, int64_t unit_values, int threads, Order order, Write write) {
    const int64_t pieces = plan.write.pieces(), parts = parts_of(unit_values, pieces, threads);
    auto body = [&](int64_t item, int slot) {
        const int64_t unit = item / parts, part = item % parts;
        write(unit, place(plan.units, plan.origin, unit), pieces * part / parts, pieces * (part + 1) / parts, slot);
    };
    parallel_for(plan.units.size() * parts, threads, body, order);
}

}  // namespace fusednorm
