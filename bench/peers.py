"""Who is measured: each peer turns a case into a call without arguments. Each runs in a process of its own (`work`).

Peers that need more than NumPy have a file of their own, imported in their process only.
"""

import contextlib
import gc
import importlib
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from cases import EPS, Array, Case, Input, formula, make_input, truth, view

Call = Callable[[], Any]
SAMPLE_SECONDS = 0.02
PAUSE_SECONDS = 0.05
# What a peer may be off, relative to the largest expected value. NumPy's float32 mean of 3 million pixels is off by 3e-3.
TOLERANCE = 1e-2
OWN_TOLERANCE = 2e-6


class Unsupported(Exception):
    """The peer has no such operation."""


class FusedNorm:
    """The calls as a user writes them."""

    reuse = False
    tolerance = OWN_TOLERANCE

    def __init__(self, threads: int) -> None:
        import fusednorm

        self.fn = fusednorm
        fusednorm.set_num_threads(threads)
        self.about: dict[str, Any] = {"fusednorm": fusednorm.show_config("dicts")}

    def prepare(self, case: Case, data: Input) -> Call:
        """Make the call that is timed."""
        fn, (x, weight, bias, mean, var), axis = self.fn, data, case.channel_axis
        out = np.empty_like(x) if self.reuse else None
        if case.op == "batch_eval":
            return lambda: fn.batch_norm(x, mean, var, weight, bias, eps=EPS, channel_axis=axis, out=out)
        if case.op == "batch_train":
            return lambda: fn.batch_norm(x, weight=weight, bias=bias, training=True, eps=EPS, channel_axis=axis, out=out)
        if case.op == "layer":
            return lambda: fn.layer_norm(x, case.channels, weight, bias, EPS, out=out)
        if case.op == "rms":
            return lambda: fn.rms_norm(x, case.channels, weight, EPS, out=out)
        if case.op == "group":
            return lambda: fn.group_norm(x, case.groups, weight, bias, EPS, channel_axis=axis, out=out)
        if case.op == "instance":
            return lambda: fn.instance_norm(x, weight=weight, bias=bias, eps=EPS, channel_axis=axis, out=out)
        if self.reuse:
            raise Unsupported("moments has no out=")
        axes = view(case).axes
        return lambda: fn.moments(x, axes)


class FusedNormOut(FusedNorm):
    """The same, the result into memory that exists already."""

    reuse = True


class NumPy:
    """The formula as everyone writes it."""

    tolerance = TOLERANCE

    def __init__(self, threads: int) -> None:
        self.about: dict[str, Any] = {"numpy": np.__version__}

    def prepare(self, case: Case, data: Input) -> Call:
        """Make the call that is timed."""
        return lambda: formula(case, data)


class NumPyTuned(NumPy):
    """What can be had from NumPy: one buffer made before, every step in place, squares summed without a copy of them."""

    def prepare(self, case: Case, data: Input) -> Call:
        """Make the call that is timed, and its buffer."""
        shape, axes, parameters = view(case)
        x = data.x.reshape(shape)
        buffer = np.empty(shape, np.float32)
        weight, bias = data.weight.reshape(parameters), data.bias.reshape(parameters)
        given = (data.mean.reshape(parameters), data.var.reshape(parameters))

        def evaluate() -> Array:
            scale = weight / np.sqrt(given[1] + EPS)
            np.multiply(x, scale, out=buffer)
            return np.add(buffer, bias - given[0] * scale, out=buffer)

        def statistics() -> tuple[Array, Array]:
            mean = x.mean(axes, np.float32, keepdims=True)
            return mean, mean_square(np.subtract(x, mean, out=buffer), axes)

        def rms() -> Array:
            np.multiply(x, 1 / np.sqrt(mean_square(x, axes) + EPS), out=buffer)
            return np.multiply(buffer, weight, out=buffer)

        def normalize() -> Array:
            rstd = 1 / np.sqrt(statistics()[1] + EPS)
            if case.by_row:  # here rstd * weight would be as large as x
                np.multiply(buffer, rstd, out=buffer)
                np.multiply(buffer, weight, out=buffer)
            else:
                np.multiply(buffer, rstd * weight, out=buffer)
            return np.add(buffer, bias, out=buffer)

        special: dict[str, Call] = {"batch_eval": evaluate, "rms": rms, "moments": statistics}
        return special.get(case.op, normalize)


def mean_square(x: Array, axes: tuple[int, ...]) -> Array:
    dimensions = list(range(x.ndim))
    pooled = [dimensions[axis] for axis in axes]
    kept = [axis for axis in dimensions if axis not in pooled]
    total: Array = np.einsum(x, dimensions, x, dimensions, kept)
    return np.expand_dims(total * np.float32(total.size / x.size), pooled)


# Name -> what to show, and the class: here, or in a module that is imported in the peer's process only.
PEERS: dict[str, tuple[str, str]] = {
    "fusednorm": ("fusednorm", "peers:FusedNorm"),
    "fusednorm-out": ("fusednorm, out=", "peers:FusedNormOut"),
    "numpy": ("NumPy", "peers:NumPy"),
    "numpy-tuned": ("NumPy, tuned", "peers:NumPyTuned"),
    "numba": ("Numba", "peer_numba:Numba"),
    "onnxruntime": ("ONNX Runtime", "peer_onnxruntime:OnnxRuntime"),
}


def error(results: Any, expected: list[Array]) -> float:
    """The largest difference, relative to the largest expected value."""
    arrays = list(results) if isinstance(results, (tuple, list)) else [results]
    pairs = zip(arrays, expected, strict=True)
    return float(np.max([np.abs(got.reshape(want.shape) - want).max() / np.abs(want).max() for got, want in pairs]))


def elapsed(call: Call, loops: int) -> float:
    start = time.perf_counter()
    for _ in range(loops):
        call()
    return time.perf_counter() - start


def calibrate(call: Call) -> int:
    """Find how many calls take at least `SAMPLE_SECONDS`."""
    loops = 1
    while (seconds := elapsed(call, loops)) < SAMPLE_SECONDS:
        loops = max(loops + 1, round(loops * min(100.0, 1.1 * SAMPLE_SECONDS / max(seconds, 1e-9))))
    return loops


def prepare(peer: Any, case: Case) -> tuple[Call, int]:
    """Make the call, check its result, and find the number of loops."""
    data = make_input(case)
    call: Call = peer.prepare(case, data)
    if not (worst := error(call(), truth(case, data))) < peer.tolerance:
        raise ValueError(f"wrong result, off by {worst:.1e}")
    return call, calibrate(call)


def work(peer_name: str, threads: int, connection: Connection) -> None:
    """Answer the driver until it is gone. Runs in the peer's process."""
    module, name = PEERS[peer_name][1].split(":")
    try:
        peer = getattr(importlib.import_module(module), name)(threads)
    except ImportError as missing:
        connection.send(f"not installed: {missing}")
        return
    connection.send(peer.about)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        answer(peer, connection)


def answer(peer: Any, connection: Connection) -> None:
    """Prepare a case when one is asked for; measure a sample, in seconds per call, on None."""
    call, loops = None, 0
    while True:
        request = connection.recv()
        try:
            if request is None:
                assert call is not None
                time.sleep(PAUSE_SECONDS)  # the threads of the peer before may still spin
                call()  # the first call after a pause wakes the threads
                connection.send(elapsed(call, loops) / loops)
            else:
                call = None  # frees the arrays of the case before
                gc.collect()
                call, loops = prepare(peer, request)
                connection.send(loops)
        except Unsupported as reason:
            connection.send(reason)
        except Exception:
            connection.send(traceback.format_exc())
