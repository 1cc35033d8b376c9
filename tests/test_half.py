"""float16 and bfloat16: every bit pattern, the hard cases of short exponents and short mantissas, one rounding."""

import itertools

import cases
import fusednorm as fn
import ml_dtypes
import numpy as np
import pytest

every_half = pytest.mark.parametrize("dtype", cases.HALVES, ids=["float16", "bfloat16"])
PATTERNS = np.arange(1 << 16, dtype=np.uint16)


def nearest(value, dtype):
    """Round float64 once, to nearest, ties to even. ml_dtypes goes through float32: two roundings."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(np.asarray(value, np.longdouble))
    unit = np.ldexp(np.longdouble(1), np.maximum(exponent, int(info.minexp) + 1) - int(info.nmant) - 1)
    with np.errstate(over="ignore"):
        return (np.rint(value / unit) * unit).astype(np.float64).astype(dtype)


@every_half
@pytest.mark.parametrize("layout", ["C", "F", "stepped"])
def test_every_bit_pattern_goes_through(dtype, layout):
    x = cases.LAYOUTS[layout](PATTERNS.view(dtype).reshape(-1, 4))
    for epilogue in ({}, {"residual": np.zeros(x.shape, dtype)}):
        y = fn.batch_norm(x, np.zeros(4), np.ones(4), eps=0, **epilogue)
        nan = np.isnan(x.astype(np.float32))
        assert (np.isnan(y.astype(np.float32)) == nan).all()
        np.testing.assert_array_equal(y[~nan].astype(np.float32), x[~nan].astype(np.float32))


@every_half
def test_every_value_becomes_float64(dtype):
    x = PATTERNS.view(dtype).reshape(-1, 1)
    y = fn.batch_norm(x, np.zeros(1), np.ones(1), eps=0, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # ml_dtypes warns of signalling NaN
        np.testing.assert_array_equal(y, x.astype(np.float64))


@every_half
def test_results_are_rounded_once(dtype, rng):
    """Values between two neighbours: at the middle, and next to it by less than float32 tells apart."""
    low = np.sort(rng.choice(PATTERNS[1:0x7000], 4000)).view(dtype)
    up = (low.view(np.uint16) + 1).view(dtype)
    middle = (low.astype(np.float64) + up.astype(np.float64)) / 2
    for factor in (1, 1 + 2.0**-40, 1 - 2.0**-40):
        x = np.concatenate([middle, -middle]) * factor
        y = fn.batch_norm(x[:, None], np.zeros(1), np.ones(1), eps=0, dtype=dtype)[:, 0]
        assert cases.same_bits(y, nearest(x, dtype))


@every_half
@pytest.mark.parametrize("size", [1.0, 2.0**-16], ids=["normal", "subnormal in float16"])
def test_one_value_between_two_neighbours(dtype, size):
    """Just above the middle, where rounding to float32 first loses it, in each of sixteen lanes in turn."""
    info = ml_dtypes.finfo(dtype)
    step = 2.0 ** max(np.log2(size) - info.nmant, info.minexp - info.nmant)
    x = np.full((40, 40), size)
    np.fill_diagonal(x, size + step / 2 * (1 + 2.0**-40))
    y = fn.batch_norm(x.reshape(1, 1, -1), np.zeros(1), np.ones(1), eps=0, dtype=dtype).reshape(x.shape)
    want = np.full(x.shape, size)
    np.fill_diagonal(want, size + step)
    np.testing.assert_array_equal(y.astype(np.float64), want)


@every_half
def test_sums_beyond_the_range(dtype, rng):
    """70,000 times 60000: the sum is 4e9, where float16 ends at 65504; the variance of +-60000 is 3.6e9."""
    x = np.full((70_000, 2), 60000, dtype)
    x[::2, 1] = -60000
    value = float(dtype(60000))
    mean, var = fn.moments(x, 0)
    assert mean.dtype == np.float32
    # What float64 sums of deviations as large as 120,000 may lose.
    np.testing.assert_allclose(mean, [value, 0], rtol=0, atol=2 * value * 2.0**-52)
    np.testing.assert_array_equal(var, np.float32([0, value**2]))
    y = fn.batch_norm(x, training=True, bias=[0.5, 0.25])
    np.testing.assert_array_equal(y[:, 0].astype(np.float32), 0.5)
    np.testing.assert_array_equal(y[:2, 1].astype(np.float32), [-0.75, 1.25])


@every_half
@pytest.mark.parametrize("count", [65_792, 65_793, 131_073])
def test_counts_that_half_precision_cannot_count(dtype, count, rng):
    x = rng.integers(0, 7, (count, 3)).astype(dtype)
    wide = x.astype(np.float64)
    mean, var = fn.moments(x, 0)
    np.testing.assert_array_equal(mean, wide.mean(0).astype(np.float32))
    np.testing.assert_allclose(var, wide.var(0), rtol=2.0**-24)
    call = cases.make_call("batch", x, rng)
    call.reference(x).check(call.run(x))


@every_half
def test_running_statistics_stay_float32(dtype, rng):
    """5,000 updates of which each changes less than float16 tells apart."""
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    exact_mean, exact_var = np.zeros(3), np.ones(3)
    batches = [rng.normal(1, 1, (64, 3)).astype(dtype) for _ in range(8)]
    momentum = 0.001
    for i in range(5000):
        x = batches[i % 8]
        fn.batch_norm(x, mean, var, training=True, momentum=momentum)
        wide = x.astype(np.float64)
        exact_mean += momentum * (wide.mean(0) - exact_mean)
        exact_var += momentum * (wide.var(0, ddof=1) - exact_var)
    # Each of the updates rounds by half a unit, and decays with the momentum.
    tolerance = 2.0**-24 / momentum
    np.testing.assert_allclose(mean, exact_mean, rtol=0, atol=tolerance * 2)
    np.testing.assert_allclose(var, exact_var, rtol=0, atol=tolerance * 2)
    assert np.abs(mean - 1).max() < 0.2


@every_half
@cases.every_norm
def test_nan_and_infinities(dtype, norm, rng):
    x = cases.draw(rng, (4, 6, 9), dtype)
    call = cases.make_call(norm, x, rng)
    for bad in (np.nan, np.inf, -np.inf):
        spoiled = x.copy()
        spoiled[1, 2, 3] = bad
        with np.errstate(invalid="ignore"):
            want = call.run(spoiled.astype(np.float64))
        got = call.run(spoiled)
        assert (np.isnan(got.astype(np.float64)) == np.isnan(want)).all()
        assert (np.isinf(got.astype(np.float64)) == np.isinf(want)).all()


@every_half
@cases.every_norm
def test_subnormal_numbers(dtype, norm, rng):
    info = ml_dtypes.finfo(dtype)
    scale = float(info.smallest_subnormal)
    x = (rng.integers(-50, 50, (4, 6, 9)) * scale).astype(dtype)
    call = cases.make_call(norm, x, rng, eps=scale**2 if dtype == np.float16 else 1e-5)
    call.reference(x).check(call.run(x))


@every_half
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ml_dtypes.bfloat16])
@cases.every_norm
def test_parameters_of_any_float_dtype(dtype, kind, norm, rng):
    x = cases.draw(rng, (4, 6, 9), dtype)
    call = cases.make_call(norm, x, rng)
    names = [n for n in ("weight", "bias", "mean", "var") if getattr(call, n) is not None]
    changed = cases.replace(call, **{n: np.asarray(getattr(call, n), kind) for n in names})
    changed.reference(x).check(changed.run(x))


def test_every_pair_of_dtypes(rng):
    for source, target in itertools.product(("u1", "i8", *cases.FLOATS), cases.FLOATS):
        for norm, layout in itertools.product(cases.NORMS, ("C", "channels-last", "stepped")):
            x = cases.LAYOUTS[layout](cases.draw(rng, (4, 6, 5, 9), source))
            call = cases.make_call(norm, x.astype(np.float64), rng)
            y = call.run(x, dtype=target)
            assert y.dtype == target
            call.reference(x, target).check(y)


@every_half
def test_constant_channel_is_its_bias(dtype, rng):
    x = np.full((300, 5), 1234, dtype)
    bias = rng.normal(size=5).astype(dtype)
    np.testing.assert_array_equal(fn.batch_norm(x, training=True, bias=bias), np.broadcast_to(bias, x.shape))


def test_float64_becomes_bfloat16_by_one_rounding():
    """Just above a tie, which float32 does not tell from it: in results, gradients, running statistics and folded weights."""
    bfloat16, value = ml_dtypes.bfloat16, 1 + 2**-8 + 2**-40
    one, zero, above = np.ones(1), np.zeros(1), 1 + 2**-7
    running = np.zeros(1, bfloat16)
    x = np.full((2, 1), value)
    fn.batch_norm(x, running, np.ones(1), training=True, momentum=1)
    assert running == above
    assert (fn.batch_norm(x, zero, one, eps=0, dtype=bfloat16) == above).all()
    assert (fn.batch_norm_backward(x, np.ones((2, 1), bfloat16), zero, one, eps=0)[0] == above).all()
    weight = np.ones((1, 1), bfloat16)
    assert all((a == above).all() for a in fn.fuse_linear_bn_weights(weight, np.ones(1, bfloat16), zero, one, 0, [value], None))


@pytest.mark.parametrize(
    ("kind", "digits", "least"), [(np.float16, 11, -14), (ml_dtypes.bfloat16, 8, -126)], ids=["f2", "bf16"]
)
@pytest.mark.parametrize("exponent", [0, 15, 127, -14, -24, -25, -120, -126, -130, -133, -134, -149, -160, -1000])
def test_float64_of_every_size_is_rounded_once(kind, digits, least, exponent, rng):
    """Near ties, and among the subnormal numbers of float32, where its grid and bfloat16's are close."""
    scale = 2.0**exponent
    near = 1 + 2.0**-digits + rng.choice([0, 2.0**-30, -(2.0**-30), 2.0**-50, -(2.0**-52)], 500)
    x = np.concatenate([rng.normal(size=999), near, -near, 1.5 + np.arange(9), [0.0, -0.0]]) * scale
    # The grid's step at each number; a multiple of it is a double, and rint rounds ties to even.
    step = 2.0 ** (np.maximum(np.frexp(x)[1] - 1, least) - (digits - 1))
    largest = float(ml_dtypes.finfo(kind).max)
    wanted = np.copysign(np.rint(np.abs(x) / step) * step, x)
    wanted = np.where(np.abs(wanted) > largest, np.copysign(np.inf, x), wanted)
    got = fn.batch_norm(x[:, None], np.zeros(1), np.ones(1), eps=0, dtype=kind)[:, 0].astype(np.float64)
    np.testing.assert_array_equal(got, wanted)
