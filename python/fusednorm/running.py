"""Statistics that grow batch by batch, on one machine or merged from many."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusednorm import _core, npz
from fusednorm.arrays import Array, as_array, flag, integer, number
from fusednorm.locks import Guarded
from fusednorm.states import STATE_VALUES, UPDATE, Floats, check_states, finish, pooled, pooled_where

if TYPE_CHECKING:
    from fusednorm.layers import BatchNorm

_NAMES = ("count", "mean", "m2")


class RunningMoments(Guarded):
    r"""Count, mean and variance per channel of data that comes in batches.

    .. math::

        \mathrm{mean}_c = \frac{1}{n} \sum x, \quad
        \mathrm{var}_c = \frac{1}{n - \mathrm{ddof}} \sum (x - \mathrm{mean}_c)^2

    How the data is split into batches, and in which order they come or objects are merged, does not change the numbers:
    they agree to 1e-12, relative to the standard deviation for the mean.

    Parameters
    ----------
    channel_axis
        The axis of a batch that is kept, -1 for arrays in channels-last order; all others are pooled. None pools every
        value into one statistic, and `mean`, `var` and `std` are arrays without dimensions.

    Notes
    -----
    Float64 throughout, one read of every batch. Means, sums of squares and counts are carried as two doubles each, and
    merged after Chan, Golub and LeVeque, 1979: a mean far larger than the standard deviation costs no digits.

    Objects pickle, copy and compare by identity. Any number of threads may `update` the same one.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> stats = fn.RunningMoments()
    >>> for batch in (np.array([[1, 10], [2, 20]]), np.array([[3, 30]])):
    ...     stats.update(batch)
    RunningMoments(channel_axis=1): 2 values in each of 2 channels
    RunningMoments(channel_axis=1): 3 values in each of 2 channels
    >>> stats.mean
    array([ 2., 20.])
    >>> stats.var(ddof=1)
    array([  1., 100.])
    """

    _states: Floats = np.zeros((0, STATE_VALUES))  # until the first batch

    def __init__(self, channel_axis: SupportsIndex | None = 1) -> None:
        where, expected = "RunningMoments: channel_axis", "an integer or None"
        self._channel_axis = None if channel_axis is None else integer(where, channel_axis, expected)
        if channel_axis is None:
            self._states = np.zeros((1, STATE_VALUES))
        self._masked = False
        self._add_lock()

    # ---- adding

    def update(self, batch: ArrayLike, *, where: ArrayLike | None = None, skipna: bool = False) -> RunningMoments:
        """Add the values of one batch.

        Parameters
        ----------
        batch
            Any shape that has the channel axis, any layout, any real dtype. The first batch sets the number of channels;
            an empty one may do so too.
        where
            Bool, broadcasting with `batch`: True for the values that count. From then on `count` is an array. The values
            are compressed channel by channel, which takes about twenty times as long as an update without a mask.
        skipna
            Whether NaN counts as masked; `count` is an array then. Only the channels that have a NaN are compressed.

        Returns
        -------
        RunningMoments
            This object.

        Raises
        ------
        TypeError
            For a dtype that is not supported, or a mask that is not bool.
        ValueError
            For a batch with another number of channels, without the channel axis, or a mask that does not broadcast.
            Nothing has been added then.
        """
        skipna = flag(f"{UPDATE}: skipna", skipna)
        x = as_array(f"{UPDATE}: batch", batch)
        if where is None and not skipna:
            return self._add(pooled(x, self._channel_axis), False, "update", "batch")
        return self._add(pooled_where(x, self._channel_axis, where, skipna), True, "update", "batch")

    def merge(self, other: RunningMoments) -> RunningMoments:
        """Add what `other` has seen; returns this object. `other` stays as it is.

        Raises
        ------
        TypeError
            If `other` is something else.
        ValueError
            If both have seen channels, and not as many.
        """
        if not isinstance(other, RunningMoments):
            raise TypeError(f"RunningMoments.merge: other: expected RunningMoments, got {type(other).__name__}")
        states, masked = other._pack()
        return self._add(states, masked, "merge", "other")

    def __add__(self, other: object) -> RunningMoments:
        if not isinstance(other, RunningMoments):
            return NotImplemented
        return self.copy().merge(other)

    def __radd__(self, other: object) -> RunningMoments:
        """``sum`` begins with 0."""
        return self.copy() if isinstance(other, int) and other == 0 else NotImplemented

    def _add(self, states: Floats, masked: bool, method: str, argument: str) -> RunningMoments:
        """Merge states that are nobody else's."""
        with self._lock:
            if len(states) != 0:
                # In one step, since a signal's handler may update between any two.
                own = self.__dict__.setdefault("_states", states)
            else:  # an object that has seen nothing fits any other, a batch without channels does not
                own = self._states if method == "update" else states
            if len(own) != len(states):
                expected = "1 channel" if len(own) == 1 else f"{len(own)} channels"
                raise ValueError(f"RunningMoments.{method}: {argument}: expected {expected}, got {len(states)}")
            if own is not states:
                _core.merge(own, states)
            if masked:
                self._masked = True
        return self

    # ---- reading

    @property
    def channel_axis(self) -> int | None:
        """The axis of a batch that is kept."""
        return self._channel_axis

    @property
    def num_channels(self) -> int:
        """How many channels there are; 0 before the first batch."""
        return len(self._states)

    @property
    def count(self) -> int | NDArray[Any]:
        """How many values each channel has seen: an int; an array (C,) of integers once masks were used.

        That array is int64, or object where a count is too large for it.
        """
        states, masked = self._pack()
        counts = [int(value) + int(low) for value, low in states[:, :2]]
        if not masked:
            return counts[0] if counts else 0
        array = np.array(counts, np.int64 if max(counts, default=0) < 2**63 else object)
        return array.reshape(self._shape(states))

    @property
    def mean(self) -> Floats:
        """The mean per channel (C,); NaN where no value came. No channels before the first batch."""
        states = self._pack()[0]
        return finish(states)[0].reshape(self._shape(states))

    def var(self, ddof: float = 0) -> Floats:
        """Return the variance per channel (C,), with divisor ``count - ddof``; NaN where no value came."""
        states = self._pack()[0]
        return finish(states, number("RunningMoments.var: ddof", ddof))[1].reshape(self._shape(states))

    def std(self, ddof: float = 0) -> Floats:
        """Return the square root of `var`."""
        return np.asarray(np.sqrt(self.var(ddof)))

    def _shape(self, states: Floats) -> tuple[int, ...]:
        return () if self._channel_axis is None else (len(states),)

    def __repr__(self) -> str:
        count = "values by mask" if self._masked else f"{self.count} values"
        return f"RunningMoments(channel_axis={self._channel_axis}): {count} in each of {self.num_channels} channels"

    def to_batch_norm(self, dims: int = 2, *, ddof: float = 0, **keywords: Any) -> BatchNorm:
        """Return a layer in eval mode with these statistics as its running ones ("precise" batch norm).

        Parameters
        ----------
        dims
            1, 2 or 3: BatchNorm1d, 2d or 3d.
        ddof, **keywords
            As for ``BatchNorm2d.from_moments``.

        Raises
        ------
        ValueError
            For other dims, or where no channel has been seen.
        """
        dims = integer("RunningMoments.to_batch_norm: dims", dims)
        if dims not in (1, 2, 3):
            raise ValueError(f"RunningMoments.to_batch_norm: dims: expected 1, 2 or 3, got {dims}")
        layers: Any = importlib.import_module("fusednorm.layers")  # which imports this module
        layer: BatchNorm = getattr(layers, f"BatchNorm{dims}d").from_moments(self, ddof=ddof, **keywords)
        return layer

    # ---- keeping and sending

    def _pack(self) -> tuple[Floats, bool]:
        """Return a copy of the state, ``(channels, 6)``, and whether masks were used."""
        with self._lock:
            return self._states.copy(), self._masked

    def _unpack(self, states: Floats, masked: bool) -> RunningMoments:
        """Replace the state by what `_pack` gave; returns this object."""
        states = np.array(states, np.float64, order="C")
        if states.ndim != 2 or states.shape[1] != STATE_VALUES or (self._channel_axis is None and len(states) != 1):
            raise ValueError(f"RunningMoments: states: expected shape (channels, 6), got {states.shape}")
        check_states(states, masked)
        with self._lock:
            if len(states) != 0:
                self._states = states
            else:
                self.__dict__.pop("_states", None)
            self._masked = bool(masked)
        return self

    def state_dict(self) -> dict[str, Array]:
        """Return arrays that hold everything.

        ``count``, ``mean`` and ``m2`` have shape (2, C), in row 0 the numbers and in row 1 what rounding them left;
        ``masked`` is a bool and ``channel_axis`` an integer, of shape (0,) for None.
        """
        states, masked = self._pack()
        columns = {name: np.ascontiguousarray(states[:, 2 * i : 2 * i + 2].T) for i, name in enumerate(_NAMES)}
        axis = np.array([] if self._channel_axis is None else self._channel_axis, np.int64)
        return {**columns, "masked": np.array(masked), "channel_axis": axis}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> RunningMoments:
        """Take what `state_dict` gave, arrays or what `numpy.asarray` reads; returns this object.

        Raises
        ------
        ValueError
            For missing or unexpected keys, shapes that do not fit, and numbers that no data has. Nothing has changed then.
        """
        where = "RunningMoments.load_state_dict"
        if not isinstance(state, Mapping):
            raise TypeError(f"{where}: state: expected a mapping of names to arrays, got {type(state).__name__}")
        wanted = {*_NAMES, "masked", "channel_axis"}
        if set(state) != wanted:
            raise ValueError(f"{where}: state: expected {sorted(wanted)}, got {sorted(map(str, state))}")
        columns = [as_array(f"{where}: {name}", state[name]) for name in _NAMES]
        for name, column in zip(_NAMES, columns, strict=True):
            if column.dtype.kind not in "iuf":
                raise TypeError(f"{where}: {name}: expected an array of numbers, got dtype {column.dtype}")
        if any(c.ndim != 2 or len(c) != 2 or c.shape != columns[0].shape for c in columns):
            shapes = [c.shape for c in columns]
            raise ValueError(f"{where}: count, mean, m2: expected three arrays of one shape (2, C), got {shapes}")
        axis, masked = (as_array(f"{where}: {name}", state[name]) for name in ("channel_axis", "masked"))
        if axis.ndim > 1 or axis.size > 1 or (axis.size and axis.dtype.kind not in "iu"):
            raise ValueError(f"{where}: channel_axis: expected an integer or none, got {axis}")
        if masked.size != 1 or masked.dtype != np.bool_:
            raise ValueError(f"{where}: masked: expected one bool, got {masked}")
        new = RunningMoments(axis.item() if axis.size else None)
        new._unpack(np.concatenate(columns).T, bool(masked))
        self._channel_axis = new.channel_axis
        return self._unpack(*new._pack())

    def save(self, file: str | bytes | os.PathLike[Any] | IO[bytes]) -> None:
        """Write an npz file, under exactly the name that is given."""
        if isinstance(file, (str, bytes, os.PathLike)):
            with open(file, "wb") as opened:
                return self.save(opened)
        return npz.write("RunningMoments.save", file, self.state_dict())

    @classmethod
    def load(cls, file: str | bytes | os.PathLike[Any] | IO[bytes]) -> RunningMoments:
        """Read what `save` wrote. No pickled object is read, so a file from a stranger runs no code."""
        if isinstance(file, (str, bytes, os.PathLike)):
            with open(file, "rb") as opened:
                return cls.load(opened)
        with npz.opened("RunningMoments.load", file) as arrays:
            return cls().load_state_dict(arrays)

    def copy(self) -> RunningMoments:
        """Return one with the same state that shares no memory."""
        return RunningMoments(self._channel_axis)._unpack(*self._pack())

    def __getstate__(self) -> dict[str, Array]:
        return self.state_dict()

    def __setstate__(self, state: Mapping[str, ArrayLike]) -> None:
        self._add_lock()
        self._channel_axis = None
        self.load_state_dict(state)
