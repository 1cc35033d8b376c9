"""Instance norm: statistics of a channel of one sample."""

from __future__ import annotations

from typing import Literal, SupportsIndex, overload

from numpy.typing import ArrayLike, DTypeLike

from fusednorm import _core
from fusednorm.arrays import Activation, Array
from fusednorm.functional.direct import direct


@overload
def instance_norm(
    x: ArrayLike,
    /,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
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
def instance_norm(
    x: ArrayLike,
    /,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
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
def instance_norm(
    x: ArrayLike,
    /,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
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
def instance_norm(
    x: ArrayLike,
    /,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: SupportsIndex = 1,
    residual: ArrayLike | None = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: bool = False,
) -> Array | tuple[Array, Array, Array]:
    r"""Normalize each channel of each sample by its own mean and variance.

    .. math::

        y = \frac{x - \mathrm{mean}_{n,c}}{\sqrt{\mathrm{var}_{n,c} + \mathrm{eps}}} \cdot \mathrm{weight}_c + \mathrm{bias}_c

    Parameters
    ----------
    x
        Samples along axis 0; with ``channel_axis=0`` one sample ``(C, *)``.
    running_mean, running_var
        C values each, updated in place with the averages over the samples; with ``use_input_stats=False`` they are what
        `x` is normalized by.
    use_input_stats
        Whether the statistics are those of `x`.
    weight, bias, momentum, eps, channel_axis, residual, activation, dtype, out
        As for `batch_norm`.
    return_stats
        Whether the result is ``(y, mean, rstd)``, as for `batch_norm`; ``(N, C)``; without N for one sample.

    Returns
    -------
    numpy.ndarray
        Of x's shape, in x's memory order; or `out`. A tuple with `return_stats`.

    Raises
    ------
    TypeError
        For a dtype that is not supported, or something that is no array or number.
    ValueError
        For a shape that does not fit, ``eps < 0``, a single spatial element, or missing statistics.

    Notes
    -----
    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization", 2016.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.instance_norm(np.array([[[1.0, 3.0], [5.0, 5.0]]]), eps=0.75)
    array([[[-0.75592895,  0.75592895],
            [ 0.        ,  0.        ]]])
    """
    result: Array | tuple[Array, Array, Array] = _core.instance_norm(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        use_input_stats,
        momentum,
        eps,
        channel_axis,
        residual,
        activation,
        dtype,
        out,
        return_stats,
    )
    return result


@direct
def instance_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    use_input_stats: bool = True,
    eps: float = 1e-5,
    *,
    channel_axis: SupportsIndex = 1,
    stats: tuple[ArrayLike, ArrayLike] | None = None,
) -> tuple[Array, Array, Array]:
    r"""Compute the gradients of `instance_norm`.

    .. math::

        \mathrm{grad}_x = \mathrm{rstd}_{n,c} \left(g - \overline{g} - \hat{x} \cdot \overline{g \hat{x}}\right), \quad
        \mathrm{grad}_{\mathrm{weight},c} = \sum_n \sum \mathrm{grad} \cdot \hat{x}

    The bars are means over the values of a channel of a sample; see `batch_norm_backward` for the symbols.

    Parameters
    ----------
    grad, x, weight, eps, channel_axis
        As for `batch_norm_backward`.
    running_mean, running_var
        C values each; used where `use_input_stats` is false, and never changed.
    use_input_stats
        Whether the statistics were those of `x`.
    stats
        ``(mean, rstd)`` of shape ``(N, C)``; ``(C,)`` for one sample, with ``channel_axis=0``.

    Returns
    -------
    tuple
        ``(grad_x, grad_weight, grad_bias)``, as for `batch_norm_backward`.

    Raises
    ------
    TypeError
        For a dtype that is not supported, or something that is no array or number.
    ValueError
        For a shape that does not fit, ``eps < 0``, a single spatial element, or missing statistics.

    Notes
    -----
    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization", 2016.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> x = np.array([[[1.0, 3.0, 5.0]]])
    >>> grad_x, grad_weight, grad_bias = fn.instance_norm_backward(np.array([[[1.0, 0.0, 0.0]]]), x, eps=0)
    >>> np.round(grad_x, 3)
    array([[[ 0.102, -0.204,  0.102]]])
    """
    result: tuple[Array, Array, Array] = _core.instance_norm_backward(
        grad, x, running_mean, running_var, weight, use_input_stats, eps, channel_axis, stats
    )
    return result
