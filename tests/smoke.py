"""Run as a script: calls of every kind, checked against float64 NumPy; prints what ran and a hash of all results, as JSON.

It needs NumPy alone and takes a second, so that it can run in an emulator. The data are quotients of small integers: the same
on every machine, whatever its mathematical library.
"""

import hashlib
import json

import fusednorm as fn
import numpy as np

EPS = {np.dtype(t): np.finfo(t).eps for t in (np.float16, np.float32)}
# The largest is above the size from which threads work, in every norm.
SHAPES = ((3, 6, 5, 7), (200, 18, 3, 3), (8, 32, 30, 30))
ACTIVATIONS = ("relu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh", "hardswish", "leaky_relu")


def draw(rng, shape, dtype=np.float32):
    return (rng.integers(-2000, 4000, shape) / 997).astype(dtype)


def normalized(x, axes, centered=True):
    x = x.astype(np.float64)
    d = x - x.mean(axes, keepdims=True) if centered else x
    return d / np.sqrt((d**2).mean(axes, keepdims=True) + 1e-5)


def calls(x):
    """Yield (result, what it should be) for an x with channels at axis 1."""
    yield fn.layer_norm(x, x.shape[1:]), normalized(x, (1, 2, 3))
    yield fn.rms_norm(x, x.shape[-1], eps=1e-5), normalized(x, 3, centered=False)
    yield fn.batch_norm(x, training=True), normalized(x, (0, 2, 3))
    yield fn.instance_norm(x), normalized(x, (2, 3))
    yield fn.group_norm(x, x.shape[1]), normalized(x, (2, 3))


def results():
    """Yield every result, once checked: an error of some roundings of values of order 1."""
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        for order in ((0, 1, 2, 3), (0, 3, 1, 2)):
            for got, wanted in calls(draw(rng, shape).transpose(order)):
                assert np.abs(got - wanted).max() < 32 * EPS[got.dtype]
                yield got
    x = draw(rng, (50, 77))
    yield from (fn.layer_norm(x, 77, residual=x[::-1], activation=activation) for activation in ACTIVATIONS)
    for dtype in (np.float16, np.float64, np.uint8, np.int32):
        yield fn.layer_norm(np.abs(x).astype(dtype), 77)
        yield from fn.moments(np.abs(x).astype(dtype), 0)


def main():
    """Print instruction set, threads and hash."""
    hashed = hashlib.blake2b()
    for result in results():
        hashed.update(result.tobytes())
    print(json.dumps({"isa": fn.show_config("dicts")["isa"], "threads": fn.get_num_threads(), "hash": hashed.hexdigest()}))


if __name__ == "__main__":
    main()
