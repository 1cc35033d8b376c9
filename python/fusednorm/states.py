"""States of statistics as arrays ``(..., 6)`` of float64, which `RunningMoments`, Dask and MPI share.

Count, mean and m2 (the sum of squared deviations), each with what its rounding left. The extension makes them from an array
(``_core.pooled``) and merges two (``_core.merge``).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusednorm import _core
from fusednorm.arrays import Array, as_array

Floats = NDArray[np.float64]
STATE_VALUES = 6
UPDATE = "RunningMoments.update"  # opens the texts of its errors


def finish(states: Floats, ddof: float = 0) -> tuple[Floats, Floats]:
    """Mean and variance of states ``(..., 6)``; NaN where there is no value."""
    with np.errstate(all="ignore"):
        count, mean, m2 = (states[..., i] + states[..., i + 1] for i in (0, 2, 4))
        var = m2 / np.maximum(count - ddof, 0)
    return np.where(count > 0, mean, np.nan), np.where(count > 0, var, np.nan)


def check_states(states: Floats, masked: bool) -> None:
    """Refuse states ``(C, 6)`` that no data has."""
    counts = states[:, :2]
    with np.errstate(all="ignore"):
        count, m2 = (states[:, i] + states[:, i + 1] for i in (0, 4))
    if not (np.isfinite(counts).all() and (counts == np.rint(counts)).all() and (count >= 0).all()):
        raise ValueError("RunningMoments: count: expected integers >= 0, got others")
    if (m2 < 0).any():
        raise ValueError("RunningMoments: m2: expected numbers >= 0, got others")
    for name, total, rounded in (("count", count, states[:, 0]), ("m2", m2, states[:, 4])):
        if ((total != rounded) & ~np.isnan(total)).any():
            raise ValueError(f"RunningMoments: {name}: expected in row 1 what rounding left of row 0, got more")
    if not masked and (counts != counts[:1]).any():
        raise ValueError("RunningMoments: count: expected the same in every channel unless masked, got others")


def pooled(x: Array, channel_axis: int | None) -> Floats:
    """Return the states ``(C, 6)`` of the channels of a batch; all of it is one channel where there is no axis."""
    if channel_axis is not None and not -x.ndim <= channel_axis < x.ndim:
        raise ValueError(f"{UPDATE}: batch: expected an array that has axis {channel_axis}, got shape {x.shape}")
    states: Floats = _core.pooled(UPDATE, "batch", x, channel_axis)
    return np.ascontiguousarray(states.reshape(-1, STATE_VALUES))


def pooled_where(x: Array, channel_axis: int | None, where: ArrayLike | None, skipna: bool) -> Floats:
    """Return those of the values where the mask is true, without NaN where that is asked for."""
    states = pooled(x, channel_axis)
    mask = _broadcast(where, x.shape)
    channels, masks = (np.atleast_1d(a)[None] if channel_axis is None else np.moveaxis(a, channel_axis, 0) for a in (x, mask))
    for c, (values, kept) in enumerate(zip(channels, masks, strict=True)):
        has_nan = skipna and bool(np.isnan(states[c]).any())
        if has_nan or not kept.all():
            states[c] = _core.pooled(UPDATE, "batch", values[kept & ~np.isnan(values) if has_nan else kept], None)
    return states


def _broadcast(where: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = as_array(f"{UPDATE}: where", True if where is None else where)
    if mask.dtype != np.bool_:
        raise TypeError(f"{UPDATE}: where: expected a bool array, got dtype {mask.dtype}")
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        message = f"{UPDATE}: where: expected what broadcasts to {shape}, got shape {mask.shape}"
        raise ValueError(message) from None
