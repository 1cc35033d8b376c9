"""`moments` and the norms on Dask arrays, lazily and on any of Dask's schedulers. Needs Dask: ``fusednorm[dask]``.

Every block gives states (see `fusednorm.states`), and a tree of tasks merges them: no value is read twice, and none travels.
The norms run block by block, once the axes that share a statistic lie in one block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike

from fusednorm import _core, functional
from fusednorm.arrays import Activation, Array, as_array, flag, integer, number
from fusednorm.functional import Moments
from fusednorm.states import STATE_VALUES, Floats, finish

try:
    import dask.array as da
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("fusednorm.dask needs Dask: pip install 'fusednorm[dask]'", name="dask") from error

Axes = tuple[int, ...]


def moments(
    array: Any, axis: SupportsIndex | Sequence[SupportsIndex] | None = None, *, ddof: float = 0, keepdims: bool = False
) -> Moments:
    r"""Mean and variance of a Dask array, in one read of it.

    .. math:: \mathrm{mean} = \frac{1}{n} \sum x, \quad \mathrm{var} = \frac{1}{n - \mathrm{ddof}} \sum (x - \mathrm{mean})^2

    Parameters
    ----------
    array
        A Dask array of any real dtype, cut into blocks along any axes.
    axis, ddof, keepdims
        As for `fusednorm.moments`.

    Returns
    -------
    Moments
        Two Dask arrays of float64. ``dask.compute(*moments(...))`` computes both from one read.

    Raises
    ------
    TypeError
        For a dtype that is not supported, or something that is no Dask array.
    ValueError
        For an axis that the array does not have, or one named twice.

    Examples
    --------
    >>> import dask, dask.array as da, fusednorm.dask
    >>> x = da.arange(6, chunks=2).reshape(3, 2)
    >>> mean, var = dask.compute(*fusednorm.dask.moments(x, axis=0))
    >>> mean, var
    (array([2., 3.]), array([2.66666667, 2.66666667]))
    """
    x = _dask_array("moments", array)
    functional.moments(_empty(x), axis)  # its checks
    ddof, keepdims = number("moments: ddof", ddof), flag("moments: keepdims", keepdims)
    named = range(x.ndim) if axis is None else np.atleast_1d(np.asarray(axis, np.int64)).tolist()
    axes = tuple(sorted(int(i) % x.ndim for i in named))
    every = tuple(range(x.ndim))
    states = da.blockwise(
        partial(block_states, axes=axes),
        (*every, x.ndim),
        x,
        every,
        new_axes={x.ndim: STATE_VALUES},
        adjust_chunks=dict.fromkeys(axes, 1),
        dtype=np.float64,
        meta=np.empty((0,) * (x.ndim + 1)),
    )
    if axes:
        keywords = {"axis": axes, "keepdims": keepdims, "dtype": np.float64, "concatenate": True}
        states = da.reduction(states, merge_states, merge_states, combine=merge_states, **keywords)
    results = (states.map_blocks(finished, i, ddof, drop_axis=states.ndim - 1, dtype=np.float64) for i in (0, 1))
    return Moments(*results)


def block_states(block: Array, axes: Axes) -> Floats:
    """Return the states of a block, the pooled axes kept with size 1."""
    kept = [i for i in range(block.ndim) if i not in axes]
    states: Floats = _core.pooled("moments", "x", block, kept)
    return states.reshape(*(1 if i in axes else n for i, n in enumerate(block.shape)), STATE_VALUES)


def merge_states(states: Floats, axis: Axes, keepdims: bool) -> Floats:
    """Merge states along axes."""
    kept = [n for i, n in enumerate(states.shape) if i not in axis]
    parts = math.prod(states.shape[i] for i in axis)
    total = np.zeros(kept)
    for one in np.moveaxis(states, axis, range(len(axis))).reshape(parts, *kept):
        _core.merge(total, np.ascontiguousarray(one))
    return total.reshape([1 if i in axis else n for i, n in enumerate(states.shape)]) if keepdims else total


def finished(states: Floats, which: int, ddof: float) -> Floats:
    """Return the means (0) or the variances (1) of states."""
    return finish(states, ddof)[which]


def batch_norm(
    x: Any,
    /,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: SupportsIndex = 1,
    residual: Any = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
) -> Any:
    """`fusednorm.batch_norm` in eval form. The running statistics may be Dask arrays, as `moments` gives them.

    ``training=True`` is a ValueError: nothing can be updated lazily.
    """
    x = _dask_array("batch_norm", x)
    if flag("batch_norm: training", training):
        raise ValueError("batch_norm: training: expected False for Dask arrays, got True; moments() gives their statistics")
    axis = integer("batch_norm: channel_axis", channel_axis)
    settings = {"momentum": momentum, "eps": eps, "channel_axis": axis, "activation": activation, "dtype": dtype}
    parameters = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    return _by_channel(functional.batch_norm, x, parameters, (), residual, settings)


def instance_norm(
    x: Any,
    /,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: SupportsIndex = 1,
    residual: Any = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
) -> Any:
    """`fusednorm.instance_norm`, lazily. The spatial axes are put into one block, where their statistics are used.

    Running statistics together with ``use_input_stats=True`` are a ValueError: nothing can be updated lazily.
    """
    x = _dask_array("instance_norm", x)
    use_input_stats = flag("instance_norm: use_input_stats", use_input_stats)
    if use_input_stats and not (running_mean is None and running_var is None):
        raise ValueError("instance_norm: running_mean: expected None for Dask arrays when use_input_stats, got an array")
    axis = integer("instance_norm: channel_axis", channel_axis)
    settings = {"momentum": momentum, "eps": eps, "channel_axis": axis, "activation": activation, "dtype": dtype}
    parameters = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    own = {0, axis % max(x.ndim, 1)}
    whole = tuple(i for i in range(x.ndim) if i not in own) if use_input_stats else ()
    return _by_channel(
        functional.instance_norm, x, parameters, whole, residual, settings | {"use_input_stats": use_input_stats}
    )


def group_norm(
    x: Any,
    /,
    num_groups: SupportsIndex,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    channel_axis: SupportsIndex = 1,
    residual: Any = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
) -> Any:
    """`fusednorm.group_norm`, lazily. Each sample is put into one block."""
    x = _dask_array("group_norm", x)
    axis = integer("group_norm: channel_axis", channel_axis)
    settings = {"eps": eps, "channel_axis": axis, "activation": activation, "dtype": dtype, "num_groups": num_groups}
    samples = axis % max(x.ndim, 1) != 0
    whole = tuple(range(int(samples), x.ndim))
    return _by_channel(functional.group_norm, x, {"weight": weight, "bias": bias}, whole, residual, settings)


def layer_norm(
    x: Any,
    /,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    residual: Any = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
) -> Any:
    """`fusednorm.layer_norm`, lazily. The normalized axes are put into one block."""
    x = _dask_array("layer_norm", x)
    settings = {"normalized_shape": normalized_shape, "eps": eps, "activation": activation, "dtype": dtype}
    return _by_row(functional.layer_norm, x, {"weight": weight, "bias": bias}, residual, settings)


def rms_norm(
    x: Any,
    /,
    normalized_shape: SupportsIndex | Sequence[SupportsIndex],
    weight: Any = None,
    eps: float | None = None,
    *,
    residual: Any = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
) -> Any:
    """`fusednorm.rms_norm`, lazily. The normalized axes are put into one block."""
    x = _dask_array("rms_norm", x)
    settings = {"normalized_shape": normalized_shape, "eps": eps, "activation": activation, "dtype": dtype}
    return _by_row(functional.rms_norm, x, {"weight": weight}, residual, settings)


# ---- from arrays to blocks


def _by_channel(
    function: Callable[..., Array], x: Any, parameters: dict[str, Any], whole: Axes, residual: Any, settings: dict[str, Any]
) -> Any:
    """Apply a norm whose parameters belong to channels."""
    dtype = _check(function, x, parameters, residual, settings)
    axis = settings["channel_axis"] % x.ndim
    x = x.rechunk(dict.fromkeys(whole, -1))
    given = {name: _parameter(v).reshape(-1).rechunk((x.chunks[axis],)) for name, v in parameters.items() if v is not None}
    return _blockwise(function, x, {name: (value, (axis,)) for name, value in given.items()}, residual, settings, dtype)


def _by_row(function: Callable[..., Array], x: Any, parameters: dict[str, Any], residual: Any, settings: dict[str, Any]) -> Any:
    """Apply a norm whose parameters have the shape of what is normalized."""
    dtype = _check(function, x, parameters, residual, settings)
    axes = tuple(range(x.ndim - np.size(settings["normalized_shape"]), x.ndim))
    x = x.rechunk(dict.fromkeys(axes, -1))
    shape = tuple(x.shape[axis] for axis in axes)
    given = {name: (_parameter(v).reshape(shape).rechunk(-1), axes) for name, v in parameters.items() if v is not None}
    return _blockwise(function, x, given, residual, settings, dtype)


def _blockwise(
    function: Callable[..., Array],
    x: Any,
    parameters: dict[str, tuple[Any, Axes]],
    residual: Any,
    settings: dict[str, Any],
    dtype: Any,
) -> Any:
    every = tuple(range(x.ndim))
    if residual is not None:
        parameters = parameters | {"residual": (da.asarray(residual).rechunk(x.chunks), every)}
    arguments = [part for pair in parameters.values() for part in pair]
    call = partial(_call, function, tuple(parameters), settings)
    meta = np.empty((0,) * x.ndim, dtype)
    name = function.__name__
    return da.blockwise(call, every, x, every, *arguments, dtype=dtype, meta=meta, align_arrays=False, token=name)


def _call(function: Callable[..., Array], names: tuple[str, ...], settings: dict[str, Any], x: Array, *arrays: Array) -> Array:
    return function(x, **dict(zip(names, arrays, strict=True)), **settings)


def _check(
    function: Callable[..., Array], x: Any, parameters: dict[str, Any], residual: Any, settings: dict[str, Any]
) -> np.dtype[Any]:
    """Let the function check everything on an array without values, and return the result's dtype."""
    if "normalized_shape" in settings:
        small = np.broadcast_to(np.zeros((), x.dtype), (0, *_sizes(x)))
    else:
        channel = settings.get("channel_axis", 0)
        small = _empty(x, (channel, channel + x.ndim))
    stand_ins = {name: _stand_in(value) for name, value in parameters.items()}
    other = None
    if residual is not None:
        added = residual if hasattr(residual, "dtype") else as_array(f"{function.__name__}: residual", residual)
        if not np.array_equal(added.shape, x.shape, equal_nan=True):
            hint = "; compute_chunk_sizes() finds unknown ones" if np.isnan((*x.shape, *added.shape)).any() else ""
            text = f"{function.__name__}: residual: expected the shape of x, {x.shape}, got shape {added.shape}"
            raise ValueError(text + hint)
        other = np.zeros(small.shape, added.dtype)
    return function(small, **stand_ins, residual=other, **settings).dtype


def _stand_in(value: Any) -> Any:
    return np.broadcast_to(np.zeros((), value.dtype), value.shape) if isinstance(value, da.Array) else value


def _empty(x: Any, keep: Collection[int] = ()) -> Array:
    """Return zeros of x's dtype and shape, but for one axis that gets size 0: the first that is not in `keep`."""
    shape = _sizes(x)
    for i in range(x.ndim):
        if i not in keep:
            shape[i] = 0
            break
    return np.broadcast_to(np.zeros((), x.dtype), shape)


def _sizes(x: Any) -> list[int]:
    return [0 if np.isnan(n) else n for n in x.shape]


def _parameter(value: Any) -> Any:
    """Return a Dask array, of a list of integers one of floats, which is what the functions make of it."""
    array = value if isinstance(value, da.Array) else da.asarray(as_array("parameter", value))
    return array.astype(np.float64) if isinstance(value, list | tuple) and array.dtype.kind in "iu" else array


def _dask_array(function: str, x: Any) -> Any:
    if not isinstance(x, da.Array):
        raise TypeError(f"{function}: x: expected a Dask array, got {type(x).__name__}")
    return x
