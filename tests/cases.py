"""What the tests run on: named shapes, memory layouts, dtypes, and every norm behind one interface."""

from dataclasses import dataclass, replace
from typing import Any

import fusednorm as fn
import ml_dtypes
import numpy as np
import oracle
import pytest

# Axis 1 holds the channels. The last two reach past a block of rows (256) and a block of a row (4096).
SHAPES = {
    "rows": (5, 6),
    "one sample": (1, 6, 13),
    "one channel": (5, 1, 7),
    "primes": (7, 11, 13),
    "ones": (3, 4, 1, 5, 1),
    "image": (2, 4, 5, 3),
    "powers": (2, 8, 16, 16),
    "volume": (2, 6, 3, 2, 5),
    "six": (2, 2, 3, 2, 1, 5),
    "wide": (3, 2051, 2),
    "tall": (259, 6, 3),
    "long": (2, 3, 4099),
}


def padded(x):
    """Rows further apart than they are long, starting off any vector's alignment."""
    memory = np.zeros((*x.shape[:-1], x.shape[-1] + 3), x.dtype)
    view = memory[..., 1 : 1 + x.shape[-1]]
    view[...] = x
    return view


def stepped(x):
    memory = np.zeros(tuple(2 * n + 1 for n in x.shape), x.dtype)
    view = memory[tuple(slice(1, None, 2) for _ in x.shape)]
    view[...] = x
    return view


def reversed_all(x):
    every = (slice(None, None, -1),) * x.ndim
    return np.ascontiguousarray(x[every])[every]


def reversed_last(x):
    return np.ascontiguousarray(x[..., ::-1])[..., ::-1]


def channels_last(x):
    if x.ndim < 3:
        return np.asfortranarray(x)
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def rotated(x):
    """Axis 0 is the innermost in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)


def same_samples(x):
    return np.broadcast_to(x[:1], x.shape)


def same_channels(x):
    axis = min(1, x.ndim - 1)
    return np.broadcast_to(np.take(x, [0], axis), x.shape)


def unaligned(x):
    memory = np.zeros(x.nbytes + 1, np.uint8)
    view = memory[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned
    return view


# Each gives a view; the last two change the values, so references are computed from the view.
LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "channels-last": channels_last,
    "rotated": rotated,
    "padded": padded,
    "stepped": stepped,
    "reversed": reversed_all,
    "reversed last": reversed_last,
    "same samples": same_samples,
    "same channels": same_channels,
}
DENSE = ("C", "F", "channels-last", "rotated", "reversed", "reversed last")
WRITABLE = (*DENSE, "padded", "stepped")

# Every short length, and around the edges of blocks (256 rows, 4096 and 8192 values, segments of 65536).
SHORT = (*range(1, 71), *range(127, 131))
EDGES = (*SHORT, *(e + d for e in (256, 4096, 8192, 65536) for d in (-1, 0, 1)), 65_792, 131_073)

WIDE = (np.float32, np.float64)
HALVES = (np.float16, ml_dtypes.bfloat16)
FLOATS = (*WIDE, *HALVES)
INTEGERS = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")

CHANNEL_NORMS = ("batch", "batch eval", "group", "instance", "instance eval")
ROW_NORMS = ("layer", "rms")
NORMS = (*CHANNEL_NORMS, *ROW_NORMS)
BY_SAMPLE = ("group", "instance", "layer", "rms")

every_norm = pytest.mark.parametrize("norm", NORMS)
every_float = pytest.mark.parametrize("dtype", FLOATS, ids=["float32", "float64", "float16", "bfloat16"])
every_wide = pytest.mark.parametrize("dtype", WIDE, ids=["float32", "float64"])


@dataclass(frozen=True)
class Call:
    """One call of a norm, but for x: runs it, and gives what it should give."""

    norm: str
    weight: Any = None
    bias: Any = None
    eps: Any = 1e-5
    channel_axis: int = 1
    num_groups: int = 1
    dims: int = 1  # how many trailing dimensions layer and rms pool
    mean: Any = None
    var: Any = None

    def run(self, x, **keywords):
        x_shape = np.shape(x)
        if self.norm in ROW_NORMS:
            function = fn.layer_norm if self.norm == "layer" else fn.rms_norm
            parameters = {"weight": self.weight, "bias": self.bias}
            if self.norm == "rms":
                del parameters["bias"]
            return function(x, x_shape[len(x_shape) - self.dims :], **parameters, eps=self.eps, **keywords)
        keywords = {"weight": self.weight, "bias": self.bias, "eps": self.eps, "channel_axis": self.channel_axis} | keywords
        if self.norm == "group":
            return fn.group_norm(x, self.num_groups, **keywords)
        from_x = not self.norm.endswith("eval")
        if self.norm.startswith("batch"):
            return fn.batch_norm(x, self.mean, self.var, training=from_x, **keywords)
        return fn.instance_norm(x, self.mean, self.var, use_input_stats=from_x, **keywords)

    def backward(self, grad, x, **keywords):
        """Return the gradients, as `run` returns the result."""
        if self.norm in ROW_NORMS:
            function = fn.layer_norm_backward if self.norm == "layer" else fn.rms_norm_backward
            return function(grad, x, np.shape(x)[np.ndim(x) - self.dims :], self.weight, self.eps, **keywords)
        keywords = {"weight": self.weight, "eps": self.eps, "channel_axis": self.channel_axis} | keywords
        if self.norm == "group":
            return fn.group_norm_backward(grad, x, self.num_groups, **keywords)
        from_x = not self.norm.endswith("eval")
        if self.norm.startswith("batch"):
            return fn.batch_norm_backward(grad, x, self.mean, self.var, training=from_x, **keywords)
        return fn.instance_norm_backward(grad, x, self.mean, self.var, use_input_stats=from_x, **keywords)

    def along_channels(self, values, ndim):
        """Return values (C,) in the form that broadcasts with x."""
        return np.reshape(values, [-1 if i == self.channel_axis % ndim else 1 for i in range(ndim)])

    def pooled(self, ndim):
        channel = self.channel_axis % ndim
        if self.norm in ROW_NORMS:
            return tuple(range(ndim - self.dims, ndim))
        kept = {channel} if self.norm == "batch" else {channel, 0}
        return tuple(i for i in range(ndim) if i not in kept)

    def reference(self, x, dtype=None):
        """Return the `oracle.Expected` result."""
        x = np.asarray(x)
        dtype = dtype or (x.dtype if x.dtype in FLOATS else np.float64)
        weight, bias = 1 if self.weight is None else self.weight, 0 if self.bias is None else self.bias
        if self.norm not in ROW_NORMS:
            weight, bias = (v if np.ndim(v) == 0 else self.along_channels(v, x.ndim) for v in (weight, bias))
        return oracle.norm(x, self.statistics(x), self.eps, weight, bias, dtype, self.count(x))

    def count(self, x):
        """Return how many values a statistic pools."""
        per = x.shape[self.channel_axis] // self.num_groups if self.norm == "group" else 1
        return int(np.prod([x.shape[i] for i in self.pooled(x.ndim)])) * per

    def statistics(self, x):
        if self.norm.endswith("eval"):
            mean, var = (self.along_channels(oracle.widen(v), x.ndim) for v in (self.mean, self.var))
            return mean, 0, var
        if self.norm == "rms":
            return oracle.mean_square(x, self.pooled(x.ndim))
        if self.norm != "group":
            return oracle.moments(x, self.pooled(x.ndim))
        channel, per = self.channel_axis % x.ndim, x.shape[self.channel_axis] // self.num_groups
        pooled = tuple(i for i in range(x.ndim) if i == channel or i in self.pooled(x.ndim))
        groups = [oracle.moments(group, pooled) for group in np.split(x, self.num_groups, channel)]
        return tuple(np.repeat(np.concatenate(parts, channel), per, channel) for parts in zip(*groups, strict=True))


def make_call(norm, x, rng, *, affine=True, channel_axis=1, **changes):
    """Return a `Call` that suits x: weights near 1, biases near 0, running statistics near those of x, two or three groups."""
    channels = x.shape[channel_axis] if norm in CHANNEL_NORMS else 1
    call = Call(norm, channel_axis=channel_axis, num_groups=next(g for g in (2, 3, 1) if channels % g == 0))
    call = replace(call, **changes)
    shape = x.shape[x.ndim - call.dims :] if norm in ROW_NORMS else (channels,)
    if affine:
        call = replace(call, weight=rng.normal(1, 0.5, shape).astype(np.float32))
    if affine and norm != "rms":
        call = replace(call, bias=rng.normal(0, 0.5, shape).astype(np.float32))
    if norm.endswith("eval"):
        axes = tuple(i for i in range(x.ndim) if i != channel_axis % x.ndim)
        mean, var = x.mean(axes, dtype=np.float64), x.var(axes, dtype=np.float64)
        call = replace(call, mean=mean + np.sqrt(var) / 7, var=var * 1.1)
    return call


def of_channels(call, part):
    """Return the call of the channels `part`, which are one group."""
    sliced = {name: getattr(call, name) for name in ("weight", "bias", "mean", "var")}
    return replace(call, num_groups=1, **{name: None if v is None else v[part] for name, v in sliced.items()})


def draw(rng, shape, dtype=np.float32):
    """Return values with mean 3 and standard deviation 2; integers and bool use what range they have."""
    dtype = np.dtype(dtype)
    if dtype in FLOATS:
        return rng.normal(3, 2, shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.3
    info = np.iinfo(dtype)
    return rng.integers(max(info.min, -(2**40)), min(info.max, 2**40), shape, dtype=dtype)


def same_bits(a, b):
    """Whether two arrays hold the same bytes, NaN and the sign of zero included."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
