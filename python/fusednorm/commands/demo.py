"""The main job: real input and the shapes of real layers, checked against float64 and timed against NumPy.

Nothing but NumPy is needed. `compute` shows the calls, `formula` the same by hand.
"""

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

import fusednorm as fn
from fusednorm.commands.console import say

Array = NDArray[Any]
EPS = 1e-5
GROUPS = 32
# The largest error of a result, relative to the largest weight.
TOLERANCE = 2e-6
SECONDS_PER_MEASUREMENT = 0.25
LAYERS = [
    ("2 images, uint8", "model's constants", (2, 427, 640, 3)),
    ("2 images, uint8", "own statistics", (2, 427, 640, 3)),
    ("ResNet-50 conv2", "batch norm, eval", (8, 256, 56, 56)),
    ("ResNet-50 conv2", "batch norm, training", (8, 256, 56, 56)),
    ("MobileNetV2 block 2", "batch norm, eval", (1, 96, 112, 112)),
    ("MobileNetV2 block 2", "batch norm, training", (16, 96, 56, 56)),
    ("MiniLM, 8 sentences", "layer norm", (8, 128, 384)),
    ("GPT-2", "layer norm", (1024, 768)),
    ("Llama", "RMS norm", (512, 4096)),
    ("Stable Diffusion U-Net", "group norm", (2, 320, 64, 64)),
]


class Parameters(NamedTuple):
    """One value per channel."""

    weight: Array
    bias: Array
    mean: Array
    var: Array


class Result(NamedTuple):
    """A row of the table."""

    name: str
    norm: str
    shape: tuple[int, ...]
    seconds: float
    numpy_seconds: float
    error: float

    @property
    def right(self) -> bool:
        """Whether the result is as exact as promised; NaN is not."""
        return self.error <= TOLERANCE


def compute(norm: str, x: Array, p: Parameters) -> Array:
    """Normalize with fusednorm."""
    if norm == "batch norm, eval":
        return fn.batch_norm(x, p.mean, p.var, p.weight, p.bias)
    if norm == "batch norm, training":
        return fn.batch_norm(x, weight=p.weight, bias=p.bias, training=True)
    if norm == "layer norm":
        return fn.layer_norm(x, x.shape[-1], p.weight, p.bias)
    if norm == "RMS norm":
        return fn.rms_norm(x, x.shape[-1], p.weight, EPS)
    if norm == "group norm":
        return fn.group_norm(x, GROUPS, p.weight, p.bias)
    if norm == "model's constants":
        return fn.batch_norm(x, p.mean, p.var, p.weight, p.bias, channel_axis=-1, dtype=np.float32)
    if norm == "own statistics":
        return fn.batch_norm(x, weight=p.weight, bias=p.bias, training=True, channel_axis=-1, dtype=np.float32)
    raise ValueError(norm)


def formula(norm: str, x: Array, p: Parameters, dtype: DTypeLike) -> Array:
    """Normalize as textbooks do: in float32 this is what is timed, in float64 what the results are checked against."""
    shape = x.shape
    x = x.astype(dtype, copy=False)
    weight, bias, mean, var = (a.astype(dtype) for a in p)
    if norm == "RMS norm":
        rms: Array = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + EPS) * weight
        return rms
    axes: tuple[int, ...] = (-1,) if norm == "layer norm" else (0, 1, 2)
    if norm == "group norm":
        x, axes = x.reshape(shape[0], GROUPS, shape[1] // GROUPS, -1), (2, 3)
        weight, bias = weight.reshape(GROUPS, -1, 1), bias.reshape(GROUPS, -1, 1)
    if norm.startswith("batch norm"):
        axes = (0, 2, 3)
        weight, bias, mean, var = (a.reshape(-1, 1, 1) for a in (weight, bias, mean, var))
    if norm not in ("batch norm, eval", "model's constants"):
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    y: Array = (x - mean) / np.sqrt(var + EPS) * weight + bias
    return y.reshape(shape)


def photographs() -> tuple[str, Array]:
    """Load scikit-learn's two photographs, or make two images of their shape."""
    try:
        from sklearn.datasets import load_sample_images

        images = load_sample_images().images  # which Pillow decodes
    except ImportError:
        waves = np.sin(np.linspace(0, 9, 427))[:, None, None] + np.cos(np.linspace(0, 7, 640))[:, None]
        image = 90 + 40 * waves + np.array([0, 10, 20])
        return "two generated images (photographs need scikit-learn and Pillow)", np.stack([image, image[::-1]]).astype("u1")
    return "scikit-learn's two sample photographs", np.stack(images)


def image_input(images: Array) -> tuple[Array, Parameters]:
    """Add the constants that most image models use, for values from 0 to 255."""
    mean, std = 255 * np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    return images, Parameters(np.ones(3, np.float32), np.zeros(3, np.float32), mean, std**2)


def random_input(shape: tuple[int, ...]) -> tuple[Array, Parameters]:
    """Make an array (N, C, H, W) or (..., C), and random parameters."""
    rng = np.random.default_rng(0)
    channels = shape[1] if len(shape) == 4 else shape[-1]
    x = rng.standard_normal(shape, np.float32) + 1
    weight, var = rng.uniform(0.5, 1.5, (2, channels)).astype(np.float32)
    bias, mean = rng.standard_normal((2, channels)).astype(np.float32)
    return x, Parameters(weight, bias, mean, var)


def fastest(call: Callable[[], Array]) -> float:
    """Measure the seconds of the fastest call: what else runs on the machine can only add to them."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS_PER_MEASUREMENT:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(name: str, norm: str, x: Array, p: Parameters) -> Result:
    """Check one result, then time both ways to it."""
    difference = compute(norm, x, p) - formula(norm, x, p, np.float64)
    return Result(
        name,
        norm,
        x.shape,
        fastest(lambda: compute(norm, x, p)),
        fastest(lambda: formula(norm, x, p, np.float32)),
        float(np.abs(difference).max() / p.weight.max()),
    )


def progress(items: list[Any]) -> Iterable[Any]:
    """Show a bar where tqdm is installed and someone looks."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    bar: Iterable[Any] = tqdm(items, unit="layer", leave=False, disable=not sys.stderr.isatty())
    return bar


def table(results: list[Result]) -> str:
    """Format the results for a terminal of 100 columns."""
    line = "{:23} {:21} {:13} {:>9} {:>9} {:>9}  {}"
    lines = [line.format("input", "norm", "shape", "ms", "NumPy ms", "speed-up", "error"), "-" * 96]
    for r in results:
        figures = (f"{1e3 * r.seconds:.2f}", f"{1e3 * r.numpy_seconds:.2f}", f"{r.numpy_seconds / r.seconds:.1f}x")
        error = f"{r.error:.0e}" if r.right else f"{r.error:.0e} WRONG"
        lines.append(line.format(r.name, r.norm, "x".join(map(str, r.shape)), *figures, error))
    return "\n".join(lines)


def run() -> int:
    """Show the configuration, check and time everything, and return the exit code."""
    fn.show_config()
    source, images = photographs()
    mean, var = fn.moments(images, (0, 1, 2))
    print(f"\n{source}: {images.dtype}, {'x'.join(map(str, images.shape))}")
    for color, m, v in zip(("red", "green", "blue"), mean, var, strict=True):
        print(f"{color:6} {m:6.1f} +- {np.sqrt(v):.1f}")
    results = []
    for name, norm, shape in progress(LAYERS):
        x, p = image_input(images) if shape == images.shape else random_input(shape)
        results.append(measure(name, norm, x, p))
    print(f"\n{table(results)}\n")
    print("NumPy: the textbook formula in float32, on one thread, as NumPy works")
    print("error: the largest difference from the formula in float64, relative to the weight")
    wrong = sum(not result.right for result in results)
    if wrong:
        say(f"{wrong} of {len(results)} results are off by more than {TOLERANCE:.0e}")
    return 1 if wrong else 0
