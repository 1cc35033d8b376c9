"""A state dict held against a layer's arrays: everything is read and checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fusednorm.arrays import Array, flag, is_float, parameter_array, text

OPTIONAL = ("num_batches_tracked",)
_UNNAMED = np.dtype("V2")  # bfloat16, in NumPy's files


def read_state(
    where: str, own: Mapping[str, Array], state: Mapping[str, Any], strict: bool, prefix: str
) -> tuple[dict[str, Array], list[str], list[str]]:
    """Return copies of the values in the dtypes of `own`, the missing keys, and the unexpected keys.

    Raises
    ------
    ValueError
        With all that is wrong in one text. Missing and unexpected keys count as wrong if `strict`.
    TypeError
        If `state` is no mapping.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"{where}: state_dict: expected a mapping of names to arrays, got {type(state).__name__}")
    strict, prefix = flag(f"{where}: strict", strict), text(f"{where}: prefix", prefix)
    given = {key.removeprefix(prefix): key for key in state if isinstance(key, str) and key.startswith(prefix)}
    missing = [prefix + name for name in own if name not in given and name not in OPTIONAL]
    unexpected = [key for name, key in given.items() if name not in own]
    unexpected += [str(key) for key in state if not (isinstance(key, str) or prefix)]
    wrong = [f"no {key!r}" for key in missing] + [f"an unexpected {key!r}" for key in unexpected] if strict else []
    values = {}
    for name in own:
        if name in given:
            array = parameter_array(f"{where}: {given[name]}", state[given[name]])
            if array.dtype == _UNNAMED:
                array = _bfloat16_as_float32(array)
            if name in OPTIONAL:
                array = _whole(array)
            wrong += _misfits(given[name], array, own[name])
            values[name] = array
    if wrong:
        expected = ", ".join(f"{prefix}{name} {array.shape}" for name, array in own.items())
        raise ValueError(f"{where}: state_dict: expected {expected}; got {', '.join(wrong)}")
    with np.errstate(all="ignore"):
        # Copies: one value may lie in the memory of another's target.
        copies = {name: array.astype(own[name].dtype) for name, array in values.items()}
    return copies, missing, unexpected


def _bfloat16_as_float32(array: Array) -> Array:
    """Return the same values: bfloat16 is the upper half of float32, and needs no ml_dtypes so."""
    return np.left_shift(array.view(np.uint16), 16, dtype=np.uint32).view(np.float32)


def _whole(count: Array) -> Array:
    """Return a counter as an integer without dimensions, if it is one: whole checkpoints are cast to half precision."""
    if count.size == 1 and (count.dtype.kind == "f" or is_float(count.dtype)):
        value = float(count.reshape(()))
        count = np.asarray(int(value)) if value.is_integer() else count
    return count.reshape(()) if count.shape == (1,) else count


def _misfits(key: str, array: Array, target: Array) -> list[str]:
    if array.shape != target.shape:
        return [f"{key!r} of shape {array.shape}"]
    if not (
        array.dtype.kind in "biu" or (target.dtype.kind not in "iu" and (array.dtype.kind == "f" or is_float(array.dtype)))
    ):
        return [f"{key!r} of dtype {array.dtype}"]
    if target.dtype.kind in "iu":
        limits = np.iinfo(target.dtype)
        if array.dtype.kind in "iu" and not 0 <= array.item() <= limits.max:
            return [f"{key!r} of value {array.item()}"]
    return [] if target.flags.writeable else [f"{key!r} for a read-only array of the layer"]
