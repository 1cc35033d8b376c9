"""Statistics that a forward pass hands to a gradient; and the gradients' errors."""

from dataclasses import replace

import cases
import fusednorm as fn
import numpy as np
import pytest
from gradient_cases import fits


@cases.every_norm
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u1"])
def test_return_stats(norm, dtype, rng):
    for layout in ("C", "channels-last", "rotated"):
        x = cases.LAYOUTS[layout](rng.integers(0, 100, (4, 6, 15)).astype(dtype))
        call = cases.make_call(norm, x.astype(np.float64), rng)
        y, mean, rstd = call.run(x, return_stats=True)
        assert cases.same_bits(y, call.run(x))
        wanted = np.float32 if dtype in ("f2", "f4") else np.float64
        shape = {"batch": (6,), "batch eval": (6,), "group": (4, 2), "layer": (4, 6), "rms": (4, 6)}.get(norm, (4, 6))
        assert (rstd.shape, rstd.dtype) == (shape, wanted)
        origin, offset, var = (np.broadcast_to(part, (4, 6, 15)) for part in call.statistics(x.astype(np.float64)))
        take = {"batch": np.s_[0, :, 0], "batch eval": np.s_[0, :, 0], "group": np.s_[:, ::3, 0]}.get(norm, np.s_[:, :, 0])
        np.testing.assert_allclose(rstd, (1 / np.sqrt(var + call.eps))[take].astype(wanted), rtol=1e-6)
        if norm == "rms":
            assert mean is None
        else:
            assert (mean.shape, mean.dtype) == (shape, wanted)
            np.testing.assert_allclose(mean, (origin + offset)[take].astype(wanted), rtol=1e-6)


@cases.every_norm
@cases.every_wide
@pytest.mark.parametrize("layout", ["C", "channels-last", "rotated"])
def test_given_statistics(norm, dtype, layout, rng):
    """float64's give the same gradients; in float32, mean and rstd are off by half a unit in the last place."""
    unit = 1e-12 if dtype == np.float64 else 4 * np.finfo(np.float32).eps
    for shape in ((4, 6, 15), (40, 6, 300), (5, 6)):
        if not fits(norm, shape):
            continue
        x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
        grad = rng.normal(0, 1, shape).astype(dtype)
        call = cases.make_call(norm, x, rng)
        stats = call.run(x, return_stats=True)[1:]
        without = replace(call, mean=None, var=None)
        for a, b in zip(without.backward(grad, x, stats=stats), call.backward(grad, x), strict=True):
            np.testing.assert_allclose(a, b, rtol=4 * unit, atol=unit * max(1, np.abs(b).max()) * np.sqrt(grad.size))


def test_statistics_are_used(rng):
    """They are taken as they are: with other ones, the gradients are others."""
    x, grad = rng.normal(0, 1, (2, 4, 6, 15))
    _, mean, rstd = fn.batch_norm(x, training=True, return_stats=True)
    changed = fn.batch_norm_backward(grad, x, training=True, stats=(mean, 2 * rstd))
    np.testing.assert_allclose(changed[1], 2 * fn.batch_norm_backward(grad, x, training=True)[1], rtol=1e-10, atol=1e-10)


def test_return_stats_of_no_values():
    y, mean, rstd = fn.batch_norm(np.zeros((0, 3, 2), np.float32), training=True, return_stats=True)
    assert (y.shape, mean.shape, rstd.shape) == ((0, 3, 2), (3,), (3,))
    assert np.isnan(mean).all()
    assert fn.layer_norm(np.zeros((0, 3)), 3, return_stats=True)[1].shape == (0,)
    assert fn.group_norm(np.zeros((2, 0, 3)), 4, return_stats=True)[1].shape == (2, 4)


# ---- errors

X = np.ones((2, 4, 6), np.float32)
BAD = [
    (fn.batch_norm_backward, (X[:1], X), ValueError, r"grad: expected the shape of x, \(2, 4, 6\), got shape \(1, 4, 6\)"),
    (fn.layer_norm_backward, (None, X, 6), TypeError, r"grad: expected an array, got None"),
    (fn.layer_norm_backward, (X + 0j, X, 6), TypeError, r"grad: expected a bool, .* array, got dtype complex64"),
    (fn.rms_norm_backward, (X, X, 5), ValueError, r"normalized_shape: expected the last dimensions of x"),
    (fn.rms_norm_backward, (X, X, 6, np.ones(5)), ValueError, r"weight: expected shape \(6,\), got shape \(5,\)"),
    (fn.group_norm_backward, (X, X, 3), ValueError, r"num_groups: expected a positive divisor of the 4 channels, got 3"),
    (fn.group_norm_backward, (X, X, 2, None, -1.0), ValueError, r"eps: expected a finite number >= 0, got -1.0"),
    (fn.instance_norm_backward, (X, X, None, None, np.ones(3)), ValueError, r"weight: expected shape \(4,\)"),
    (fn.batch_norm_backward, (X, X, np.ones(4)), ValueError, r"running_var: expected an array unless training=True, got None"),
    (fn.batch_norm_backward, (X[0, 0], X[0, 0]), ValueError, r"x: expected at least 2 dimensions, got shape \(6,\)"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "text"), BAD)
def test_error(function, arguments, error, text):
    with pytest.raises(error, match=rf"^{function.__name__}: {text}"):
        function(*arguments)


@pytest.mark.parametrize(
    ("stats", "error", "text"),
    [
        (1, TypeError, r"a tuple \(mean, rstd\), got 1"),
        ((np.ones(4),), ValueError, r"a tuple \(mean, rstd\), got a sequence of 1"),
        ((None, np.ones(4)), TypeError, r"an array as mean, got None"),
        ((np.ones(4), None), TypeError, r"an array as rstd, got None"),
        ((np.ones(4), np.ones(3)), ValueError, r"shape \(4,\), got shape \(3,\)"),
        ((np.ones(4, int), np.ones(4)), TypeError, r"an array of a float dtype, got dtype int64"),
    ],
)
def test_bad_statistics(stats, error, text):
    with pytest.raises(error, match=rf"^batch_norm_backward: stats: expected {text}"):
        fn.batch_norm_backward(X, X, training=True, stats=stats)


def test_rms_norm_has_no_mean():
    with pytest.raises(TypeError, match=r"^rms_norm_backward: stats: expected None as mean, got "):
        fn.rms_norm_backward(X, X, 6, stats=(np.ones((2, 4)), np.ones((2, 4))))
