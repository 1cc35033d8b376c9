"""Batch norm: statistics of a channel of all samples."""

from __future__ import annotations

from typing import Literal, SupportsIndex, overload

from numpy.typing import ArrayLike, DTypeLike

from fusednorm import _core
from fusednorm.arrays import Activation, Array
from fusednorm.functional.direct import direct


@overload
def batch_norm(
    x: ArrayLike,
    /,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
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
def batch_norm(
    x: ArrayLike,
    /,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
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
def batch_norm(
    x: ArrayLike,
    /,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
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
def batch_norm(
    x: ArrayLike,
    /,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
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
    r"""Normalize each channel by its mean and variance.

    .. math::

        y = \mathrm{activation}\left(\frac{x - \mathrm{mean}_c}{\sqrt{\mathrm{var}_c + \mathrm{eps}}} \cdot
        \mathrm{weight}_c + \mathrm{bias}_c + \mathrm{residual}\right)

    In training, mean and (biased) variance are those of `x` over all axes but the channels'; else they are the running
    statistics.

    Parameters
    ----------
    x
        At least two dimensions; bool, any integer, float16, bfloat16 (of ml_dtypes), float32 or float64. Integers give
        float64, unless `dtype` says else.
    running_mean, running_var
        C values each. In training they are updated in place, where given:
        ``running = (1 - momentum) * running + momentum * batch``, the variance with Bessel's factor n / (n - 1).
    weight, bias
        C values each, of any float dtype: shape ``(C,)`` or what broadcasts along the channels, like ``(1, C, 1, 1)``.
    training
        Whether the statistics are those of `x`.
    momentum
        The weight of the new statistics.
    eps
        Added to the variance, in the square of x's unit.
    channel_axis
        The axis of the channels; -1 for arrays in channels-last order.
    residual
        Added to the normalized values, before the activation; of x's shape, any real dtype, any layout.
    activation
        ``"relu"``, ``"silu"``, ``"gelu"`` (by the error function), ``"gelu_tanh"``, ``"sigmoid"``, ``"tanh"``,
        ``"hardswish"``, ``"leaky_relu"`` (slope 0.01), or None. What is fused is computed in float64 and rounded once:
        within 2 units in the last place (float64: 4).
    dtype
        The result's: float16, bfloat16, float32 or float64.
    out
        Where the result goes: of x's shape and the result's dtype, in any memory layout. May be `x` or `residual`.
    return_stats
        Whether the result is ``(y, mean, rstd)``, as `batch_norm_backward` takes the last two: the statistics that `x` was
        normalized by, rstd being ``1 / sqrt(var + eps)``, of shape ``(C,)``; float32, float64 where the result is.

    Returns
    -------
    numpy.ndarray
        Of x's shape, in x's memory order; or `out`. A tuple with `return_stats`.

    Raises
    ------
    TypeError
        For a dtype that is not supported, or something that is no array or number.
    ValueError
        For a shape that does not fit, ``eps < 0``, one value per channel in training, or missing statistics.

    Notes
    -----
    Ioffe and Szegedy, "Batch Normalization", 2015. The statistics are as exact as if computed in float64 (shifted sums in
    blocks, merged after Chan, Golub and LeVeque, 1979), and the same bits for any number of threads.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], np.float32)
    >>> fn.batch_norm(x, training=True, eps=0)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    """
    result: Array | tuple[Array, Array, Array] = _core.batch_norm(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        training,
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
def batch_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    training: bool = False,
    eps: float = 1e-5,
    *,
    channel_axis: SupportsIndex = 1,
    stats: tuple[ArrayLike, ArrayLike] | None = None,
) -> tuple[Array, Array, Array]:
    r"""Compute the gradients of `batch_norm`.

    .. math::

        \hat{x} = (x - \mathrm{mean}_c) \cdot \mathrm{rstd}_c, \quad g = \mathrm{grad} \cdot \mathrm{weight}_c, \quad
        \mathrm{rstd} = 1 / \sqrt{\mathrm{var} + \mathrm{eps}}

        \mathrm{grad}_x = \mathrm{rstd}_c \left(g - \overline{g} - \hat{x} \cdot \overline{g \hat{x}}\right), \quad
        \mathrm{grad}_{\mathrm{weight},c} = \sum \mathrm{grad} \cdot \hat{x}, \quad
        \mathrm{grad}_{\mathrm{bias},c} = \sum \mathrm{grad}

    The bars are means over all values of a channel. With running statistics, which do not depend on `x`,
    ``grad_x = rstd * g``.

    Parameters
    ----------
    grad
        The gradient by the result: of x's shape, in any memory layout. Where its dtype differs from x's (or is an integer
        type), both are converted to the one that holds the values of both. Fast where it has the dtype and memory order of
        a dense `x`; anything else is copied first.
    x
        What the norm was called with; integers count as float64.
    running_mean, running_var
        C values each; used unless `training`, and never changed.
    weight
        C values of any float dtype, as for `batch_norm`; None stands for ones.
    training
        Whether the statistics were those of `x`.
    eps
        Added to the variance.
    channel_axis
        The axis of the channels.
    stats
        ``(mean, rstd)``, as `batch_norm` returned them with ``return_stats=True``: arrays of shape ``(C,)``, used as they
        are instead of being computed again. In float32 a mean has lost digits: where abs(mean) is thousands of standard
        deviations, the gradients are more exact without `stats`.

    Returns
    -------
    tuple
        ``(grad_x, grad_weight, grad_bias)``. The first has x's shape, dtype (float64 for integers) and memory order; the
        others have shape ``(C,)`` and the dtype of `weight`; where that is None, float32, or float64 where `x` is.

    Raises
    ------
    TypeError
        For a dtype that is not supported, or something that is no array or number.
    ValueError
        For a shape that does not fit, ``eps < 0``, one value per channel in training, or missing statistics.

    Notes
    -----
    Ioffe and Szegedy, "Batch Normalization", 2015. Sums are taken in float64, around the mean, in fixed blocks: the same bits
    for any number of threads. `grad_x` of float32 and half precision is computed in float32.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> x = np.array([[1.0], [3.0], [5.0]])
    >>> grad_x, grad_weight, grad_bias = fn.batch_norm_backward(np.array([[1.0], [0.0], [0.0]]), x, training=True, eps=0)
    >>> np.round(grad_x.ravel(), 3)
    array([ 0.102, -0.204,  0.102])
    >>> np.round(grad_weight, 3), grad_bias
    (array([-1.225]), array([1.]))
    """
    result: tuple[Array, Array, Array] = _core.batch_norm_backward(
        grad, x, running_mean, running_var, weight, training, eps, channel_axis, stats
    )
    return result
