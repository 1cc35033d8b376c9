"""Mean and variance over any axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex

from numpy.typing import ArrayLike, DTypeLike

from fusednorm import _core
from fusednorm.arrays import Array


class Moments(NamedTuple):
    """Mean and variance, as `moments` returns them."""

    mean: Array
    var: Array


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
