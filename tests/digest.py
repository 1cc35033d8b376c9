"""Run as a script: prints the instruction set, and a hash of the results' bytes for each of many calls, as JSON.

With the name of a file that another build's run was written to, compares the two instead, and fails if a result differs.
"""

import hashlib
import itertools
import json
import sys

import cases
import fusednorm as fn
import numpy as np

# Over and under the sizes of blocks, rows, panels and threads' shares; channels that leave every lane empty or full; groups of
# few rows, whose planes have few values.
SHAPES = [
    (3, 6, 5),
    (2, 48, 33, 31),
    (300, 6, 7),
    (1, 2, 70_001),
    (9, 2052),
    (3, 64, 20, 20),
    (12_000, 6),
    (2, 4, 5001),
    (40, 64, 3, 3),
]
LAYOUTS = ("C", "channels-last", "padded", "stepped", "reversed")
ACTIVATIONS = ("relu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh", "hardswish", "leaky_relu")


def digest(*arrays):
    return hashlib.blake2b(b"".join(a.tobytes() for a in arrays)).hexdigest()


def calls(shape, layout, dtype):
    """Yield the name and the result of every norm, of its gradients, and of moments."""
    rng = np.random.default_rng(sum(shape))
    x = cases.LAYOUTS[layout](cases.draw(rng, shape, dtype))
    grad = rng.normal(0, 1, shape).astype(dtype)
    for norm in cases.NORMS:
        if not norm.startswith("instance") or len(shape) > 2:
            call = cases.make_call(norm, x, rng)
            yield norm, call.run(x)
            for name, value in zip(("x", "weight", "bias"), call.backward(grad, x), strict=False):
                yield f"{norm}, gradient by {name}", value
    for axis in (None, 0, 1, -1):
        for name, value in zip(("mean", "var"), fn.moments(x, axis), strict=True):
            yield f"{name} over {axis}", value


def all_digests():
    """Return {call: hash}. The bytes of floats are those of C order, whatever the layout."""
    result = {}
    for shape, layout, dtype in itertools.product(SHAPES, LAYOUTS, ("f4", "f8")):
        for name, value in calls(shape, layout, dtype):
            result[f"{name} {shape} {layout} {dtype}"] = digest(value)
    rng = np.random.default_rng(0)
    extreme = (rng.uniform(-3, 3, (4, 6, 35)) * np.array([1e30, 1, 1e-30, 1e-40, 1e38, 1e10])[:, None]).astype("f4")
    result["extreme"] = digest(fn.batch_norm(extreme, training=True, eps=0), *fn.moments(extreme, (0, 2)))
    for kind in cases.INTEGERS:
        result[f"integers {kind}"] = digest(fn.layer_norm(cases.draw(rng, (50, 77), kind), 77))
    for dtype in map(np.dtype, cases.FLOATS):
        if dtype.itemsize == 2:
            for shape, layout in itertools.product(SHAPES, LAYOUTS[:2]):
                result |= {f"{name} {shape} {layout} {dtype}": digest(value) for name, value in calls(shape, layout, dtype)}
        x, skip = rng.normal(0, 4, (2, 70, 5, 11)).astype(dtype)
        mean, var = rng.normal(0, 1, 5), rng.uniform(0.5, 2, 5)
        for activation, residual in itertools.product((None, *ACTIVATIONS), (None, skip)):
            y = fn.batch_norm(x, mean, var, residual=residual, activation=activation)
            result[f"{activation} {'of a sum ' * (residual is not None)}{dtype}"] = digest(y)
        for other in map(np.dtype, cases.FLOATS):
            result[f"{dtype} to {other}"] = digest(fn.batch_norm(x, mean, var, dtype=other))
        image = rng.integers(0, 256, (1, 37, 41, 3), np.uint8).transpose(0, 3, 1, 2)
        planes = np.empty(image.shape, dtype)
        result[f"image to {dtype}"] = digest(fn.batch_norm(image, mean[:3], var[:3], dtype=dtype, out=planes))
    return result


if __name__ == "__main__":
    said = {"isa": fn.show_config("dicts")["isa"], "digests": all_digests()}
    if len(sys.argv) == 1:
        print(json.dumps(said))
        sys.exit()
    with open(sys.argv[1]) as file:
        other = json.load(file)
    different = [name for name, value in said["digests"].items() if other["digests"].get(name) != value]
    print(f"{len(said['digests'])} results, {said['isa']} and {other['isa']}: {len(different)} differ {different[:5]}")
    sys.exit(bool(different))
