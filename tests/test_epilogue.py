"""residual= and activation=: in every norm, dtype and layout, within 2 units in the last place (float64: 4)."""

import itertools
import math
from dataclasses import replace
from typing import get_args

import cases
import fusednorm as fn
import ml_dtypes
import numpy as np
import pytest
from fusednorm.arrays import Activation

ACTIVATIONS = get_args(Activation)
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def units(got, want, dtype):
    """Return how far results are off, in units in the last place of what is wanted."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(want)
    unit = np.ldexp(np.longdouble(1), np.maximum(exponent, int(info.minexp) + 1) - int(info.nmant) - 1)
    with np.errstate(invalid="ignore"):
        off = np.abs(got.astype(np.longdouble) - want) / unit
    same = (got.astype(np.longdouble) == want) | (np.isnan(got.astype(np.float64)) & np.isnan(want))
    return np.where(same, 0, off)


def within(got, want, dtype):
    # A result that rounds beyond the largest number is infinite, and right.
    with np.errstate(over="ignore", invalid="ignore"):
        got = np.where(np.isinf(want.astype(np.float64).astype(dtype).astype(np.float64)), want, got.astype(np.longdouble))
    worst = units(got, want, dtype).max()
    assert worst <= (4 if dtype == np.float64 else 2), worst


def identity_norm(t, **keywords):
    """Return activation(t): a norm that changes nothing."""
    return fn.batch_norm(t.reshape(-1, 1), np.zeros(1), np.ones(1), eps=0, **keywords).reshape(t.shape)


PI = 4 * np.arctan(np.longdouble(1))


def phi(t):
    """Return the standard normal distribution function: math.erfc, and its slope times what rounding the argument lost."""
    s = -t / np.sqrt(np.longdouble(2))
    near = s.astype(np.float64)
    tail = np.array([math.erfc(v) for v in near.ravel()], np.longdouble).reshape(t.shape)
    wide = near.astype(np.longdouble)
    with np.errstate(over="ignore"):
        return (tail - 2 / np.sqrt(PI) * np.exp(-wide * wide) * (s - wide)) / 2


def activate(name, t):
    """Return the formula in longdouble; exp does not overflow, and nothing cancels."""
    t = np.asarray(t, np.longdouble)
    small = np.exp(-np.abs(t))
    sigmoid = np.where(t >= 0, 1 / (1 + small), small / (1 + small))
    if name == "gelu_tanh":
        u = 2 * np.sqrt(2 / PI) * (t + np.longdouble("0.044715") * t**3)
        small = np.exp(-np.abs(u))
        return t * np.where(u >= 0, 1 / (1 + small), small / (1 + small))
    return {
        None: lambda: t,
        "relu": lambda: np.maximum(t, 0),
        "silu": lambda: t * sigmoid,
        "gelu": lambda: t * phi(t),
        "sigmoid": lambda: sigmoid,
        "tanh": lambda: np.tanh(t),
        "hardswish": lambda: t * np.clip(t + 3, 0, 6) / 6,
        "leaky_relu": lambda: np.where(t < 0, t * 0.01, t),
    }[name]()


# ---- the functions alone


@every_activation
@cases.every_float
def test_activation_over_its_range(activation, dtype, rng):
    around = rng.normal(0, 3, 20_000)
    spread = np.exp(rng.uniform(np.log(1e-30), np.log(1e3), 20_000)) * rng.choice([-1, 1], 20_000)
    edges = np.array([0, 3, -3, 6, 1, -1, 1e-300, 5e-324, 20, -20, 88.5, -88.5, 104, -104, 700, -700, 746, -746, 1e30, -1e30])
    with np.errstate(over="ignore"):
        t = np.concatenate([around, spread, edges]).astype(dtype)
    t = t[np.isfinite(t.astype(np.float64))]
    with np.errstate(under="ignore", over="ignore"):
        want = activate(activation, t.astype(np.longdouble))
        if activation == "gelu":  # math.erfc ends where its result is subnormal
            fine = t.astype(np.float64) > -37
            t, want = t[fine], want[fine]
    within(identity_norm(t, activation=activation), want, dtype)


def test_gelu_tail_in_float64():
    """By continued fraction: another way than math.erfc."""
    t = -np.linspace(3, 37, 4001)
    a, fraction = -t.astype(np.longdouble), np.zeros(t.size, np.longdouble)
    for k in range(400, 0, -1):
        fraction = k / (a + fraction)
    want = t * np.exp(-a * a / 2) / np.sqrt(2 * PI) / (a + fraction)
    got = identity_norm(t, activation="gelu")
    normal = np.abs(want) > 1e-300
    assert (np.abs(got - want) / np.abs(want))[normal].max() < 4 * 2.0**-52


@every_activation
@cases.every_wide
def test_special_values(activation, dtype):
    """As torch in float64: in float32 its gelu of infinity is NaN."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    t = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    there = {
        "gelu_tanh": lambda v: functional.gelu(v, approximate="tanh"),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }.get(activation, getattr(functional, activation, None))
    want = there(torch.from_numpy(np.tile(t.astype(np.float64), 4))).numpy()[:5]
    np.testing.assert_array_equal(identity_norm(t, activation=activation), want)


# ---- in the norms


@cases.every_norm
@cases.every_float
@pytest.mark.parametrize("layout", ["C", "channels-last", "F", "stepped", "reversed"])
def test_every_norm(norm, dtype, layout, rng):
    """The statistics are the norm's own: what it gives in float64 is what the epilogue starts from."""
    for shape in ((4, 6, 5), (3, 6, 7, 9), (2, 6, 1500), (300, 6, 3)):
        x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
        residual = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
        call = cases.make_call(norm, x, rng)
        t = call.run(x, dtype=np.float64).astype(np.longdouble)
        for activation, r in itertools.product((None, "relu", "silu", "gelu"), (None, residual)):
            got = call.run(x, residual=r, activation=activation)
            before = t if r is None else t + r.astype(np.longdouble)
            want = activate(activation, before)
            # What double arithmetic loses where the sum cancels.
            noise = 8 * 2.0**-53 * (np.abs(t) + np.abs(before - t)) * (1 + np.abs(before))
            info = ml_dtypes.finfo(dtype)
            unit = np.maximum(np.abs(want) * float(info.eps), float(info.smallest_subnormal))
            limit = (4 if dtype == np.float64 else 2) * unit
            if activation is None and r is None:
                call.reference(x).check(got)
            else:
                assert (np.abs(got.astype(np.longdouble) - want) <= limit + noise).all()


@cases.every_norm
@every_activation
def test_every_activation_in_every_norm(norm, activation, rng):
    x, residual = cases.draw(rng, (4, 6, 37)), cases.draw(rng, (4, 6, 37))
    call = cases.make_call(norm, x, rng)
    t = call.run(x, dtype=np.float64, residual=residual)
    got = call.run(x, residual=residual, activation=activation)
    assert cases.same_bits(got, identity_norm(t, activation=activation, dtype=np.float32))


@cases.every_norm
@pytest.mark.parametrize("kind", ["u1", "?", "i8", *cases.FLOATS])
def test_residual_of_another_dtype_and_layout(norm, kind, rng):
    for dtype, layout in itertools.product((np.float32, np.float16), cases.LAYOUTS):
        x = cases.draw(rng, (4, 6, 5), dtype)
        residual = cases.LAYOUTS[layout](cases.draw(rng, (4, 6, 5), kind))
        call = cases.make_call(norm, x, rng)
        want = call.run(x, residual=residual.astype(np.float64))
        assert cases.same_bits(call.run(x, residual=residual), want)


@cases.every_norm
@pytest.mark.parametrize("layout", cases.WRITABLE)
def test_in_place(norm, layout, rng):
    """`out` may be x, the residual, or lie over a part of either."""
    for shape in ((4, 6, 5), (40, 6, 70)):
        x, residual = (cases.LAYOUTS[layout](cases.draw(rng, shape)) for _ in range(2))
        call = cases.make_call(norm, x, rng)
        want = call.run(x, residual=residual, activation="silu")
        out = residual.copy(order="K")
        assert call.run(x, residual=out, activation="silu", out=out) is out
        np.testing.assert_array_equal(out, want)
        out = x.copy(order="K")
        call.run(out, residual=residual, activation="silu", out=out)
        np.testing.assert_array_equal(out, want)
        memory = np.zeros(x.size + 5, np.float32)
        shifted = memory[3 : 3 + x.size].reshape(shape)
        shifted[...] = residual
        call.run(x, residual=shifted, activation="silu", out=memory[5 : 5 + x.size].reshape(shape))
        np.testing.assert_array_equal(memory[5 : 5 + x.size].reshape(shape), want)


def test_same_array_thrice(rng):
    x = cases.draw(rng, (4, 6, 50))
    want = fn.batch_norm(x, training=True, residual=x.copy(), activation="relu")
    fn.batch_norm(x, training=True, residual=x, activation="relu", out=x)
    np.testing.assert_array_equal(x, want)


@cases.every_norm
def test_number_of_threads(norm, rng, restore_threads):
    for layout, dtype in itertools.product(("C", "channels-last", "stepped"), (np.float32, np.float16)):
        x, residual = (cases.LAYOUTS[layout](cases.draw(rng, (5, 6, 70, 81), dtype)) for _ in range(2))
        call = cases.make_call(norm, x, rng)
        results = []
        for threads in (1, 2, 3, 7):
            fn.set_num_threads(threads)
            results.append(call.run(x, residual=residual, activation="gelu"))
        assert all(cases.same_bits(results[0], other) for other in results)


@pytest.mark.parametrize("layout", ["C", "channels-last"])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (np.float32, {"activation": "relu", "residual": True}),
        (np.float32, {}),
        (np.float32, {"activation": "hardswish"}),
        (np.float16, {}),
        (cases.HALVES[1], {"activation": "relu"}),
        (np.float64, {}),
    ],
    ids=["relu", "float32", "hardswish", "float16", "bfloat16 relu", "float64"],
)
def test_results_larger_than_the_caches(layout, dtype, options, rng):
    sample = (1, 6, 400, 2804 // np.dtype(dtype).itemsize)
    factors = np.arange(1, 9).astype(dtype).reshape(8, 1, 1, 1)  # no two samples alike
    x, residual = (cases.LAYOUTS[layout](cases.draw(rng, sample, dtype) * factors) for _ in range(2))
    call = cases.make_call("batch eval", x, rng)

    def run(part):
        given = options | ({"residual": residual[part]} if "residual" in options else {})
        return call.run(x[part], **given)

    y = run(slice(None))
    for i in (0, 7):
        one = slice(i, i + 1)
        np.testing.assert_array_equal(y[one], run(one))


@cases.every_norm
def test_numbers_that_do_not_fit_float32(norm, rng):
    x = cases.draw(rng, (4, 6, 9)) * np.float32(1e37)
    residual = cases.draw(rng, (4, 6, 9))
    call = replace(cases.make_call(norm, x, rng), eps=0)
    t = call.run(x.astype(np.float64))
    np.testing.assert_allclose(call.run(x, residual=residual), t + residual, rtol=2.0**-22, atol=1e-12)


def test_empty():
    x = np.zeros((0, 3, 4), np.float32)
    assert fn.group_norm(x, 3, residual=x, activation="relu").shape == x.shape


# ---- the norm of a sum


@pytest.mark.parametrize("function", [fn.add_layer_norm, fn.add_rms_norm])
@cases.every_float
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_add_norm(function, dtype, layout, rng):
    norm = fn.layer_norm if function is fn.add_layer_norm else fn.rms_norm
    for shape in ((5, 7), (130, 64), (3, 9000), (2, 3, 4, 33), (7,)):
        x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype)) if len(shape) > 1 else cases.draw(rng, shape, dtype)
        for residual in (cases.draw(rng, shape, dtype), np.asfortranarray(cases.draw(rng, shape, "f8"))):
            weight = rng.normal(1, 0.3, shape[-1])
            y, total = function(x, residual, shape[-1], weight)
            want = x.astype(np.float64) + residual.astype(np.float64)
            assert units(total, want.astype(np.longdouble), dtype).max() <= 0.5
            assert total.dtype == y.dtype == dtype
            np.testing.assert_array_equal(y.astype(np.float64), norm(total, shape[-1], weight).astype(np.float64))


@pytest.mark.parametrize("function", [fn.add_layer_norm, fn.add_rms_norm])
@pytest.mark.parametrize("shape", [(7, 8192), (13, 4096), (5, 3, 4096), (18, 4099), (1, 60_000)], ids=str)
def test_add_norm_with_few_rows_for_the_threads(function, shape, restore_threads, rng):
    """Whoever adds must have added before the moments are found, also where rows are split among threads."""
    x, residual = cases.draw(rng, shape), cases.draw(rng, shape)
    fn.set_num_threads(1)
    alone = function(x, residual, shape[-1])
    np.testing.assert_array_equal(alone[1], x + residual)
    for threads in (2, 3, 4, 8, 13):
        fn.set_num_threads(threads)
        outs = np.full(shape, -5, np.float32), np.full(shape, -7, np.float32)
        for result in (function(x, residual, shape[-1], out=outs), function(x, residual, shape[-1])):
            assert all(map(cases.same_bits, result, alone))


@pytest.mark.parametrize("function", [fn.add_layer_norm, fn.add_rms_norm])
def test_add_norm_out(function, rng):
    x, residual = cases.draw(rng, (9, 33)), cases.draw(rng, (9, 33))
    y, total = function(x, residual, 33)
    for outs in ((np.empty_like(x), np.empty_like(x)), (np.empty_like(x, order="F"), cases.stepped(x))):
        got = function(x, residual, 33, out=outs)
        assert got[0] is outs[0]
        assert got[1] is outs[1]
        np.testing.assert_array_equal(got[0], y)
        np.testing.assert_array_equal(got[1], total)
    alone = np.empty_like(x)
    assert function(x, residual, 33, out=alone)[0] is alone
    np.testing.assert_array_equal(alone, y)
    for place in (x.copy(), residual.copy()):
        a, b = (place, residual) if place[0, 0] == x[0, 0] else (x, place)
        function(a, b, 33, out=(None, place))
        np.testing.assert_array_equal(place, total)


def test_add_norm_of_integers():
    y, total = fn.add_layer_norm(np.array([[1, 2]]), np.array([[0, 1]], np.uint8), 2, eps=0)
    np.testing.assert_array_equal(total, [[1.0, 3.0]])
    np.testing.assert_array_equal(y, [[-1.0, 1.0]])


def test_add_norm_errors():
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(TypeError, match="add_layer_norm: residual: expected an array, got None"):
        fn.add_layer_norm(x, None, 3)
    with pytest.raises(ValueError, match=r"add_rms_norm: residual: expected the shape of x, \(2, 3\), got shape \(3,\)"):
        fn.add_rms_norm(x, x[0], 3)
    with pytest.raises(ValueError, match="out: expected two arrays that share no memory"):
        fn.add_layer_norm(x, x, 3, out=(x, x))
    with pytest.raises(ValueError, match="out: expected an array, or a tuple of two, got a tuple of 1"):
        fn.add_layer_norm(x, x, 3, out=(x,))
