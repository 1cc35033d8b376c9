"""Calls that hypothesis draws: any rank, layout, dtype, epilogue and overlap gives the formula, or the documented error.

HYPOTHESIS_PROFILE=nightly runs 20,000 examples instead of 500.
"""

import math
import re
from dataclasses import dataclass, replace

import cases
import fusednorm as fn
import ml_dtypes
import numpy as np
import oracle
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from strategies import MARGIN, native, share
from test_epilogue import ACTIVATIONS, activate, units

pytestmark = pytest.mark.usefixtures("restore_threads")
FUNCTIONS = {name: f"{name}_norm" for name in ("batch", "group", "instance", "layer", "rms")}


def expected(call, x, residual, activation, dtype):
    """Return activation(norm + residual): 2 units in the last place (float64: 4), and what float64 loses before it."""
    with strategies.unheard():
        result = call.reference(x, dtype)
        if residual is not None or activation is not None:
            exact = call.reference(x, np.float64)
            norm = exact.value.astype(np.longdouble)
            added = np.longdouble(0) if residual is None else residual.astype(np.longdouble)
            value, before = activate(activation, norm + added), np.abs(norm + added)
            # No activation is steeper than 1.5; its argument's rounding counts in the tails too.
            noise = 8 * 2.0**-53 * (np.abs(norm) + np.abs(added)) * (1 + before) + 1.5 * exact.tolerance
            info = ml_dtypes.finfo(dtype)
            unit = np.maximum(np.abs(value) * float(info.eps), float(info.smallest_subnormal))
            result = oracle.Expected(value, (4 if dtype == np.float64 else 2) * unit + noise)
        rounded = result.value.astype(np.float64).astype(dtype).astype(result.value.dtype)
        return replace(result, value=np.where(np.isinf(rounded), rounded, result.value))


# ---- one call of a norm


@dataclass
class Drawn:
    """A call and its arrays, in one piece of memory whose other bytes must stay as they are."""

    call: cases.Call
    memory: np.ndarray
    x: np.ndarray
    residual: np.ndarray | None
    out: np.ndarray | None
    covered: np.ndarray  # the bytes of out
    keywords: dict
    dtype: np.dtype  # of the result

    def run(self):
        return strategies.quiet(self.call.run, self.x, residual=self.residual, out=self.out, **self.keywords)


@st.composite
def drawn_calls(draw):
    shape, kind = draw(strategies.shapes()), draw(strategies.DTYPES)
    asked = draw(st.one_of(st.none(), st.none(), strategies.FLOAT_DTYPES))
    dtype = asked or (kind if kind in cases.FLOATS else np.dtype(np.float64))
    kinds = {"x": kind, "out": dtype}
    if draw(st.booleans()):
        kinds["residual"] = draw(st.one_of(st.just(kind), strategies.DTYPES))
    layout = {role: draw(strategies.layouts(shape, k, "out" if role == "out" else "in")) for role, k in kinds.items()}
    rooms = {role: -(-layout[role].room(shape, kinds[role]) // 16) * 16 for role in layout}
    at = {"x": MARGIN, "residual": MARGIN + rooms["x"]}
    where = draw(st.sampled_from(("fresh", "apart", "apart", "x", "over x", "over residual")))
    start, room = (at["residual"], rooms.get("residual", 0)) if where == "over residual" else (at["x"], rooms["x"])
    at["out"] = start + dtype.itemsize * draw(st.integers(0, room // dtype.itemsize))
    if where in ("fresh", "apart"):
        at["out"] = MARGIN + rooms["x"] + rooms.get("residual", 0)
    memory = strategies.allocate(np.random.default_rng(0), sum(rooms.values()) + 32)
    arrays, masks = {}, {}
    for role, one in layout.items():
        arrays[role], masks[role] = replace(one, read_only=False).place(memory, at[role], shape, kinds[role])
    for role in ("x", "residual"):
        if role in arrays:
            scale = draw(st.sampled_from(strategies.SCALES))
            arrays[role][...] = strategies.values(draw(strategies.SEEDS), shape, kinds[role], scale)
    activation = draw(st.one_of(st.none(), st.none(), st.sampled_from(ACTIVATIONS)))
    x = arrays["x"]
    if kind in cases.FLOATS and x.size and activation != "gelu" and draw(st.integers(0, 15)) == 15:
        x[tuple(draw(st.integers(0, n - 1)) for n in shape)] = draw(st.sampled_from((np.nan, np.inf, -np.inf)))
    call = draw(strategies.calls(native(x)))
    out, covered = (None, np.zeros(memory.size, bool)) if where == "fresh" else (arrays["out"], masks["out"])
    if where == "x" and dtype == kind and 0 not in layout["x"].steps:
        out, covered = x, masks["x"]
    else:
        x.flags.writeable = not layout["x"].read_only
    keywords = {"activation": activation, "dtype": asked}
    return Drawn(call, memory, x, arrays.get("residual"), out, covered, keywords, dtype)


@share(60)
@given(drawn_calls(), strategies.THREADS)
def test_norms(d, threads):
    fn.set_num_threads(threads)
    before, x = d.memory.copy(), native(d.x)
    residual = None if d.residual is None else native(d.residual)
    if not strategies.is_right(d.call, x):
        with pytest.raises(ValueError, match=rf"^{FUNCTIONS[d.call.norm.split()[0]]}: x: expected .*, got shape "):
            d.run()
        assert (d.memory == before).all()
        return
    y = d.run()
    assert ((d.memory == before) | d.covered).all()
    assert y is d.out or (d.out is None and type(y) is np.ndarray and y.dtype == d.dtype)
    assert y.shape == x.shape
    if d.out is None:
        wanted = np.empty_like(d.x, dtype=d.dtype).strides
        assert y.size == 0 or all(a == b for a, b, n in zip(y.strides, wanted, y.shape, strict=True) if n > 1)
    if x.size:
        expected(d.call, x, residual, d.keywords["activation"], d.dtype).check(native(y))
    if x.size > 30_000:
        fn.set_num_threads(threads % 3 + 1)
        y = native(y)
        d.memory[...] = before
        assert cases.same_bits(native(d.run()), y)


# ---- running statistics


@share(10)
@given(st.data())
def test_running_statistics(data):
    x = data.draw(strategies.arrays(least=2))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    call = cases.Call(data.draw(st.sampled_from(("batch", "instance"))), channel_axis=axis)
    rng, shape = np.random.default_rng(0), x.shape[axis : axis + 1 or None]
    arrays, before, masks = [], [], []
    for _ in range(2):
        kind = data.draw(strategies.FLOAT_DTYPES)
        layout = data.draw(strategies.layouts(shape, kind, "out"))
        memory = strategies.allocate(rng, layout.room(shape, kind))
        array, covered = layout.place(memory, MARGIN, shape, kind)
        array[...] = rng.uniform(0.5, 2, shape)
        arrays.append((memory, array))
        masks.append(covered)
        before.append((memory.copy(), native(array).astype(np.longdouble)))
    momentum = data.draw(st.sampled_from((0.1, 0.5, 1.0, 0.0)))
    wanted = call.reference(native(x)) if x.size and strategies.is_right(call, x) else None
    call = replace(call, mean=arrays[0][1], var=arrays[1][1])
    if not strategies.is_right(call, x):
        with pytest.raises(ValueError, match="norm: x: expected more than one "):
            call.run(x, momentum=momentum)
    else:
        y = strategies.quiet(call.run, x, momentum=momentum)
    for (memory, _), (old, _), covered in zip(arrays, before, masks, strict=True):
        assert ((memory == old) | (covered & (wanted is not None))).all()
    if wanted is not None:
        with strategies.unheard():
            wanted.check(native(y))
            check_running(call, native(x), momentum, [old for _, old in before])


def check_running(call, x, momentum, old):
    count = call.count(x)
    origin, offset, var = call.statistics(x)
    others = tuple(i for i in range(x.ndim) if i != call.channel_axis % x.ndim)
    mean, std = np.mean(origin + offset, axis=others, dtype=np.longdouble), np.sqrt(np.mean(var, axis=others))
    var = np.mean(var, axis=others, dtype=np.longdouble) * count / (count - 1)
    for array, batch, spread, start in ((call.mean, mean, std, old[0]), (call.var, var, var, old[1])):
        value = (1 - np.longdouble(momentum)) * start + momentum * batch
        error = oracle.sums_unit(count) * momentum * spread + len(x) * oracle.EPS64 * (np.abs(start) + np.abs(batch))
        info = ml_dtypes.finfo(array.dtype.newbyteorder("="))
        rounded = value.astype(np.float64).astype(array.dtype).astype(np.longdouble)
        value = np.where(np.isinf(rounded), rounded, value)
        tolerance = float(info.eps) * 0.501 * np.abs(value) + error + float(info.smallest_subnormal)
        oracle.Expected(value, tolerance).check(native(array))


# ---- the norm of a sum


@share(7)
@given(st.data())
def test_norm_of_a_sum(data):
    x = data.draw(strategies.arrays(least=1))
    residual = data.draw(strategies.arrays(x.shape, data.draw(st.sampled_from((None, native(x).dtype)))))
    norm, dims = data.draw(st.sampled_from(cases.ROW_NORMS)), data.draw(st.integers(1, x.ndim))
    dtype = native(x).dtype if native(x).dtype in cases.FLOATS else np.dtype(np.float64)
    outs = []
    for _ in range(2):
        layout = data.draw(strategies.layouts(x.shape, dtype, "out"))
        memory = strategies.allocate(np.random.default_rng(0), layout.room(x.shape, dtype))
        outs.append((memory, *layout.place(memory, MARGIN, x.shape, dtype)))
    before = [memory.copy() for memory, *_ in outs]
    function = fn.add_layer_norm if norm == "layer" else fn.add_rms_norm
    out = tuple(a if data.draw(st.booleans()) else None for _, a, _ in outs)
    y, total = strategies.quiet(function, x, residual, x.shape[x.ndim - dims :], eps=1e-5, out=out)
    for (memory, _, covered), old in zip(outs, before, strict=True):
        assert ((memory == old) | covered).all()
    with strategies.unheard():
        sums = native(x).astype(np.longdouble) + native(residual).astype(np.longdouble)
        # Where one is beyond 2^53, what float64 makes of it.
        error = 2.0**-53 * (np.abs(native(x).astype(np.longdouble)) + np.abs(native(residual).astype(np.longdouble)))
        wide = sums.astype(np.float64).astype(dtype)
        near = units(native(total), sums, dtype) <= 0.5001
        assert (near | (np.abs(native(total).astype(np.longdouble) - sums) <= error) | np.isinf(wide)).all()
        if x.size and np.isfinite(native(total).astype(np.float64)).all():
            cases.Call(norm, dims=dims).reference(native(total), dtype).check(native(y))


# ---- calls that are wrong in one way


def bad_arguments(x):
    """Return argument, value and error for what no call of a norm may have."""
    shape = x.shape
    return st.sampled_from(
        [
            ("eps", -1.0, ValueError),
            ("eps", math.nan, ValueError),
            ("eps", "1", TypeError),
            ("out", np.zeros((*shape, 1), x.dtype), ValueError),
            ("out", np.zeros(shape, "i4"), TypeError),
            ("out", [0.0], TypeError),
            ("out", np.broadcast_to(np.zeros((), x.dtype), shape), ValueError),
            ("residual", np.zeros((*shape, 1)), ValueError),
            ("residual", np.zeros(shape, "c8"), TypeError),
            ("activation", "elu", ValueError),
            ("activation", 1, TypeError),
            ("dtype", "i4", TypeError),
            ("weight", np.zeros((*shape, 2)), ValueError),
            ("weight", np.zeros(shape[-1:], "M8[s]"), TypeError),
        ]
    )


@share(5)
@given(strategies.arrays(least=2, dtype=np.dtype(np.float32)), st.data())
def test_wrong_calls(x, data):
    call = data.draw(strategies.calls(native(x)))
    argument, value, error = data.draw(bad_arguments(native(x)))
    if not strategies.is_right(call, x):
        return
    out = np.full(x.shape, 7, np.float32)
    running = {}
    if call.norm in ("batch", "instance"):
        running = {"mean": np.full(x.shape[call.channel_axis], 3.0), "var": np.full(x.shape[call.channel_axis], 5.0)}
        call = replace(call, **running)
    keywords = {"out": out}
    if argument in ("eps", "weight"):
        call = replace(call, **{argument: value})
    else:
        keywords |= {argument: value}
    function = FUNCTIONS[call.norm.split()[0]]
    with pytest.raises(error, match=re.compile(rf"^{function}: {argument}: expected .*, got ", re.DOTALL)):
        call.run(x, **keywords)
    assert (out == 7).all()
    assert all((a == v).all() for a, v in zip(running.values(), (3, 5), strict=False))
