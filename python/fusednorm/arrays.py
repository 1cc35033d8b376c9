"""Objects of other libraries as NumPy arrays, none of which is imported, and the float dtypes that parameters may have."""

import math
import sys
from collections.abc import Iterable
from itertools import islice
from operator import index
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Activation = Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh", "hardswish", "leaky_relu"]

FLOATS = ("float16", "bfloat16", "float32", "float64")
MOST_DIMS = 64  # NumPy's


def as_array(where: str, value: object) -> Array:
    """Read what the functions read, of a subclass its memory; `where` opens the error's text."""
    if type(value) is np.ndarray:
        return value
    if value is None:
        raise TypeError(f"{where}: expected an array, got None")
    array: Any = value
    try:
        if hasattr(array, "__dlpack__") and not hasattr(array, "__array__"):
            return np.from_dlpack(array)
        return np.asarray(array)
    except (MemoryError, RecursionError):  # not the argument's fault
        raise
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        expected = "an array or what numpy.asarray can read"
        raise kind(f"{where}: expected {expected}, got {type(value).__name__} that it cannot") from error


def parameter_array(where: str, value: object) -> Array:
    """Read an array, a sequence, or a torch tensor on any device, also one that is being trained.

    bfloat16 tensors, which NumPy does not read, come as float32, which holds their values exactly.
    """
    if hasattr(value, "detach"):
        tensor: Any = value
        try:
            tensor = tensor.detach().cpu()
            value = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # a tensor without memory, for one
            raise TypeError(f"{where}: expected a tensor that can be copied to the CPU, got one that can not") from error
    return as_array(where, value)


def real_array(where: str, value: object) -> Array:
    """Read an array of a dtype that the functions take."""
    array = as_array(where, value)
    if array.dtype.kind not in "biuf" and not is_float(array.dtype):
        raise TypeError(f"{where}: expected a bool, integer or float array, got dtype {array.dtype}")
    return array


def integer(where: str, value: Any, expected: str = "an integer") -> int:
    """Read an integer, as the functions do."""
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{where}: expected {expected}, got {value!r}") from None


def sizes(where: str, values: Iterable[Any]) -> tuple[int, ...]:
    """Read the shape of an array of parameters, if memory can hold one."""
    found = tuple(integer(where, value) for value in islice(values, MOST_DIMS + 1))
    # NumPy's limit does not let a size of 0 make up for a large one.
    if len(found) > MOST_DIMS or math.prod(max(size, 1) for size in found) > sys.maxsize // 8:
        raise ValueError(f"{where}: expected parameters that memory can hold, got shape {found}")
    return found


def array_axis(where: str, value: Any) -> int:
    """Read an axis that some array has."""
    found = integer(where, value)
    if not -MOST_DIMS <= found < MOST_DIMS:
        raise ValueError(f"{where}: expected an axis of an array of {MOST_DIMS} dimensions, got {found}")
    return found


def _is_of_kind(value: Any, kinds: str) -> bool:
    """Whether NumPy's arrays and scalars are of these kinds: text and complex numbers, too, would give a bool or a number."""
    return not isinstance(value, np.ndarray | np.generic) or value.dtype.kind in kinds


def flag(where: str, value: Any) -> bool:
    """Read a flag, as the functions do: whatever has a truth value of its own, which text and lists have not."""
    if isinstance(value, bool):
        return value
    cause = None
    if hasattr(type(value), "__bool__") and value is not None and _is_of_kind(value, "biufO"):
        try:
            return bool(value)
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # an array, or a tensor, of several values
            cause = error
    raise TypeError(f"{where}: expected a bool, got {value!r}") from cause


def text(where: str, value: Any) -> str:
    """Read a name."""
    if not isinstance(value, str):
        raise TypeError(f"{where}: expected text, got {value!r}")
    return value


def number(where: str, value: Any, least: float = -math.inf) -> float:
    """Read a finite number, as the functions do: whatever has a float value, but for text."""
    expected = "a finite number" if math.isinf(least) else f"a finite number >= {least}"
    try:
        if not _is_of_kind(value, "biufOV"):  # V: of ml_dtypes
            raise TypeError
        found = math.ldexp(value, 0)
    except OverflowError:
        found = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{where}: expected a number, got {value!r}") from None
    if not math.isfinite(found) or found < least:
        raise ValueError(f"{where}: expected {expected}, got {value!r}")
    return found


def check_activation(where: str, value: Any) -> None:
    """Refuse what the functions refuse as an activation."""
    names = get_args(Activation)
    if value is not None and not (isinstance(value, str) and value in names):
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"{where}: expected one of None, {', '.join(map(repr, names))}, got {value!r}")


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether the kernels read parameters of this dtype."""
    return dtype.name in FLOATS


def float_dtype(where: str, dtype: DTypeLike) -> np.dtype[Any]:
    """Check a dtype that a user named; None is float32."""
    try:
        found = np.dtype(np.float32 if dtype is None else dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or not is_float(found):
        raise TypeError(f"{where}: dtype: expected {', '.join(FLOATS[:-1])} or {FLOATS[-1]}, got {dtype!r}")
    return found
