"""Gradients and what they must be: the formula in longdouble, with what rounding may cost."""

import cases
import ml_dtypes
import numpy as np
import oracle

NAMES = ("grad_x", "grad_weight", "grad_bias")
SHAPES = (*cases.SHAPES.values(), (300, 6, 5), (9, 2052), (1, 2, 70_001), (40, 6), (3, 6, 1, 1))


def fits(norm, shape):
    """Whether the norm has more than one value per statistic, where it must."""
    pooled = np.prod(shape) // shape[1] if norm == "batch" else np.prod(shape[2:])
    return norm not in ("batch", "instance") or pooled > 1


def mean_over_statistic(call, values):
    if call.norm != "group":
        return values.mean(call.pooled(values.ndim), keepdims=True)
    axis = call.channel_axis % values.ndim
    pooled = tuple({*call.pooled(values.ndim), axis})
    means = [part.mean(pooled, keepdims=True) for part in np.split(values, call.num_groups, axis)]
    return np.repeat(np.concatenate(means, axis), values.shape[axis] // call.num_groups, axis)


def sum_over_channel(call, values):
    """Over what shares a weight."""
    if call.norm in cases.ROW_NORMS:
        return values.sum(tuple(range(values.ndim - call.dims)))
    return values.sum(tuple(i for i in range(values.ndim) if i != call.channel_axis % values.ndim))


def expected(call, grad, x):
    """Return the gradients as `oracle.Expected`.

    A value is a sum of rounded terms: it may be off by 8 roundings of each term's size, and by what the float64 sums may
    be, of which `oracle.sums_unit` says how much. xhat is as exact as max(1, abs(xhat)).
    """
    dtype = x.dtype if x.dtype in cases.FLOATS else np.dtype(np.float64)
    arithmetic = np.finfo(np.float64 if dtype == np.float64 else np.float32).eps
    wide, g = np.asarray(x, np.longdouble), np.asarray(grad, np.longdouble)
    origin, offset, var = (np.asarray(part, np.longdouble) for part in call.statistics(wide))
    rstd = 1 / np.sqrt(var + np.longdouble(call.eps))
    xhat = ((wide - origin) - offset) * rstd
    weight = np.longdouble(1) if call.weight is None else np.asarray(call.weight, np.longdouble)
    weighted = g * (weight if call.norm in cases.ROW_NORMS or call.weight is None else call.along_channels(weight, x.ndim))
    mean, slope = (mean_over_statistic(call, v) for v in (weighted, weighted * xhat))
    sizes = mean_over_statistic(call, np.abs(weighted)), mean_over_statistic(call, np.abs(weighted) * (1 + np.abs(xhat)))
    if call.norm == "rms":
        mean = 0
    if call.norm.endswith("eval"):
        mean = slope = 0
        sizes = 0, 0
    sums = oracle.sums_unit(x.size)
    size = rstd * (np.abs(weighted) + sizes[0] + (1 + np.abs(xhat)) * sizes[1])
    info = ml_dtypes.finfo(dtype)
    grad_x = rstd * (weighted - mean - xhat * slope)
    terms = np.abs(g) * (1 + np.abs(xhat))
    # Rows have xhat in float; columns and channels sum exact products.
    by_row = 8 * arithmetic if dtype != np.float64 else 0
    result = np.finfo(np.float32 if dtype != np.float64 else np.float64) if call.weight is None else np.finfo(call.weight.dtype)
    by_weight, by_bias = sum_over_channel(call, g * xhat), sum_over_channel(call, g)
    off_weight = (by_row + sums) * sum_over_channel(call, terms) + result.eps * np.abs(by_weight)
    off_bias = sums * sum_over_channel(call, np.abs(g)) + result.eps * np.abs(by_bias)
    tiny, small = 2 * float(info.smallest_subnormal), 2 * result.smallest_subnormal
    return (
        oracle.Expected(grad_x, (8 * arithmetic + sums) * size + float(info.eps) * np.abs(grad_x) + tiny),
        oracle.Expected(by_weight, off_weight + small),
        oracle.Expected(by_bias, off_bias + small),
    )


def check(call, grad, x, **keywords):
    got = call.backward(grad, x, **keywords)
    assert len(got) == (2 if call.norm == "rms" else 3)
    for value, wanted in zip(got, expected(call, grad, x), strict=False):
        wanted.check(value)
    return got


def problems(norm, layout, dtype, rng, **changes):
    for shape in SHAPES:
        if fits(norm, shape):
            x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
            yield cases.make_call(norm, x, rng, **changes), rng.normal(0, 1, shape).astype(dtype), x
