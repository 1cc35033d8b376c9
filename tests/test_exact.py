"""Data that textbook formulas fail on: offsets, constants, extreme magnitudes, outliers, ramps, certified sets."""

import itertools
from dataclasses import replace
from fractions import Fraction

import cases
import fusednorm as fn
import numpy as np
import oracle
import pytest

CENTERED = tuple(norm for norm in cases.NORMS if norm != "rms")


@cases.every_norm
@cases.every_wide
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("offset", [1, 1e2, 1e4, 1e5, 1e6])
def test_mean_far_above_deviation(norm, dtype, layout, offset, rng):
    for std, shape in itertools.product((1, 0.1), ((2, 6, 8, 9), (300, 4, 20))):
        values = (offset * std + std * rng.standard_normal(shape)).astype(dtype)
        x = cases.LAYOUTS[layout](values)
        call = cases.make_call(norm, x, rng)
        call.reference(x).check(call.run(x))


@pytest.mark.parametrize("offset", [1, 1e2, 1e4, 1e6, 1e8])
@cases.every_wide
def test_moments_with_mean_far_above_deviation(offset, dtype, rng):
    x = (offset + rng.standard_normal((3000, 40))).astype(dtype)
    for axis, order in itertools.product(((0,), (1,), (0, 1)), "CF"):
        got = fn.moments(np.asarray(x, order=order), axis)
        for value, expected in zip(got, oracle.mean_and_var(x, axis, dtype), strict=True):
            expected.check(value)


@pytest.mark.parametrize("ratio", [0, 4, 15.5, 16.5, 60, 1e3, 1e4])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_moments_wherever_sums_are_centered(ratio, dtype, rng):
    """Sums are around 0 up to a mean of 16 deviations, around a value beyond: neither costs more than a few bits."""
    for n, start in itertools.product((63, 64, 255, 256, 300, 4096, 9000), (None, 0, ratio)):
        x = (ratio + rng.standard_normal((n, 5))).astype(dtype)
        if start is not None:
            # Values that a guess looks at, along rows and down columns.
            x[[0, n // 4, n // 2, n * 3 // 4, n - 1, min(n - 1, 256), min(n - 1, 511)]] = start
        for view in (x, np.asfortranarray(x)):
            mean, var = fn.moments(view, 0, dtype=np.float64)
            origin, offset, exact = oracle.moments(view.astype(np.float64), 0)
            unit = oracle.EPS64 * min(max(n, 256), 4096)
            np.testing.assert_allclose(mean, (origin + offset)[0].astype(np.float64), rtol=unit, atol=unit)
            np.testing.assert_allclose(var, exact[0].astype(np.float64), rtol=4 * unit)


@pytest.mark.parametrize("v", [4e4, 8e4, 1e6])
@cases.every_wide
def test_four_steps_on_an_offset(v, dtype):
    rows = np.tile(np.array([v, v + 1, v + 2, v + 3], dtype), (5, 1))
    expected = np.array([-1.3416355, -0.4472118, 0.4472118, 1.3416355])
    results = [
        fn.layer_norm(rows, 4),
        fn.group_norm(rows, 1),
        fn.instance_norm(rows[:, None])[:, 0],
        fn.batch_norm(rows.T, training=True).T,
        fn.batch_norm(np.asfortranarray(rows.T), training=True).T,
        fn.batch_norm(rows, [v + 1.5] * 5, [1.25] * 5, channel_axis=0),
    ]
    for y in results:
        np.testing.assert_allclose(y, np.broadcast_to(expected, y.shape), rtol=0, atol=1e-6)


CONSTANTS = (14.62, 100, 1e10, 1 / 3)


@pytest.mark.parametrize("norm", CENTERED)
@pytest.mark.parametrize("constant", CONSTANTS)
@cases.every_wide
def test_constant_gives_exactly_bias(norm, constant, dtype, rng):
    for shape, layout in itertools.product(((3, 6, 7), (300, 4, 5), (2, 2, 70_001)), ("C", "F", "channels-last", "stepped")):
        x = cases.LAYOUTS[layout](np.full(shape, constant, dtype))
        call = cases.make_call(norm, x, rng)
        if norm.endswith("eval"):
            call = replace(call, mean=np.full(shape[1], constant, dtype))
        bias = call.bias if norm == "layer" else call.along_channels(call.bias, x.ndim)
        np.testing.assert_array_equal(call.run(x), np.broadcast_to(bias, shape))


@pytest.mark.parametrize("constant", [*CONSTANTS, 1e-40, 1e30, -7.1])
@cases.every_wide
def test_constant_has_exactly_no_variance(constant, dtype):
    for n, order in itertools.product((1, 2, 3, 17, 1000, 4097, 70_001), "CF"):
        x = np.full((n, 3), constant, dtype, order)
        for axis in (0, 1, None):
            mean, var = fn.moments(x, axis)
            np.testing.assert_array_equal(mean, np.full(mean.shape, dtype(constant)))
            np.testing.assert_array_equal(var, np.zeros(var.shape))


@cases.every_wide
def test_constant_channel_leaves_exact_running_statistics(dtype):
    mean, var = np.zeros(2), np.ones(2)
    fn.batch_norm(np.full((5, 2, 9), 14.62, dtype), mean, var, training=True, momentum=1)
    np.testing.assert_array_equal(mean, np.float64(dtype(14.62)))
    np.testing.assert_array_equal(var, 0)


# ---- magnitudes


@cases.every_norm
@pytest.mark.parametrize("size", [1e38, 1e30, 1e20, 1e-20, 1e-30, 1e-37])
@pytest.mark.parametrize("layout", ["C", "channels-last", "padded", "reversed"])
def test_magnitudes_without_eps(norm, size, layout, rng):
    """Uniform over both signs, so that 1e38 stays finite; squares leave float32's range on both sides."""
    x = cases.LAYOUTS[layout]((rng.uniform(-3, 3, (4, 6, 35)) * size).astype(np.float32))
    call = replace(cases.make_call(norm, x, rng), eps=0)
    y = call.run(x)
    call.reference(x).check(y)
    assert np.isfinite(y).all()
    assert np.abs(y).max() > 0.5


@cases.every_norm
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_magnitudes_on_an_offset(norm, size, rng):
    x = ((1000 + rng.standard_normal((4, 6, 35))) * size).astype(np.float32)
    call = replace(cases.make_call(norm, x, rng), eps=0)
    call.reference(x).check(call.run(x))


@cases.every_norm
def test_subnormal_values_without_eps(norm, rng):
    x = (rng.uniform(-3, 3, (4, 6, 35)) * 1e-40).astype(np.float32)
    assert np.abs(x).max() < np.finfo(np.float32).tiny
    call = replace(cases.make_call(norm, x, rng), eps=0)
    call.reference(x).check(call.run(x))


@cases.every_norm
@pytest.mark.parametrize("size", [1e140, 1e-140])
def test_magnitudes_of_float64(norm, size, rng):
    x = rng.uniform(-3, 3, (4, 6, 35)) * size
    call = replace(cases.make_call(norm, x, rng), eps=0)
    call.reference(x).check(call.run(x))


@cases.every_norm
def test_magnitudes_side_by_side(norm, rng):
    """Each sample and each channel has its own size: what does not fit float32 in one must not spoil another."""
    x = rng.uniform(-3, 3, (4, 6, 35))
    sizes = np.array([1e30, 1, 1e-30, 1e-40, 1e38, 1e10])
    for shaped in (x * sizes[:4, None, None], x * sizes[:, None]):
        x32 = shaped.astype(np.float32)
        call = replace(cases.make_call(norm, x32, rng), eps=0)
        if norm == "group":
            call = replace(call, num_groups=6)
        call.reference(x32).check(call.run(x32))


@cases.every_norm
def test_extreme_weights(norm, rng):
    x = cases.draw(rng, (4, 6, 35))
    for size in (1e-42, 1e-30, 1e30, 1e37):
        call = cases.make_call(norm, x, rng)
        call = replace(call, weight=call.weight * np.float32(size))
        call.reference(x).check(call.run(x))


def test_float32_variance_beyond_its_range_is_infinite():
    mean, var = fn.moments(np.array([-1e30, 1e30], np.float32))
    assert (mean, var) == (0, np.inf)
    assert fn.moments(np.array([-1e30, 1e30], np.float32), dtype=np.float64).var == np.float64(np.float32(1e30)) ** 2


# ---- distributions


@cases.every_norm
@pytest.mark.parametrize("outlier", [1e3, 1e6, -1e8, 1e12])
@pytest.mark.parametrize("layout", ["C", "F", "channels-last", "stepped"])
def test_one_huge_outlier_first(norm, outlier, layout, rng):
    for shape in ((3, 6, 50), (700, 2, 3), (2, 2, 9000)):
        values = cases.draw(rng, shape)
        values[0] = np.where(np.arange(values[0].size).reshape(shape[1:]) % shape[2] == 0, outlier, values[0])
        x = cases.LAYOUTS[layout](values)
        call = cases.make_call(norm, x, rng)
        call.reference(x).check(call.run(x))


@pytest.mark.parametrize("outlier", [1e3, 1e6, 1e8])
def test_moments_with_one_huge_outlier_first(outlier, rng):
    """Around a first value that is `count` deviations off, a float64 sum of squares cancels count-fold, no more."""
    for n in (50, 4096, 20_000):
        x = cases.draw(rng, (n,))
        x[0] = outlier
        for view in (x, x[:, None]):
            mean, var = fn.moments(view, 0, dtype=np.float64)
            oracle.mean_and_var(view, 0, np.float64)[0].check(mean)
            exact = oracle.moments(view.astype(np.float64), 0)[2][0]
            np.testing.assert_allclose(var, exact.astype(np.float64), rtol=4 * oracle.EPS64 * min(n, 4096))


@cases.every_norm
@cases.every_wide
@pytest.mark.parametrize("slope", [1, -1, 1000])
def test_ramps(norm, dtype, slope, rng):
    for shape in ((3, 6, 50), (700, 2, 3), (2, 2, 9000)):
        x = (slope * np.arange(np.prod(shape)).reshape(shape)).astype(dtype)
        call = cases.make_call(norm, x, rng)
        call.reference(x).check(call.run(x))


@cases.every_wide
def test_moments_of_ramps(dtype):
    for n in (100, 4097, 70_001, 1_000_000):
        x = np.arange(n, dtype=dtype)
        mean, var = fn.moments(x)
        assert mean == dtype((n - 1) / 2)
        np.testing.assert_allclose(var, (n * n - 1) / 12, rtol=np.finfo(dtype).eps if dtype == np.float32 else 1e-13)


# StRD's univariate sets NumAcc1 to NumAcc4 (NIST, 1999): values, mean, standard deviation with n - 1, and the digits that
# the decimal data keep as doubles.
CERTIFIED = {
    "NumAcc1": ([10000001, 10000003, 10000002], 10000002, 1, 1e-15),
    "NumAcc2": ([1.2, *[1.1, 1.3] * 500], 1.2, 0.1, 1e-14),
    "NumAcc3": ([1000000.2, *[1000000.1, 1000000.3] * 500], 1000000.2, 0.1, 1e-9),
    "NumAcc4": ([10000000.2, *[10000000.1, 10000000.3] * 500], 10000000.2, 0.1, 1e-8),
}


@pytest.mark.parametrize("name", CERTIFIED)
def test_certified_sets(name):
    values, certified_mean, certified_std, digits = CERTIFIED[name]
    x = np.array(values, np.float64)
    for view in (x, x[::-1], x[:, None], np.asfortranarray(np.stack([x, x], 1))):
        mean, var = fn.moments(view, 0, ddof=1)
        np.testing.assert_allclose(mean, np.full(mean.shape, certified_mean), rtol=2e-16)
        np.testing.assert_allclose(np.sqrt(var), np.full(var.shape, certified_std), rtol=digits)
        for got, expected in zip((mean, var), oracle.mean_and_var(view, 0, np.float64, ddof=1), strict=True):
            expected.check(got)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("offset", [0, 1, 1e3])
@pytest.mark.parametrize("outlier", [1.913837667673163, 60, 1e7])
@pytest.mark.parametrize("at", [0, 1, 4095])
def test_one_outlier_among_equal_values(outlier, offset, dtype, at):
    """Where it is the first value, sums around it would lose as many digits as there are values."""
    x = np.full((2, 4096), offset, dtype)
    x[0, at] += outlier
    x[1, at] -= outlier
    exact = [np.var([Fraction(v) for v in row.tolist()]) for row in x]
    for values, axis in ((x, 1), (np.asfortranarray(x), 1), (np.ascontiguousarray(x.T), 0), (x[:, None], (1, 2))):
        got = fn.moments(values, axis, dtype=np.float64).var
        np.testing.assert_allclose(got, np.array(exact, np.float64), rtol=256 * 16 * np.finfo(np.float64).eps)


@pytest.mark.parametrize("layout", ["C", "channels-last"])
def test_many_values_per_channel(layout, rng):
    """65,792 = 257 * 256 and more: the first number that uint16 counters and the like fail on."""
    for n in (65_792, 200_000):
        x = cases.LAYOUTS[layout]((1e4 + 0.1 * rng.standard_normal((2, 3, n // 2))).astype(np.float32))
        call = cases.make_call("batch", x, rng)
        call.reference(x).check(call.run(x))
