"""Parallel Numba kernels, as a careful programmer writes them: one per memory order, few walks, float64 sums."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from cases import EPS, Array, Case, Input, view
from peers import TOLERANCE, Call, Unsupported

Function = TypeVar("Function", bound=Callable[..., None])
parallel: Callable[[Function], Function] = numba.njit(parallel=True, fastmath=True)
prange = numba.prange


@parallel
def affine_planes(x: Array, mean: Array, scale: Array, bias: Array, y: Array) -> None:
    """x(n, channels, pixels); the coefficients are (n or 1, channels)."""
    channels = x.shape[1]
    for i in prange(x.shape[0] * channels):
        n, c = i // channels, i % channels
        k = n % mean.shape[0]
        m, a, b = mean[k, c], scale[k, c], bias[c]
        for p in range(x.shape[2]):
            y[n, c, p] = (x[n, c, p] - m) * a + b


@parallel
def affine_pixels(x: Array, mean: Array, scale: Array, bias: Array, y: Array) -> None:
    """x(n, pixels, channels); the coefficients are (n or 1, channels)."""
    pixels = x.shape[1]
    for i in prange(x.shape[0] * pixels):
        n, p = i // pixels, i % pixels
        k = n % mean.shape[0]
        for c in range(x.shape[2]):
            y[n, p, c] = (x[n, p, c] - mean[k, c]) * scale[k, c] + bias[c]


@parallel
def rows(x: Array, weight: Array, bias: Array, centered: bool, y: Array) -> None:
    """Layer or RMS norm of x(rows, cols)."""
    cols = x.shape[1]
    for i in prange(x.shape[0]):
        mean = 0.0
        if centered:
            for c in range(cols):
                mean += x[i, c]
            mean /= cols
        m = np.float32(mean)
        m2 = 0.0
        for c in range(cols):
            d = x[i, c] - m
            m2 += d * d
        a = np.float32(1 / np.sqrt(m2 / cols + EPS))
        for c in range(cols):
            y[i, c] = (x[i, c] - m) * a * weight[c] + bias[c]


@parallel
def moments_planes(x: Array, mean: Array, var: Array) -> None:
    """Statistics (units, groups) of x(units, pooled, groups, size): two walks, the second one from the cache."""
    pooled, groups, size = x.shape[1:]
    for i in prange(x.shape[0] * groups):
        u, g = i // groups, i % groups
        total = 0.0
        for p in range(pooled):
            for s in range(size):
                total += x[u, p, g, s]
        m = total / (pooled * size)
        m2 = 0.0
        for p in range(pooled):
            for s in range(size):
                d = x[u, p, g, s] - m
                m2 += d * d
        mean[u, g] = m
        var[u, g] = m2 / (pooled * size)


@parallel
def sums_pixels(x: Array, origin: Array, sums: Array) -> None:
    """Sums (n, blocks, 2, channels) of x(n, pixels, channels) - origin(n, channels) and of the squares: one walk."""
    pixels, blocks = x.shape[1], sums.shape[1]
    for i in prange(x.shape[0] * blocks):
        n, b = i // blocks, i % blocks
        for p in range(b * pixels // blocks, (b + 1) * pixels // blocks):
            for c in range(x.shape[2]):
                d = x[n, p, c] - origin[n, c]
                sums[n, b, 0, c] += d
                sums[n, b, 1, c] += d * d


class Numba:
    """Compiled when a case is prepared; the result is allocated by the call."""

    tolerance = TOLERANCE

    def __init__(self, threads: int) -> None:
        numba.set_num_threads(min(threads, os.cpu_count() or 1))
        self.threads = threads
        self.about = {"numba": numba.__version__}

    def prepare(self, case: Case, data: Input) -> Call:
        """Make the call that is timed."""
        x, weight, bias = data.x, data.weight, data.bias
        if x.dtype != np.float32:
            raise Unsupported("float32 only")
        if case.by_row:
            zero = bias if case.op == "layer" else np.zeros_like(bias)
            return lambda: self.by_row(x, weight, zero, case.op == "layer")
        pooled = case.op in ("group", "instance")
        count = x.shape[0] if pooled or not case.last else 1
        flat = x.reshape((count, -1, case.channels) if case.last else (count, case.channels, -1))

        def call() -> Any:
            if case.op == "batch_eval":
                mean, var = data.mean[None], data.var[None]
            elif case.last:
                mean, var = self.moments_last(flat, case.num_groups if pooled else case.channels)
            else:
                mean, var = self.moments_first(x.reshape(view(case).shape) if pooled else flat, pooled)
            if case.op == "moments":
                return mean, var
            repeat = case.channels // mean.shape[1]
            scale = np.repeat(1 / np.sqrt(var + EPS), repeat, 1).astype(np.float32) * weight
            y = np.empty_like(flat)
            affine = affine_pixels if case.last else affine_planes
            affine(flat, np.repeat(mean, repeat, 1).astype(np.float32), scale, bias, y)
            return y

        return call

    def by_row(self, x: Array, weight: Array, bias: Array, centered: bool) -> Array:
        """Layer or RMS norm."""
        y = np.empty_like(x)
        rows(x, weight, bias, centered, y)
        return y

    def moments_first(self, x: Array, per_sample: bool) -> tuple[Array, Array]:
        """Statistics (n, groups) of x(n, groups, ...), or (1, channels) of x(n, channels, ...)."""
        units = x.reshape((*x.shape[:2], -1))
        units = units[:, None] if per_sample else units[None]
        mean, var = np.empty((2, units.shape[0], units.shape[2]))
        moments_planes(units, mean, var)
        return mean, var

    def moments_last(self, x: Array, groups: int) -> tuple[Array, Array]:
        """Statistics (n, groups) of x(n, pixels, channels): sums around the first pixel, then a group's channels merged."""
        sums = np.zeros((x.shape[0], 4 * self.threads, 2, x.shape[2]))
        sums_pixels(x, x[:, 0], sums)
        first, second = sums.sum(1).swapaxes(0, 1) / x.shape[1]
        mean, var = x[:, 0] + first, second - first**2
        mean, var = (a.reshape(x.shape[0], groups, -1) for a in (mean, var))
        return mean.mean(2), var.mean(2) + mean.var(2)
