"""Layers from the saved states of other frameworks, and what these frameworks mean by names, momentum and eps."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fusednorm.arrays import Array, is_float, number, parameter_array, text
from fusednorm.layers import BatchNorm, GroupNorm, Layer, LayerNorm, RMSNorm
from fusednorm.layers.running import RunningNorm

L = TypeVar("L", bound=Layer)


@dataclass(frozen=True)
class _Convention:
    """How a framework calls the arrays, and what its numbers mean."""

    names: Mapping[str, str]  # of the last part of a key, in small letters: the layer's attribute
    eps: Mapping[str, float] = field(default_factory=dict)  # by class; "": every other
    momentum: float | None = None  # the weight of the old average; None: as here
    channel_axis: int = 1
    ignored: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()  # what the path of a layer may begin with: it has arrays in each of them


_CONVENTIONS = {
    "torch": _Convention(
        {name: name for name in ("weight", "bias", "running_mean", "running_var")}, ignored=("num_batches_tracked",)
    ),
    "keras": _Convention(
        {"gamma": "weight", "scale": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"},
        {"": 1e-3, "RMSNorm": 1e-6},
        0.99,
        -1,
    ),
    "flax": _Convention(
        {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"},
        {"": 1e-6, "BatchNorm": 1e-5},
        0.99,
        -1,
        collections=("params", "batch_stats"),
    ),
    "onnx": _Convention(
        {
            "scale": "weight",
            "b": "bias",
            "bias": "bias",
            "input_mean": "running_mean",
            "mean": "running_mean",
            "input_var": "running_var",
            "var": "running_var",
        },
        {"": 1e-5},
        0.9,
    ),
}


def from_state(
    kind: type[L],
    state: Mapping[str, Any],
    convention: str,
    *,
    name: str = "",
    eps: float | None = None,
    momentum: float | None = None,
    **options: Any,
) -> L:
    """Return a layer, in evaluation mode, from the saved arrays of another framework.

    Names, eps, momentum and the axis of the channels are what the framework means by them. The site's page on conventions has
    the table.

    Parameters
    ----------
    kind
        The layer's class, like ``fusednorm.BatchNorm2d``.
    state
        Arrays or tensors by name. Mappings within mappings, like Flax's, are searched; of a path like
        ``"block1/bn/gamma:0"`` or ``"block1.bn.weight"`` the last part is the array's name and the others are the layer's.
    convention
        ``"keras"``: gamma, beta, moving_mean, moving_variance (RMS norm: scale), as in ``{w.path: w for w in model.weights}``;
        a ``.weights.h5`` file of Keras 3 numbers its arrays instead. ``"flax"``: scale, bias, mean, var.
        ``"onnx"``: scale, B (or bias), input_mean, input_var. ``"torch"``: weight, bias, running_mean, running_var.
    name
        The layer to read, or the last parts of its path, where `state` has several.
    eps, momentum
        As that framework means them; None: its default. Keras, Flax and ONNX give the weight of the *old* average.
    options
        Given to the class: ``num_groups`` (needed by `GroupNorm`), ``dtype``, ``activation``, ``channel_axis`` (by default
        -1 for Keras and Flax, 1 else).

    Raises
    ------
    ValueError
        For an array that is missing, unknown or of the wrong shape, more than one layer of that name, a `convention` that
        there is not, or a number out of range.
    TypeError
        If `kind` is no layer's class, `state` no mapping or `name` no text, or for options that the class does not take.

    Notes
    -----
    The running variances of Keras, Flax and ONNX are averages of biased ones. They are taken as they are, so evaluation
    computes what it computed there; a layer that trains on averages unbiased ones into them, as torch does.

    Examples
    --------
    >>> import numpy as np, fusednorm as fn
    >>> state = {"bn/gamma:0": [2.0], "bn/beta:0": [1.0], "bn/moving_mean:0": [3.0], "bn/moving_variance:0": [4.0]}
    >>> layer = fn.from_state(fn.BatchNorm1d, state, "keras", eps=0)
    >>> layer([[3.0], [5.0]])
    array([[1.],
           [3.]])
    >>> layer.momentum
    0.01
    """
    if not (isinstance(kind, type) and issubclass(kind, Layer)):
        raise TypeError(f"from_state: kind: expected a layer's class, like fusednorm.BatchNorm2d, got {kind!r}")
    name = text("from_state: name", name)
    if not isinstance(convention, str) or convention not in _CONVENTIONS:
        raise ValueError(f"from_state: convention: expected {', '.join(map(repr, _CONVENTIONS))}, got {convention!r}")
    if kind is GroupNorm and "num_groups" not in options:
        raise TypeError("from_state: num_groups: expected an integer, got none")
    eps = None if eps is None else number("from_state: eps", eps, 0)
    momentum = None if momentum is None else number("from_state: momentum", momentum)
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(f"from_state: momentum: expected a number from 0 to 1, got {momentum}")
    rules = _CONVENTIONS[convention]
    arrays = _select(rules, state, name)
    accepted = inspect.signature(kind).parameters
    arguments = _sizes(kind, arrays) | options
    default_eps = rules.eps.get("BatchNorm" if issubclass(kind, BatchNorm) else kind.__name__, rules.eps.get(""))
    if eps is not None or default_eps is not None:
        arguments.setdefault("eps", default_eps if eps is None else eps)
    if "channel_axis" in accepted:
        arguments.setdefault("channel_axis", rules.channel_axis)
    if "momentum" in accepted:
        old = rules.momentum if momentum is None else momentum
        if old is not None:
            arguments["momentum"] = old if rules.momentum is None else round(1 - old, 15)  # 0.01, not 0.010000000000000009
    layer = kind(**arguments)
    # A layer of Keras or Flax may have a bias and no weight: that is a weight of ones here.
    ones = {"weight": layer.weight} if "weight" not in arrays and layer.weight is not None else {}
    layer.load_state_dict(ones | arrays)
    return layer.eval()


def _sizes(kind: type[Layer], arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return the constructor's arguments that the arrays tell."""
    has_bias = "bias" in arrays
    affine = has_bias or "weight" in arrays
    arguments: dict[str, Any] = {}
    if kind is not RMSNorm:
        arguments["bias"] = has_bias
    if issubclass(kind, RunningNorm):
        # Flax's params without its batch_stats are half a batch norm, not one without statistics.
        needed = issubclass(kind, BatchNorm)
        arguments["track_running_stats"] = needed or "running_mean" in arrays or "running_var" in arrays
    arguments["elementwise_affine" if kind in (LayerNorm, RMSNorm) else "affine"] = affine
    if arrays:
        array = next(iter(arrays.values()))
        owned = next((arrays[name] for name in ("weight", "bias") if name in arrays), array)
        if is_float(owned.dtype):
            arguments["dtype"] = owned.dtype
        if kind in (LayerNorm, RMSNorm):
            arguments["normalized_shape"] = array.shape
        else:
            arguments["num_channels" if kind is GroupNorm else "num_features"] = array.size
    return arguments


def _select(rules: _Convention, state: Mapping[str, Any], name: str) -> dict[str, Array]:
    """Return the arrays of one layer by our names."""
    if not isinstance(state, Mapping):
        raise TypeError(f"from_state: state: expected a mapping of names to arrays, got {type(state).__name__}")
    wanted = tuple(_split(name))
    found = [(_owner(rules, path), path, value) for path, value in _leaves(state) if path[-1] not in rules.ignored]
    if wanted:
        found = [entry for entry in found if entry[1][-1 - len(wanted) : -1] == wanted]
        # "bn1" is that of the top before the one in "layer1.0.bn1".
        found = [entry for entry in found if wanted in (entry[0], entry[1][:-1])] or found
    arrays: dict[str, Array] = {}
    unknown = []
    for owner, path, value in found:
        ours = rules.names.get(path[-1].lower())
        if ours is None:
            unknown.append("/".join(path))
            continue
        if ours in arrays or owner != found[0][0]:
            layers = ", ".join(dict.fromkeys("/".join(parts) or "''" for parts, _, _ in found))
            raise ValueError(f"from_state: name: expected the name of one of the layers {layers}, got {name!r}")
        arrays[ours] = parameter_array(f"from_state: state: {'/'.join(path)}", value)
    if unknown or not arrays:
        got = f"unknown {', '.join(map(repr, unknown))}" if unknown else f"no array of a layer {name!r}"
        raise ValueError(f"from_state: state: expected {', '.join(rules.names)}, got {got}")
    return arrays


def _owner(rules: _Convention, path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the path of the layer that an array belongs to."""
    owner = path[:-1]
    return owner[1:] if owner and owner[0] in rules.collections else owner


def _leaves(state: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in state.items():
        parts = tuple(_split(str(key)))
        if isinstance(value, Mapping):
            yield from ((parts + rest, leaf) for rest, leaf in _leaves(value))
        else:
            yield parts or (str(key),), value


def _split(path: str) -> list[str]:
    """Split a path at slashes, or else at dots; Keras ends its variables' names in ``:0``."""
    path = path.rsplit(":", 1)[0]
    return [part for part in path.split("/" if "/" in path else ".") if part]
