"""The layers without running statistics: layer, RMS and group norm. Training and evaluation are the same to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fusednorm import _core, functional
from fusednorm.arrays import Activation, Array, array_axis, as_array, integer, sizes
from fusednorm.layers.base import Layer


class RowNorm(Layer):
    """Weights, and maybe biases, per value of the last dimensions."""

    def __init__(
        self,
        normalized_shape: SupportsIndex | Sequence[SupportsIndex],
        eps: float | None,
        elementwise_affine: bool,
        dtype: DTypeLike,
        activation: Activation | None,
    ) -> None:
        shape: Any = normalized_shape
        self.normalized_shape: tuple[int, ...] = shape
        super().__init__(self.normalized_shape, eps, activation, dtype)
        self.elementwise_affine = elementwise_affine
        self.weight = self._filled("weight", 1, elementwise_affine)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "normalized_shape":
            where, given = f"{type(self).__name__}: normalized_shape", cast(Any, value)
            is_text = isinstance(given, str | bytes | bytearray)  # whose elements may be integers
            is_sequence = (isinstance(given, Sequence) and not is_text) or getattr(given, "ndim", 0) == 1
            value = found = sizes(where, given if is_sequence else (given,))
            if min(found, default=-1) < 0:
                raise ValueError(f"{where}: expected one or more sizes, got {given}")
        super().__setattr__(name, value)

    def _read(self, x: ArrayLike) -> Array:
        array = as_array(f"{type(self).__name__}: x", x)
        if array.shape[-len(self.normalized_shape) :] != self.normalized_shape:
            form = ", ".join(map(str, self.normalized_shape))
            raise ValueError(f"{type(self).__name__}: x: expected shape (*, {form}), got shape {array.shape}")
        return array


class LayerNorm(RowNorm):
    r"""Normalization of the last dimensions by their mean and variance.

    .. math:: y = \frac{x - \mathrm{mean}}{\sqrt{\mathrm{var} + \mathrm{eps}}} \cdot \mathrm{weight} + \mathrm{bias}

    Parameters
    ----------
    normalized_shape
        The last dimension, or a sequence of the last dimensions, of x.
    eps
        Added to the variance.
    elementwise_affine
        Whether there are weights (1 at first) and biases (0 at first), of shape `normalized_shape`.
    bias
        Whether there are biases, if `elementwise_affine`.
    dtype
        Of weight and bias: float16, bfloat16 (``ml_dtypes``), float32 or float64.
    activation
        Applied to the result in the same pass: see `fusednorm.layer_norm`.

    Raises
    ------
    ValueError
        For a shape that does not fit.
    TypeError
        For a dtype that is not supported.

    Notes
    -----
    Ba, Kiros and Hinton, "Layer Normalization", 2016. See `fusednorm.layer_norm`.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.LayerNorm(2, eps=0)(np.array([[1.0, 3.0], [10.0, 30.0]]))
    array([[-1.,  1.],
           [-1.,  1.]])
    """

    _names = ("weight", "bias")
    eps: float
    bias: Array | None

    def __init__(
        self,
        normalized_shape: SupportsIndex | Sequence[SupportsIndex],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, dtype, activation)
        self.bias = self._filled("bias", 0, elementwise_affine, bias)

    def __call__(self, x: ArrayLike, *, residual: ArrayLike | None = None, out: Array | None = None) -> Array:
        """Return ``activation(norm(x) * weight + bias + residual)``, in `out` if it is given."""
        try:
            result: Array = _core.layer_norm(
                x, self.normalized_shape, self.weight, self.bias, self.eps, residual, self.activation, None, out, False
            )
        except ValueError as error:
            raise self._explain(x, error) from None
        return result

    def backward(self, grad: ArrayLike, x: ArrayLike) -> tuple[Array, Array, Array]:
        """Return ``(grad_x, grad_weight, grad_bias)`` of the norm alone: see `fusednorm.layer_norm_backward`."""
        return functional.layer_norm_backward(grad, x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Return what stands between the parentheses of `repr`."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(RowNorm):
    r"""Division of the last dimensions by their root mean square.

    .. math:: y = \frac{x}{\sqrt{\mathrm{mean}(x^2) + \mathrm{eps}}} \cdot \mathrm{weight}

    Parameters
    ----------
    normalized_shape, elementwise_affine, dtype, activation
        As for `LayerNorm`; there is no bias.
    eps
        None: the machine epsilon of the arithmetic, float32's unless x is float64.

    Notes
    -----
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019. See `fusednorm.rms_norm`.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.RMSNorm(2, eps=0)(np.array([[3.0, -3.0]]))
    array([[ 1., -1.]])
    """

    _names = ("weight",)
    _eps_may_be_none = True
    eps: float | None

    def __init__(
        self,
        normalized_shape: SupportsIndex | Sequence[SupportsIndex],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, dtype, activation)

    def __call__(self, x: ArrayLike, *, residual: ArrayLike | None = None, out: Array | None = None) -> Array:
        """Return ``activation(norm(x) * weight + residual)``, in `out` if it is given."""
        try:
            result: Array = _core.rms_norm(
                x, self.normalized_shape, self.weight, self.eps, residual, self.activation, None, out, False
            )
        except ValueError as error:
            raise self._explain(x, error) from None
        return result

    def backward(self, grad: ArrayLike, x: ArrayLike) -> tuple[Array, Array]:
        """Return ``(grad_x, grad_weight)`` of the norm alone: see `fusednorm.rms_norm_backward`."""
        return functional.rms_norm_backward(grad, x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Return what stands between the parentheses of `repr`."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Layer):
    r"""Normalization of each group of neighbouring channels of each sample by its own mean and variance.

    .. math::

        y = \frac{x - \mathrm{mean}_{n,g}}{\sqrt{\mathrm{var}_{n,g} + \mathrm{eps}}} \cdot \mathrm{weight}_c + \mathrm{bias}_c

    Parameters
    ----------
    num_groups
        A divisor of `num_channels`.
    num_channels
        The number of channels C.
    eps
        Added to the variance.
    affine
        Whether there are weights (1 at first) and biases (0 at first), one per channel.
    bias, dtype, activation
        As for `LayerNorm`.
    channel_axis
        The axis of the channels: -1 for ``(N, H, W, C)``; with 0, x is one sample ``(C, *)``.

    Raises
    ------
    ValueError
        For groups that do not divide the channels; in a call, for a shape that does not fit.
    TypeError
        For a dtype that is not supported.

    Notes
    -----
    Wu and He, "Group Normalization", 2018. See `fusednorm.group_norm`.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.GroupNorm(2, 4, eps=0)(np.array([[1.0, 3.0, 10.0, 30.0]]))
    array([[-1.,  1., -1.,  1.]])
    """

    _names = ("weight", "bias")
    channel_axis: int
    eps: float
    bias: Array | None

    def __init__(
        self,
        num_groups: SupportsIndex,
        num_channels: SupportsIndex,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        activation: Activation | None = None,
        channel_axis: SupportsIndex = 1,
    ) -> None:
        self.num_groups = integer("GroupNorm: num_groups", num_groups)
        (self.num_channels,) = sizes("GroupNorm: num_channels", [num_channels])
        axis: Any = channel_axis
        self.channel_axis = axis
        if self.num_groups < 1 or self.num_channels < 0 or self.num_channels % self.num_groups:
            raise ValueError(
                f"GroupNorm: num_groups: expected a positive divisor of num_channels {num_channels}, got {num_groups}"
            )
        super().__init__((self.num_channels,), eps, activation, dtype)
        self.affine = affine
        self.weight = self._filled("weight", 1, affine)
        self.bias = self._filled("bias", 0, affine, bias)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, array_axis(f"GroupNorm: {name}", value) if name == "channel_axis" else value)

    def __call__(self, x: ArrayLike, *, residual: ArrayLike | None = None, out: Array | None = None) -> Array:
        """Return ``activation(norm(x) * weight + bias + residual)``, in `out` if it is given."""
        array, axis = self._read(x), self.channel_axis
        result: Array = _core.group_norm(
            array, self.num_groups, self.weight, self.bias, self.eps, axis, residual, self.activation, None, out, False
        )
        return result

    def _read(self, x: ArrayLike) -> Array:
        array, axis = x if type(x) is np.ndarray else as_array("GroupNorm: x", x), self.channel_axis
        least = max(axis + 1, -axis, 1 if axis == 0 else 2)
        if array.ndim < least or array.shape[axis] != self.num_channels:
            expected = f"at least {least} dimensions and {self.num_channels} channels along axis {axis}"
            raise ValueError(f"GroupNorm: x: expected {expected}, got shape {array.shape}")
        return array

    def backward(self, grad: ArrayLike, x: ArrayLike) -> tuple[Array, Array, Array]:
        """Return ``(grad_x, grad_weight, grad_bias)`` of the norm alone: see `fusednorm.group_norm_backward`."""
        return functional.group_norm_backward(grad, x, self.num_groups, self.weight, self.eps, channel_axis=self.channel_axis)

    def extra_repr(self) -> str:
        """Return what stands between the parentheses of `repr`."""
        axis = f", channel_axis={self.channel_axis}" if self.channel_axis != 1 else ""
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, bias={self.bias is not None}{axis}"
        )
