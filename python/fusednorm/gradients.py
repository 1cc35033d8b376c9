"""The gradients of the norms: from the loss's gradient by the result to those by the input, the weight and the bias.

Everything here hands its arguments to the extension, which checks them. The gradients are those of the plain norm, without
residual and activation.
"""

from collections.abc import Sequence
from typing import Any, SupportsIndex

from numpy.typing import ArrayLike, NDArray

from fusednorm import _core

Array = NDArray[Any]


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
    for any number of threads. Everything is rounded once.

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


def rms_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    stats: tuple[None, ArrayLike] | None = None,
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
