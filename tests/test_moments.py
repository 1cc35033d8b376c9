"""`moments` against the formula: axes, layouts, ddof, keepdims, dtypes, block edges, empty, huge and non-finite input."""

import itertools

import cases
import fusednorm as fn
import numpy as np
import oracle
import pytest


def check(x, axis=None, *, ddof=0, keepdims=False, dtype=None):
    got = fn.moments(x, axis, ddof=ddof, keepdims=keepdims, dtype=dtype)
    result = np.dtype(dtype or default_dtype(x))
    every = range(x.ndim) if axis is None else (axis,) if np.ndim(axis) == 0 else axis
    axes = tuple(int(i) % x.ndim for i in every)
    for value, expected in zip(got, oracle.mean_and_var(x, axes, result, ddof, keepdims), strict=True):
        assert type(value) is np.ndarray
        assert value.dtype == result
        expected.check(value)
    return got


def default_dtype(x):
    if x.dtype in cases.HALVES:
        return np.float32
    return x.dtype if x.dtype in cases.FLOATS else np.float64


def every_choice(ndim):
    return itertools.chain.from_iterable(itertools.combinations(range(ndim), n) for n in range(1, ndim + 1))


@cases.every_float
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("shape", [(7,), (5, 6), (1, 9), (4, 3, 5), (3, 4, 2, 5), (1, 6, 1, 4), (20, 3, 7, 2)], ids=str)
def test_every_choice_of_axes(dtype, layout, shape, rng):
    x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
    check(x)
    for axes in every_choice(x.ndim):
        check(x, axes)
        check(x, axes, ddof=1, keepdims=True)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("shape", [*cases.SHAPES.values(), (300, 70), (40, 5000), (3, 300, 4, 70)], ids=str)
def test_larger_shapes(layout, shape, rng):
    x = cases.LAYOUTS[layout](cases.draw(rng, shape))
    for axis in (None, 0, -1, *((0, i) for i in range(1, x.ndim))):
        check(x, axis)


def test_result_is_a_named_tuple():
    result = fn.moments([1.0, 3.0])
    assert isinstance(result, tuple)
    assert result._fields == ("mean", "var")
    assert isinstance(result, fn.Moments)


def test_axis_forms(rng):
    x = cases.draw(rng, (3, 4, 5))
    wanted = fn.moments(x, (0, 2))
    for axis in ([0, 2], (-1, 0), (np.int64(2), 0)):
        assert all(cases.same_bits(a, b) for a, b in zip(fn.moments(x, axis), wanted, strict=True))
    assert cases.same_bits(fn.moments(x, np.int8(1)).mean, fn.moments(x, -2).mean)


@cases.every_float
def test_no_axis_pools_nothing(dtype, rng):
    for layout in cases.LAYOUTS.values():
        x = layout(cases.draw(rng, (3, 4, 5), dtype))
        mean, var = fn.moments(x, ())
        np.testing.assert_array_equal(mean, x)
        np.testing.assert_array_equal(var, np.zeros(x.shape))


@pytest.mark.parametrize("ddof", [0, 1, 2, 0.5, -1, np.int64(1)])
def test_ddof(ddof, rng):
    x = cases.draw(rng, (6, 5))
    for axis in (None, 0, 1):
        check(x, axis, ddof=ddof)


def test_ddof_of_all_values_as_numpy():
    """NumPy gives these too, with a warning."""
    assert np.isinf(fn.moments([1.0, 2.0], ddof=2).var)
    assert np.isnan(fn.moments([1.0], ddof=1).var)
    assert np.isinf(fn.moments([1.0, 2.0], ddof=7).var)


@pytest.mark.parametrize("keepdims", [False, True])
def test_keepdims_shapes(keepdims, rng):
    x = cases.draw(rng, (3, 4, 1, 5))
    for axes in (None, 0, (1, 3), (0, 1, 2, 3), ()):
        want = x.mean(axes, keepdims=keepdims).shape
        assert [m.shape for m in fn.moments(x, axes, keepdims=keepdims)] == [want, want]


@pytest.mark.parametrize("kind", [*cases.INTEGERS, ">i2", ">u8"])
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_integers(kind, layout, rng):
    x = cases.LAYOUTS[layout](cases.draw(rng, (40, 3, 51), kind.replace(">", "")).astype(kind))
    for axis in (None, 0, 1, (0, 2)):
        check(x, axis)
        check(x, axis, dtype=np.float32)


def test_dtype_between_floats(rng):
    for source, target in itertools.product(cases.FLOATS, cases.FLOATS):
        x = cases.draw(rng, (30, 41), source)
        for axis in (None, 0, 1):
            check(x, axis, dtype=target)


@pytest.mark.parametrize("odd", [cases.unaligned, lambda x: x.astype(">f4")], ids=["unaligned", "swapped"])
def test_odd_memory(odd, rng):
    x = cases.draw(rng, (30, 41))
    for got, plain in zip(fn.moments(odd(x), 0), fn.moments(x, 0), strict=True):
        assert cases.same_bits(got, plain)


@pytest.mark.parametrize("axis", [None, ()])
def test_zero_dimensions(axis):
    mean, var = fn.moments(np.float32(3.5), axis)
    assert (mean.shape, var.shape) == ((), ())
    assert (mean, var) == (3.5, 0)
    assert np.isnan(fn.moments(np.array(4.0), ddof=1).var)


def test_empty_is_nan_without_warning():
    """Warnings are errors here, so a RuntimeWarning as NumPy's would fail this."""
    for shape, axis in (((0,), None), ((0, 3), 0), ((4, 0), 1), ((2, 0, 3), (0, 1))):
        for m in fn.moments(np.empty(shape, np.float32), axis):
            assert m.shape == np.empty(shape).sum(axis).shape
            assert np.isnan(m).all()
    assert [m.shape for m in fn.moments(np.empty((0, 3)), 1)] == [(0,), (0,)]
    assert [m.shape for m in fn.moments(np.empty((3, 0)), 1, keepdims=True)] == [(3, 1), (3, 1)]


# ---- values that are not finite


@cases.every_float
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 300, 4096, 4097, 70_000])
def test_non_finite_as_numpy(dtype, bad, n):
    for at in {0, n // 2, n - 1}:
        x = np.linspace(0, 1, n, dtype=dtype)
        x[at] = bad
        for view, axis in ((x, None), (x[None], 1), (x[:, None] * np.ones(5, dtype), 0), (np.stack([x, x], 1), None)):
            mean, var = fn.moments(view, axis)
            np.testing.assert_array_equal(mean, np.full(mean.shape, bad))
            assert np.isnan(var).all()


@cases.every_float
@pytest.mark.parametrize("n", [2, 33, 4097, 9000])
def test_opposite_infinities_give_nan(dtype, n):
    x = np.ones(n, dtype)
    x[0], x[-1] = np.inf, -np.inf
    for view in (x, x[:, None] * np.ones(3, dtype)):
        assert all(np.isnan(m).all() for m in fn.moments(view, 0))


def test_bad_value_stays_in_its_statistic(rng):
    x = cases.draw(rng, (50, 40))
    for axis, bad in itertools.product((0, 1), (np.nan, np.inf)):
        spoiled = x.copy()
        spoiled[7, 9] = bad
        at = 9 if axis == 0 else 7
        for got, plain in zip(fn.moments(spoiled, axis), fn.moments(x, axis), strict=True):
            assert cases.same_bits(np.delete(got, at), np.delete(plain, at))


# ---- sizes


@cases.every_float
def test_every_length_of_a_row(dtype, rng):
    for n in cases.EDGES:
        x = cases.draw(rng, (2, n), dtype)
        check(x, 1)
        check(x)
        check(x[:, ::-1], 1)


@cases.every_float
@pytest.mark.parametrize("columns", [1, 2, 3, 5, 16, 17])
def test_every_length_of_a_column(dtype, columns, rng):
    for n in cases.EDGES:
        if n * columns < 400_000:
            x = cases.draw(rng, (n, columns), dtype)
            check(x, 0)


def test_every_number_of_columns(rng):
    for columns in (*cases.SHORT, 255, 256, 257, 1023, 1025, 2047, 2048, 2049, 4096, 4098, 6144, 8193):
        check(cases.draw(rng, (21, columns)), 0)


@pytest.mark.parametrize("shape", [(2**17, 2**16, 3), (3, 2**33), (2**33, 2), (2, 2**16, 2, 2**17)], ids=str)
def test_more_values_than_32_bits_count(shape):
    """Strides of zero make these views small; 2 ** 33 values of which each half is the same."""
    short = max(range(len(shape)), key=lambda i: -shape[i])
    values = np.arange(shape[short], dtype=np.float32).reshape([-1 if i == short else 1 for i in range(len(shape))])
    x = np.broadcast_to(values, shape)
    mean, var = fn.moments(x)
    assert mean == np.float32(values.mean())
    assert var == np.float32(values.var(dtype=np.float64))
    others = tuple(i for i in range(len(shape)) if i != short)
    by_value = fn.moments(x, others)
    np.testing.assert_array_equal(by_value.mean, values.ravel())
    np.testing.assert_array_equal(by_value.var, 0)


def test_sample_variance_of_more_values_than_32_bits_count():
    x = np.broadcast_to(np.array([1.0, 3.0]), (2**32 + 1, 2))
    n = 2 * (2**32 + 1)
    assert fn.moments(x, ddof=1).var == n / (n - 1)


@pytest.mark.parametrize("order", ["C", "F"])
def test_twenty_million_ones_in_two_columns(order):
    """A float32 sum stops at 2 ** 24."""
    x = np.ones((20_000_000, 2), np.float32, order)
    for m, value in zip(fn.moments(x, 0), (1, 0), strict=True):
        np.testing.assert_array_equal(m, [value, value])
    assert fn.moments(x) == (1, 0)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 17, 24, 64, 100])
def test_small_integers_down_and_along(dtype, columns, rng):
    """Registers of bytes are filled with several rows, or with a part of one."""
    ends = np.iinfo(dtype)
    for rows, draw in itertools.product((1, 63, 130, 700, 5000), (True, False)):
        x = rng.integers(ends.min, ends.max, (rows, columns), dtype, endpoint=True)
        if not draw:
            x[:, ::2], x[:, 1::2] = ends.max, ends.min
        for view, axis in ((x, 0), (x, 1), (x, (0, 1)), (x.T.copy(), 0), (x.T.copy(), 1)):
            mean, var = fn.moments(view, axis)
            wide = view.astype(object)
            count = wide.size // np.size(mean)
            total, squares = wide.sum(axis), (wide * wide).sum(axis)
            exact = np.array((squares * count - total * total) / count**2, dtype=np.float64)
            assert np.array_equal(mean, np.array(total / count, dtype=np.float64))
            np.testing.assert_allclose(var, exact, rtol=2 * np.finfo(np.float64).eps)
