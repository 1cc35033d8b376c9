"""Every layer, with the options and the shapes that the tests of layers run on."""

from dataclasses import dataclass, field
from typing import Any

import fusednorm as fn
import numpy as np
import pytest


@dataclass(frozen=True)
class LayerCase:
    """How to make a layer, here and in torch, and an x for it."""

    name: str
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, **more):
        return getattr(fn, self.name)(*self.arguments, **self.options, **more)

    def make_torch(self, torch):
        return getattr(torch.nn, self.name)(*self.arguments, **self.options)

    def id(self):
        options = ",".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.name}{self.shape}{options}".replace(" ", "")


def both(name, arguments, shape, *options):
    return [LayerCase(name, arguments, shape, one) for one in options]


AFFINE = ({}, {"affine": False}, {"affine": True, "bias": False})
TRACK = ({"track_running_stats": True}, {"track_running_stats": True, "affine": True, "momentum": 0.3, "eps": 1e-3})
BATCH = [
    *both("BatchNorm1d", (6,), (5, 6), *AFFINE, {"track_running_stats": False}, {"momentum": None}, {"momentum": 1.0}),
    *both("BatchNorm1d", (6,), (5, 6, 7), {}, {"eps": 0.1, "momentum": 0.0}),
    *both("BatchNorm2d", (6,), (3, 6, 4, 5), *AFFINE, {"track_running_stats": False, "affine": False}, {"momentum": None}),
    *both("BatchNorm3d", (6,), (2, 6, 3, 4, 2), {}, {"affine": False}),
]
INSTANCE = [
    *both("InstanceNorm1d", (6,), (5, 6, 7), *AFFINE, *TRACK),
    *both("InstanceNorm1d", (6,), (6, 7), {}, *TRACK),
    *both("InstanceNorm2d", (6,), (3, 6, 4, 5), *AFFINE, *TRACK),
    *both("InstanceNorm2d", (6,), (6, 4, 5), {"affine": True}, *TRACK),
    *both("InstanceNorm3d", (6,), (2, 6, 3, 4, 2), {}, *TRACK),
    *both("InstanceNorm3d", (6,), (6, 3, 4, 2), {"affine": True}),
]
PLAIN = [
    *both("LayerNorm", (7,), (5, 7), {}, {"elementwise_affine": False}, {"bias": False}, {"eps": 0.1}),
    *both("LayerNorm", ((4, 7),), (3, 4, 7), {}, {"elementwise_affine": False}),
    *both("RMSNorm", (7,), (5, 7), {}, {"elementwise_affine": False}, {"eps": 0.1}),
    *both("RMSNorm", ([4, 7],), (3, 4, 7), {}),
    *both("GroupNorm", (3, 6), (5, 6, 4), *AFFINE, {"eps": 0.1}),
    *both("GroupNorm", (2, 6), (3, 6, 4, 5), {}),
]
ALL = [*BATCH, *INSTANCE, *PLAIN]
ONE_OF_EACH = list({case.name: case for case in ALL if not case.options or case.name.startswith("Instance")}.values())

every_layer = pytest.mark.parametrize("case", ALL, ids=LayerCase.id)
every_kind = pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.name)


def draw_state(layer, rng):
    """Fill a layer's arrays with values of a trained one."""
    for name, array in layer.state_dict().items():
        if name == "num_batches_tracked":
            array[...] = 7
        elif name in ("weight", "running_var"):
            array[...] = rng.uniform(0.5, 1.5, array.shape)
        else:
            array[...] = rng.normal(0, 0.5, array.shape)
    return layer


def state_bytes(layer):
    return {name: np.asarray(array).tobytes() for name, array in layer.state_dict().items()}
