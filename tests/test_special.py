"""NaN, infinities and numbers beyond a dtype's range: they travel as arithmetic has it, without a warning or a trap."""

from dataclasses import replace

import cases
import fusednorm as fn
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def trap_everything():
    """NumPy raises on any floating-point event that it sees, be it one of its own casts."""
    with np.errstate(all="raise"):
        yield


@cases.every_norm
@cases.every_wide
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values_do_not_trap(norm, dtype, bad, rng):
    for layout in ("C", "channels-last", "stepped"):
        x = cases.LAYOUTS[layout](cases.draw(rng, (300, 6, 7), dtype))
        call = cases.make_call(norm, x, rng)
        x[5, 2, 3] = bad
        y = call.run(x)
        assert not np.isfinite(y[5, 2, 3])
        assert np.isfinite(y[0, 0]).all()


@cases.every_norm
def test_constant_without_eps(norm):
    """0 / 0 is NaN, as in torch; the root mean square of 2 is 2."""
    x = np.full((3, 4, 5), 2, np.float32)
    call = cases.Call(norm, eps=0, mean=np.full(4, 2.0), var=np.zeros(4)) if norm.endswith("eval") else cases.Call(norm, eps=0)
    y = call.run(x)
    assert (y == 1).all() if norm == "rms" else np.isnan(y).all()


@cases.every_float
@pytest.mark.parametrize("how", [{}, {"dtype": np.float64}, {"dtype": np.float32}, {"activation": "silu"}], ids=str)
@pytest.mark.parametrize("weight", [None, np.array([1, -2, 3], "f4")], ids=["plain", "weight"])
def test_rms_norm_keeps_the_sign_of_zero(weight, how, dtype):
    """As a product does."""
    x = np.array([[0, -0.0, 0], [-0.0, 0, -0.0], [1, -0.0, 0]], dtype)
    wanted = np.signbit(x) != np.signbit(1 if weight is None else weight)
    zero = x == 0
    np.testing.assert_array_equal(np.signbit(fn.rms_norm(x, 3, weight, **how))[zero], wanted[zero])
    if not how:
        y, _ = fn.add_rms_norm(x, np.full_like(x, -0.0), 3, weight)
        np.testing.assert_array_equal(np.signbit(y)[zero], wanted[zero])


@pytest.mark.parametrize("kind", ["f2", "f4"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_running_statistics_beyond_their_range(kind, norm, rng):
    """A variance of 1e60, or 1e8 in float16, becomes infinite."""
    x = cases.draw(rng, (4, 3, 20)) * np.float32(1e30 if kind == "f4" else 1e4)
    mean, var = np.zeros(3, kind), np.ones(3, kind)
    y = replace(cases.make_call(norm, x, rng), mean=mean, var=var).run(x)
    assert np.isfinite(y).all()
    assert np.isfinite(mean).all()
    assert np.isposinf(var).all()


@pytest.mark.parametrize("norm", ["batch", "batch eval", "group", "layer", "rms"])
@pytest.mark.parametrize("weight", [1e300, 1e-300, np.inf, np.nan])
def test_float64_weight_beyond_the_range_of_float32(norm, weight, rng):
    x = cases.draw(rng, (4, 6, 9))
    call = cases.make_call(norm, x, rng, affine=False)
    y = replace(call, weight=np.full(9 if norm in cases.ROW_NORMS else 6, weight)).run(x)
    if weight == 1e-300:
        np.testing.assert_array_equal(y, 0)
    else:
        assert not np.isfinite(y).any()


@cases.every_float
def test_infinite_weight(dtype):
    """Torch gives the same where a product with its scale is not NaN."""
    x = np.array([[-2.0, 3.0, 1.5, -0.5]]).astype(dtype)
    weight, signs = np.full(4, np.inf), np.array([[-np.inf, np.inf, np.inf, -np.inf]])
    np.testing.assert_array_equal(fn.batch_norm(x.T, weight=[np.inf], training=True), signs.T)
    np.testing.assert_array_equal(fn.batch_norm(x, np.zeros(4) + 0.1, np.ones(4), weight), signs)
    np.testing.assert_array_equal(fn.group_norm(x, 1, weight), signs)
    np.testing.assert_array_equal(fn.layer_norm(x, 4, weight), signs)


@cases.every_norm
def test_float64_values_beyond_the_range_of_float32(norm, rng):
    """The statistics of float64 input are float64, whatever the result's dtype."""
    x = cases.draw(rng, (4, 6, 9), np.float64) * 1e100
    call = replace(cases.make_call(norm, x, rng), eps=0)
    call.reference(x, np.float32).check(call.run(x, dtype=np.float32))


@cases.every_wide
def test_moments_do_not_trap(dtype):
    for x in (
        [np.nan, 1],
        [np.inf, 1],
        [np.inf, -np.inf],
        [np.finfo(dtype).max] * 3,
        [-np.finfo(dtype).max, np.finfo(dtype).max],
    ):
        fn.moments(np.array(x, dtype))
    assert fn.moments(np.full(3, np.finfo(dtype).max, dtype)) == (np.finfo(dtype).max, 0)


@cases.every_norm
def test_largest_floats(norm):
    """Their differences leave float32's range."""
    x = np.zeros((3, 4, 6), np.float32)
    x[..., ::2], x[..., 1::2] = np.finfo(np.float32).max, -np.finfo(np.float32).max
    call = cases.Call(norm, eps=0, mean=np.zeros(4), var=np.full(4, 1e76)) if norm.endswith("eval") else cases.Call(norm, eps=0)
    call.reference(x).check(call.run(x))


@pytest.mark.parametrize("size", [1e154, 1e200, 1e300])
@pytest.mark.parametrize("layout", ["C", "channels-last"])
@pytest.mark.parametrize("norm", ["batch", "group", "instance", "layer"])
def test_variances_beyond_the_range_of_float64(norm, layout, size, rng):
    """They are infinite, as in torch: what is divided by them is 0."""
    x = cases.LAYOUTS[layout](rng.normal(0, size, (8, 4, 40)))
    call = cases.make_call(norm, x, rng, affine=False)
    with np.errstate(all="raise"):
        assert not call.run(x).any()
        mean, var = fn.moments(x, (0, 2))
    np.testing.assert_allclose(mean, x.mean((0, 2)), rtol=1e-13)
    assert np.isposinf(var).all()


def test_moments_at_the_ends_of_the_range_of_float64():
    for values, mean, var in (
        ([1e308, -1e308], 0, np.inf),
        ([1.0, 1e155], 5e154, np.inf),
        ([1.7e308, -1.7e308], 0, np.inf),
        ([1.0, 1.4e154], 7e153, 4.9e307),
        ([1e308] * 3, 1e308, 0),
        ([np.inf, 1.0], np.inf, np.nan),
        ([-1e200, np.nan], np.nan, np.nan),
    ):
        for x in (np.array(values), np.array([values] * 20).T):
            got = fn.moments(x, 0)
            np.testing.assert_allclose(got.mean, np.full(x.shape[1:], mean), rtol=1e-15)
            np.testing.assert_allclose(got.var, np.full(x.shape[1:], var), rtol=1e-15)
    sparse = np.zeros(4096)
    sparse[0] = 1e153
    np.testing.assert_allclose(fn.moments(sparse).var, sparse.var(), rtol=1e-12)
