"""Run by test_mpi.py on four ranks: each knows the whole batch, holds its part, and compares."""

import fusednorm as fn
import numpy as np
import oracle
from fusednorm.layers import BatchNorm
from fusednorm.mpi import SyncBatchNorm, allreduce
from mpi4py import MPI

COMM = MPI.COMM_WORLD
SPLITS = ((5, 0, 2, 9), (0, 0, 0, 2), (1, 1, 1, 1), (4, 4, 4, 4))


def part(x, sizes):
    """Return this rank's samples."""
    start = sum(sizes[: COMM.rank])
    return x[start : start + sizes[COMM.rank]]


def same_everywhere(*arrays):
    """Whether all ranks have the same bits."""
    return len(set(COMM.allgather(b"".join(np.asarray(a).tobytes() for a in arrays)))) == 1


def raises(error, text, call):
    """Whether the call raises this error."""
    try:
        call()
    except error as e:
        return text in str(e)
    return False


def check_allreduce():
    rng = np.random.default_rng(0)
    for sizes in SPLITS:
        for channels in (1, 3, 20_000):
            x = rng.normal(1e6, 1, (sum(sizes), channels, 2))
            mine, stats = part(x, sizes), fn.RunningMoments()
            if len(mine):
                stats.update(mine)
            total, whole = allreduce(stats, COMM), fn.RunningMoments().update(x)
            assert total.count == whole.count
            assert stats.count == 2 * len(mine)
            np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-15)
            np.testing.assert_allclose(total.var(), whole.var(), rtol=1e-12)
            assert same_everywhere(*total.state_dict().values())
    assert allreduce(fn.RunningMoments(), COMM).count == 0


def check_masks_and_large_counts():
    x = np.full((2, 3), float(COMM.rank))
    total = allreduce(fn.RunningMoments().update(x, where=np.arange(3) <= COMM.rank), COMM)
    np.testing.assert_array_equal(total.count, [8, 6, 4])
    np.testing.assert_allclose(total.mean, [1.5, 2, 2.5], rtol=1e-15)
    large = fn.RunningMoments().update(np.ones((1, 1)))
    for _ in range(60):
        large.merge(large)
    large.update(np.ones((1 + COMM.rank, 1)))
    assert allreduce(large, COMM).count == 4 * 2**60 + 10


def check_layer(dtype, channel_axis, momentum, sizes):
    rng = np.random.default_rng(1)
    layer = SyncBatchNorm(3, momentum=momentum, channel_axis=channel_axis, dtype=dtype)
    layer.weight[:], layer.bias[:] = (2, 3, 4), (5, 6, 7)
    mean, var = np.zeros(3, dtype), np.ones(3, dtype)
    for step in range(3):
        x = rng.normal(100, 3, (sum(sizes), 3, 4)).astype(dtype)
        x = x if channel_axis == 1 else np.ascontiguousarray(np.moveaxis(x, 1, -1))
        factor = 1 / (step + 1) if momentum is None else momentum
        wanted = fn.batch_norm(x, mean, var, layer.weight, layer.bias, True, factor, channel_axis=channel_axis)
        got = layer(part(x, sizes))
        assert got.dtype == dtype
        # Deviations below 5 and weights up to 4; of float64 the mean, 33 deviations, is handed on as one number.
        unit = oracle.unit(np.float32) if dtype == "f4" else 33 * np.finfo(dtype).eps
        np.testing.assert_allclose(got, part(wanted, sizes), rtol=0, atol=unit * 5 * 4)
        np.testing.assert_allclose(layer.running_mean, mean, rtol=2 * np.finfo(dtype).eps)
        np.testing.assert_allclose(layer.running_var, var, rtol=8 * np.finfo(dtype).eps)
        assert same_everywhere(layer.running_mean, layer.running_var)
    assert layer.num_batches_tracked == 3
    evaluated = layer.eval()(part(x, sizes))  # sends nothing, so the ranks need not agree
    np.testing.assert_array_equal(
        evaluated,
        fn.batch_norm(
            part(x, sizes),
            mean * 0 + layer.running_mean,
            layer.running_var,
            layer.weight,
            layer.bias,
            channel_axis=channel_axis,
        ),
    )


def check_backward(dtype, channel_axis, sizes):
    rng = np.random.default_rng(2)
    layer, whole = (make(3, channel_axis=channel_axis, dtype=dtype) for make in (SyncBatchNorm, BatchNorm))
    layer.weight[:] = whole.weight[:] = (2, -3, 4)
    x, grad = rng.normal(20, 3, (sum(sizes), 3, 4)).astype(dtype), rng.normal(0, 1, (sum(sizes), 3, 4)).astype(dtype)
    if channel_axis == -1:
        x, grad = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, grad))
    wanted = whole.backward(grad, x)
    got = layer.backward(part(grad, sizes), part(x, sizes))
    shares = [COMM.allreduce(share.astype(np.float64)) for share in got[1:]]
    assert [a.dtype for a in got] == [np.dtype(dtype)] * 3
    # Terms up to 4 * 5 * 3; sums of 4 times as many values as there are samples.
    unit = 16 * np.finfo(dtype).eps * 60
    np.testing.assert_allclose(got[0], part(wanted[0], sizes), rtol=0, atol=unit)
    for share, value in zip(shares, wanted[1:], strict=True):
        np.testing.assert_allclose(share, value, rtol=0, atol=unit * len(x))
    layer.eval()
    same = BatchNorm(3, channel_axis=channel_axis, dtype=dtype).eval()
    same.weight[:] = layer.weight
    for a, b in zip(*(each.backward(part(grad, sizes), part(x, sizes)) for each in (layer, same)), strict=True):
        np.testing.assert_array_equal(a, b)


def check_half_precision():
    """A gradient whose two terms nearly cancel is rounded once."""
    rng = np.random.default_rng(3)
    x, grad = rng.normal(0, 1, (20, 3, 4)).astype("f2"), rng.normal(30, 1, (20, 3, 4)).astype("f2")
    layer, whole = (make(3, dtype="f2") for make in (SyncBatchNorm, BatchNorm))
    sizes = (5, 5, 5, 5)
    wanted, got = whole.backward(grad, x)[0], layer.backward(part(grad, sizes), part(x, sizes))[0]
    assert got.dtype == np.float16
    # Float32 terms of size 30, then one rounding of what is left, below 8.
    np.testing.assert_allclose(got, part(wanted, sizes), rtol=0, atol=64 * 2.0**-23 * 30 + 8 * 2.0**-11)


def check_options_may_change():
    """As in BatchNorm: what is tracked, and what is not."""
    x = np.random.default_rng(4).normal(3, 2, (4, 2))
    for change in (
        {"running_var": None},
        {"running_mean": None},
        {"track_running_stats": False},
        {"num_batches_tracked": None},
    ):
        layer, whole = (make(2, dtype="f8") for make in (SyncBatchNorm, BatchNorm))
        for each, batch in ((layer, x), (whole, np.concatenate([x] * 4))):
            vars(each).update(change)
            each(batch)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            got, wanted = (getattr(each, name) for each in (layer, whole))
            assert (got is None) == (wanted is None)
            if got is not None:
                np.testing.assert_allclose(got, wanted, rtol=1e-12)
    with np.errstate(all="raise"):
        SyncBatchNorm(1)(np.array([[1e300], [2e300]]))


def check_dtypes_without_parameters():
    layer, alone = (make(3, affine=False) for make in (SyncBatchNorm, BatchNorm))
    for dtype in ("u1", "f2", "f4", "f8"):
        x = np.arange(24).reshape(4, 3, 2).astype(dtype)
        got, wanted = (each.backward(x, x) for each in (layer, alone))
        assert [a.dtype for a in got] == [a.dtype for a in wanted]


def check_no_warnings():
    """Where the functions are silent, so are the layers; here NumPy's errors would raise."""
    rng = np.random.default_rng(5)
    for dtype, eps, x, grad in (
        ("f4", 1e-5, rng.random((4, 2)), np.full((4, 2), 3e38)),
        ("f8", 0, np.ones((4, 2)), np.ones((4, 2))),
        ("f8", 1e-5, np.full((4, 2), np.inf), np.full((4, 2), np.inf)),
        ("f2", 1e-5, 6e4 * rng.random((4, 2)), np.full((4, 2), 6e4)),
    ):
        with np.errstate(all="raise"):
            got = SyncBatchNorm(2, eps, dtype=dtype).backward(grad.astype(dtype), x.astype(dtype))
        assert [a.dtype for a in got] == [dtype] * 3


def check_errors():
    odd = COMM.rank == 2
    for comm in ("x", MPI.INFO_NULL, MPI.COMM_NULL):
        text = f"comm: expected an mpi4py Intracomm, got {type(comm).__name__}"
        assert raises(TypeError, f"SyncBatchNorm: {text}", lambda comm=comm: SyncBatchNorm(2, comm=comm)(np.ones((4, 2))))
        assert raises(TypeError, f"allreduce: {text}", lambda comm=comm: allreduce(fn.RunningMoments(), comm))
    assert raises(TypeError, "allreduce: comm", lambda: allreduce(fn.RunningMoments(), None))
    assert raises(
        ValueError,
        "channels on every rank, got 2 and 3",
        lambda: allreduce(fn.RunningMoments().update(np.ones((4, 2 + odd))), COMM),
    )
    layer = SyncBatchNorm(2)
    before = layer.running_mean.copy()
    error, text = (TypeError, "complex") if odd else (RuntimeError, "another rank failed")
    assert raises(error, text, lambda: layer(np.ones((4, 2), complex if odd else float)))
    error, text = (ValueError, "2 channels along axis 1, got shape (4, 3)") if odd else (RuntimeError, "another rank failed")
    assert raises(error, text, lambda: layer(np.ones((4, 2 + odd))))
    assert raises(ValueError, "more than one value per channel", lambda: layer(np.ones((int(odd), 2))))
    error, text = (ValueError, "out: expected shape") if odd else (RuntimeError, "another rank failed")
    assert raises(error, text, lambda: layer(np.ones((4, 2)), out=np.empty((3, 3) if odd else (4, 2))))
    error, text = (ValueError, "residual: expected the shape") if odd else (RuntimeError, "another rank failed")
    assert raises(error, text, lambda: layer(np.ones((4, 2)), residual=np.ones((3, 3) if odd else (4, 2))))
    error, text = (ValueError, "residual: expected an array or what numpy") if odd else (RuntimeError, "another rank failed")
    assert raises(error, text, lambda: layer(np.ones((4, 2)), residual=[[1], [1, 2]] if odd else None))
    assert layer.num_batches_tracked == 0
    error, text = (ValueError, "grad") if odd else (RuntimeError, "another rank failed")
    assert raises(error, text, lambda: layer.backward(np.ones((4, 2 + odd)), np.ones((4, 2))))
    layer.momentum = "x" if odd else 0.1
    error, text = (TypeError, "SyncBatchNorm: momentum: expected a number") if odd else (RuntimeError, "another rank failed")
    assert raises(error, text, lambda: layer(np.ones((4, 2))))
    layer.momentum = 0.1
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        getattr(layer, name).flags.writeable = not odd
        error, text = (ValueError, f"{name}: expected an array that can be updated") if odd else (RuntimeError, "another rank")
        assert raises(error, text, lambda: layer(np.ones((4, 2))))
        getattr(layer, name).flags.writeable = True
    assert layer(np.ones((0, 2))).shape == (0, 2)
    assert layer.backward(np.ones((0, 2)), np.ones((0, 2)))[0].shape == (0, 2)
    np.testing.assert_array_equal(layer.running_mean, before)
    assert layer.num_batches_tracked == 0
    assert layer(np.ones((2, 2))).shape == (2, 2)


def main():
    """Run every check on all ranks."""
    assert COMM.size == 4
    check_allreduce()
    check_masks_and_large_counts()
    for dtype in ("f4", "f8"):
        for channel_axis in (1, -1):
            for momentum in (0.1, None):
                for sizes in SPLITS:
                    check_layer(dtype, channel_axis, momentum, sizes)
            for sizes in SPLITS:
                check_backward(dtype, channel_axis, sizes)
    check_half_precision()
    check_options_may_change()
    check_dtypes_without_parameters()
    check_no_warnings()
    check_errors()
    COMM.Barrier()
    if COMM.rank == 0:
        print("fine")


if __name__ == "__main__":
    main()
