"""Batch norm folded into the layer before it: torch's numbers, and those of the two layers one after the other."""

import re
from decimal import Decimal
from fractions import Fraction

import fusednorm as fn
import numpy as np
import pytest

FUNCTIONS = {"conv": fn.fuse_conv_bn_weights, "transposed conv": fn.fuse_conv_bn_weights, "linear": fn.fuse_linear_bn_weights}
SHAPES = {"conv": [(4, 3, 3, 3), (4, 1, 5), (4, 2, 1, 2, 3)], "transposed conv": [(3, 4, 3, 3), (2, 4, 5)], "linear": [(4, 5)]}
CASES = [(kind, shape) for kind in SHAPES for shape in SHAPES[kind]]
NAMES = {"conv": ("conv_w", "conv_b"), "linear": ("linear_w", "linear_b")}
every_case = pytest.mark.parametrize(("kind", "shape"), CASES, ids=str)


def draw(rng, shape, dtype=np.float32):
    """Return weight and bias of the layer, then mean, var, eps, weight and bias of the norm."""
    weight, bias = rng.normal(0, 1, shape), rng.normal(0, 1, 4)
    norm = rng.normal(0, 1, 4), rng.uniform(0.5, 2, 4), 1e-3, rng.normal(1, 0.5, 4), rng.normal(0, 1, 4)
    return [v if isinstance(v, float) else v.astype(dtype) for v in (weight, bias, *norm)]


def fuse(kind, arguments):
    return FUNCTIONS[kind](*arguments, **({"transpose": True} if kind == "transposed conv" else {}))


def formula(kind, w, b, mean, var, eps, weight, bias):
    """In float64, and the sizes of what is added, which rounding errors are relative to."""
    channels = w.shape[1 if kind == "transposed conv" else 0]
    wide = {"b": b, "mean": mean, "var": var, "weight": weight, "bias": bias}
    default = {"b": 0.0, "weight": 1.0, "bias": 0.0}
    wide = {k: np.full(channels, default[k]) if v is None else np.asarray(v, np.float64) for k, v in wide.items()}
    scale = wide["weight"] / np.sqrt(wide["var"] + eps)
    shape = [-1 if i == (kind == "transposed conv") else 1 for i in range(w.ndim)]
    size = (np.abs(wide["b"]) + np.abs(wide["mean"])) * np.abs(scale) + np.abs(wide["bias"])
    return w.astype(np.float64) * scale.reshape(shape), (wide["b"] - wide["mean"]) * scale + wide["bias"], size


@every_case
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("without", [(), (1,), (5,), (6,), (1, 5, 6)], ids=str)
def test_one_rounding(kind, shape, dtype, without, rng):
    arguments = draw(rng, shape, dtype)
    for i in without:
        arguments[i] = None
    weight, bias = fuse(kind, arguments)
    assert (weight.dtype, bias.dtype) == (dtype, dtype)
    wanted_weight, wanted_bias, size = formula(kind, *arguments)
    # Half a unit of rounding, and in float64 the four operations before it.
    unit = np.finfo(dtype).eps / 2 * (1 + 1e-6) + 4 * np.finfo(np.float64).eps
    assert np.all(np.abs(weight - wanted_weight) <= unit * np.abs(wanted_weight) + np.finfo(dtype).smallest_subnormal)
    allowed = np.finfo(dtype).eps / 2 * (1 + 1e-6) * np.abs(wanted_bias) + 4 * np.finfo(np.float64).eps * size
    assert np.all(np.abs(bias - wanted_bias) <= allowed + np.finfo(dtype).smallest_subnormal)


@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("without", [(), (1,), (1, 5, 6)], ids=str)
def test_equal_to_torch(kind, shape, dtype, without, rng):
    fusion = pytest.importorskip("torch.nn.utils.fusion")
    import torch

    arguments = draw(rng, shape, dtype)
    for i in without:
        arguments[i] = None
    if kind == "linear" and 5 in without:
        arguments[5:] = [np.ones(4, dtype), np.zeros(4, dtype)]  # torch's has no default there
    tensors = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arguments]
    if kind == "linear":
        wanted = fusion.fuse_linear_bn_weights(*tensors)
    else:
        wanted = fusion.fuse_conv_bn_weights(*tensors, transpose=kind == "transposed conv")
    got = fuse(kind, arguments)
    size = formula(kind, *arguments)[2]
    # torch rounds after each of its six operations.
    for ours, theirs, scale in zip(got, wanted, (0, size), strict=True):
        theirs = theirs.detach().numpy()
        assert ours.dtype == theirs.dtype
        assert np.all(np.abs(ours - theirs) <= 6 * np.finfo(dtype).eps * (np.abs(theirs) + scale))


def test_bfloat16(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arguments = draw(rng, (4, 3), np.float64)
    half = [v if isinstance(v, float) else v.astype(ml_dtypes.bfloat16) for v in arguments]
    weight, bias = fn.fuse_linear_bn_weights(*half)
    assert (weight.dtype, bias.dtype) == (ml_dtypes.bfloat16,) * 2
    wanted = fn.fuse_linear_bn_weights(*(v if isinstance(v, float) else v.astype(np.float64) for v in half))
    np.testing.assert_array_equal(weight, wanted[0].astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(bias, wanted[1].astype(ml_dtypes.bfloat16))


def test_each_array_keeps_its_dtype(rng):
    w, b, *norm = draw(rng, (4, 3))
    assert [a.dtype for a in fn.fuse_linear_bn_weights(w, b.astype("f8"), *norm)] == ["float32", "float64"]
    assert [a.dtype for a in fn.fuse_linear_bn_weights(w.astype("f2"), None, *norm)] == ["float16", "float16"]


def test_linear_with_a_norm_of_one_channel(rng):
    w, b = rng.normal(size=(4, 3)), rng.normal(size=4)
    weight, bias = fn.fuse_linear_bn_weights(w, b, [2.0], [4.0], 0, [3.0], [1.0])
    np.testing.assert_allclose(weight, w * 1.5, rtol=1e-15)
    np.testing.assert_allclose(bias, (b - 2) * 1.5 + 1, rtol=1e-14)


def test_linear_and_norm_are_one(rng):
    w, b, *norm = draw(rng, (4, 5), np.float64)
    mean, var, eps, weight, bias = norm
    x = rng.normal(size=(7, 5))
    fused_w, fused_b = fn.fuse_linear_bn_weights(w, b, *norm)
    wanted = fn.batch_norm(x @ w.T + b, mean, var, weight, bias, eps=eps)
    np.testing.assert_allclose(x @ fused_w.T + fused_b, wanted, rtol=1e-12, atol=1e-12)


def test_inputs_stay_and_broadcast_forms_and_lists_are_read(rng):
    arguments = draw(rng, (4, 3, 3, 3))
    before = [np.asarray(a).tobytes() for a in arguments]
    plain = fn.fuse_conv_bn_weights(*arguments)
    shaped = [a.reshape(1, 4, 1, 1) if np.shape(a) == (4,) else a for a in arguments]
    lists = [a.tolist() if np.shape(a) == (4,) and i > 1 else a for i, a in enumerate(arguments)]
    for form in (shaped, lists):
        for a, b in zip(plain, fn.fuse_conv_bn_weights(*form), strict=True):
            np.testing.assert_array_equal(a, b)
    assert [np.asarray(a).tobytes() for a in arguments] == before


def test_nan_travels_without_a_warning():
    weight, bias = fn.fuse_linear_bn_weights(np.ones((3, 2)), None, [0.0, np.inf, 0], [-1.0, 1, np.nan], 0, None, None)
    assert np.isnan(weight[[0, 2]]).all()
    np.testing.assert_array_equal(bias, [np.nan, -np.inf, np.nan])


BAD = [
    (0, np.ones(4), ValueError, "{w}: expected at least 2 dimensions, got shape (4,)"),
    (0, np.ones((4, 3), int), TypeError, "{w}: expected an array of a float dtype, got dtype int64"),
    (0, "text", TypeError, "{w}: expected an array of a float dtype, got dtype <U4"),
    (0, None, TypeError, "{w}: expected an array, got None"),
    (1, np.ones(5), ValueError, "{b}: expected shape (4,), one value per channel, got shape (5,)"),
    (1, np.ones((2, 2)), ValueError, "{b}: expected shape (4,), one value per channel, got shape (2, 2)"),
    (2, np.ones(3), ValueError, "bn_rm: expected shape (4,), one value per channel, got shape (3,)"),
    (3, np.ones((4, 4)), ValueError, "bn_rv: expected shape (4,), one value per channel, got shape (4, 4)"),
    (3, np.ones(4, complex), TypeError, "bn_rv: expected an array of a float dtype, got dtype complex128"),
    (3, None, TypeError, "bn_rv: expected an array, got None"),
    (4, -1e-3, ValueError, "bn_eps: expected a finite number >= 0, got -0.001"),
    (4, np.nan, ValueError, "bn_eps: expected a finite number >= 0, got nan"),
    (4, np.inf, ValueError, "bn_eps: expected a finite number >= 0, got inf"),
    (4, "1", TypeError, "bn_eps: expected a number, got '1'"),
    (4, None, TypeError, "bn_eps: expected a number, got None"),
    (4, [1e-3], TypeError, "bn_eps: expected a number, got [0.001]"),
    (5, np.ones(5), ValueError, "bn_w: expected shape (4,), one value per channel, got shape (5,)"),
    (6, [[1.0], [2.0, 3.0]], ValueError, "bn_b: expected an array or what numpy.asarray can read, got list that it cannot"),
]


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize(("at", "value", "error", "text"), BAD)
def test_error(kind, at, value, error, text, rng):
    arguments = draw(rng, SHAPES[kind][0])
    arguments[at] = value
    w, b = NAMES[kind]
    with pytest.raises(error, match="^" + re.escape(f"fuse_{kind}_bn_weights: {text.format(w=w, b=b)}")):
        fuse(kind, arguments)


def test_transposed_convolution_with_groups_is_refused(rng):
    """As in torch, whose arrays do not broadcast then."""
    with pytest.raises(ValueError, match=r"bn_rm: expected shape \(2,\), one value per channel, got shape \(4,\)"):
        fuse("transposed conv", draw(rng, (4, 2, 3, 3)))


def test_numbers_and_arrays_as_the_norms_read_them():
    mean = np.ma.masked_array([1.0, 2, 3], [0, 1, 0])
    for eps in (Decimal("1e-5"), Fraction(1, 10)):
        weight, bias = fn.fuse_linear_bn_weights(np.ma.masked_array(np.eye(3), True), None, mean, [1.0] * 3, eps, None, None)
        assert type(weight) is type(bias) is np.ndarray
        np.testing.assert_allclose(bias, -np.arange(1, 4) / np.sqrt(1 + float(eps)))
    with pytest.raises(ValueError, match="bn_eps: expected a finite number >= 0, got 1000"):
        fn.fuse_linear_bn_weights(np.eye(3), None, mean, [1.0] * 3, 10**400, None, None)
