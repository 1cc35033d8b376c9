"""Instance normalization layers."""

from __future__ import annotations

from collections.abc import Container
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fusednorm import functional
from fusednorm.arrays import Activation, Array, as_array, real_array
from fusednorm.layers.running import RunningNorm


class InstanceNorm(RunningNorm):
    r"""What `InstanceNorm1d`, `InstanceNorm2d` and `InstanceNorm3d` share.

    .. math::

        y = \frac{x - \mathrm{mean}_{n,c}}{\sqrt{\mathrm{var}_{n,c} + \mathrm{eps}}} \cdot \mathrm{weight}_c + \mathrm{bias}_c

    Mean and variance are those of each sample, also in evaluation, unless running statistics are kept. Parameters are those
    of `fusednorm.layers.BatchNorm`, with ``affine=False`` and ``track_running_stats=False`` by default. A sample without the
    axis N is taken too; `channel_axis` counts N, and with ``channel_axis=0`` there is none.

    ``num_batches_tracked`` counts only where it is needed, with ``momentum=None``; torch leaves it 0.

    Notes
    -----
    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization", 2016. See `fusednorm.instance_norm`.
    """

    def __init__(
        self,
        num_features: SupportsIndex,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
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

    def _find_ranks(self, axis: int) -> Container[int]:
        batched = self._dims[0] + 2
        if not -batched < axis < batched:
            raise ValueError(
                f"{type(self).__name__}: channel_axis: expected 0 for a sample without N, or another axis than N's of an array "
                f"of {batched} dimensions, got {axis}"
            )
        return (batched - 1,) if axis == 0 else (batched,)

    def __call__(self, x: ArrayLike, *, residual: ArrayLike | None = None, out: Array | None = None) -> Array:
        """Return ``activation(norm(x) * weight + bias + residual)``, in `out` if it is given."""
        array = x if type(x) is np.ndarray else as_array(f"{type(self).__name__}: x", x)
        if array.ndim not in self._ranks or array.shape[self.channel_axis] != self.num_features:
            return self._single(self._read(array), residual, out)  # what is no single sample raises
        if self.training and self.track_running_stats:
            return self._train(array, residual, out)
        return self._call(array, not self.track_running_stats, 0.0, residual, out)

    def _single(self, x: Array, residual: ArrayLike | None, out: Array | None) -> Array:
        """Normalize one sample, as a batch of one."""
        residual = None if residual is None else self._shaped_like(x, "residual", residual)[None]
        into = self._shaped_like(x, "out", out)[None] if isinstance(out, np.ndarray) else out
        result = self(x[None], residual=residual, out=into)
        return result[0] if out is None else out

    def _shaped_like(self, x: Array, argument: str, value: ArrayLike) -> Array:
        where = f"{type(self).__name__}: {argument}"
        array = as_array(where, value)
        if array.shape != x.shape:
            raise ValueError(f"{where}: expected the shape of x, {x.shape}, got shape {array.shape}")
        return array

    def _read(self, x: ArrayLike) -> Array:
        array = real_array(f"{type(self).__name__}: x", x)
        shape = array.shape if array.ndim in self._ranks or not self._is_single(array) else (1, *array.shape)
        if len(shape) not in self._ranks or shape[self.channel_axis] != self.num_features:
            raise self._wrong_shape(array.shape)
        return array

    def _is_single(self, x: Array) -> bool:
        return x.ndim == self._dims[0] + 1 and self.channel_axis != 0

    def _wrong_shape(self, shape: tuple[int, ...]) -> ValueError:
        form = self._form(self._dims[0])
        single = form.replace("N, ", "")
        expected = single if self.channel_axis == 0 else f"{form} or {single}"
        return ValueError(f"{type(self).__name__}: x: expected shape {expected}, got shape {shape}")

    def _counter(self) -> Array | None:
        return self.num_batches_tracked if self.momentum is None else None

    def _update(self, x: Array, momentum: float, residual: ArrayLike | None, out: Array | None) -> Array:
        return self._call(x, True, momentum, residual, out)

    def _call(self, x: Array, by_sample: bool, momentum: float, residual: ArrayLike | None, out: Array | None) -> Array:
        tracked = self.track_running_stats
        return functional.instance_norm(
            x,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            by_sample,
            momentum,
            self.eps,
            channel_axis=self.channel_axis,
            residual=residual,
            activation=self.activation,
            out=out,
        )

    def backward(self, grad: ArrayLike, x: ArrayLike) -> tuple[Array, Array, Array]:
        """Return ``(grad_x, grad_weight, grad_bias)`` of the norm alone: see `fusednorm.instance_norm_backward`."""
        by_sample = self.training or not self.track_running_stats
        statistics = (None, None) if by_sample else (self.running_mean, self.running_var)
        values = self._read(x)
        slopes, is_single = self._shaped_like(values, "grad", grad), self._is_single(values)
        if is_single:
            values, slopes = values[None], slopes[None]
        grad_x, grad_weight, grad_bias = functional.instance_norm_backward(
            slopes, values, *statistics, self.weight, by_sample, self.eps, channel_axis=self.channel_axis
        )
        return grad_x[0] if is_single else grad_x, grad_weight, grad_bias


class InstanceNorm1d(InstanceNorm):
    """Instance normalization of ``(N, C, L)`` and ``(C, L)``: see `fusednorm.layers.InstanceNorm`.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.InstanceNorm1d(2, eps=0.75)(np.array([[1.0, 3.0], [5.0, 5.0]]))
    array([[-0.75592895,  0.75592895],
           [ 0.        ,  0.        ]])
    """

    _dims = (1,)


class InstanceNorm2d(InstanceNorm):
    """Instance normalization of ``(N, C, H, W)`` and ``(C, H, W)``: see `fusednorm.layers.InstanceNorm`.

    Examples
    --------
    >>> import fusednorm as fn
    >>> fn.InstanceNorm2d(3)
    InstanceNorm2d(3, eps=1e-05, momentum=0.1, affine=False, bias=False, track_running_stats=False)
    """

    _dims = (2,)


class InstanceNorm3d(InstanceNorm):
    """Instance normalization of ``(N, C, D, H, W)`` and ``(C, D, H, W)``: see `fusednorm.layers.InstanceNorm`.

    Examples
    --------
    >>> import fusednorm as fn
    >>> list(fn.InstanceNorm3d(3, affine=True).state_dict())
    ['weight', 'bias']
    """

    _dims = (3,)
