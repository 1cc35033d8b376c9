"""What is measured: shapes of real layers, their input, and the formula that a result is checked against.

No peer is called here, and nothing but NumPy is needed.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
EPS = 1e-5
SUITES = ("eval", "train", "row", "group", "moments")


@dataclass(frozen=True)
class Case:
    """One operation on one array.

    `shape` is the array's own, in the order of its memory: with ``last`` the channels are its last axis, else its second.
    Layer and RMS norm take the last axis.
    """

    suite: str
    layer: str
    op: str  # batch_eval, batch_train, layer, rms, group, instance or moments
    shape: tuple[int, ...]
    last: bool = False
    groups: int = 0
    dtype: str = "float32"
    quick: bool = False

    @property
    def label(self) -> str:
        """The layer and its shape, without the layout."""
        words = [self.layer, "x".join(map(str, self.channels_first_shape))]
        return " ".join(words + [self.dtype] * (self.dtype != "float32"))

    @property
    def name(self) -> str:
        """What ``--cases`` matches."""
        return f"{self.suite}: {self.label}" + " channels-last" * self.last

    @property
    def channels_first_shape(self) -> tuple[int, ...]:
        """The shape as PyTorch writes it, whatever the layout."""
        return (self.shape[0], self.shape[-1], *self.shape[1:-1]) if self.last else self.shape

    @property
    def by_row(self) -> bool:
        """Whether the last axis is normalized: layer and RMS norm."""
        return self.op in ("layer", "rms")

    @property
    def channel_axis(self) -> int:
        """The axis that weight and bias belong to."""
        return -1 if self.last or self.by_row else 1

    @property
    def channels(self) -> int:
        """How many values weight and bias have."""
        return self.shape[self.channel_axis]

    @property
    def num_groups(self) -> int:
        """Groups of channels in a sample; in instance norm each channel is one."""
        return self.groups or self.channels


class View(NamedTuple):
    """How the array is reshaped for the formula: its shape, the axes of the statistics, the shape of weight and bias."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    parameters: tuple[int, ...]


def view(case: Case) -> View:
    shape, channels = case.shape, case.channels
    if case.by_row:
        return View(shape, (-1,), (channels,))
    if case.op in ("group", "instance"):
        count, groups, size = shape[0], case.num_groups, channels // case.num_groups
        pixels = math.prod(shape) // count // channels
        if case.last:
            return View((count, pixels, groups, size), (1, 3), (groups, size))
        return View((count, groups, size, pixels), (2, 3), (groups, size, 1))
    if case.last:
        return View(shape, tuple(range(len(shape) - 1)), (channels,))
    return View(shape, (0, *range(2, len(shape))), (channels, *[1] * (len(shape) - 2)))


class Input(NamedTuple):
    """The array, and the parameters of its channels."""

    x: Array
    weight: Array
    bias: Array
    mean: Array
    var: Array


def make_input(case: Case) -> Input:
    rng = np.random.default_rng([math.prod(case.shape), case.channels])
    if case.dtype == "uint8":
        x: Array = rng.integers(0, 256, case.shape, np.uint8)
    else:
        x = rng.standard_normal(case.shape, np.float32)
        x *= 1.5
        x += 0.3
    weight, var = rng.uniform(0.5, 1.5, (2, case.channels)).astype(np.float32)
    bias, mean = rng.standard_normal((2, case.channels)).astype(np.float32)
    return Input(x, weight, bias, mean, var)


def formula(case: Case, data: Input) -> list[Array]:
    """Compute the case as textbooks write it, in the precision of `data`."""
    shape, axes, parameters = view(case)
    x = data.x.reshape(shape)
    if case.op == "moments":
        return [x.mean(axes), x.var(axes)]
    weight, bias = data.weight.reshape(parameters), data.bias.reshape(parameters)
    if case.op == "rms":
        return [x / np.sqrt(np.mean(x**2, axes, keepdims=True) + EPS) * weight]
    if case.op == "batch_eval":
        mean, var = data.mean.reshape(parameters), data.var.reshape(parameters)
    else:
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return [((x - mean) / np.sqrt(var + EPS) * weight + bias).reshape(case.shape)]


def truth(case: Case, data: Input) -> list[Array]:
    return formula(case, Input(*(a.astype(np.float64) for a in data)))


def both_layouts(suite: str, layer: str, op: str, shape: tuple[int, ...], groups: int = 0, quick: bool = False) -> list[Case]:
    """Make the case in both layouts, from its channels-first shape."""
    last = (shape[0], *shape[2:], shape[1])
    return [
        Case(suite, layer, op, shape, groups=groups, quick=quick),
        Case(suite, layer, op, last, last=True, groups=groups, quick=quick),
    ]


def all_cases() -> list[Case]:
    return [
        *both_layouts("eval", "ResNet-50 stem", "batch_eval", (1, 64, 112, 112)),
        *both_layouts("eval", "ResNet-50 stem", "batch_eval", (32, 64, 112, 112)),
        *both_layouts("eval", "ResNet-50 conv3", "batch_eval", (8, 512, 28, 28), quick=True),
        *both_layouts("eval", "ResNet-50 conv5", "batch_eval", (1, 2048, 7, 7)),
        *both_layouts("eval", "MobileNetV2 block 2", "batch_eval", (1, 96, 112, 112), quick=True),
        *both_layouts("eval", "MobileNetV2 head", "batch_eval", (1, 1280, 7, 7)),
        *both_layouts("train", "ResNet-50 stem", "batch_train", (32, 64, 112, 112)),
        *both_layouts("train", "ResNet-50 conv2", "batch_train", (32, 64, 56, 56), quick=True),
        *both_layouts("train", "ResNet-50 conv5", "batch_train", (32, 512, 7, 7)),
        *both_layouts("train", "MobileNetV2 block 4", "batch_train", (32, 192, 28, 28)),
        Case("row", "GPT-2, one token", "layer", (1, 768)),
        Case("row", "GPT-2", "layer", (1024, 768), quick=True),
        Case("row", "GPT-2 XL", "layer", (4096, 1600)),
        Case("row", "MiniLM, one sentence", "layer", (128, 384), quick=True),
        Case("row", "MiniLM, 64 sentences", "layer", (8192, 384)),
        Case("row", "Llama RMSNorm, one token", "rms", (1, 4096)),
        Case("row", "Llama RMSNorm", "rms", (2048, 4096), quick=True),
        *both_layouts("group", "SD U-Net down 1", "group", (2, 320, 64, 64), groups=32, quick=True),
        *both_layouts("group", "SD U-Net down 2", "group", (2, 640, 32, 32), groups=32),
        *both_layouts("group", "SD U-Net middle", "group", (2, 1280, 8, 8), groups=32),
        *both_layouts("group", "SD decoder", "group", (1, 128, 512, 512), groups=32),
        *both_layouts("group", "Style transfer", "instance", (4, 64, 128, 128)),
        *both_layouts("moments", "ImageNet batch", "moments", (64, 3, 224, 224), quick=True),
        Case("moments", "ImageNet batch", "moments", (64, 224, 224, 3), last=True, dtype="uint8"),
        *both_layouts("moments", "ResNet-50 conv2", "moments", (32, 64, 56, 56)),
    ]
