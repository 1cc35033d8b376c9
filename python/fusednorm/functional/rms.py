"""RMS norm: the mean square of the trailing dimensions; and that of a sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, SupportsIndex, overload

from numpy.typing import ArrayLike, DTypeLike

from fusednorm import _core
from fusednorm.arrays import Activation, Array
from fusednorm.functional.direct import direct


@overload
def rms_norm(
    x: ArrayLike,
    /,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    residual: ArrayLike | None = None,
    activation: Activation | None = None,
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
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array | None, Array]: ...
@overload
def rms_norm(
    x: ArrayLike,
    /,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    residual: ArrayLike | None = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_stats: bool,
) -> Array | tuple[Array, Array | None, Array]: ...
@direct
def rms_norm(
    x: ArrayLike,
    /,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    residual: ArrayLike | None = None,
    activation: Activation | None = None,
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


@direct
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


@direct
def rms_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    stats: tuple[ArrayLike | None, ArrayLike] | None = None,
) -> tuple[Array, Array]:
    r"""Compute the gradients of `rms_norm`.

    .. math::

        \hat{x} = x \cdot \mathrm{rstd}, \quad
        \mathrm{grad}_x = \mathrm{rstd} \left(g - \hat{x} \cdot \overline{g \hat{x}}\right), \quad
        \mathrm{grad}_{\mathrm{weight}} = \sum \mathrm{grad} \cdot \hat{x}

    Parameters
    ----------
    grad, x
        As for `batch_norm_backward`.
    normalized_shape, weight
        As for `layer_norm_backward`.
    eps
        None: the machine epsilon of the arithmetic, as for `rms_norm`.
    stats
        ``(None, rstd)``, of the leading dimensions' shape.

    Returns
    -------
    tuple
        ``(grad_x, grad_weight)``, as for `layer_norm_backward`.

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
    >>> grad_x, grad_weight = fn.rms_norm_backward(np.array([[1.0, 0.0]]), np.array([[3.0, -3.0]]), 2, eps=0)
    >>> np.round(grad_x, 3), grad_weight
    (array([[0.167, 0.167]]), array([1., 0.]))
    """
    result: tuple[Array, Array] = _core.rms_norm_backward(grad, x, normalized_shape, weight, eps, stats)
    return result
