"""The norms as functions, with the names, order and defaults of ``torch.nn.functional``.

Everything here hands its arguments to the extension, which checks them. All functions take whatever ``numpy.asarray``
reads, in any memory layout, and return a ``numpy.ndarray`` in the memory order of ``x`` (or ``out``).
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, SupportsIndex, overload

from numpy.typing import ArrayLike, DTypeLike, NDArray

from fusednorm import _core

Array = NDArray[Any]


class Moments(NamedTuple):
    """Mean and variance, as `moments` returns them."""

    mean: Array
    var: Array


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
    activation: str | None = None,
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
    activation: str | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array, Array]: ...
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
    activation: str | None = None,
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
    activation: str | None = None,
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
    activation: str | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array, Array]: ...
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
    activation: str | None = None,
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
    activation: str | None = None,
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
    activation: str | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array, Array]: ...
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
    activation: str | None = None,
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


@overload
def layer_norm(
    x: ArrayLike,
    /,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    residual: ArrayLike | None = None,
    activation: str | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: Literal[False] = False,
) -> Array: ...
@overload
def layer_norm(
    x: ArrayLike,
    /,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    residual: ArrayLike | None = None,
    activation: str | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array, Array]: ...
def layer_norm(
    x: ArrayLike,
    /,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    residual: ArrayLike | None = None,
    activation: str | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: bool = False,
) -> Array | tuple[Array, Array, Array]:
    r"""Normalize the trailing dimensions by their mean and variance.

    .. math:: y = \frac{x - \mathrm{mean}}{\sqrt{\mathrm{var} + \mathrm{eps}}} \cdot \mathrm{weight} + \mathrm{bias}

    Parameters
    ----------
    x
        Any number of leading dimensions.
    normalized_shape
        The last dimension, or a sequence of the last dimensions, of `x`.
    weight, bias
        Of that shape, any float dtype.
    eps, residual, activation, dtype, out
        As for `batch_norm`.
    return_stats
        Whether the result is ``(y, mean, rstd)``, as for `batch_norm`; of the leading dimensions' shape.

    Returns
    -------
    numpy.ndarray
        Of x's shape, in x's memory order; or `out`. A tuple with `return_stats`.

    Raises
    ------
    TypeError
        For a dtype that is not supported, or something that is no array or number.
    ValueError
        For a shape that does not fit, or ``eps < 0``.

    Notes
    -----
    Ba, Kiros and Hinton, "Layer Normalization", 2016.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.layer_norm(np.array([[1.0, 3.0], [10.0, 30.0]]), 2, eps=0)
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    result: Array | tuple[Array, Array, Array] = _core.layer_norm(
        x, normalized_shape, weight, bias, eps, residual, activation, dtype, out, return_stats
    )
    return result


@overload
def rms_norm(
    x: ArrayLike,
    /,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    residual: ArrayLike | None = None,
    activation: str | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: Literal[False] = False,
) -> Array: ...
@overload
def rms_norm(
    x: ArrayLike,
    /,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    residual: ArrayLike | None = None,
    activation: str | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array | None, Array]: ...
def rms_norm(
    x: ArrayLike,
    /,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    residual: ArrayLike | None = None,
    activation: str | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: bool = False,
) -> Array | tuple[Array, Array | None, Array]:
    r"""Divide the trailing dimensions by their root mean square.

    .. math:: y = \frac{x}{\sqrt{\mathrm{mean}(x^2) + \mathrm{eps}}} \cdot \mathrm{weight}

    Parameters
    ----------
    x
        Any number of leading dimensions.
    normalized_shape
        The last dimension, or a sequence of the last dimensions, of `x`.
    weight
        Of that shape, any float dtype.
    eps
        None: the machine epsilon of the arithmetic, float32's unless the result is float64.
    residual, activation, dtype, out
        As for `batch_norm`.
    return_stats
        Whether the result is ``(y, mean, rstd)``, as for `batch_norm`; of the leading dimensions' shape; the mean is None.

    Returns
    -------
    numpy.ndarray
        Of x's shape, in x's memory order; or `out`. A tuple with `return_stats`.

    Raises
    ------
    TypeError
        For a dtype that is not supported, or something that is no array or number.
    ValueError
        For a shape that does not fit, or ``eps < 0``.

    Notes
    -----
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.rms_norm(np.array([[3.0, -3.0]]), 2, eps=0)
    array([[ 1., -1.]])
    """
    result: Array | tuple[Array, Array | None, Array] = _core.rms_norm(
        x, normalized_shape, weight, eps, residual, activation, dtype, out, return_stats
    )
    return result


def add_layer_norm(
    x: ArrayLike,
    residual: ArrayLike,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    out: Array | tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array]:
    r"""Normalize a sum over the trailing dimensions, and return the sum too: a transformer block's skip connection.

    .. math:: s = x + \mathrm{residual}, \quad y = \mathrm{layer\_norm}(s)

    Parameters
    ----------
    x, residual
        Of one shape.
    normalized_shape, weight, bias, eps
        As for `layer_norm`.
    out
        Where `y` goes; or a tuple of where `y` and the sum go.

    Returns
    -------
    tuple
        ``(y, x + residual)``, both of x's dtype, in x's memory order.

    Raises
    ------
    TypeError, ValueError
        As `layer_norm` does.

    Notes
    -----
    The sum is rounded to x's dtype and normalized while it is in the cache: the result is that of
    ``layer_norm(x + residual)``, without a second pass over memory.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.add_layer_norm(np.array([[1.0, 2.0]]), np.array([[0.0, 1.0]]), 2, eps=0)
    (array([[-1.,  1.]]), array([[1., 3.]]))
    """
    result: tuple[Array, Array] = _core.add_layer_norm(x, residual, normalized_shape, weight, bias, eps, out)
    return result


def add_rms_norm(
    x: ArrayLike,
    residual: ArrayLike,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    out: Array | tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array]:
    r"""Divide a sum by its root mean square over the trailing dimensions, and return the sum too.

    .. math:: s = x + \mathrm{residual}, \quad y = \mathrm{rms\_norm}(s)

    Parameters
    ----------
    x, residual
        Of one shape.
    normalized_shape, weight, eps
        As for `rms_norm`.
    out
        Where `y` goes; or a tuple of where `y` and the sum go.

    Returns
    -------
    tuple
        ``(y, x + residual)``, both of x's dtype, in x's memory order.

    Raises
    ------
    TypeError, ValueError
        As `rms_norm` does.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.add_rms_norm(np.array([[1.0, -2.0]]), np.array([[2.0, -1.0]]), 2, eps=0)
    (array([[ 1., -1.]]), array([[ 3., -3.]]))
    """
    result: tuple[Array, Array] = _core.add_rms_norm(x, residual, normalized_shape, weight, eps, out)
    return result


def moments(
    x: ArrayLike,
    axis: SupportsIndex | Sequence[SupportsIndex] | None = None,
    *,
    ddof: float = 0,
    keepdims: bool = False,
    dtype: DTypeLike | None = None,
) -> Moments:
    r"""Compute mean and variance in one pass over memory.

    .. math:: \mathrm{mean} = \frac{1}{n} \sum x, \quad \mathrm{var} = \frac{1}{n - \mathrm{ddof}} \sum (x - \mathrm{mean})^2

    Parameters
    ----------
    x
        Any shape; bool, any integer, float16, bfloat16, float32 or float64.
    axis
        The axis or axes to pool; None: all.
    ddof
        Subtracted from the count in the variance's divisor: 0 gives the biased variance, 1 the sample variance.
    keepdims
        Whether the pooled axes stay, with size 1.
    dtype
        A float type: the result's. Default: x's, float32 for half precision, float64 for integers.

    Returns
    -------
    Moments
        A named tuple ``(mean, var)``. NaN where there is no value.

    Raises
    ------
    TypeError
        For a dtype that is not supported.
    ValueError
        For an axis that `x` does not have, or one named twice.

    Notes
    -----
    As exact as if computed in float64 and rounded once. Blocks of values are summed around one of their own and merged
    after Chan, Golub and LeVeque, 1979.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> fn.moments(np.array([1, 2, 3, 4], np.uint8))
    Moments(mean=array(2.5), var=array(1.25))
    """
    return Moments(*_core.moments(x, axis, ddof, keepdims, dtype))


__all__ = [
    "Moments",
    "add_layer_norm",
    "add_rms_norm",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "moments",
    "rms_norm",
]
