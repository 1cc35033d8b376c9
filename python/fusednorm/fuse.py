"""Folding a trained batch norm into the convolution or linear layer before it, for inference."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusednorm import _core
from fusednorm.arrays import Array, as_array, flag, is_float, number

Doubles = NDArray[np.float64]


class _Reader:
    """The arguments of one of the functions below, checked."""

    def __init__(self, function: str) -> None:
        self.function = function

    def weight(self, name: str, value: ArrayLike) -> Array:
        """Read the weight to fold into."""
        weight = self._floats(name, value)
        if weight.ndim < 2:
            raise ValueError(f"{self.function}: {name}: expected at least 2 dimensions, got shape {weight.shape}")
        return weight

    def bias(self, name: str, value: ArrayLike | None, weight: Array, channels: int) -> Array:
        """Read the bias to fold into; None: zeros in the weight's dtype."""
        if value is None:
            return np.zeros(channels, weight.dtype)
        return self._per_channel(name, value, channels)

    def batch_norm(
        self, channels: int, rm: ArrayLike, rv: ArrayLike, eps: float, w: ArrayLike | None, b: ArrayLike | None
    ) -> tuple[Doubles, Doubles, Doubles]:
        """Return scale, mean and bias of a batch norm: ``(x - mean) * scale + bias``."""
        added = number(f"{self.function}: bn_eps", eps, least=0)
        named = {
            "bn_rm": rm,
            "bn_rv": rv,
            "bn_w": np.ones(channels) if w is None else w,
            "bn_b": np.zeros(channels) if b is None else b,
        }
        mean, var, weight, bias = (self._per_channel(name, v, channels).astype(np.float64) for name, v in named.items())
        with np.errstate(all="ignore"):
            return weight / np.sqrt(var + added), mean, bias

    def _per_channel(self, name: str, value: ArrayLike, channels: int) -> Array:
        array = self._floats(name, value)
        if array.size != channels or max(array.shape, default=1) != channels:
            raise ValueError(
                f"{self.function}: {name}: expected shape ({channels},), one value per channel, got shape {array.shape}"
            )
        return array.reshape(channels)

    def _floats(self, name: str, value: ArrayLike) -> Array:
        array = as_array(f"{self.function}: {name}", value)
        if isinstance(value, list | tuple) and array.dtype.kind in "iu":
            array = array.astype(np.float64)
        if not is_float(array.dtype):
            raise TypeError(f"{self.function}: {name}: expected an array of a float dtype, got dtype {array.dtype}")
        return array


def _fold(weight: Array, bias: Array, axis: int, norm: tuple[Doubles, Doubles, Doubles]) -> tuple[Array, Array]:
    scale, mean, shift = norm
    along = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    with np.errstate(all="ignore"):
        wide = weight.astype(np.float64) * along
        folded = (bias.astype(np.float64) - mean) * scale + shift
    return _rounded(wide, weight.dtype), _rounded(folded, bias.dtype)


def _rounded(values: Doubles, dtype: np.dtype[Any]) -> Array:
    rounded: Array = _core.rounded_array(values, dtype)  # once: to bfloat16, astype does it twice
    return rounded.astype(dtype, copy=False)  # byte order


def fuse_conv_bn_weights(
    conv_w: ArrayLike,
    conv_b: ArrayLike | None,
    bn_rm: ArrayLike,
    bn_rv: ArrayLike,
    bn_eps: float,
    bn_w: ArrayLike | None,
    bn_b: ArrayLike | None,
    transpose: bool = False,
) -> tuple[Array, Array]:
    r"""Return the weight and bias of the one convolution that computes convolution and batch norm (in evaluation).

    .. math::

        w'_c = w_c \cdot s_c, \quad b'_c = (b_c - \mathrm{mean}_c) \cdot s_c + \mathrm{bias}_c, \quad
        s_c = \frac{\mathrm{weight}_c}{\sqrt{\mathrm{var}_c + \mathrm{eps}}}

    Parameters
    ----------
    conv_w
        ``(C, *)``; with `transpose` ``(*, C, ...)``: its second axis holds the C output channels.
    conv_b
        ``(C,)``, or None: 0.
    bn_rm, bn_rv
        The running mean and variance: C values each.
    bn_eps
        What the batch norm adds to the variance.
    bn_w, bn_b
        The batch norm's weight and bias: C values each, or None: 1 and 0.
    transpose
        Whether the convolution is a transposed one.

    Returns
    -------
    weight, bias : numpy.ndarray
        In the dtypes of `conv_w` and `conv_b` (where that is None, of `conv_w`). Computed in float64, rounded once.

    Raises
    ------
    TypeError
        For a dtype that is no float.
    ValueError
        For a shape that does not fit, or ``bn_eps < 0``.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.fuse_conv_bn_weights(np.ones((1, 1, 2)), None, [3.0], [4.0], 0, [6.0], None)
    (array([[[3., 3.]]]), array([-9.]))
    """
    read = _Reader("fuse_conv_bn_weights")
    weight = read.weight("conv_w", conv_w)
    axis = 1 if flag("fuse_conv_bn_weights: transpose", transpose) else 0
    channels = weight.shape[axis]
    norm = read.batch_norm(channels, bn_rm, bn_rv, bn_eps, bn_w, bn_b)
    return _fold(weight, read.bias("conv_b", conv_b, weight, channels), axis, norm)


def fuse_linear_bn_weights(
    linear_w: ArrayLike,
    linear_b: ArrayLike | None,
    bn_rm: ArrayLike,
    bn_rv: ArrayLike,
    bn_eps: float,
    bn_w: ArrayLike | None,
    bn_b: ArrayLike | None,
) -> tuple[Array, Array]:
    """Return the weight and bias of the one linear layer that computes linear layer and batch norm (in evaluation).

    The formula is that of `fuse_conv_bn_weights`.

    Parameters
    ----------
    linear_w
        ``(C, inputs)``.
    linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b
        As for `fuse_conv_bn_weights`; a batch norm of a single channel suits every C.

    Returns
    -------
    weight, bias : numpy.ndarray
        In the dtypes of `linear_w` and `linear_b` (where that is None, of `linear_w`).

    Raises
    ------
    TypeError, ValueError
        As for `fuse_conv_bn_weights`.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.fuse_linear_bn_weights(np.ones((1, 2)), [5.0], [3.0], [4.0], 0, [6.0], [1.0])
    (array([[3., 3.]]), array([7.]))
    """
    read = _Reader("fuse_linear_bn_weights")
    weight = read.weight("linear_w", linear_w)
    channels = weight.shape[0]
    of_norm = 1 if np.size(as_array("fuse_linear_bn_weights: bn_rm", bn_rm)) == 1 else channels
    norm = read.batch_norm(of_norm, bn_rm, bn_rv, bn_eps, bn_w, bn_b)
    return _fold(weight, read.bias("linear_b", linear_b, weight, channels), 0, norm)
