"""`RunningMoments`: any split, order, layout and dtype gives what the whole array gives; masks, counts, files, threads."""

import copy
import functools
import io
import itertools
import operator
import os
import pickle
import random
import re
from concurrent.futures import ThreadPoolExecutor

import cases
import fusednorm as fn
import numpy as np
import oracle
import pytest

RELATIVE = 1e-12  # the promise: of the standard deviation for the mean, of the variance for the variance


def stats_of(*batches, channel_axis=1, **keywords):
    stats = fn.RunningMoments(channel_axis)
    for batch in batches:
        stats.update(batch, **keywords)
    return stats


def check(stats, x, channel_axis=1, ddof=0):
    """Against the formula in longdouble."""
    x = np.asarray(x).astype(np.longdouble)
    axes = tuple(i for i in range(x.ndim) if channel_axis is None or i != channel_axis % x.ndim)
    origin, offset, var = (np.squeeze(v, axes) for v in oracle.moments(x, axes))
    count = x.size // var.size
    assert stats.count == count
    assert type(stats.count) is int
    assert stats.mean.dtype == stats.var().dtype == np.float64
    assert stats.mean.shape == stats.std().shape == var.shape
    eps = oracle.EPS64
    assert np.all(np.abs(stats.mean - (origin + offset)) <= RELATIVE * np.sqrt(var) + eps * np.abs(origin))
    wanted = var * count / (count - ddof)
    assert np.all(np.abs(stats.var(ddof) - wanted) <= RELATIVE * wanted)
    np.testing.assert_array_equal(stats.std(ddof), np.sqrt(stats.var(ddof)))


@pytest.mark.parametrize("channel_axis", [0, 1, -1, None])
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", *cases.INTEGERS])
def test_layouts_and_dtypes(dtype, layout, channel_axis, rng):
    x = cases.LAYOUTS[layout](cases.draw(rng, (6, 5, 4, 7), np.dtype(dtype).newbyteorder("=")).astype(dtype))
    check(stats_of(x, channel_axis=channel_axis), x, channel_axis)


@pytest.mark.parametrize("offset", [0, 1e4, 1e12])
@pytest.mark.parametrize("pieces", [1, 2, 7, 1000, 5000])
def test_any_split_and_order(pieces, offset, rng):
    x = rng.normal(0, 1, (5000, 3)) + offset
    parts = np.array_split(x, pieces)
    random.Random(0).shuffle(parts)
    check(stats_of(*parts), x, ddof=1)


def test_many_merges_lose_nothing():
    """One state merged again and again: the sums do not drift."""
    part, total = stats_of(np.array([[0.1], [0.3]])), fn.RunningMoments()
    for _ in range(100_000):
        total.merge(part)
    assert abs(total.var()[0] / part.var()[0] - 1) < 4 * oracle.EPS64
    assert abs(total.mean[0] / part.mean[0] - 1) < 2 * oracle.EPS64


def test_trees_of_merges(rng):
    x = rng.normal(1e6, 1e-3, (257, 2, 3))
    parts = [stats_of(p) for p in np.array_split(x, 50)]
    check(sum(parts), x)
    check(functools.reduce(lambda a, b: b + a, parts), x)
    while len(parts) > 1:
        parts = [functools.reduce(operator.add, parts[i : i + 3]) for i in range(0, len(parts), 3)]
    check(parts[0], x)


def test_plus_makes_a_new_one_and_merge_does_not(rng):
    x = rng.normal(size=(10, 3))
    a, b = stats_of(x[:4]), stats_of(x[4:])
    check(a + b, x)
    check(a, x[:4])
    check(b, x[4:])
    assert a.merge(b) is a
    check(a, x)
    check(a.merge(a), np.concatenate([x, x]))


def test_empty_objects_and_batches(rng):
    x = rng.normal(size=(10, 3))
    empty = fn.RunningMoments()
    assert empty.count == 0
    assert empty.num_channels == 0
    assert empty.mean.shape == empty.var().shape == (0,)
    check(empty + stats_of(x) + fn.RunningMoments(), x)
    check(sum([fn.RunningMoments(), stats_of(x), fn.RunningMoments()]), x)
    assert (fn.RunningMoments() + fn.RunningMoments()).count == 0
    assert sum([]) == 0
    none = stats_of(np.zeros((0, 3, 4)))
    assert none.num_channels == 3
    assert np.isnan(none.mean).all()
    assert np.isnan(none.var()).all()
    check(none.update(x), x)
    check(stats_of(x, np.zeros((0, 3, 4))), x)
    assert np.isnan(fn.RunningMoments(None).mean)


def test_counts_beyond_two_to_the_53():
    one, total = stats_of(np.array([[0.0], [2.0], [1.0]])), fn.RunningMoments()
    wanted = 0
    for _ in range(70):
        total.merge(total).merge(one)
        wanted = 2 * wanted + 3
    assert total.count == wanted > 2**70
    np.testing.assert_allclose([total.mean[0], total.var()[0]], [1, 2 / 3], rtol=1e-15)
    assert pickle.loads(pickle.dumps(total)).count == wanted
    assert type(total.update(np.array([[1.0]]), skipna=True).count[0]) is int


def test_broadcast_counts_beyond_two_to_the_53():
    x = np.broadcast_to(np.array([1, 3], np.uint8)[:, None, None], (2, 2**30, 2**23 + 1))
    assert (x.size // 2) % 2**53 != 0
    stats = stats_of(x, x[:, :1, :1], channel_axis=None)
    assert stats.count == x.size + 2
    assert stats.mean == 2
    assert abs(stats.var() - 1) <= 4 * oracle.EPS64


def test_large_values_and_infinities():
    np.testing.assert_array_equal(stats_of([[np.inf]], [[1.0]]).mean, [np.inf])
    np.testing.assert_array_equal(stats_of([[1.0]], [[-np.inf]]).mean, [-np.inf])
    assert np.isnan(stats_of([[np.inf]], [[-np.inf]]).mean).all()
    assert np.isnan(stats_of([[1.0, 2.0]], [[np.nan, 2.0]]).mean[0])
    assert stats_of([[1.0, 2.0]], [[np.nan, 2.0]]).mean[1] == 2


@pytest.mark.parametrize("channel_axis", [0, 1, -1, None])
def test_masks(channel_axis, rng):
    x = rng.normal(1e5, 1, (6, 5, 4))
    x[rng.random(x.shape) < 0.2] = np.nan
    x[:, 0], x[1, :, 0] = np.nan, np.nan
    where = rng.random((5, 4)) < 0.7
    batches = (x,) if channel_axis == 0 else (x[:2], x[2:])
    stats = stats_of(*batches, channel_axis=channel_axis, where=where, skipna=True)
    counted = where & ~np.isnan(x)
    channels, masks = ((a.reshape(1, -1) if channel_axis is None else np.moveaxis(a, channel_axis, 0)) for a in (x, counted))
    for c, values in enumerate(v[m].astype(np.longdouble) for v, m in zip(channels, masks, strict=True)):
        assert np.atleast_1d(stats.count)[c] == len(values)
        mean, var = np.atleast_1d(stats.mean)[c], np.atleast_1d(stats.var())[c]
        if len(values) == 0:
            assert np.isnan([mean, var]).all()
        else:
            assert abs(mean - values.mean()) <= 2 * oracle.EPS64 * 1e5
            assert abs(var - values.var()) <= 1e-9 * values.var()  # the longdouble mean, of 1e5 deviations, costs digits
    assert stats.count.dtype == np.int64


def test_masks_and_none_merge(rng):
    x = rng.normal(size=(9, 3))
    where = np.ones(x.shape, bool)
    where[:4, 1] = False
    total = stats_of(x) + stats_of(x, where=where)
    np.testing.assert_array_equal(total.count, [18, 14, 18])
    np.testing.assert_allclose(total.mean[1], np.concatenate([x[:, 1], x[4:, 1]]).mean(), rtol=1e-14)
    np.testing.assert_array_equal(stats_of(x, skipna=True).count, [9, 9, 9])
    np.testing.assert_array_equal(stats_of(np.ones((2, 3), int), skipna=True).count, [2, 2, 2])


def test_errors_change_nothing(rng):
    x = rng.normal(size=(4, 3, 2))
    stats = stats_of(x)
    for error, name, call in (
        (ValueError, "update: batch: expected 3 channels, got 2", lambda: stats.update(x[:, :2])),
        (ValueError, "update: batch: expected 3 channels, got 2", lambda: stats.update(x[:, :2], skipna=True)),
        (ValueError, r"update: batch: expected an array that has axis 1, got shape \(2,\)", lambda: stats.update(x[0, 0])),
        (ValueError, "update: batch: expected an array that has axis 1", lambda: stats.update(x[0, 0], where=[True, False])),
        (ValueError, r"axis 1, got shape \(\)$", lambda: stats.update(3)),
        (ValueError, "update: batch: expected 3 channels, got 0", lambda: stats.update(x[:, :0])),
        (TypeError, "update: batch: .*complex", lambda: stats.update(x + 1j)),
        (TypeError, "update: batch: expected an array, got None", lambda: stats.update(None)),
        (TypeError, "update: where: expected a bool array", lambda: stats.update(x, where=np.ones(x.shape))),
        (ValueError, "update: where: expected what broadcasts", lambda: stats.update(x, where=np.ones(5, bool))),
        (TypeError, "merge: other: expected RunningMoments, got int", lambda: stats.merge(1)),
        (ValueError, "merge: other: expected 3 channels, got 2", lambda: stats.merge(stats_of(x[:, :2]))),
        (ValueError, "merge: other: expected 3 channels, got 2", lambda: stats + stats_of(x[:, :2])),
        (ValueError, "load_state_dict: state: expected", lambda: stats.load_state_dict({"mean": x})),
        (ValueError, "load_state_dict: .*shape", lambda: stats.load_state_dict(stats.state_dict() | {"mean": x[0]})),
        (ValueError, "count", lambda: stats.load_state_dict(stats.state_dict() | {"count": np.full((2, 3), -1.0)})),
    ):
        with pytest.raises(error, match=name):
            call()
        check(stats, x)
    with pytest.raises(TypeError, match="unsupported operand"):
        stats + 1
    with pytest.raises(TypeError, match="channel_axis: expected an integer or None, got 'x'"):
        fn.RunningMoments("x")


@pytest.mark.parametrize("channel_axis", [1, -1, None])
def test_kept_and_sent(channel_axis, rng, tmp_path):
    x = rng.normal(1e9, 1, (50, 3))
    stats = stats_of(x, channel_axis=channel_axis)
    file, file_in_bytes = tmp_path / "statistics", os.fsencode(tmp_path / "bytes")
    stats.save(file)
    stats.save(file_in_bytes)
    stats.save(memory := io.BytesIO())
    memory.seek(0)
    for other in (
        *(pickle.loads(pickle.dumps(stats, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)),
        copy.copy(stats),
        copy.deepcopy(stats),
        stats.copy(),
        fn.RunningMoments().load_state_dict(stats.state_dict()),
        fn.RunningMoments.load(file),
        fn.RunningMoments.load(file_in_bytes),
        fn.RunningMoments.load(memory),
    ):
        assert other.channel_axis == channel_axis
        assert all(cases.same_bits(a, b) for a, b in zip(stats.state_dict().values(), other.state_dict().values(), strict=True))
        other.update(x)
        check(other, np.concatenate([x, x]), channel_axis)
        check(stats, x, channel_axis)


def test_a_file_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **(stats_of([[1.0]]).state_dict() | {"mean": np.array([[object()]])}))
    with pytest.raises(ValueError, match="allow_pickle"):
        fn.RunningMoments.load(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(ValueError, match="npz archive"):
        fn.RunningMoments.load(tmp_path / "b.npy")


def test_updates_from_many_threads(rng):
    x = rng.normal(5, 1, (400, 3))
    stats = fn.RunningMoments()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(stats.update, np.array_split(x, 200)))
    check(stats, x)


def test_core_merge_checks_its_arguments():
    merge = fn._core.merge
    good = np.zeros((2, 6))
    for bad in (np.zeros((2, 5)), np.zeros((3, 6)), good.astype("f4"), np.zeros((6, 2)).T, np.float64(0), None):
        with pytest.raises((TypeError, ValueError), match="merge: other"):
            merge(good, bad)
    good.flags.writeable = False
    with pytest.raises(ValueError, match="merge: into"):
        merge(good, np.zeros((2, 6)))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_an_outlier_comes_first(dtype):
    x = np.zeros(4096, dtype)
    x[0] = 1.913837667673163
    whole = fn.RunningMoments(None).update(x)
    parts = fn.RunningMoments(None).update(x[:1]).update(x[1:])
    np.testing.assert_allclose(whole.var(), parts.var(), rtol=1e-12)


class OnlyDlpack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_masks_of_what_has_dlpack_alone(rng):
    x = rng.normal(size=(5, 3))
    for keywords in ({}, {"skipna": True}, {"where": x > 0}):
        got, want = (fn.RunningMoments().update(batch, **keywords) for batch in (OnlyDlpack(x), x))
        np.testing.assert_array_equal(got.var(), want.var())


def test_errors_name_the_batch_and_ddof(tmp_path):
    stats = fn.RunningMoments().update(np.ones((2, 3)))
    text = r"update: batch: expected an array or what numpy\.asarray can read, got list that it cannot"
    for keywords in ({}, {"where": True}):
        with pytest.raises(ValueError, match=text):
            stats.update([[1.0], [2.0, 3.0]], **keywords)
    for error, wrong in ((TypeError, (1j, "a", np.array("1"))), (ValueError, (np.nan, np.inf, 10**400))):
        for ddof, method in itertools.product(wrong, (stats.var, stats.std)):
            with pytest.raises(error, match=r"ddof: expected a (finite )?number, got"):
                method(ddof)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (None, TypeError, "state: expected a mapping"),
        ({1: 2}, ValueError, "state: expected"),
        ({"count": "three"}, TypeError, "count: expected an array of numbers"),
        ({"count": [[3.5], [0]]}, ValueError, "count: expected integers >= 0"),
        ({"m2": [[-1], [0]]}, ValueError, "m2: expected numbers >= 0"),
        ({"mean": [[1j], [0]]}, TypeError, "mean: expected an array of numbers"),
        ({"channel_axis": [1]}, None, ""),
        ({"channel_axis": [[1]]}, ValueError, "channel_axis: expected an integer or none"),
        ({"channel_axis": [[1], [1, 2]]}, ValueError, "channel_axis: expected an array or what numpy.asarray can read"),
        ({"masked": [[True], [True, False]]}, ValueError, "masked: expected an array or what numpy.asarray can read"),
        ({"count": [[1], [-5]]}, ValueError, "count: expected integers >= 0"),
        ({"count": [[2], [9]]}, ValueError, "count: expected in row 1 what rounding left of row 0, got more"),
        ({"m2": [[0], [-1]]}, ValueError, "m2: expected numbers >= 0"),
        ({"m2": [[1], [1]]}, ValueError, "m2: expected in row 1 what rounding left of row 0, got more"),
        ({"m2": None}, TypeError, "m2: expected an array, got None"),
    ],
)
def test_states_that_are_refused(change, error, text):
    state = fn.RunningMoments().update(np.ones((2, 1))).state_dict()
    stats = fn.RunningMoments().update(np.full((5, 1), 7.0))
    if error is None:
        assert stats.load_state_dict(state | change).channel_axis == 1
        return
    with pytest.raises(error, match=f"RunningMoments.*{text}"):
        stats.load_state_dict(None if change is None else state | change)
    assert (stats.count, stats.mean) == (5, 7)


def test_counts_differ_by_masks_alone():
    state = fn.RunningMoments().update([[1.0, 2.0], [3.0, 5.0]]).state_dict() | {"count": [[2, 9], [0, 0]]}
    stats = fn.RunningMoments().update(np.full((5, 1), 7.0))
    with pytest.raises(ValueError, match="count: expected the same in every channel unless masked, got others"):
        stats.load_state_dict(state)
    assert (stats.count, stats.mean) == (5, 7)
    np.testing.assert_array_equal(stats.load_state_dict(state | {"masked": True}).count, [2, 9])


@pytest.mark.parametrize("values", [[np.inf], [np.nan], [1e200, -1e200], [5e-324, 0.0, 1e-320]])
def test_states_of_hard_values_load(values):
    stats = stats_of(values, values, [1.0], channel_axis=None)
    assert cases.same_bits(pickle.loads(pickle.dumps(stats)).var(), stats.var())


def test_a_batch_without_channels():
    stats = fn.RunningMoments().update(np.ones((2, 1)))
    with pytest.raises(ValueError, match="update: batch: expected 1 channel, got 0"):
        stats.update(np.ones((2, 0)))
    assert fn.RunningMoments().update(np.ones((2, 0))).update(np.ones((2, 3))).num_channels == 3


def test_a_divisor_near_zero_overflows_in_silence():
    stats = stats_of([1e153, -1e153, 0.0, 0.0, 0.0], channel_axis=None)
    with np.errstate(all="raise"):
        assert stats.var(ddof=4.9999999999) == np.inf


@pytest.mark.parametrize("dims", [0, 4, "2", 2.0, None])
def test_batch_norm_of_other_dimensions(dims):
    stats = fn.RunningMoments().update(np.ones((2, 3)))
    with pytest.raises((TypeError, ValueError), match="to_batch_norm: dims: expected "):
        stats.to_batch_norm(dims)


def test_a_mask_that_is_no_array():
    with pytest.raises(ValueError, match=r"update: where: expected an array or what numpy\.asarray can read"):
        fn.RunningMoments().update(np.ones((2, 2)), where=[[True], [True, False]])


def encrypted():
    """An archive whose members say so, all of them."""
    fn.RunningMoments().save(file := io.BytesIO())
    content = bytearray(file.getvalue())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for match in re.finditer(signature, bytes(content)):
            content[match.start() + flags] |= 1
    return bytes(content)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"no archive at all", bytes(100), encrypted()])
def test_a_broken_file(content, tmp_path):
    file = tmp_path / "broken"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="RunningMoments"):
        fn.RunningMoments.load(file)


@pytest.mark.parametrize("method", ["save", "load"])
@pytest.mark.parametrize("file", [io.StringIO("text"), io.StringIO(), 5, None])
def test_what_is_no_binary_file(file, method):
    text = f"^RunningMoments.{method}: file: expected a path or a binary file, got {type(file).__name__}$"
    with pytest.raises(TypeError, match=text):
        getattr(fn.RunningMoments(), method)(file)
