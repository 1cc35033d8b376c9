"""What hypothesis draws: profiles, arrays anywhere in memory, and calls of the norms.

Structure is drawn by hypothesis, so that a failure shrinks; values come from a generator with a drawn seed.
"""

import math
import os
from dataclasses import dataclass, replace

import cases
import ml_dtypes
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# `max_examples` are those of all tests together: each has its share. The normal profile draws the same ones every time.
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
settings.register_profile("normal", max_examples=500, derandomize=True, database=None, **COMMON)
settings.register_profile("nightly", max_examples=20_000, **COMMON)
PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "normal"))


def share(percent):
    """Return the settings of a test that runs this part of the examples."""
    return settings(PROFILE, max_examples=max(1, PROFILE.max_examples * percent // 100))


THREADS = st.integers(1, 3)


def unheard():
    """Return a context for the references: the calls themselves run where every event raises."""
    return np.errstate(all="ignore")


def quiet(function, *arguments, **keywords):
    """Call it where NumPy raises on every floating-point event that it sees."""
    with np.errstate(all="raise"):
        return function(*arguments, **keywords)


MARGIN = 96  # bytes that must stay as they are, on both sides of an array


# ---- arrays


@dataclass(frozen=True)
class Layout:
    """Where the elements of an array lie: axes from the outermost to the innermost in memory, and how far apart."""

    order: tuple[int, ...]
    steps: tuple[int, ...]  # of each axis, in multiples of what would be dense; 0: broadcast, negative: backwards
    shift: int = 0  # bytes before the first value, so that it is not aligned
    extra: int = 0  # bytes between the rows, so that strides are no multiple of the value
    swapped: bool = False
    read_only: bool = False

    def strides(self, shape, item):
        """Return the strides in bytes, where the first value lies, and how many bytes there are."""
        strides, first, size = [0] * len(shape), 0, item
        for axis in reversed(self.order):
            strides[axis] = size * self.steps[axis]
            span = abs(strides[axis]) * max(shape[axis] - 1, 0)
            first += span if strides[axis] < 0 else 0
            size += span + self.extra * (axis == self.order[0])
        return strides, first, size

    def place(self, memory, at, shape, dtype):
        """Return an array of this layout in memory (bytes), and a mask of the bytes that it covers."""
        dtype = np.dtype(dtype)
        strides, first, _ = self.strides(shape, dtype.itemsize)
        start = at + self.shift + first
        covered = np.zeros(memory.size, bool)
        np.lib.stride_tricks.as_strided(covered[start:], (*shape, dtype.itemsize), (*strides, 1))[...] = True
        array = np.ndarray(shape, dtype.newbyteorder() if self.swapped else dtype, memory, start, strides)
        array.flags.writeable = not self.read_only
        return array, covered

    def room(self, shape, dtype):
        return self.strides(shape, np.dtype(dtype).itemsize)[2] + self.shift


STEPS = {"in": (1, 1, 1, 1, 2, 3, -1, -2, 0), "out": (1, 1, 1, 1, 2, -1, -3)}


@st.composite
def layouts(draw, shape, dtype, role="in"):
    """Draw one for an array of this shape; half of them are as numpy.empty makes arrays."""
    axes = tuple(range(len(shape)))
    if draw(st.booleans()):
        return Layout(axes, (1,) * len(shape))
    order = tuple(draw(st.permutations(axes)))
    only_transposed = draw(st.integers(0, 2)) == 0
    steps = tuple(1 if only_transposed else draw(st.sampled_from(STEPS[role])) for _ in axes)
    item = np.dtype(dtype).itemsize
    odd = draw(st.integers(0, 5))
    return Layout(
        order,
        steps,
        shift=draw(st.integers(0, 2 * item)) if odd == 1 else item * draw(st.integers(0, 3)),
        extra=draw(st.integers(1, item)) if odd == 2 else 0,
        swapped=odd == 3 and item > 1 and np.dtype(dtype) != ml_dtypes.bfloat16,
        read_only=role == "in" and odd == 4,
    )


def allocate(rng, size):
    """Return bytes that are as likely to be noticed as any."""
    return rng.integers(1, 255, size + 2 * MARGIN, dtype=np.uint8)


def new_array(layout, values):
    """Return the values laid out in memory of their own. Where elements share memory, the last one stays."""
    memory = np.zeros(layout.room(values.shape, values.dtype) + MARGIN, np.uint8)
    array, _ = replace(layout, read_only=False).place(memory, 0, values.shape, values.dtype)
    array[...] = values
    array.flags.writeable = not layout.read_only
    return array


def native(x):
    """Return a copy in C order that shares nothing."""
    return np.array(x, x.dtype.newbyteorder("="), order="C")


SIZES = st.one_of(st.integers(0, 5), st.integers(1, 8), st.sampled_from((1, 13, 16, 17, 33, 64, 70)))
LARGE = st.sampled_from(((3, 6, 4099), (259, 6, 7), (2, 8, 40, 41), (5, 70, 131), (70_001, 2), (1030, 64), (3, 20_011)))
MOST_VALUES = 4000


@st.composite
def shapes(draw, least=0):
    """Draw up to six dimensions; one in twenty is large enough for blocks, segments and threads."""
    if draw(st.integers(0, 19)) == 19:
        return draw(LARGE)
    shape = [draw(SIZES) for _ in range(draw(st.integers(least, 6)))]
    while math.prod(max(n, 1) for n in shape) > MOST_VALUES:  # strides of empty arrays count too
        shape[shape.index(max(shape))] //= 2
    return tuple(shape)


DTYPES = st.sampled_from((*cases.FLOATS, *cases.FLOATS, *cases.INTEGERS)).map(np.dtype)
FLOAT_DTYPES = st.sampled_from(cases.FLOATS).map(np.dtype)
SEEDS = st.integers(0, 2**32 - 1)
# Mean and deviation: the usual, offsets, tiny and huge numbers; what float16 holds comes first.
SCALES = ((3, 2), (0, 1), (0, 0), (1000, 1), (0, 1e-4), (1e6, 1), (1e4, 1e-1), (0, 1e15), (0, 1e-15), (-1e8, 1e2))


def values(seed, shape, dtype, scale=SCALES[0]):
    """Return values that the dtype holds."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype) not in cases.FLOATS or scale == SCALES[0]:
        return np.asarray(cases.draw(rng, shape, dtype))
    if dtype == np.float16 and SCALES.index(scale) > 4:
        scale = SCALES[1]
    return np.asarray(rng.normal(*scale, shape)).astype(dtype)


@st.composite
def arrays(draw, shape=None, dtype=None, least=0):
    """Draw an array of any layout."""
    shape = draw(shapes(least)) if shape is None else shape
    dtype = draw(DTYPES) if dtype is None else dtype
    data = values(draw(SEEDS), shape, dtype, draw(st.sampled_from(SCALES)))
    return new_array(draw(layouts(shape, dtype)), data)


# ---- calls


@st.composite
def parameters(draw, shape, rng, mean, std):
    """Draw None or a weight, in any float dtype and layout."""
    if draw(st.booleans()):
        return None
    dtype = draw(FLOAT_DTYPES)
    return new_array(draw(layouts(shape, dtype)), np.asarray(rng.normal(mean, std, shape)).astype(dtype))


@st.composite
def calls(draw, x):
    """Draw the call of a norm that suits x, as far as its rank allows; `is_right` says whether it does."""
    norm = draw(st.sampled_from(cases.NORMS if x.ndim else cases.CHANNEL_NORMS))
    rng = np.random.default_rng(draw(SEEDS))
    call = cases.Call(norm, eps=draw(st.sampled_from((1e-5, 1e-5, 0.0, 1e-12, 1.0, 1e30))))
    if norm in cases.ROW_NORMS:
        call = replace(call, dims=draw(st.integers(1, x.ndim)))
        shape = x.shape[x.ndim - call.dims :]
    else:
        # Axis 0 of an array that has samples holds no channels, but for batch norm.
        call = replace(call, channel_axis=draw(st.integers(-x.ndim, x.ndim - 1)) if x.ndim else 0)
        shape = x.shape[call.channel_axis : call.channel_axis + 1 or None] if x.ndim else ()
    channels = shape[0] if shape else 1
    if norm == "group":
        call = replace(call, num_groups=draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0] or [1])))
    call = replace(call, weight=draw(parameters(shape, rng, 1, 0.5)))
    if norm != "rms":
        call = replace(call, bias=draw(parameters(shape, rng, 0, 0.5)))
    if norm.endswith("eval"):
        wide = x.astype(np.float64)
        wide = wide[np.isfinite(wide)]
        center, spread = (wide.mean(), wide.std()) if wide.size else (0, 1)
        dtype = draw(st.sampled_from(cases.WIDE))
        mean, var = rng.normal(center, spread, shape), rng.uniform(0.5, 2, shape) * spread**2
        call = replace(call, mean=mean.astype(dtype), var=(var + (spread == 0)).astype(dtype))
    return call


def is_right(call, x):
    """Whether the rank and the number of values that a statistic pools are what the norm takes."""
    if x.ndim < (2 if call.norm.startswith("batch") else 1):
        return False
    return call.norm not in ("batch", "instance") or x.size == 0 or call.count(x) > 1
