"""Group norm: statistics of a group of channels of one sample."""

from __future__ import annotations

from typing import Literal, SupportsIndex, overload

from numpy.typing import ArrayLike, DTypeLike

from fusednorm import _core
from fusednorm.arrays import Activation, Array
from fusednorm.functional.direct import direct


@overload
def group_norm(
    x: ArrayLike,
    /,
    num_groups: SupportsIndex,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: SupportsIndex = 1,
    residual: ArrayLike | None = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: Literal[False] = False,
) -> Array: ...
@overload
def group_norm(
    x: ArrayLike,
    /,
    num_groups: SupportsIndex,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: SupportsIndex = 1,
    residual: ArrayLike | None = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array, Array]: ...
@overload
def group_norm(
    x: ArrayLike,
    /,
    num_groups: SupportsIndex,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: SupportsIndex = 1,
    residual: ArrayLike | None = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: bool,
) -> Array | tuple[Array, Array, Array]: ...
@direct
def group_norm(
    x: ArrayLike,
    /,
    num_groups: SupportsIndex,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: SupportsIndex = 1,
    residual: ArrayLike | None = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: bool = False,
) -> Array | tuple[Array, Array, Array]:
    r"""Normalize each group of neighbouring channels of each sample by its own mean and variance.

    .. math::

        y = \frac{x - \mathrm{mean}_{n,g}}{\sqrt{\mathrm{var}_{n,g} + \mathrm{eps}}} \cdot \mathrm{weight}_c + \mathrm{bias}_c

    Parameters
    ----------
    x
        Samples along axis 0; with ``channel_axis=0`` one sample ``(C, *)``.
    num_groups
        A divisor of the number of channels.
    weight, bias, eps, channel_axis, residual, activation, dtype, out
        As for `batch_norm`.
    return_stats
        Whether the result is ``(y, mean, rstd)``, as for `batch_norm`; ``(N, num_groups)``; without N for one sample.

    Returns
    -------
    numpy.ndarray
        Of x's shape, in x's memory order; or `out`. A tuple with `return_stats`.

    Raises
    ------
    TypeError
        For a dtype that is not supported, or something that is no array or number.
    ValueError
        For a shape that does not fit, ``eps < 0``, or groups that do not divide the channels.

    Notes
    -----
    Wu and He, "Group Normalization", 2018.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.group_norm(np.array([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0)
    array([[-1.,  1., -1.,  1.]])
    """
    result: Array | tuple[Array, Array, Array] = _core.group_norm(
        x, num_groups, weight, bias, eps, channel_axis, residual, activation, dtype, out, return_stats
    )
    return result


@direct
def group_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    num_groups: SupportsIndex,
    weight: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: SupportsIndex = 1,
    stats: tuple[ArrayLike, ArrayLike] | None = None,
) -> tuple[Array, Array, Array]:
    r"""Compute the gradients of `group_norm`.

    .. math::

        \mathrm{grad}_x = \mathrm{rstd}_{n,g} \left(g - \overline{g} - \hat{x} \cdot \overline{g \hat{x}}\right), \quad
        \mathrm{grad}_{\mathrm{weight},c} = \sum_n \sum \mathrm{grad} \cdot \hat{x}

    The bars are means over the values of a group of a sample; see `batch_norm_backward` for the symbols.

    Parameters
    ----------
    grad, x, weight, eps, channel_axis
        As for `batch_norm_backward`.
    num_groups
        A divisor of the number of channels.
    stats
        ``(mean, rstd)`` of shape ``(N, num_groups)``; ``(num_groups,)`` for one sample, with ``channel_axis=0``.

    Returns
    -------
    tuple
        ``(grad_x, grad_weight, grad_bias)``, as for `batch_norm_backward`.

    Raises
    ------
    TypeError
        For a dtype that is not supported, or something that is no array or number.
    ValueError
        For a shape that does not fit, ``eps < 0``, or groups that do not divide the channels.

    Notes
    -----
    Wu and He, "Group Normalization", 2018.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> x = np.array([[1.0, 3.0, 5.0]])
    >>> grad_x, grad_weight, grad_bias = fn.group_norm_backward(np.array([[1.0, 0.0, 0.0]]), x, 1, eps=0)
    >>> np.round(grad_x, 3)
    array([[ 0.102, -0.204,  0.102]])
    """
    result: tuple[Array, Array, Array] = _core.group_norm_backward(grad, x, num_groups, weight, eps, channel_axis, stats)
    return result
