"""Batch normalization layers."""

from __future__ import annotations

from typing import Any, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fusednorm import _core, functional
from fusednorm.arrays import Activation, Array, real_array
from fusednorm.layers.running import RunningNorm
from fusednorm.running import RunningMoments

Self = TypeVar("Self", bound="BatchNorm")


class BatchNorm(RunningNorm):
    r"""Batch normalization of an array of two or more dimensions.

    .. math:: y = \frac{x - \mathrm{mean}_c}{\sqrt{\mathrm{var}_c + \mathrm{eps}}} \cdot \mathrm{weight}_c + \mathrm{bias}_c

    In training, mean and variance are those of the batch, and the running ones follow; in evaluation they are the running
    ones, or the batch's where none are kept. `BatchNorm1d`, `BatchNorm2d` and `BatchNorm3d` also check the dimensions.

    Parameters
    ----------
    num_features
        The number of channels C.
    eps
        Added to the variance.
    momentum
        The weight of the new batch in the running statistics. None: the average over all batches so far.
    affine
        Whether there are weights (1 at first) and biases (0 at first).
    track_running_stats
        Whether there are running statistics. Their dtype is float32, or float64 if `dtype` is.
    bias
        Whether there are biases, if `affine`.
    dtype
        Of weight and bias: float16, bfloat16 (``ml_dtypes``), float32 or float64.
    activation
        Applied to the result in the same pass: see `fusednorm.batch_norm`.
    channel_axis
        The axis of the channels: -1 for ``(N, H, W, C)``.

    Raises
    ------
    ValueError
        In a call: for a shape that does not fit, or one value per channel in training. Nothing has changed then, neither
        a statistic nor the counter.
    TypeError
        In a call: for a dtype that is not supported.

    Notes
    -----
    Ioffe and Szegedy, "Batch Normalization", 2015. See `fusednorm.batch_norm`. An empty batch leaves the statistics alone.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> layer = fn.BatchNorm1d(2, eps=0)
    >>> layer(np.array([[1.0, 10.0], [3.0, 30.0]]))
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> layer.running_mean
    array([0.2, 2. ], dtype=float32)
    >>> layer.eval()
    BatchNorm1d(2, eps=0, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    def __init__(
        self,
        num_features: SupportsIndex,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        activation: Activation | None = None,
        channel_axis: SupportsIndex = 1,
    ) -> None:
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            bias=bias,
            dtype=dtype,
            activation=activation,
            channel_axis=channel_axis,
        )

    @classmethod
    def from_moments(cls: type[Self], stats: RunningMoments, *, ddof: float = 0, **options: Any) -> Self:
        """Return a layer in evaluation mode whose running statistics are those of the data seen ("precise" batch norm).

        Parameters
        ----------
        stats
            What was collected; its channels and its channel axis are the layer's, unless `options` name them. Where all
            values were pooled, the layer has one channel, along axis 1.
        ddof
            0: the variance of the data seen, so that the layer gives it unit variance; 1: the unbiased one.
        **options
            For the layer.

        Raises
        ------
        ValueError
            Where a channel has seen no value, or the layer would keep no running statistics.

        Examples
        --------
        >>> import numpy as np, fusednorm as fn
        >>> stats = fn.RunningMoments().update(np.array([[1.0, 10.0], [3.0, 30.0]]))
        >>> fn.BatchNorm1d.from_moments(stats).running_mean
        array([ 2., 20.], dtype=float32)
        """
        if not isinstance(stats, RunningMoments):
            raise TypeError(f"{cls.__name__}.from_moments: stats: expected RunningMoments, got {type(stats).__name__}")
        if stats.num_channels == 0 or np.any(np.asarray(stats.count) == 0):
            raise ValueError(f"{cls.__name__}.from_moments: stats: expected values in every channel, got none")
        axis = 1 if stats.channel_axis is None else stats.channel_axis
        layer = cls(**({"num_features": stats.num_channels, "channel_axis": axis} | options))
        if not layer.track_running_stats:
            raise ValueError(f"{cls.__name__}.from_moments: track_running_stats: expected True, got False")
        mean, var = np.atleast_1d(stats.mean, stats.var(ddof))  # of all values, those of one channel
        layer.load_state_dict({"running_mean": mean, "running_var": var}, strict=False)
        return layer.eval()

    def __call__(self, x: ArrayLike, *, residual: ArrayLike | None = None, out: Array | None = None) -> Array:
        """Return ``activation(norm(x) * weight + bias + residual)``, in `out` if it is given."""
        if self.training:
            if self.track_running_stats:
                return self._train(self._read(x), residual, out)
            return self._update(self._read(x), 0.0, residual, out)
        mean, var = self.running_mean, self.running_var
        array: Any = x
        try:
            # With a mean, the function checks the number of channels. A small array would notice a second check.
            if mean is None or array.ndim not in self._ranks:
                array = self._read(x)
        except AttributeError:
            array = self._read(x)
        try:
            result: Array = _core.batch_norm(
                array,
                mean,
                var,
                self.weight,
                self.bias,
                mean is None and var is None,
                0.0,
                self.eps,
                self.channel_axis,
                residual,
                self.activation,
                None,
                out,
                False,
            )
        except ValueError as error:
            raise self._explain(x, error) from None
        return result

    def _read(self, x: ArrayLike) -> Array:
        array = real_array(f"{type(self).__name__}: x", x)
        shape = array.shape
        if len(shape) not in self._ranks or shape[self.channel_axis] != self.num_features:
            raise self._wrong_shape(shape)
        return array

    def _counter(self) -> Array | None:
        return self.num_batches_tracked

    def _update(self, x: Array, momentum: float, residual: ArrayLike | None, out: Array | None) -> Array:
        tracked = self.track_running_stats
        return functional.batch_norm(
            x,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            True,
            momentum,
            self.eps,
            channel_axis=self.channel_axis,
            residual=residual,
            activation=self.activation,
            out=out,
        )

    def backward(self, grad: ArrayLike, x: ArrayLike) -> tuple[Array, Array, Array]:
        """Return ``(grad_x, grad_weight, grad_bias)`` of the norm alone: see `fusednorm.batch_norm_backward`."""
        mean, var = self.running_mean, self.running_var
        by_batch = self.training or (mean is None and var is None)
        statistics = (None, None) if by_batch else (mean, var)
        return functional.batch_norm_backward(
            grad, self._read(x), *statistics, self.weight, by_batch, self.eps, channel_axis=self.channel_axis
        )


class BatchNorm1d(BatchNorm):
    """Batch normalization of ``(N, C)`` and ``(N, C, L)``: see `fusednorm.layers.BatchNorm`.

    Examples
    --------
    >>> import fusednorm as fn
    >>> fn.BatchNorm1d(16)
    BatchNorm1d(16, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    _dims = (0, 1)


class BatchNorm2d(BatchNorm):
    """Batch normalization of ``(N, C, H, W)``: see `fusednorm.layers.BatchNorm`.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> layer = fn.BatchNorm2d(3, channel_axis=-1).eval()
    >>> layer(np.ones((8, 32, 32, 3), np.float32)).shape
    (8, 32, 32, 3)
    """

    _dims = (2,)


class BatchNorm3d(BatchNorm):
    """Batch normalization of ``(N, C, D, H, W)``: see `fusednorm.layers.BatchNorm`.

    Examples
    --------
    >>> import fusednorm as fn
    >>> sorted(fn.BatchNorm3d(4, affine=False).state_dict())
    ['num_batches_tracked', 'running_mean', 'running_var']
    """

    _dims = (3,)
