"""The gradients of every norm: against the formula in longdouble, torch's autograd, and the forward functions."""

from dataclasses import replace

import cases
import fusednorm as fn
import ml_dtypes
import numpy as np
import oracle
import pytest

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


@cases.every_norm
@cases.every_float
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts(norm, dtype, layout, rng):
    for call, grad, x in problems(norm, layout, dtype, rng):
        got = check(call, grad, x)
        assert got[0].dtype == dtype
        assert got[0].strides == np.empty_like(x).strides or 1 in x.shape
        assert all(g.dtype == np.float32 for g in got[1:])  # the weight's


@cases.every_norm
@cases.every_wide
def test_layouts_may_differ(norm, dtype, rng):
    for layout in cases.LAYOUTS:
        for call, grad, x in problems(norm, "channels-last", dtype, rng, affine=False):
            if x.size > 10_000:
                continue
            got = check(call, cases.LAYOUTS[layout](grad), x)
            assert all(g.dtype == dtype for g in got)


@cases.every_norm
def test_dims_and_channel_axis(norm, rng):
    x = cases.draw(rng, (4, 6, 5, 12), np.float64)
    grad = rng.normal(0, 1, x.shape)
    changes = [{"dims": 2}, {"dims": 4}] if norm in cases.ROW_NORMS else [{"channel_axis": a} for a in (-1, 2)]
    if norm in ("group", "instance"):
        changes.append({"channel_axis": 0})
    for change in changes:
        if change.get("channel_axis") == 0:
            call = cases.make_call(norm, x, rng, **change)
            alone = replace(call, channel_axis=1)
            for a, b in zip(call.backward(grad, x), alone.backward(grad[None], x[None]), strict=True):
                assert cases.same_bits(a.reshape(b.shape), b)
        else:
            check(cases.make_call(norm, x, rng, **change), grad, x)


@cases.every_norm
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(norm, dtype, rng):
    """As the gradients of the same values in float32, rounded once."""
    dtype = np.dtype(np.float16) if dtype == "float16" else np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    for shape in ((4, 6, 15), (2, 4, 5, 3), (3, 6, 1000)):
        x, grad = cases.draw(rng, shape).astype(dtype), rng.normal(0, 1, shape).astype(dtype)
        call = cases.make_call(norm, x.astype(np.float32), rng, affine=False)
        got = call.backward(grad, x)
        assert [g.dtype for g in got] == [dtype, *[np.dtype(np.float32)] * (len(got) - 1)]
        wanted = call.backward(grad.astype(np.float32), x.astype(np.float32))
        eps = 2.0**-7 if dtype != np.float16 else 2.0**-10
        np.testing.assert_allclose(got[0].astype(np.float32), wanted[0], rtol=eps, atol=1e-6)
        for a, b in zip(got[1:], wanted[1:], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@cases.every_norm
def test_other_dtypes(norm, rng):
    """Integers count as float64, and so does a wider grad; grad_x has x's dtype."""
    x, grad = rng.integers(0, 200, (4, 6, 15)), rng.normal(0, 1, (4, 6, 15))
    call = cases.make_call(norm, x.astype(np.float64), rng, affine=False)
    wanted = call.backward(grad, x.astype(np.float64))
    for dtype in ("u1", "i4", "i8"):
        for a, b in zip(call.backward(grad, x.astype(dtype)), wanted, strict=True):
            assert cases.same_bits(a, b)
    got = call.backward(grad, x.astype(np.float32))
    assert got[0].dtype == np.float32
    np.testing.assert_array_equal(got[0], wanted[0].astype(np.float32))
    with_integers = call.backward(x, grad)
    assert cases.same_bits(with_integers[0], call.backward(x.astype(np.float64), grad)[0])


@cases.every_norm
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g"])
def test_dtype_of_the_gradients_of_parameters(norm, dtype, rng):
    x, grad = rng.normal(0, 1, (2, 4, 6, 15))[:2]
    call = cases.make_call(norm, x, rng)
    call = replace(call, weight=call.weight.astype(dtype))
    got = call.backward(grad, x)
    assert all(g.dtype == np.dtype("f8" if dtype == "g" else dtype) for g in got[1:])
    assert all(g.shape == call.weight.shape for g in got[1:])


@cases.every_norm
@pytest.mark.parametrize("std", [1e-4, 1e-2, 1e3])
@pytest.mark.parametrize("layout", ["C", "channels-last"])
@cases.every_wide
def test_hard_data(norm, std, layout, dtype, rng):
    """The mean is up to 1e4 standard deviations away."""
    x = cases.LAYOUTS[layout](rng.normal(1e4 * std, std, (8, 6, 9, 50)).astype(dtype))
    grad = rng.normal(0, 1, x.shape).astype(dtype)
    check(cases.make_call(norm, x, rng, eps=0), grad, x)


@cases.every_norm
@cases.every_wide
@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e25, 1e37])
def test_sizes_that_float_does_not_hold(norm, dtype, size, rng):
    x, grad = (rng.normal(2, 1, (3, 4, 6, 20)) * size)[:2].astype(dtype)
    call = cases.make_call(norm, x, rng, eps=0)
    check(call, (grad.astype(np.float64) / size / 8).astype(dtype), x)


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "layer"])
@cases.every_wide
def test_constant_grad(norm, dtype, rng):
    """A constant shift of the result leaves the input alone."""
    for x in (cases.draw(rng, (8, 6, 9, 50), dtype), cases.channels_last(cases.draw(rng, (8, 6, 9, 50), dtype))):
        call = cases.make_call(norm, x, rng, affine=False)
        grad_x, grad_weight, _ = call.backward(np.ones_like(x), x)
        assert np.abs(grad_x).max() <= 4 * np.finfo(dtype).eps
        if norm == "batch":
            assert np.abs(grad_weight).max() <= x.size * np.finfo(np.float32 if dtype == np.float32 else np.float64).eps


@cases.every_norm
@cases.every_wide
@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 4, 0), (0, 4, 0), (3, 0, 5)])
def test_no_values(norm, dtype, shape, rng):
    x = np.zeros(shape, dtype)
    statistics = {"mean": np.zeros(shape[1]), "var": np.ones(shape[1])} if norm.endswith("eval") else {}
    got = cases.Call(norm, **statistics).backward(x, x)
    assert got[0].shape == shape
    for g in got[1:]:
        np.testing.assert_array_equal(g, np.zeros(shape[2:] if norm in cases.ROW_NORMS else shape[1:2], dtype))


def test_one_value_per_channel(rng):
    x, grad, weight = rng.normal(0, 1, (3, 1, 4))
    mean, var = rng.normal(0, 1, 4), rng.uniform(1, 2, 4)
    got = fn.batch_norm_backward(grad[:1], x[:1], mean, var, weight[0])
    rstd = 1 / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(got[0], grad[:1] * weight[0] * rstd, rtol=1e-14)
    np.testing.assert_allclose(got[1], grad[0] * (x[0] - mean) * rstd, rtol=1e-14)
    np.testing.assert_array_equal(got[2], grad[0])
    with pytest.raises(ValueError, match=r"^batch_norm_backward: x: expected more than one value per channel when training"):
        fn.batch_norm_backward(grad, x, training=True)
    with pytest.raises(ValueError, match=r"^instance_norm_backward: x: expected more than one spatial element"):
        fn.instance_norm_backward(grad[..., None], x[..., None])


@pytest.mark.parametrize("norm", ["batch eval", "instance eval"])
def test_constant_statistics_let_infinite_values_be(norm, rng):
    x, grad = rng.normal(0, 1, (2, 3, 4, 20))
    call = cases.make_call(norm, x, rng)
    wanted = call.backward(grad, x)[0]
    x[0, 1, 3] = np.inf
    np.testing.assert_array_equal(call.backward(grad, x)[0], wanted)


# ---- the same by other ways


@cases.every_norm
def test_differences(norm, rng):
    """The loss is sum(grad * y); the step's error is of the order of its square."""
    for layout in ("C", "channels-last"):
        x = cases.LAYOUTS[layout](rng.normal(1, 2, (4, 6, 15)))
        grad, direction = rng.normal(0, 1, (2, *x.shape))
        call = cases.make_call(norm, x, rng)
        got, step = call.backward(grad, x), 1e-4
        wanted = np.sum(grad * (call.run(x + step * direction) - call.run(x - step * direction))) / (2 * step)
        assert abs(np.sum(got[0] * direction) - wanted) < 1e3 * step**2
        towards = rng.normal(0, 1, np.shape(call.weight))
        up, down = (replace(call, weight=call.weight + sign * towards).run(x) for sign in (1, -1))
        assert abs(np.sum(got[1] * towards) - np.sum(grad * (up - down)) / 2) < 1e-4


def by_torch(call, grad, x):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    tensor = lambda a: None if a is None else torch.from_numpy(np.array(a, np.float64, order="C"))  # noqa: E731
    shape = x.shape[x.ndim - call.dims :] if call.norm in cases.ROW_NORMS else x.shape[1:2]
    t, weight = tensor(x), tensor(np.ones(shape) if call.weight is None else call.weight)
    bias = torch.zeros_like(weight)
    for each in (t, weight, bias):
        each.requires_grad_()
    mean, var, from_x = tensor(call.mean), tensor(call.var), not call.norm.endswith("eval")
    if call.norm == "rms":
        y = F.rms_norm(t, shape, weight, call.eps)
    elif call.norm == "layer":
        y = F.layer_norm(t, shape, weight, bias, call.eps)
    elif call.norm == "group":
        y = F.group_norm(t, call.num_groups, weight, bias, call.eps)
    else:
        y = (F.batch_norm if "batch" in call.norm else F.instance_norm)(t, mean, var, weight, bias, from_x, eps=call.eps)
    y.backward(tensor(grad))
    return [each.grad.numpy() for each in (t, weight, bias)[: 2 if call.norm == "rms" else 3]]


@cases.every_norm
@cases.every_wide
@pytest.mark.parametrize("layout", ["C", "channels-last", "stepped"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_torch(norm, dtype, layout, affine, rng):
    units = [2e-6 if kind == np.float32 else 1e-12 for kind in (dtype, *[np.float32 if affine else dtype] * 2)]  # the weight's
    for shape in ((8, 6), (4, 6, 15), (3, 6, 9, 7), (2, 4, 3, 5, 6), (300, 6, 5), (2, 3, 4099)):
        if norm.startswith("instance") and len(shape) < 3:
            continue
        x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
        grad = rng.normal(0, 1, shape).astype(dtype)
        call = cases.make_call(norm, x, rng, affine=affine, dims=min(2, len(shape) - 1))
        for a, b, unit in zip(call.backward(grad, x), by_torch(call, grad, x), units, strict=False):
            np.testing.assert_allclose(a, b, rtol=4 * unit, atol=4 * unit * np.abs(b).max())


# ---- statistics handed over


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
    (fn.batch_norm_backward, (X, X, np.ones(4)), ValueError, r"running_var: expected an array when the batch's statistics"),
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
        ((np.ones(4),), ValueError, r"a tuple \(mean, rstd\), got 1 elements"),
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
