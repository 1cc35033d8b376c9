"""Layer norm: statistics of the trailing dimensions; and that of a sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, SupportsIndex, overload

from numpy.typing import ArrayLike, DTypeLike

from fusednorm import _core
from fusednorm.arrays import Activation, Array
from fusednorm.functional.direct import direct


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
    activation: Activation | None = None,
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
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array, Array]: ...
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
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: bool,
) -> Array | tuple[Array, Array, Array]: ...
@direct
def layer_norm(
    x: ArrayLike,
    /,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    residual: ArrayLike | None = None,
    activation: Activation | None = None,
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


@direct
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


@direct
def layer_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    stats: tuple[ArrayLike, ArrayLike] | None = None,
) -> tuple[Array, Array, Array]:
    r"""Compute the gradients of `layer_norm`.

    .. math::

        \mathrm{grad}_x = \mathrm{rstd} \left(g - \overline{g} - \hat{x} \cdot \overline{g \hat{x}}\right), \quad
        \mathrm{grad}_{\mathrm{weight}} = \sum \mathrm{grad} \cdot \hat{x}, \quad
        \mathrm{grad}_{\mathrm{bias}} = \sum \mathrm{grad}

    The bars are means over the trailing dimensions, the sums run over the leading ones; see `batch_norm_backward` for the
    symbols.

    Parameters
    ----------
    grad, x, eps
        As for `batch_norm_backward`.
    normalized_shape
        The last dimension, or a sequence of the last dimensions, of `x`.
    weight
        Of that shape, any float dtype.
    stats
        ``(mean, rstd)``, of the leading dimensions' shape.

    Returns
    -------
    tuple
        ``(grad_x, grad_weight, grad_bias)``, as for `batch_norm_backward`; the last two of shape `normalized_shape`.

    Raises
    ------
    TypeError
        For a dtype that is not supported, or something that is no array or number.
    ValueError
        For a shape that does not fit, or ``eps < 0``.

    Notes
    -----
    Ba, Kiros and Hinton, "Layer Normalization", 2016. Threads share the rows: a few very long ones are computed by one.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> x = np.array([[1.0, 3.0, 5.0]])
    >>> grad_x, grad_weight, grad_bias = fn.layer_norm_backward(np.array([[1.0, 0.0, 0.0]]), x, 3, eps=0)
    >>> np.round(grad_x, 3), grad_bias
    (array([[ 0.102, -0.204,  0.102]]), array([1., 0., 0.]))
    """
    result: tuple[Array, Array, Array] = _core.layer_norm_backward(grad, x, normalized_shape, weight, eps, stats)
    return result
