"""What every layer has: arrays as attributes, state dicts, training and evaluation, copies and `repr`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fusednorm.arrays import Activation, Array, check_activation, flag, float_dtype, is_float, number, parameter_array, text
from fusednorm.layers.state_dict import read_state
from fusednorm.locks import Guarded

Self = TypeVar("Self", bound="Layer")

_FLAGS = ("training", "affine", "elementwise_affine", "track_running_stats")
_MOST_BATCHES = np.iinfo(np.int64).max


class LoadResult(NamedTuple):
    """What ``load_state_dict(strict=False)`` met: keys of the layer that were not there, and keys that it does not have."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Layer(Guarded, ABC):
    """A norm with its parameters.

    The arrays are plain attributes. Assigning an array keeps that very array (of a subclass, its memory), so that later writes
    into it count too; anything else is converted. A shape or a dtype that does not fit is refused at the assignment, as is a
    flag that is not a bool, an `eps` that no function takes, or an `activation` that there is not.

    Several threads may call one layer. In training a lock lets one of them at a time update the running statistics. Each
    layer has a lock of its own, also one made by ``copy.copy``, which shares the arrays.
    """

    _names: ClassVar[tuple[str, ...]]  # of the arrays, in the order of torch's state_dict
    _eps_may_be_none: ClassVar[bool] = False

    eps: Any  # a float; RMSNorm's may be None
    activation: Activation | None
    training: bool
    weight: Array | None

    def __init__(self, shape: tuple[int, ...], eps: float | None, activation: Activation | None, dtype: DTypeLike) -> None:
        self._shape = shape
        self._dtype = float_dtype(type(self).__name__, dtype)
        self.eps, self.activation, self.training = eps, activation, True
        self._add_lock()

    @abstractmethod
    def __call__(self, x: ArrayLike, *, residual: ArrayLike | None = None, out: Array | None = None) -> Array:
        """Return ``activation(norm(x) * weight + bias + residual)``."""

    @abstractmethod
    def _read(self, x: ArrayLike) -> Array:
        """Return x as an array of a shape that fits."""

    def _explain(self, x: ArrayLike, error: ValueError) -> ValueError:
        """Return the error that says what is wrong with x, if that is why the function failed."""
        try:
            self._read(x)
        except ValueError as better:
            return better
        return error

    @abstractmethod
    def backward(self, grad: ArrayLike, x: ArrayLike) -> tuple[Array, ...]:
        """Return the gradients with respect to x, weight and bias, those of the norm alone, without the activation."""

    @abstractmethod
    def extra_repr(self) -> str:
        """Return what stands between the parentheses of `repr`."""

    def __repr__(self) -> str:
        extra = f", activation={self.activation!r}" if self.activation is not None else ""
        return f"{type(self).__name__}({self.extra_repr()}{extra})"

    def train(self: Self, mode: bool = True) -> Self:
        """Set training (or evaluation) mode; returns the layer."""
        self.training = mode
        return self

    def eval(self: Self) -> Self:
        """Set evaluation mode; returns the layer."""
        return self.train(False)

    # ---- arrays

    def __setattr__(self, name: str, value: object) -> None:
        where = f"{type(self).__name__}: {name}"
        if name in _FLAGS:
            value = flag(where, value)
        elif name == "eps":
            if value is not None or not self._eps_may_be_none:
                number(where, value, 0)  # kept as it was written, for `repr`
        elif name == "activation":
            check_activation(where, value)
        elif value is not None and name in self._names:
            value = self._checked(where, name, value)
        super().__setattr__(name, value)

    def _checked(self, where: str, name: str, value: object) -> Array:
        counts = name == "num_batches_tracked"
        if counts and isinstance(value, int) and not 0 <= value <= _MOST_BATCHES:
            raise ValueError(f"{where}: expected a number from 0 to {_MOST_BATCHES}, got {value}")
        array = parameter_array(where, value)
        if isinstance(value, list | tuple | int | float) and array.dtype.kind in ("iu" if counts else "iuf"):
            with np.errstate(all="ignore"):
                array = array.astype(self._dtype_of(name))
        if not (array.dtype.kind in "iu" if counts else is_float(array.dtype)):
            expected = "an integer" if counts else "an array of a float dtype"
            raise TypeError(f"{where}: expected {expected}, got dtype {array.dtype}")
        shape = () if counts else self._shape
        if array.shape != shape:
            raise ValueError(f"{where}: expected shape {shape}, got shape {array.shape}")
        return array

    def _dtype_of(self, name: str) -> np.dtype[Any]:
        if name == "num_batches_tracked":
            return np.dtype(np.int64)
        # An average in half precision stands still once an update is smaller than half its last digit.
        is_statistic = name.startswith("running") and self._dtype != np.float64
        return np.dtype(np.float32) if is_statistic else self._dtype

    def _filled(self, name: str, value: float, *wanted: bool) -> Array | None:
        flags = [flag(f"{type(self).__name__}: {name}", one) for one in wanted]
        return np.full(self._shape, value, self._dtype_of(name)) if all(flags) else None

    def reset_parameters(self) -> None:
        """Set every weight to 1 and every bias to 0."""
        for name, value in (("weight", 1), ("bias", 0)):
            array = getattr(self, name, None)
            if array is not None:
                array[...] = value

    # ---- state

    def state_dict(self, *, prefix: str = "") -> dict[str, Array]:
        """Return the arrays by torch's names, `prefix` before each. They are the layer's own, as in torch: copy what must stay.

        Examples
        --------
        >>> import fusednorm as fn
        >>> list(fn.LayerNorm(3).state_dict(prefix="norm1."))
        ['norm1.weight', 'norm1.bias']
        """
        prefix = text(f"{type(self).__name__}.state_dict: prefix", prefix)
        arrays = {name: getattr(self, name) for name in self._names}
        return {prefix + name: array for name, array in arrays.items() if array is not None}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, *, prefix: str = "") -> LoadResult:
        """Copy values into the layer's arrays, which keep their dtype.

        Parameters
        ----------
        state_dict
            Arrays, or tensors, by torch's names: from ``safetensors.numpy.load_file``, ``numpy.load`` or torch.
        strict
            Whether every key must be there, and no other. ``num_batches_tracked`` may always be missing.
        prefix
            Of the keys that are this layer's; other keys are then not looked at.

        Returns
        -------
        LoadResult
            ``(missing_keys, unexpected_keys)``: both empty, unless ``strict=False``.

        Raises
        ------
        ValueError
            Names every key that is missing, unexpected, or of a wrong shape or dtype. Nothing has been loaded then.
        TypeError
            If `state_dict` is no mapping.

        Examples
        --------
        >>> import numpy as np, fusednorm as fn
        >>> layer = fn.RMSNorm(2)
        >>> layer.load_state_dict({"net.norm.weight": np.array([1.0, 2.0])}, prefix="net.norm.")
        LoadResult(missing_keys=[], unexpected_keys=[])
        >>> layer.weight
        array([1., 2.], dtype=float32)
        """
        own = self.state_dict()
        values, missing, unexpected = read_state(f"{type(self).__name__}.load_state_dict", own, state_dict, strict, prefix)
        with self._lock:
            for name, value in values.items():
                own[name][...] = value
        return LoadResult(missing, unexpected)

    # ---- copies, and processes

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._add_lock()
