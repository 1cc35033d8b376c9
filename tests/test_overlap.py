"""`out` that shares memory with an input: what comes out is what would come out without."""

from dataclasses import replace

import cases
import fusednorm as fn
import numpy as np
import pytest

SHAPE = (6, 6, 6)
VALUES = 6**3


def memory(rng, values=2 * VALUES + 8):
    return cases.draw(rng, (values,))


def cube(flat, start, strides=(36, 6, 1)):
    """Return a view of SHAPE into flat memory, strides in elements."""
    item = flat.itemsize
    return np.lib.stride_tricks.as_strided(flat[start:], SHAPE, [s * item for s in strides])


def test_longdouble_statistics_of_which_the_end_is_shared():
    """An element of 16 bytes, of which out has the second half."""
    bytes_ = np.zeros(400, np.uint8)
    start = -bytes_.ctypes.data % 16
    mean = bytes_[start : start + 16].view(np.longdouble)
    out = bytes_[start + 8 : start + 24].view(np.float32).reshape(4, 1)
    assert mean.itemsize > 8, "longdouble is double here"
    x = np.array([[1], [2], [3], [10]], np.float32)
    with pytest.raises(ValueError, match="batch_norm: out: expected memory of its own"):
        fn.batch_norm(x, mean, np.ones(1), training=True, out=out)
    assert not bytes_.any()
    np.testing.assert_array_equal(fn.batch_norm(x, mean, np.ones(1), out=out), fn.batch_norm(x, np.zeros(1), np.ones(1)))


LAST = VALUES - 1
# Where out lies, for x that begins at element 4 in C order: start and strides.
PLACES = {
    "one later": (5, (36, 6, 1)),
    "one earlier": (3, (36, 6, 1)),
    "a row later": (10, (36, 6, 1)),
    "half later": (4 + VALUES // 2, (36, 6, 1)),
    "last value only": (4 + LAST, (36, 6, 1)),
    "first value only": (4 - 4, (36, 6, 1)),
    "reversed": (4 + LAST, (-36, -6, -1)),
    "reversed, later": (6 + LAST, (-36, -6, -1)),
    "rows reversed": (4 + 30, (36, -6, 1)),
    "columns reversed": (4 + 5, (36, 6, -1)),
    "transposed": (4, (1, 6, 36)),
    "matrices transposed": (4, (36, 1, 6)),
    "rotated": (4, (6, 1, 36)),
    "spread": (4, (72, 12, 2)),
    "spread, reversed": (4 + 2 * LAST, (-72, -12, -2)),
}


@cases.every_norm
@pytest.mark.parametrize("place", PLACES)
def test_out_over_x(norm, place, rng):
    flat = memory(rng)
    x, out = cube(flat, 4), cube(flat, *PLACES[place])
    assert np.may_share_memory(x, out)
    call = cases.make_call(norm, x, rng)
    expected = call.reference(x)
    assert call.run(x, out=out) is out
    expected.check(out)


@cases.every_norm
@pytest.mark.parametrize("place", PLACES)
def test_memory_beside_out_is_untouched(norm, place, rng):
    flat = memory(rng)
    before, (x, out) = flat.copy(), (cube(flat, 4), cube(flat, *PLACES[place]))
    call = cases.make_call(norm, x, rng)
    call.run(x, out=out)
    written = np.zeros(flat.size, bool)
    cube(written, *PLACES[place])[...] = True
    np.testing.assert_array_equal(flat[~written], before[~written])


@cases.every_norm
@pytest.mark.parametrize("kinds", [("f4", "f8"), ("f8", "f4"), ("i4", "f4"), ("u1", "f4"), ("i8", "f8"), ("i2", "f8")], ids=str)
def test_out_of_another_dtype_over_x(norm, kinds, rng):
    source, target = kinds
    memory_bytes = np.zeros(VALUES * 8, np.uint8)
    x = memory_bytes[: VALUES * np.dtype(source).itemsize].view(source).reshape(SHAPE)
    x[...] = cases.draw(rng, SHAPE, source)
    call = cases.make_call(norm, x, rng)
    expected = call.reference(x if target == "f4" else x.astype(np.float64), np.dtype(target).type)
    out = memory_bytes[: VALUES * np.dtype(target).itemsize].view(target).reshape(SHAPE)
    expected.check(call.run(x, dtype=target, out=out))


@cases.every_norm
def test_out_over_repeated_x(norm, rng):
    """X repeats one sample, out writes over it."""
    flat = memory(rng, VALUES)
    out = flat.reshape(SHAPE)
    x = np.broadcast_to(out[2], SHAPE)
    call = cases.make_call(norm, x, rng)
    expected = call.reference(x)
    expected.check(call.run(x, out=out))


TAKEN = {"weight": cases.NORMS, "bias": [n for n in cases.NORMS if n != "rms"]}
TAKEN |= {name: [n for n in cases.NORMS if n.endswith("eval")] for name in ("mean", "var")}


@pytest.mark.parametrize(("name", "norm"), [(name, norm) for name, norms in TAKEN.items() for norm in norms])
@pytest.mark.parametrize("at", [0, 1, 40, -1])
def test_out_over_a_parameter(norm, name, at, rng):
    out = np.zeros(SHAPE, np.float32)
    x = cases.draw(rng, SHAPE)
    call = cases.make_call(norm, x, rng)
    parameter = out[-1, -1] if at == -1 else out.reshape(-1)[at : at + 6]
    parameter[...] = getattr(call, name)
    call = replace(call, **{name: parameter})
    expected = call.reference(x)
    expected.check(call.run(x, out=out))


@pytest.mark.parametrize("function", [fn.layer_norm, fn.rms_norm])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_out_over_a_strided_weight(function, kind, rng):
    x, flat = cases.draw(rng, (4, 6), kind), np.zeros(64, kind)
    weight, out = flat[3:21:3], flat[:24].reshape(4, 6)
    weight[...] = rng.normal(1, 0.5, 6)
    expected = function(x, 6, weight.copy())
    np.testing.assert_array_equal(function(x, 6, weight, out=out), expected)


@cases.every_norm
def test_x_over_a_weight(norm, rng):
    """In place, where the weight is a row of x itself."""
    x = cases.draw(rng, SHAPE)
    weight = x[3, 4]
    call = replace(cases.make_call(norm, x, rng), weight=weight)
    expected = call.reference(x)
    expected.check(call.run(x, out=x))


def test_large_out_over_x(rng, four_threads):
    flat = cases.draw(rng, (1_200_003,))
    for norm in cases.NORMS:
        x, out = flat[:1_200_000].reshape(3, 4, 100_000), flat[3:].reshape(3, 4, 100_000)
        x[...] = cases.draw(rng, x.shape)
        call = cases.make_call(norm, x, rng)
        expected = call.run(x.copy())
        np.testing.assert_array_equal(call.run(x, out=out), expected)


@pytest.mark.parametrize("function", [fn.add_layer_norm, fn.add_rms_norm])
def test_two_results_in_one_piece_of_memory(function, rng):
    """Side by side or taking turns is fine; over each other is not, also where each lies over x and comes by a temporary."""
    x, residual = cases.draw(rng, (4, 6)), cases.draw(rng, (4, 6))
    want = function(x, residual, 6)
    flat = np.zeros((4, 12), np.float32)
    for outs in ((flat[:, :6], flat[:, 6:]), (flat[:, ::2], flat[:, 1::2]), (flat[:, 1::2], flat[:, -2::-2])):
        got = function(x, residual, 6, out=outs)
        np.testing.assert_array_equal(got, want)
    line = cases.draw(rng, (30,))
    before, shifted = line.copy(), line[3:27].reshape(4, 6)
    with pytest.raises(ValueError, match="out: expected two arrays that share no memory"):
        function(line[:24].reshape(4, 6), residual, 6, out=(shifted, shifted))
    np.testing.assert_array_equal(line, before)
