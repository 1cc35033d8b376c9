"""Moments, and states that are merged, of arrays that hypothesis draws: see test_fuzz.py."""

import cases
import fusednorm as fn
import numpy as np
import oracle
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from strategies import native, share

pytestmark = pytest.mark.usefixtures("restore_threads")


@share(10)
@given(strategies.arrays(), st.data())
def test_moments(x, data):
    axes = data.draw(st.sets(st.integers(0, x.ndim - 1)).map(tuple) if x.ndim else st.just(()))
    asked = data.draw(st.sampled_from((None, np.float32, np.float64)))
    ddof, keepdims = data.draw(st.integers(0, 2)), data.draw(st.booleans())
    fn.set_num_threads(data.draw(strategies.THREADS))
    given_axes = None if len(axes) == x.ndim and data.draw(st.booleans()) else tuple(a - x.ndim * (a % 2) for a in axes)
    got = strategies.quiet(fn.moments, x, given_axes, ddof=ddof, keepdims=keepdims, dtype=asked)
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes)
    dtype = np.float32 if x.dtype in (*cases.HALVES, np.dtype("f4"), np.dtype(">f4"), np.dtype(">f2")) else np.float64
    assert got.mean.dtype == got.var.dtype == np.dtype(asked or dtype)
    assert got.mean.shape == got.var.shape == shape
    if x.size == 0:
        assert np.isnan(got.mean).all()
        return
    with strategies.unheard():
        for value, wanted in zip(got, oracle.mean_and_var(native(x), axes, asked or dtype, ddof, keepdims), strict=True):
            wanted.check(value)


@share(8)
@given(st.data())
def test_running_moments(data):
    """However the samples are split, laid out, masked and merged."""
    x = data.draw(strategies.arrays(least=2))
    axis = data.draw(st.one_of(st.none(), st.integers(1, x.ndim - 1)))
    mask = np.random.default_rng(1).random(x.shape) < 0.7 if data.draw(st.integers(0, 2)) == 2 else None
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=4)))
    total = fn.RunningMoments(axis)
    for first, last in zip([0, *cuts], [*cuts, len(x)], strict=True):
        part = fn.RunningMoments(axis).update(x[first:last], where=None if mask is None else mask[first:last])
        total = total + part if data.draw(st.booleans()) else total.merge(part)
    channels = [x] if axis is None else np.moveaxis(x, axis, 0)
    masks = [mask] * len(channels) if mask is None or axis is None else np.moveaxis(mask, axis, 0)
    for c, (one, kept) in enumerate(zip(channels, masks, strict=True)):
        one = native(one.ravel() if kept is None else one[kept])
        count, mean, var = (np.ravel(v)[0 if np.ndim(v) == 0 else c] for v in (total.count, total.mean, total.var()))
        assert count == one.size
        if one.size:
            _, _, exact = oracle.moments(one, (0,))
            wanted = oracle.mean_and_var(one, (0,), np.float64)
            assert abs(mean - wanted[0].value) <= 1e-12 * np.sqrt(exact[0]) + 2 * oracle.EPS64 * abs(mean)
            assert abs(var - wanted[1].value) <= 1e-12 * exact[0]
