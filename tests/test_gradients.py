"""The gradients of every norm: against the formula in longdouble, torch's autograd, and the forward functions."""

from dataclasses import replace

import cases
import fusednorm as fn
import numpy as np
import oracle
import pytest
from gradient_cases import check, problems


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
            np.testing.assert_array_equal(a, b)


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
@pytest.mark.parametrize("layout", ["C", "channels-last"])
def test_offsets_that_differ_along_the_way(norm, dtype, layout, rng):
    """Partial sums are centered where their own values are."""
    for offsets in ((0, 1e4), (1e4, 0), (1e4, -1e4), (20, 3)):
        x = rng.normal(0, 1, (16, 4, 70, 70))  # two segments of a channel
        x[:8] += offsets[0]
        x[8:] += offsets[1]
        x = cases.LAYOUTS[layout](x.astype(dtype))
        check(cases.make_call(norm, x, rng), rng.normal(0, 1, x.shape).astype(dtype), x)


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


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("norm", ["batch eval", "instance eval"])
def test_constant_statistics_let_infinite_values_be(norm, value, dtype, rng):
    x, grad = rng.normal(0, 1, (2, 3, 4, 20)).astype(dtype)
    call = cases.make_call(norm, x, rng)
    wanted = call.backward(grad, x)[0]
    x[0, 1, 3] = value
    np.testing.assert_array_equal(call.backward(grad, x)[0], wanted)
    grad[0, 1, 3] = value
    wanted[0, 1, 3] = np.copysign(value, call.weight[1])
    np.testing.assert_array_equal(call.backward(grad, x)[0].astype(float), wanted.astype(float))


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("norm", ["batch", "batch eval", "instance", "group"])
def test_an_infinite_gradient_goes_to_its_weight(norm, dtype, rng):
    """By way of grad * xhat, whose sign is that of xhat."""
    x, grad = rng.normal(5, 1, (2, 3, 4, 20)).astype(dtype)
    call = cases.make_call(norm, x, rng)
    normalized = replace(call, weight=None, bias=None).run(x)
    for at in ((0, 1, 3), (2, 2, 7)):
        infinite = grad.copy()
        infinite[at] = np.inf
        _, to_weight, to_bias = call.backward(infinite, x)
        assert to_weight[at[1]] == np.copysign(np.inf, normalized[at])
        assert to_bias[at[1]] == np.inf
        assert np.isfinite(np.delete(to_weight, at[1])).all()


@cases.every_float
def test_rms_norm_with_an_infinite_gradient(dtype):
    """What rms norm has no use for, the sum of grad, is infinite: it changes nothing."""
    x = np.array([[1, 2, -3, 0.5]], dtype)
    grad_x, to_weight = fn.rms_norm_backward(np.array([[np.inf, 1, 2, 3]], dtype), x, 4)
    np.testing.assert_array_equal(grad_x.astype(float), [[np.nan, -np.inf, np.inf, -np.inf]])
    assert to_weight[0] == np.inf
    assert np.isfinite(to_weight[1:]).all()


def test_rms_norm_with_gradients_whose_sum_overflows():
    x, grad = np.full((3, 4), 0.1), np.full((3, 4), 1e308)
    expected = [part * 1e300 for part in fn.rms_norm_backward(grad / 1e300, x, 4, eps=1)]
    for found, wanted in zip(fn.rms_norm_backward(grad, x, 4, eps=1), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-14)


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
    units = [oracle.unit(kind) for kind in (dtype, *[np.float32 if affine else dtype] * 2)]  # the weight's
    for shape in ((8, 6), (4, 6, 15), (3, 6, 9, 7), (2, 4, 3, 5, 6), (300, 6, 5), (2, 3, 4099)):
        if norm.startswith("instance") and len(shape) < 3:
            continue
        x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
        grad = rng.normal(0, 1, shape).astype(dtype)
        call = cases.make_call(norm, x, rng, affine=affine, dims=min(2, len(shape) - 1))
        for a, b, unit in zip(call.backward(grad, x), by_torch(call, grad, x), units, strict=False):
            np.testing.assert_allclose(a, b, rtol=4 * unit, atol=4 * unit * np.abs(b).max())


@pytest.mark.parametrize("norm", ["layer", "rms", "group"])
@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_parameters_of_float64_beside_narrower_x(norm, dtype, rng):
    """Their gradients have the digits that their dtype holds."""
    x, grad = (rng.normal(3, 2, (50, 12)).astype(dtype) for _ in range(2))
    call = cases.make_call(norm, x, rng)
    call = replace(call, weight=call.weight.astype(np.float64))
    got = call.backward(grad, x)
    want = call.backward(grad.astype(np.float64), x.astype(np.float64))
    if norm == "rms":  # its eps is that of x's arithmetic
        want = fn.rms_norm_backward(grad.astype("f8"), x.astype("f8"), 12, call.weight, call.eps)
    for mine, its in zip(got[1:], want[1:], strict=True):
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine, its, rtol=0, atol=50 * 12 * np.finfo(np.float64).eps * np.abs(its).max())


@pytest.mark.parametrize("layout", ["C", "channels-last"])
@pytest.mark.parametrize(
    ("dtype", "shape"), [("float32", (8, 48, 218, 220)), ("float32", (64, 6000, 7, 7)), ("float16", (16, 48, 218, 220))]
)
@pytest.mark.parametrize("norm", ["batch eval", "instance", "layer", "rms"])
def test_results_larger_than_the_caches(norm, dtype, shape, layout, rng):
    """They are written past the caches, 72 MB or more of them; one sample's are not."""
    make = cases.LAYOUTS[layout]
    x, grad = make(cases.draw(rng, (1, *shape[1:]), np.dtype(dtype))), make(cases.draw(rng, (1, *shape[1:]), np.dtype(dtype)))
    call = cases.make_call(norm, x, rng)
    expected = call.backward(grad, x)[0]
    got = call.backward(np.concatenate([grad] * shape[0]), np.concatenate([x] * shape[0]))[0]
    for i in range(shape[0]):
        assert cases.same_bits(got[i : i + 1], expected)
