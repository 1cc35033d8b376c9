"""The formulas in plain NumPy, one precision above what is tested, and the tolerances that the tests hold results to."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

EPS32, EPS64 = (float(np.finfo(dtype).eps) for dtype in (np.float32, np.float64))


def widen(x):
    """Float64 for float32 and half precision, else longdouble: rounding in the reference does not count."""
    x = np.asarray(x)
    is_narrow = x.dtype in (np.float32, np.float16, ml_dtypes.bfloat16)
    return x.astype(np.float64 if is_narrow else np.longdouble)


def moments(x, axes):
    """Return origin, offset and biased variance in the wide type, pooled axes kept: the mean is origin + offset.

    The origin is one of the values, so that no digit of what is left after subtracting it goes to a large mean: at a mean
    of 1e6 deviations longdouble's mean in one number would be less exact than what is tested.
    """
    x = widen(x)
    origin = x[tuple(slice(0, 1) if i in {a % x.ndim for a in np.atleast_1d(axes)} else slice(None) for i in range(x.ndim))]
    d = x - origin
    offset = d.mean(axes, keepdims=True)
    offset = offset + (d - offset).mean(axes, keepdims=True)
    return origin, offset, np.square(d - offset).mean(axes, keepdims=True)


def mean_square(x, axes):
    """Return the same for rms_norm, which is not centered."""
    x = widen(x)
    zero = np.zeros((), x.dtype)
    return zero, zero, np.square(x).mean(axes, keepdims=True)


@dataclass(frozen=True)
class Expected:
    """Values, and how far from each a result may lie."""

    value: np.ndarray
    tolerance: np.ndarray

    def check(self, got):
        __tracebackhide__ = True
        assert got.shape == self.value.shape
        tolerance = np.broadcast_to(self.tolerance, got.shape)
        with np.errstate(invalid="ignore"):
            error = np.abs(got.astype(self.value.dtype) - self.value)
        # Equality lets infinities agree; a NaN agrees with a NaN only.
        fine = (got == self.value) | (error <= tolerance) | (np.isnan(got) & np.isnan(self.value))
        if not fine.all():
            at = np.unravel_index(np.argmin(fine), fine.shape)
            raise AssertionError(
                f"{np.sum(~fine)} of {fine.size} values differ, first at {tuple(map(int, at))}: got {got[at]!r}, "
                f"expected {self.value[at]!r} within {tolerance[at]!r}, off by {error[at]!r}"
            )


def norm(x, statistics, eps, weight, bias, dtype, count):
    """Return what ``(x - mean) / sqrt(var + eps) * weight + bias`` gives in `dtype`, all of them broadcasting with x.

    With ``z = (y - bias) / weight`` the tolerance is ``unit * max(1, |z|) * |weight| + eps(dtype) * |bias|``, where eps is
    the dtype's (two roundings of the bias), whatever the sizes of x, mean and eps.
    """
    x, weight, bias = widen(x), np.asarray(weight, np.longdouble), np.asarray(bias, np.longdouble)
    origin, offset, var = statistics
    z = ((x - origin) - offset) / np.sqrt(var + np.asarray(eps, x.dtype))
    return Expected((z * weight + bias).astype(x.dtype), norm_tolerance(z, weight, bias, dtype, count))


def sums_unit(count):
    """Bound the relative error of float64 moments: no sum runs over more than 256 values, four of them make a result."""
    return (8 + 4 * min(count, 256)) * EPS64


def unit(dtype, count=256):
    """Bound the error of a norm in `dtype` of a weight of 1.

    float32: 8 eps, the 1e-6 of the README. Half precision adds the rounding of the result, eps / 2. float64: `sums_unit`, since
    statistics that stay float64 carry the errors of their sums.
    """
    if dtype == np.float64:
        return sums_unit(count)
    return 8 * EPS32 + (0 if dtype == np.float32 else float(ml_dtypes.finfo(dtype).eps) / 2)


def norm_tolerance(z, weight, bias, dtype, count=1):
    info = ml_dtypes.finfo(dtype)
    scale = np.maximum(1, np.abs(z)) * np.abs(weight)
    return unit(dtype, count) * scale + float(info.eps) * np.abs(bias) + float(info.smallest_subnormal)


def agree(got, wanted, scale=4):
    """Check a result against another library's by the narrower dtype; `scale` bounds the weights and biases."""
    __tracebackhide__ = True
    wanted = np.asarray(wanted.detach() if hasattr(wanted, "detach") else wanted)
    tolerance = max(unit(got.dtype), unit(wanted.dtype))
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=scale * tolerance)


def mean_and_var(x, axes, dtype, ddof=0, keepdims=False):
    """Return the expected mean and variance.

    Both come with the rounding to `dtype` (eps / 2, relative) and, over that, the errors of float64 sums: `sums_unit`
    times the standard deviation for the mean (its offset costs nothing), and times the variance for the variance. A
    float32 result thus is the float64 one, rounded once.
    """
    origin, offset, var = moments(x, axes)
    mean = origin + offset
    count = np.asarray(x).size // mean.size
    sums = sums_unit(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        std, factor = np.sqrt(var), np.divide(count, np.maximum(count - ddof, 0), dtype=var.dtype)
        var = var * factor
    return tuple(
        _rounded(value if keepdims else value.reshape(np.squeeze(value, axes).shape), error, dtype)
        for value, error in ((mean, sums * std), (var, sums * var))
    )


def _rounded(value, error, dtype):
    info = ml_dtypes.finfo(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        value = np.where(np.abs(value) > float(info.max), np.sign(value) * np.inf, value)
        # A hair over half a unit, for values whose float64 neighbours round to both sides.
        tolerance = float(info.eps) * (0.5 + 1e-6) * np.abs(value) + error.reshape(value.shape) + float(info.smallest_subnormal)
    return Expected(value, tolerance)
