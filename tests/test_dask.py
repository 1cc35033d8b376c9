"""`fusednorm.dask` against NumPy's float64, on every scheduler, and on a cluster of processes that loses one."""

import itertools
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import fusednorm as fn
import numpy as np
import pytest
from processes import output_of, run_python

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
fd = pytest.importorskip("fusednorm.dask")

WITHOUT_DASK = """
import sys
sys.modules["dask"] = None
try:
    import fusednorm.dask
except ModuleNotFoundError as error:
    print(error.name, error)
"""

AXES = [None, 0, -1, (0, 2, 3), (1, -1), ()]


def draw(rng, shape=(11, 6, 5, 8), dtype="f8"):
    return (rng.normal(1e3, 1, shape) if np.dtype(dtype).kind == "f" else rng.integers(0, 200, shape)).astype(dtype)


def check(got, x, axis, ddof=0, keepdims=False):
    x = np.asarray(x, np.longdouble)
    axes = tuple(range(x.ndim)) if axis is None else axis
    mean, var = x.mean(axes, keepdims=keepdims), x.var(axes, ddof=ddof, keepdims=keepdims)
    assert got.mean.shape == got.var.shape == mean.shape
    computed = dask.compute(*got)
    assert all(np.asarray(c).dtype == np.float64 and np.shape(c) == mean.shape for c in computed)
    np.testing.assert_allclose(computed[0], mean.astype("f8"), rtol=1e-14)
    np.testing.assert_allclose(computed[1], var.astype("f8"), rtol=1e-12)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("chunks", [(11, 6, 5, 8), (3, 4, 5, 3), (1, 1, 1, 8)])
def test_axes_and_chunks(axis, chunks, rng):
    x = draw(rng)
    array = da.from_array(x, chunks=chunks)
    with dask.config.set(scheduler="sync"):
        check(fd.moments(array, axis), x, axis)
        if axis != ():
            check(fd.moments(array, axis, ddof=1, keepdims=True), x, axis, 1, True)


@pytest.mark.parametrize("dtype", ["f4", "u1", "i8", "b1"])
def test_dtypes(dtype, rng):
    x = draw(rng, dtype=dtype)
    check(fd.moments(da.from_array(x, chunks=4), (0, 2, 3)), x, (0, 2, 3))


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_schedulers(scheduler, rng):
    x = draw(rng)
    array = da.from_array(x, chunks=4)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        check(fd.moments(array, (0, 2, 3)), x, (0, 2, 3))
        np.testing.assert_array_equal(fd.layer_norm(array, 8).compute(), fn.layer_norm(x, 8))


def test_empty_blocks_and_unknown_sizes(rng):
    x = draw(rng, (40, 3))
    array = da.from_array(x, chunks=(5, 3))
    check(fd.moments(array[array[:, 0] > 1e3], 0), x[x[:, 0] > 1e3], 0)
    mean, var = dask.compute(*fd.moments(da.zeros((0, 3)), 0))
    assert np.isnan(mean).all()
    assert np.isnan(var).all()


@pytest.mark.parametrize("axis", [1, (1, 2), (), 2])
def test_blocks_that_are_empty_along_a_kept_axis(axis, rng):
    x = rng.normal(3, 2, (6, 4, 5))
    check(fd.moments(da.from_array(x, chunks=((0, 4, 0, 2), (2, 2), 3)), axis), x, axis)


def test_a_residual_of_unknown_size(rng):
    x = draw(rng, (40, 6))
    array = da.from_array(x, chunks=(5, 3))
    some, kept = array[array[:, 0] > 1e3], x[x[:, 0] > 1e3]
    got = fd.layer_norm(some, 6, residual=some * 2)
    np.testing.assert_array_equal(got.compute(), fn.layer_norm(kept, 6, residual=kept * 2))
    for residual in (kept, da.concatenate([some, some])):
        with pytest.raises(ValueError, match=r"compute_chunk_sizes\(\)"):
            fd.layer_norm(some, 6, residual=residual)


def test_lazy_and_one_read(rng):
    reads = itertools.count()

    def block():
        next(reads)
        return np.ones((4, 3))

    array = da.concatenate([da.from_delayed(dask.delayed(block, pure=False)(), (4, 3), "f8") for _ in range(50)])
    result = fd.moments(array, 0)
    fd.batch_norm(array, *result)
    assert next(reads) == 0
    dask.compute(*result, scheduler="sync")
    assert next(reads) == 51


def test_the_reduction_is_a_tree():
    """No task merges more than a few states, and the graph grows with the number of blocks, no faster."""
    sizes = []
    for blocks in (256, 1024):
        mean, _ = dask.optimize(*fd.moments(da.zeros((blocks, 3), chunks=(1, 3)), 0))
        graph = dict(mean.__dask_graph__())
        sizes.append(len(graph))
        dependents = max(len(task.dependencies) for task in graph.values() if hasattr(task, "dependencies"))
        assert dependents <= 16
    assert sizes[1] <= 4 * sizes[0]


def channel_calls(rng):
    c = [rng.normal(1, 0.1, 6) for _ in range(4)]
    return {
        "batch_norm": lambda m, x: m.batch_norm(x, *c),
        "batch_norm weights": lambda m, x: m.batch_norm(x, c[0], c[1][:, None, None], weight=c[2].reshape(1, 6, 1, 1)),
        "batch_norm last": lambda m, x: m.batch_norm(x, np.ones(8), np.ones(8), channel_axis=-1, dtype=np.float32),
        "instance_norm": lambda m, x: m.instance_norm(x, weight=c[0], bias=c[1]),
        "instance_norm eval": lambda m, x: m.instance_norm(x, c[0], c[1], use_input_stats=False),
        "instance_norm unbatched": lambda m, x: m.instance_norm(x, channel_axis=0),
        "group_norm": lambda m, x: m.group_norm(x, 3, c[0], c[1]),
        "group_norm unbatched": lambda m, x: m.group_norm(x, 11, channel_axis=0),
        "layer_norm": lambda m, x: m.layer_norm(x, 8, np.arange(8.0), np.ones(8)),
        "layer_norm all": lambda m, x: m.layer_norm(x, x.shape),
        "layer_norm two": lambda m, x: m.layer_norm(x, (5, 8), np.arange(40.0).reshape(5, 8)),
        "rms_norm": lambda m, x: m.rms_norm(x, [8], np.arange(8.0)),
    }


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1"])
@pytest.mark.parametrize("call", channel_calls(np.random.default_rng(0)))
def test_norms(call, dtype, rng):
    x = draw(rng, dtype=dtype)
    run = channel_calls(rng)[call]
    got, wanted = run(fd, da.from_array(x, chunks=3)), run(fn, x)
    assert isinstance(got, da.Array)
    assert got.dtype == wanted.dtype
    with dask.config.set(scheduler="sync"):
        computed = got.compute()
    assert computed.dtype == wanted.dtype
    np.testing.assert_array_equal(computed, wanted)


def test_residual_and_activation(rng):
    x, residual = draw(rng), draw(rng) - 1e3
    try:
        wanted = fn.group_norm(x, 2, residual=residual, activation="relu")
    except NotImplementedError as e:
        pytest.skip(str(e))
    array = da.from_array(x, chunks=4)
    for other in (residual, da.from_array(residual, chunks=3)):
        got = fd.group_norm(array, 2, residual=other, activation="relu")
        np.testing.assert_array_equal(got.compute(scheduler="sync"), wanted)
    with pytest.raises(ValueError, match="group_norm: residual: expected the shape of x"):
        fd.group_norm(array, 2, residual=residual[:2])


def test_statistics_and_parameters_may_be_lazy(rng):
    x = draw(rng)
    array = da.from_array(x, chunks=4)
    y = fd.batch_norm(array, *fd.moments(array, (0, 2, 3)), weight=da.ones(6, chunks=2), eps=0)
    mean, var = fn.moments(y.compute(), (0, 2, 3))
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(var, 1, rtol=1e-12)


def test_errors_come_before_anything_is_computed():
    x = da.zeros((4, 3, 2), chunks=1)
    for error, message, call in (
        (TypeError, "moments: x: expected a Dask array, got ndarray", lambda: fd.moments(np.zeros(3))),
        (ValueError, "moments: axis", lambda: fd.moments(x, 3)),
        (ValueError, "moments: axis: expected each axis once", lambda: fd.moments(x, (1, -2))),
        (TypeError, "moments: x: .*complex", lambda: fd.moments(x + 1j)),
        (TypeError, "moments: keepdims: expected a bool, got 'False'", lambda: fd.moments(x, keepdims="False")),
        (TypeError, "batch_norm: training: expected a bool, got 'False'", lambda: fd.batch_norm(x, training="False")),
        (TypeError, "use_input_stats: expected a bool, got None", lambda: fd.instance_norm(x, use_input_stats=None)),
        (ValueError, "batch_norm: training: expected False", lambda: fd.batch_norm(x, training=True)),
        (ValueError, "batch_norm: running_mean", lambda: fd.batch_norm(x)),
        (ValueError, "batch_norm: weight", lambda: fd.batch_norm(x, np.ones(3), np.ones(3), np.ones(4))),
        (ValueError, "batch_norm: running_var", lambda: fd.batch_norm(x, np.ones(3), da.ones(4))),
        (ValueError, "instance_norm: running_mean: expected None", lambda: fd.instance_norm(x, np.ones(3))),
        (ValueError, "group_norm: num_groups", lambda: fd.group_norm(x, 2)),
        (ValueError, "layer_norm: normalized_shape", lambda: fd.layer_norm(x, 3)),
        (ValueError, "rms_norm: eps", lambda: fd.rms_norm(x, 2, eps=-1)),
    ):
        with pytest.raises(error, match=message):
            call()


def test_checks_compute_nothing():
    """A row that is all of x: its stand-in for the checks has no value either."""
    x = da.zeros((2**20, 2**21), np.float32, chunks=2**16)
    for norm in (fd.layer_norm, fd.rms_norm):
        assert norm(x, x.shape, residual=x).shape == x.shape


def test_parameters_as_the_functions_take_them(rng):
    x, weight = rng.normal(size=(6, 9)), rng.random(9)
    for given in (weight[None], weight.tolist(), da.from_array(weight[None], chunks=4)):
        np.testing.assert_array_equal(fd.layer_norm(da.from_array(x, chunks=(3, 9)), 9, given), fn.layer_norm(x, 9, weight))


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker():
    """In a process of its own: two worker processes, one killed once a few blocks are done."""
    pytest.importorskip("distributed")
    result = run_python(str(Path(__file__).parent / "cluster.py"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "fine"


def test_lists_are_read_as_the_functions_read_them(rng):
    x = rng.normal(size=(6, 2, 3))
    lazy = da.from_array(x, chunks=(2, 1, 3))
    residual = x.tolist()
    for mine, its in (
        (fd.batch_norm(lazy, [0, 0], [1, 4], [2, 3], [1, 1]), fn.batch_norm(x, [0, 0], [1, 4], [2, 3], [1, 1])),
        (fd.layer_norm(lazy, 3, [1, 2, 3], residual=residual), fn.layer_norm(x, 3, [1, 2, 3], residual=residual)),
    ):
        np.testing.assert_array_equal(mine.compute(), its)
    with pytest.raises(TypeError, match="group_norm: channel_axis: expected an integer, got 'a'"):
        fd.group_norm(lazy, 1, channel_axis="a")


@pytest.mark.parametrize("ddof", [Fraction(1, 2), Decimal(1), np.float32(1), True])
def test_ddof_is_any_number(ddof, rng):
    x = draw(rng)
    check(fd.moments(da.from_array(x, chunks=4), 0, ddof=ddof), x, (0,), float(ddof))


def test_without_dask():
    assert output_of(WITHOUT_DASK) == "dask fusednorm.dask needs Dask: pip install 'fusednorm[dask]'"
