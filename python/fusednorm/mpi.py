"""Statistics shared by the processes of an MPI program. Needs mpi4py: ``fusednorm[mpi]``; it is imported at the first call.

States (see `fusednorm.states`) are reduced to rank 0 by an operation of MPI's that merges them, and sent back from there:
so every rank has the same bits, which MPI's own allreduce does not promise where rounding depends on the order.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fusednorm import _core
from fusednorm.arrays import Array
from fusednorm.functional import batch_norm
from fusednorm.running import RunningMoments
from fusednorm.states import STATE_VALUES

_NO_CHANNELS = -(2**62)


@cache
def merge_operation() -> tuple[Any, Any]:
    """Return the operation that merges states, and the datatype of one, which MPI does not cut."""
    from mpi4py import MPI

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
    return _allreduce("allreduce", stats, comm)


def _allreduce(function: str, stats: RunningMoments | None, comm: Any) -> RunningMoments:
    """Do what `allreduce` does; None says that this rank has failed, and must not leave the others waiting."""
    from mpi4py import MPI

    states, masked = (np.zeros((0, STATE_VALUES)), False) if stats is None else stats.pack()
    own = np.array([len(states), -len(states) if len(states) else _NO_CHANNELS, masked, stats is None], np.int64)
    most = np.empty_like(own)
    comm.Allreduce(own, most, MPI.MAX)
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
    return RunningMoments(stats.channel_axis).unpack(total, bool(most[2]))


class SyncBatchNorm:
    """Batch norm whose batch is what all ranks hold together, with the names of torch's layer.

    A training step equals that of `fusednorm.batch_norm` on the gathered batch, and leaves the same running statistics on
    every rank. Ranks may hold different numbers of samples, or none (an array with 0 samples, say). In eval mode nothing is
    sent.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats
        As for torch's ``BatchNorm2d``; ``momentum=None`` averages over all batches.
    comm
        An mpi4py communicator; None: ``MPI.COMM_WORLD``.
    bias
        False: no bias beside the weight.
    dtype
        Of the parameters and running statistics.
    activation
        As for `fusednorm.batch_norm`.
    channel_axis
        The axis of the channels; any number of dimensions from 2 on.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        comm: Any = None,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        activation: str | None = None,
        channel_axis: int = 1,
    ) -> None:
        self.num_features, self.eps, self.momentum, self.comm = num_features, eps, momentum, comm
        self.affine, self.track_running_stats = affine, track_running_stats
        self.activation, self.channel_axis, self.training = activation, channel_axis, True
        self.weight = np.ones(num_features, dtype) if affine else None
        self.bias = np.zeros(num_features, dtype) if affine and bias else None
        self.running_mean = np.zeros(num_features, dtype) if track_running_stats else None
        self.running_var = np.ones(num_features, dtype) if track_running_stats else None
        self.num_batches_tracked = np.zeros((), np.int64) if track_running_stats else None

    def train(self, mode: bool = True) -> SyncBatchNorm:
        """Set training mode; returns the layer."""
        self.training = mode
        return self

    def eval(self) -> SyncBatchNorm:
        """Set eval mode; returns the layer."""
        return self.train(False)

    def __call__(self, x: ArrayLike, *, residual: ArrayLike | None = None, out: Array | None = None) -> Array:
        """Normalize this rank's part of the batch.

        Raises
        ------
        RuntimeError
            On the ranks that have no error of their own, if another one has.
        ValueError
            For a shape that does not fit, or one value per channel in training, on all ranks together.
        """
        settings: dict[str, Any] = {"channel_axis": self.channel_axis, "residual": residual, "activation": self.activation}
        settings |= {"eps": self.eps, "out": out, "weight": self.weight, "bias": self.bias}
        if not self.training:
            mean, var = self.running_mean, self.running_var
            served: Array = batch_norm(x, mean, var, training=not self.track_running_stats, **settings)
            return served
        total = self._gathered(x)
        count = total.count
        assert isinstance(count, int)
        if count == 1:
            raise ValueError("SyncBatchNorm: x: expected more than one value per channel when training, got 1 on all ranks")
        y: Array = batch_norm(x, *((total.mean, total.var()) if count else (np.zeros(self.num_features),) * 2), **settings)
        if count:
            self._track(total)
        return y

    def _gathered(self, x: ArrayLike) -> RunningMoments:
        comm = self.comm
        if comm is None:
            from mpi4py import MPI

            comm = MPI.COMM_WORLD
        try:
            stats = RunningMoments(self.channel_axis).update(x)
            if stats.num_channels != self.num_features:
                raise ValueError(f"SyncBatchNorm: x: expected {self.num_features} channels, got {stats.num_channels}")
        except Exception:
            with suppress(RuntimeError):
                _allreduce("SyncBatchNorm", None, comm)
            raise
        return _allreduce("SyncBatchNorm", stats, comm)

    def _track(self, total: RunningMoments) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, batch in ((self.running_mean, total.mean), (self.running_var, total.var(ddof=1))):
            running[...] = (1 - momentum) * running.astype(np.float64) + momentum * batch
