"""Statistics shared by the processes of an MPI program. Needs mpi4py: ``fusednorm[mpi]``; it is imported at the first call.

States (see `fusednorm.states`) are reduced to rank 0 by an operation of MPI's that merges them, and sent back from there:
so every rank has the same bits, which MPI's own allreduce does not promise where rounding depends on the order.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fusednorm import _core, functional
from fusednorm.arrays import Activation, Array, as_array, is_float, number
from fusednorm.layers import BatchNorm
from fusednorm.running import RunningMoments
from fusednorm.states import STATE_VALUES, Floats

_NO_CHANNELS = -(2**62)


def _mpi() -> Any:
    try:
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("fusednorm.mpi needs mpi4py: pip install 'fusednorm[mpi]'", name="mpi4py") from error
    return MPI


@cache
def merge_operation() -> tuple[Any, Any]:
    """Return the operation that merges states, and the datatype of one, which MPI does not cut."""
    MPI = _mpi()

    def merge(source: Any, target: Any, datatype: Any) -> None:
        states, into = (np.frombuffer(buffer, np.float64).reshape(-1, STATE_VALUES) for buffer in (source, target))
        _core.merge(into, states)

    return MPI.Op.Create(merge, commute=True), MPI.DOUBLE.Create_contiguous(STATE_VALUES).Commit()


def allreduce(stats: RunningMoments, comm: Any) -> RunningMoments:
    """Return the merged statistics of all ranks, with the same bits on each of them.

    Parameters
    ----------
    stats
        This rank's; one that has seen nothing is as good as any other. It stays as it is.
    comm
        An mpi4py communicator. Every rank of it must call this.

    Raises
    ------
    TypeError
        If `stats` or `comm` is something else.
    ValueError
        If the ranks' numbers of channels differ; on every rank.

    Examples
    --------
    Run by ``mpiexec -n 4 python program.py``:

    >>> from mpi4py import MPI  # doctest: +SKIP
    >>> total = fusednorm.mpi.allreduce(stats, MPI.COMM_WORLD)  # doctest: +SKIP
    """
    if not isinstance(stats, RunningMoments):
        raise TypeError(f"allreduce: stats: expected RunningMoments, got {type(stats).__name__}")
    return _allreduce("allreduce", stats, _communicator("allreduce", comm))


def _communicator(function: str, comm: Any) -> Any:
    if not isinstance(comm, _mpi().Intracomm):
        raise TypeError(f"{function}: comm: expected an mpi4py Intracomm, got {type(comm).__name__}")
    return comm


def _allreduce(function: str, stats: RunningMoments | None, comm: Any) -> RunningMoments:
    """Do what `allreduce` does; None says that this rank has failed, and must not leave the others waiting."""
    states, masked = (np.zeros((0, STATE_VALUES)), False) if stats is None else stats._pack()
    own = np.array([len(states), -len(states) if len(states) else _NO_CHANNELS, masked, stats is None], np.int64)
    most = np.empty_like(own)
    comm.Allreduce(own, most, _mpi().MAX)
    channels, least = int(most[0]), -int(most[1])
    if most[3]:
        raise RuntimeError(f"{function}: another rank failed")
    if channels not in (least, 0):
        raise ValueError(f"{function}: stats: expected as many channels on every rank, got {least} and {channels}")
    if channels and not len(states):
        states = np.zeros((channels, STATE_VALUES))
    operation, datatype = merge_operation()
    total = np.empty_like(states)
    comm.Reduce([states, channels, datatype], [total, channels, datatype], operation, root=0)
    comm.Bcast([total, channels, datatype], root=0)
    assert stats is not None
    return RunningMoments(stats.channel_axis)._unpack(total, bool(most[2]))


class SyncBatchNorm(BatchNorm):
    """Batch norm whose batch is what all ranks hold together, with the names of torch's layer.

    A training step equals that of `fusednorm.BatchNorm2d` on the gathered batch, and leaves the same running statistics on
    every rank. Ranks may hold different numbers of samples, or none (an array with 0 samples, say). In evaluation nothing is
    sent. In training, a call and `backward` are steps of all ranks together.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, bias, dtype, activation, channel_axis
        As for `fusednorm.layers.BatchNorm`.
    comm
        An mpi4py communicator; None: ``MPI.COMM_WORLD``.
    """

    def __init__(
        self,
        num_features: SupportsIndex,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        comm: Any = None,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        activation: Activation | None = None,
        channel_axis: SupportsIndex = 1,
    ) -> None:
        options: dict[str, Any] = {"bias": bias, "dtype": dtype, "activation": activation, "channel_axis": channel_axis}
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)
        self.comm = comm

    def __call__(self, x: ArrayLike, *, residual: ArrayLike | None = None, out: Array | None = None) -> Array:
        """Normalize this rank's part of the batch.

        Raises
        ------
        RuntimeError
            On the ranks that have no error of their own, if another one has. No rank has updated a running statistic then;
            `out` may have been written, where the other rank's `out` or `residual` was wrong.
        ValueError
            For a shape that does not fit, or one value per channel in training, on all ranks together.
        """
        if not self.training:
            return super().__call__(x, residual=residual, out=out)
        values, added, total = self._gathered(x, residual)
        if total.count == 1:
            raise ValueError("SyncBatchNorm: x: expected more than one value per channel when training, got 1 on all ranks")
        options: dict[str, Any] = {"eps": self.eps, "channel_axis": self.channel_axis, "activation": self.activation}
        options |= {"residual": added, "out": out}
        failed, any_failed = np.ones(1), np.empty(1)
        with self._lock:
            try:
                track = self._updates(total)
                statistics = _statistics(total)
                y: Array = functional.batch_norm(values, *statistics, self.weight, self.bias, **options)
                failed[0] = 0
            finally:
                self._own_communicator().Allreduce(failed, any_failed)
            if any_failed[0]:
                raise RuntimeError("SyncBatchNorm: another rank failed")
            for array, values in track:
                array[...] = values
        return y

    def backward(self, grad: ArrayLike, x: ArrayLike) -> tuple[Array, Array, Array]:
        """Return ``(grad_x, grad_weight, grad_bias)`` of the norm alone, the last two this rank's shares of the sums.

        As in torch, those are added up over the ranks with the other gradients.
        """
        if not self.training:
            return super().backward(grad, x)
        values, _, total = self._gathered(x)
        mean, var = _statistics(total)
        weight = np.ones(self.num_features) if self.weight is None else self.weight.astype(np.float64)
        is_half = values.dtype.itemsize == 2 and is_float(values.dtype)
        options: dict[str, Any] = {"eps": self.eps, "channel_axis": self.channel_axis}
        own = np.zeros((3, self.num_features))  # shares of the two gradients, and whether this rank has failed
        try:
            # grad_x is a difference, which may be small: it is rounded once.
            wide = values.astype(np.float32) if is_half else values
            # With constant statistics. What flows through them is (mean(grad) + xhat mean(grad xhat)) weight rstd: a norm of x.
            grad_x, own[0], own[1] = functional.batch_norm_backward(grad, wide, mean, var, weight, **options)
        except Exception:
            own[2] = 1
            raise
        finally:
            sums = np.empty_like(own)
            self._own_communicator().Allreduce(own, sums)
        if sums[2].any():
            raise RuntimeError("SyncBatchNorm.backward: another rank failed")
        dtype = grad_x.dtype if self.weight is None else self.weight.dtype
        with np.errstate(all="ignore"):
            by_weight, by_bias = sums[:2] * weight / np.sqrt(var + self.eps) / max(int(total.count), 1)
            grad_x -= functional.batch_norm(wide, mean, var, by_weight, by_bias, dtype=grad_x.dtype, **options)
            return grad_x.astype(values.dtype) if is_half else grad_x, own[0].astype(dtype), own[1].astype(dtype)

    def _own_communicator(self) -> Any:
        return _mpi().COMM_WORLD if self.comm is None else _communicator("SyncBatchNorm", self.comm)

    def _gathered(self, x: ArrayLike, residual: ArrayLike | None = None) -> tuple[Array, Array | None, RunningMoments]:
        """Return x and the residual as arrays, and the statistics of all ranks' arrays."""
        comm = self._own_communicator()
        try:
            values = self._read(x)
            added = None if residual is None else as_array("SyncBatchNorm: residual", residual)
            stats = RunningMoments(self.channel_axis).update(values)
        except Exception:
            with suppress(RuntimeError):
                _allreduce("SyncBatchNorm", None, comm)
            raise
        return values, added, _allreduce("SyncBatchNorm", stats, comm)

    def _updates(self, total: RunningMoments) -> list[tuple[Array, Any]]:
        """Return what a step writes, and into which arrays, after all checks."""
        if not self.track_running_stats or total.count == 0:
            return []
        counter, batches, momentum = self._next_batch()
        momentum = number("SyncBatchNorm: momentum", momentum)
        updates: list[tuple[Array, Any]] = [] if counter is None else [(counter, batches)]
        for name, batch in (("running_mean", total.mean), ("running_var", total.var(ddof=1))):
            running = getattr(self, name)
            if running is None:
                continue
            if not running.flags.writeable:
                raise ValueError(f"SyncBatchNorm: {name}: expected an array that can be updated in place, got a read-only one")
            with np.errstate(all="ignore"):
                new = (1 - momentum) * running.astype(np.float64) + momentum * batch
                updates.append((running, new.astype(running.dtype)))
        return updates


def _statistics(total: RunningMoments) -> tuple[Floats, Floats]:
    """Mean and variance, as plain numbers where there is no value."""
    mean, var = total.mean, total.var()
    return (mean, var) if total.count else (np.zeros_like(mean), np.zeros_like(var))
