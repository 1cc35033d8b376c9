"""The five norms against the formula over shapes, layouts, dtypes and channel axes, and what statistics training leaves."""

from dataclasses import replace

import cases
import fusednorm as fn
import numpy as np
import oracle
import pytest


def has_samples(norm, shape):
    """An instance needs a spatial axis."""
    return not norm.startswith("instance") or len(shape) > 2


@cases.every_norm
@cases.every_float
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_formula_over_shapes_and_layouts(norm, dtype, layout, affine, rng):
    for shape in cases.SHAPES.values():
        if has_samples(norm, shape):
            x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
            call = cases.make_call(norm, x, rng, affine=affine)
            call.reference(x).check(call.run(x))


@cases.every_norm
@cases.every_float
def test_weight_or_bias_alone(norm, dtype, rng):
    x = cases.draw(rng, (4, 6, 9), dtype)
    call = cases.make_call(norm, x, rng)
    for one in ("weight", "bias"):
        alone = replace(call, **{one: None})
        alone.reference(x).check(alone.run(x))


@pytest.mark.parametrize("norm", cases.CHANNEL_NORMS)
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("axis", range(-4, 4))
def test_channel_axis(norm, layout, axis, rng):
    x = cases.LAYOUTS[layout](cases.draw(rng, (4, 6, 8, 10)))
    call = cases.make_call(norm, x, rng, channel_axis=axis)
    call.reference(x).check(call.run(x))


@pytest.mark.parametrize("norm", ["group", "instance", "instance eval"])
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 7), (2, 3, 4, 5)])
def test_channel_axis_zero_is_one_sample(norm, shape, rng):
    x = cases.draw(rng, shape)
    call = cases.make_call(norm, x, rng, channel_axis=0)
    batch = replace(call, channel_axis=1).run(x[None])
    np.testing.assert_array_equal(call.run(x), batch[0])


def test_group_norm_of_one_dimension(rng):
    x = cases.draw(rng, (12,))
    call = cases.make_call("group", x, rng, channel_axis=0, num_groups=3)
    call.reference(x).check(call.run(x))


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@cases.every_float
def test_every_number_of_groups(groups, layout, dtype, rng):
    for shape in ((5, 12), (2, 12, 3, 5), (1, 12, 700)):
        x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
        call = cases.make_call("group", x, rng, num_groups=groups)
        call.reference(x).check(call.run(x))


@pytest.mark.parametrize("norm", cases.ROW_NORMS)
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("dims", [1, 2, 3, 4])
@cases.every_float
def test_trailing_dimensions(norm, layout, dims, dtype, rng):
    x = cases.LAYOUTS[layout](cases.draw(rng, (3, 5, 2, 7), dtype))
    call = cases.make_call(norm, x, rng, dims=dims)
    call.reference(x).check(call.run(x))


@cases.every_norm
@pytest.mark.parametrize("layout", ["C", "channels-last"])
def test_every_length_of_a_row(norm, layout, rng):
    for n in cases.EDGES:
        if n == 1 and norm == "instance":
            continue
        x = cases.LAYOUTS[layout](cases.draw(rng, (2, 2, n)))
        call = cases.make_call(norm, x, rng)
        call.reference(x).check(call.run(x))


@pytest.mark.parametrize("norm", cases.CHANNEL_NORMS)
def test_every_number_of_channels(norm, rng):
    """Innermost, so that they are the columns: panels of them begin at 2048."""
    for n in (*cases.SHORT, 255, 257, 1024, 2047, 2048, 2049, 4096, 4098, 6144):
        x = cases.draw(rng, (2, 9, n))
        call = cases.make_call(norm, x, rng, channel_axis=2)
        call.reference(x).check(call.run(x))


def test_as_many_dimensions_as_numpy_has(rng):
    most = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
    for shape in ((2, 2, *(1,) * (most - 5), 3, 2, 2), (2,) * 16 + (1,) * (most - 16)):
        x = cases.draw(rng, shape)
        for view in (x, x[..., ::-1, :, :].transpose(1, 0, *rng.permutation(range(2, most)))):
            for norm in cases.NORMS:
                call = cases.make_call(norm, view, rng, dims=3)
                call.reference(view).check(call.run(view))


@pytest.mark.parametrize("layout", ["C", "channels-last"])
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("float32", (8, 3, 800, 949)),
        ("float32", (8, 48, 218, 220)),
        ("float32", (2, 2301, 63, 64)),
        ("float32", (64, 6000, 7, 7)),
        ("float16", (16, 48, 218, 220)),
        ("float64", (4, 48, 218, 220)),
    ],
)
def test_results_larger_than_the_caches(dtype, shape, layout, rng):
    """They are written past the caches, 72 MB or more of them, in whole lines wherever they begin; one sample's are not."""
    one = cases.LAYOUTS[layout](cases.draw(rng, (1, *shape[1:]), np.dtype(dtype)))
    x = np.concatenate([one] * shape[0])
    memory = np.empty(x.size + 64, dtype)
    for norm, begin in (("batch eval", 0), ("batch eval", 4), ("instance", 8), ("layer", 1)):
        call = cases.make_call(norm, x, rng)
        memory[:begin] = memory[begin + x.size :] = -5
        y = like(memory[begin:], x)
        call.run(x, out=y)
        assert (memory[:begin] == -5).all()
        assert (memory[begin + x.size :] == -5).all()
        expected = call.run(one)
        for i in range(shape[0]):
            assert cases.same_bits(y[i : i + 1], expected)


@pytest.mark.parametrize("layout", ["C", "channels-last"])
def test_statistics_of_more_than_the_caches(layout, rng):
    x = cases.LAYOUTS[layout](cases.draw(rng, (8, 6, 517, 701)))
    batch = cases.make_call("batch", x, rng)
    batch.reference(x).check(batch.run(x))


def like(flat, y):
    """Return flat memory with the shape and the strides of y."""
    return np.lib.stride_tricks.as_strided(flat, y.shape, y.strides)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("samples", [1, 3])
def test_single_value_gives_bias(norm, samples):
    x, bias = np.full((samples, 4), 7, np.float32), np.array([1, -2, 0.5, 3], np.float32)
    got = fn.group_norm(x, 4, bias=bias) if norm == "group" else fn.layer_norm(x[..., None], 1, bias=bias[:1])[..., 0]
    np.testing.assert_array_equal(got, np.broadcast_to(bias if norm == "group" else bias[0], x.shape))


def test_rms_of_single_value_gives_weight():
    np.testing.assert_array_equal(fn.rms_norm(np.array([[3.0], [-5.0]]), 1, [2.0], 0), [[2.0], [-2.0]])


@pytest.mark.parametrize(("dtype", "eps"), [(np.float32, 2.0**-23), (np.float64, 2.0**-52)])
def test_rms_default_eps(dtype, eps):
    x = np.full((1, 3), np.sqrt(eps), dtype)
    call = cases.Call("rms", eps=eps)
    call.reference(x).check(fn.rms_norm(x, 3))
    assert abs(fn.rms_norm(x, 3)[0, 0] - np.sqrt(0.5)) < 1e-6


@cases.every_norm
def test_eps(norm, rng):
    x = cases.draw(rng, (4, 6, 9))
    for eps in (0, 1e-12, 1, 10, np.float32(0.5), True):
        call = replace(cases.make_call(norm, x, rng), eps=eps)
        call.reference(x).check(call.run(x))


# ---- running statistics


def running(kind, shape, rng):
    return rng.normal(1, 0.3, shape).astype(kind), rng.uniform(0.5, 2, shape).astype(kind)


def updated(x, before, momentum, axes, sample_axis=None):
    """Return the new running mean and variance; with `sample_axis` the batch's are averages over the samples'."""
    origin, offset, var = oracle.moments(x, axes)
    mean = origin + offset
    var = var * (x.size // var.size) / (x.size // var.size - 1)
    batch = (mean, var) if sample_axis is None else (mean.mean(sample_axis), var.mean(sample_axis))
    return [(1 - momentum) * oracle.widen(b).ravel() + momentum * new.ravel() for b, new in zip(before, batch, strict=True)]


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("form", [(6,), (1, 6, 1, 1), (6, 1, 1)])
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("layout", ["C", "channels-last", "stepped", "reversed"])
def test_running_statistics(kind, form, norm, layout, rng):
    x = cases.LAYOUTS[layout](cases.draw(rng, (3, 6, 4, 5)))
    call = cases.make_call(norm, x, rng)
    axes, samples = ((0, 2, 3), None) if norm == "batch" else ((2, 3), 0)
    for momentum in (0.1, 0.5, 0, 1):
        mean, var = running(kind, form, rng)
        expected = updated(x, (mean, var), momentum, axes, samples)
        y = replace(call, mean=mean, var=var).run(x, momentum=momentum)
        np.testing.assert_array_equal(y, call.run(x))
        for got, want in zip((mean, var), expected, strict=True):
            assert got.shape == form
            np.testing.assert_allclose(got.ravel(), want, rtol=np.finfo(kind).eps * 0.51 + 1e-13)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_one_running_statistic_alone(norm, rng):
    x = cases.draw(rng, (3, 6, 4))
    for name in ("mean", "var"):
        both, alone = running("f8", 6, np.random.default_rng(1)), running("f8", 6, np.random.default_rng(1))
        call = cases.make_call(norm, x, rng)
        replace(call, mean=both[0], var=both[1]).run(x)
        at = ("mean", "var").index(name)
        replace(call, **{name: alone[at]}).run(x)
        np.testing.assert_array_equal(alone[at], both[at])


def test_running_statistics_in_odd_memory(rng):
    x = cases.draw(rng, (3, 6, 4))
    plain = running("f4", 6, np.random.default_rng(1))
    fn.batch_norm(x, *plain, training=True)
    for odd in (lambda a: a.astype(">f4"), cases.stepped, cases.reversed_all, cases.unaligned):
        mean, var = (odd(a) for a in running("f4", 6, np.random.default_rng(1)))
        fn.batch_norm(x, mean, var, training=True)
        np.testing.assert_array_equal(mean, plain[0])
        np.testing.assert_array_equal(var, plain[1])


def test_eval_leaves_running_statistics(rng):
    x = cases.draw(rng, (3, 6, 4))
    for norm in ("batch eval", "instance eval"):
        call = cases.make_call(norm, x, rng)
        before = call.mean.copy(), call.var.copy()
        call.run(x)
        assert cases.same_bits(call.mean, before[0])
        assert cases.same_bits(call.var, before[1])


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("form", [(6,), (1, 6, 1), (6, 1)])
def test_parameters_of_any_float_dtype_and_form(kind, form, rng):
    x = cases.draw(rng, (3, 6, 4))
    for norm in ("batch", "batch eval", "group", "instance", "instance eval"):
        call = cases.make_call(norm, x, rng)
        names = [n for n in ("weight", "bias", "mean", "var") if getattr(call, n) is not None]
        narrow = replace(call, **{n: np.asarray(getattr(call, n), kind) for n in names})
        formed = replace(narrow, **{n: getattr(narrow, n).reshape(form) for n in names})
        narrow.reference(x).check(formed.run(x))


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("norm", cases.ROW_NORMS)
def test_row_weights_of_any_float_dtype(kind, norm, rng):
    for dtype in cases.FLOATS:
        x = cases.draw(rng, (3, 6, 5), dtype)
        call = cases.make_call(norm, x, rng, dims=2)
        call = replace(call, **{n: getattr(call, n).astype(kind) for n in ("weight", "bias") if getattr(call, n) is not None})
        call.reference(x).check(call.run(x))
        strided = replace(call, weight=cases.stepped(call.weight))
        assert cases.same_bits(strided.run(x), call.run(x))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_parameters_may_be_lists(norm, rng):
    x = cases.draw(rng, (3, 4, 5))
    listed = cases.Call(norm, weight=[1, 2, 3, 4], bias=[0.5, 0, -1, 2])
    listed.reference(x).check(listed.run(x))
