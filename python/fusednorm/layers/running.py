"""What the layers that may keep running statistics share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Container
from functools import cache
from typing import Any, ClassVar, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fusednorm.arrays import MOST_DIMS, Activation, Array, array_axis, as_array, sizes
from fusednorm.layers.base import Layer

SPATIAL = {0: (), 1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}

_ONE = np.ones((), np.bool_)  # which any integers can be added to; a Python number takes twice as long


@cache
def _most(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max)


class RunningNorm(Layer):
    """One weight, bias, running mean and running variance per channel."""

    _names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    _dims: ClassVar[tuple[int, ...]] = ()  # how many spatial dimensions; none: any number

    channel_axis: int
    eps: float
    bias: Array | None
    running_mean: Array | None
    running_var: Array | None
    num_batches_tracked: Array | None

    def __init__(
        self,
        num_features: SupportsIndex,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        *,
        bias: bool,
        dtype: DTypeLike,
        activation: Activation | None,
        channel_axis: Any,
    ) -> None:
        (self.num_features,) = sizes(f"{type(self).__name__}: num_features", [num_features])
        if self.num_features < 0:
            raise ValueError(f"{type(self).__name__}: num_features: expected a number >= 0, got {num_features}")
        super().__init__((self.num_features,), eps, activation, dtype)
        self.momentum, self.affine, self.track_running_stats = momentum, affine, track_running_stats
        self.channel_axis = channel_axis
        self.weight = self._filled("weight", 1, affine)
        self.bias = self._filled("bias", 0, affine, bias)
        self.running_mean = self._filled("running_mean", 0, track_running_stats)
        self.running_var = self._filled("running_var", 1, track_running_stats)
        self.num_batches_tracked = np.array(0, np.int64) if track_running_stats else None

    def __setattr__(self, name: str, value: object) -> None:
        if name == "channel_axis":
            value = array_axis(f"{type(self).__name__}: channel_axis", value)
            self._ranks = self._find_ranks(value)
        super().__setattr__(name, value)

    def _find_ranks(self, axis: int) -> Container[int]:
        """Return how many dimensions x may have, so that it has the channel axis."""
        least = max(axis + 1, -axis)
        if not self._dims:
            return range(max(2, least), MOST_DIMS + 1)
        ranks = [dims + 2 for dims in self._dims if dims + 2 >= least]
        if not ranks:
            name, most = type(self).__name__, self._dims[-1] + 2
            raise ValueError(f"{name}: channel_axis: expected an axis of an array of {most} dimensions, got {axis}")
        return ranks

    def reset_running_stats(self) -> None:
        """Forget what was tracked: mean 0, variance 1, no batches."""
        with self._lock:
            for name, value in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
                array = getattr(self, name)
                if array is not None:
                    array[...] = value

    def reset_parameters(self) -> None:
        """Set every weight to 1 and every bias to 0, and forget what was tracked."""
        super().reset_parameters()
        self.reset_running_stats()

    def extra_repr(self) -> str:
        """Return what stands between the parentheses of `repr`."""
        axis = f", channel_axis={self.channel_axis}" if self.channel_axis != 1 else ""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}{axis}"
        )

    def _wrong_shape(self, shape: tuple[int, ...]) -> ValueError:
        forms = [self._form(dims) for dims in self._dims if dims + 2 in self._ranks]
        expected = "shape " + " or ".join(forms)
        if not forms:
            expected = f"at least 2 dimensions and {self.num_features} channels along axis {self.channel_axis}"
        return ValueError(f"{type(self).__name__}: x: expected {expected}, got shape {shape}")

    def _form(self, dims: int) -> str:
        axes = ["N", *SPATIAL[dims]]
        axes.insert(self.channel_axis % (dims + 2), str(self.num_features))
        return f"({', '.join(axes)})"

    def _train(self, x: Array, residual: ArrayLike | None, out: Array | None) -> Array:
        """Normalize by the batch's statistics and update the running ones, one thread at a time."""
        if residual is not None:  # it may use this layer while it is read
            residual = as_array(f"{type(self).__name__}: residual", residual)
        with self._lock:
            counter, _, momentum = self._next_batch()
            if counter is None or x.size == 0:
                return self._update(x, momentum, residual, out)
            # Before the update, since Ctrl-C during it is raised once the running statistics have been written. One more, not
            # a number from before: a signal's handler may have counted too.
            counter += _ONE
            try:
                return self._update(x, momentum, residual, out)
            except Exception:
                counter -= _ONE
                raise

    def _next_batch(self) -> tuple[Array | None, int, float]:
        """Return the counter after its checks, what it will be, and the weight of this batch."""
        counter = self._counter()
        if counter is None:
            return None, 0, 0.0 if self.momentum is None else self.momentum
        name, batches = f"{type(self).__name__}: num_batches_tracked", counter.item()
        if not counter.flags.writeable:
            raise ValueError(f"{name}: expected an array that can be updated, got a read-only one")
        if not 0 <= batches < _most(counter.dtype):
            raise ValueError(f"{name}: expected a number from 0 on, below what {counter.dtype} ends with, got {batches}")
        return counter, batches + 1, 1 / (batches + 1) if self.momentum is None else self.momentum

    @abstractmethod
    def _counter(self) -> Array | None:
        """Return the counter that a call in training counts in."""

    @abstractmethod
    def _update(self, x: Array, momentum: float, residual: ArrayLike | None, out: Array | None) -> Array:
        """Call the function so that it updates the running statistics."""
