"""Objects of other libraries as NumPy arrays, none of which is imported, and the float dtypes that parameters may have."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

FLOATS = ("float16", "bfloat16", "float32", "float64")


def as_array(where: str, value: object) -> Array:
    """Read what the functions read; `where` opens the error's text."""
    if isinstance(value, np.ndarray):
        return value
    array: Any = value
    try:
        if hasattr(array, "__dlpack__") and not hasattr(array, "__array__"):
            return np.from_dlpack(array)
        return np.asarray(array)
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{where}: expected what numpy.asarray reads, got {type(value).__name__} that it does not") from error


def parameter_array(where: str, value: object) -> Array:
    """Read an array, a sequence, or a torch tensor on any device, also one that is being trained.

    bfloat16 tensors, which NumPy does not read, come as float32, which holds their values exactly.
    """
    if hasattr(value, "detach"):
        tensor: Any = value
        tensor = tensor.detach().cpu()
        value = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
    return as_array(where, value)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether the kernels read parameters of this dtype."""
    return dtype.name in FLOATS


def float_dtype(where: str, dtype: DTypeLike) -> np.dtype[Any]:
    """Check a dtype that a user named."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not is_float(found):
        raise TypeError(f"{where}: dtype: expected {', '.join(FLOATS[:-1])} or {FLOATS[-1]}, got {dtype!r}")
    return found
