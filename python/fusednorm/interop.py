"""Layers from torch's modules, by duck typing: torch is not imported. `fusednorm.conventions` reads saved states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fusednorm.arrays import Array, parameter_array
from fusednorm.layers import (
    BatchNorm,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    Layer,
    LayerNorm,
    RMSNorm,
)

_ARRAYS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_RUNNING = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_MODULES: dict[str, tuple[Callable[..., Layer], tuple[str, ...]]] = {
    "BatchNorm1d": (BatchNorm1d, _RUNNING),
    "BatchNorm2d": (BatchNorm2d, _RUNNING),
    "BatchNorm3d": (BatchNorm3d, _RUNNING),
    "SyncBatchNorm": (BatchNorm, _RUNNING),
    "InstanceNorm1d": (InstanceNorm1d, _RUNNING),
    "InstanceNorm2d": (InstanceNorm2d, _RUNNING),
    "InstanceNorm3d": (InstanceNorm3d, _RUNNING),
    "LayerNorm": (LayerNorm, ("normalized_shape", "eps", "elementwise_affine")),
    "RMSNorm": (RMSNorm, ("normalized_shape", "eps", "elementwise_affine")),
    "GroupNorm": (GroupNorm, ("num_groups", "num_channels", "eps", "affine")),
}


def _torch_class(module: object) -> str | None:
    """Return the name of torch's norm class that computes what the module computes."""
    kind = type(module)
    for ancestor in kind.__mro__:
        is_torch = ancestor.__module__.startswith("torch.nn.modules.")
        if is_torch and ancestor.__name__ in _MODULES and not kind.__name__.startswith("Lazy"):
            # A subclass may compute something else, like a layer norm that first moves the channels.
            return ancestor.__name__ if getattr(kind, "forward", None) is getattr(ancestor, "forward", None) else None
    return None


def _copied(name: str, tensor: Any) -> Array:
    """Return a tensor's values in an array of its own, of the dtype that the layer keeps them in."""
    dtype: Any = str(tensor.dtype).removeprefix("torch.")
    if name.startswith("running") and dtype != "float64":
        dtype = np.float32  # an average in half precision stands still
    elif dtype == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            dtype = np.float32  # holds the same values
        else:
            dtype = ml_dtypes.bfloat16
    return np.array(parameter_array(f"from_torch: {name}", tensor), dtype)


def from_torch(module: Any) -> Layer:
    """Return the layer that computes the same as one of torch's norm modules.

    Its arrays are copies of what the module computes with, whatever its ``state_dict`` calls that: weights may be pruned or
    parametrized, and statistics removed. It is in training mode if the module is. Hooks of the module are not copied.

    Parameters
    ----------
    module
        BatchNorm1d, 2d, 3d, SyncBatchNorm (its statistics are then those of this process), InstanceNorm1d, 2d, 3d,
        LayerNorm, RMSNorm or GroupNorm of ``torch.nn``, or a subclass that leaves ``forward`` alone. On any device.

    Raises
    ------
    TypeError
        For anything else. `layers_from_torch` takes a whole network.
    ValueError
        For a lazy norm without parameters, whose calls leave its number of channels at 0.

    Examples
    --------
    >>> import fusednorm as fn
    >>> layer = fn.from_torch(torch.nn.GroupNorm(2, 6))  # doctest: +SKIP
    """
    name = _torch_class(module)
    if name is None:
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        lazy = ", which has no parameters yet" if hasattr(module, "has_uninitialized_params") else ""
        raise TypeError(f"from_torch: module: expected one of torch.nn's {', '.join(_MODULES)}, got {kind}{lazy}")
    make, options = _MODULES[name]
    arguments = {option: getattr(module, option) for option in options}
    tensors = {array: getattr(module, array, None) for array in _ARRAYS}
    arrays = {array: _copied(array, tensor) for array, tensor in tensors.items() if tensor is not None}
    if not arrays and arguments.get("num_features") == 0:  # a lazy norm without parameters, whose calls do not set it
        raise ValueError("from_torch: module: expected a norm that knows its number of channels, got num_features=0")
    first = next(iter(arrays.values()), np.zeros(0, np.float32))  # the weight, if there is one
    layer = make(**arguments, dtype=first.dtype)
    for array in _ARRAYS:
        if hasattr(layer, array):
            setattr(layer, array, arrays.get(array))
    return layer.train(module.training)


def layers_from_torch(module: Any) -> dict[str, Layer]:
    """Return a layer for every norm in a torch module, by the names that ``module.named_modules()`` gives.

    Other modules, and norms that `from_torch` does not know, are not in the result.

    Raises
    ------
    TypeError
        If `module` is no torch module.

    Examples
    --------
    >>> import fusednorm as fn
    >>> norms = fn.layers_from_torch(torchvision.models.resnet18())  # doctest: +SKIP
    >>> norms["layer1.0.bn1"].eval()  # doctest: +SKIP
    """
    if not hasattr(module, "named_modules"):
        raise TypeError(f"layers_from_torch: module: expected a torch module, got {type(module).__name__}")
    return {name: from_torch(part) for name, part in module.named_modules() if _torch_class(part) is not None}
