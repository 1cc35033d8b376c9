"""Every wrong call that the functions refuse: what is changed in a right call, and the error that comes of it."""

import re
from dataclasses import dataclass
from typing import Any

import fusednorm as fn
import ml_dtypes
import numpy as np

FUNCTIONS = {f.__name__: f for f in (fn.batch_norm, fn.instance_norm, fn.group_norm, fn.layer_norm, fn.rms_norm, fn.moments)}
EVERY = tuple(FUNCTIONS)
NORMS = tuple(name for name in EVERY if name != "moments")
BY_CHANNEL = ("batch_norm", "instance_norm", "group_norm")
RUNNING = ("batch_norm", "instance_norm")
BY_ROW = ("layer_norm", "rms_norm")
PER_CHANNEL = {"weight": BY_CHANNEL, "bias": BY_CHANNEL, "running_mean": RUNNING, "running_var": RUNNING}
SHAPE = (2, 4, 6)


@dataclass
class BadCall:
    """`expected` and `got` are regular expressions for these parts of the error's text."""

    function: str
    argument: str
    error: type
    expected: str
    got: str
    change: dict[str, Any]

    def name(self):
        return f"{self.function}-{self.argument}-{self.got}"


CALLS = []


def refused(functions, argument, error, expected, got, value, **others):
    """Add a call for each function. from_x stands for training and use_input_stats."""
    for function in functions:
        change = {argument: value} | others
        from_x = change.pop("from_x", True)
        if function in RUNNING:
            change["training" if function == "batch_norm" else "use_input_stats"] = from_x
        CALLS.append(BadCall(function, argument, error, expected, got, change))


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def read_only(x):
    x.flags.writeable = False
    return x


def shape_of(x):
    return re.escape(f"shape {np.shape(x)}")


class Broken:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array today")


def repeated(value):
    return np.lib.stride_tricks.as_strided(np.full(1, value), (4,), (0,))


for name in ("running_mean", "running_var"):
    refused(RUNNING, name, ValueError, "elements do not share memory", "a stride of 0", repeated(1.0))

# ---- x

DTYPES = "bool, integer, float16, bfloat16, float32 or float64"

for kind in ("complex64", "complex128", "object", "datetime64[s]", "timedelta64[s]"):
    refused(EVERY, "x", TypeError, DTYPES, f"dtype {re.escape(kind)}", np.zeros(SHAPE, kind))
refused(EVERY, "x", TypeError, DTYPES, "dtype float128|dtype longdouble", np.zeros(SHAPE, "g"))
refused(EVERY, "x", TypeError, DTYPES, "dtype <U1", np.full(SHAPE, "a"))
refused(EVERY, "x", TypeError, DTYPES, r"dtype \[\('f0'", np.zeros(SHAPE, "f4,f4"))
for kind in ("float8_e5m2", "float8_e4m3", "int4"):  # the first one's kind is that of float64
    refused(EVERY, "x", TypeError, DTYPES, f"dtype {kind}", np.zeros(SHAPE, getattr(ml_dtypes, kind)))
refused(EVERY, "x", TypeError, "an array", "None", None)
refused(EVERY, "x", ValueError, r"an array or what numpy\.asarray can read", "list", [[1.0, 2.0], [3.0]])
refused(EVERY, "x", TypeError, r"an array or what numpy\.asarray can read", "Broken", Broken())
refused(("batch_norm",), "x", ValueError, "at least 2 dimensions", r"shape \(4,\)", zeros(4), channel_axis=0)
refused(("batch_norm",), "x", ValueError, "at least 2 dimensions", r"shape \(\)", zeros())
refused(("instance_norm", "group_norm"), "x", ValueError, "at least 1 dimension", r"shape \(\)", zeros())
for x in (zeros(1, 4), zeros(1, 4, 1, 1)):
    refused(("batch_norm",), "x", ValueError, "more than one value per channel", shape_of(x), x)
for x in (zeros(3, 4), zeros(3, 4, 1), zeros(1, 4, 1, 1)):
    refused(("instance_norm",), "x", ValueError, "more than one spatial element", shape_of(x), x)
refused(("instance_norm",), "x", ValueError, "more than one spatial element", r"shape \(4, 1\)", zeros(4, 1), channel_axis=0)

# ---- numbers

for eps in (-1e-5, -1, np.nan, np.inf, -np.inf):
    refused(NORMS, "eps", ValueError, "a finite number >= 0", re.escape(repr(eps)), eps)
for eps in ("1e-5", [1], 1j, np.complex64(1)):
    refused(NORMS, "eps", TypeError, "a number", re.escape(repr(eps)), eps)
refused((*BY_CHANNEL, "layer_norm"), "eps", TypeError, "a number", "None", None)
for eps in (10**400, -(10**400), 10**5000):
    refused(NORMS, "eps", ValueError, "a number that float64 holds", "-?10000|a value of type int", eps)
refused(NORMS, "eps", TypeError, "a number", r"an array of shape \(\)", np.array("1"))
for momentum in ("high", None, [0.1]):
    refused(RUNNING, "momentum", TypeError, "a number", re.escape(repr(momentum)), momentum)
for axis in (3, -4, 99):
    refused(BY_CHANNEL, "channel_axis", ValueError, "an axis of an array of 3 dimensions", str(axis), axis)
for axis in (1.0, None, "1", (1,)):
    refused(BY_CHANNEL, "channel_axis", TypeError, "an integer", re.escape(repr(axis)), axis)
for groups in (3, 0, -1, 5, 8):
    refused(("group_norm",), "num_groups", ValueError, "a positive divisor of the 4 channels", str(groups), groups)
for groups in (2.0, None, "2"):
    refused(("group_norm",), "num_groups", TypeError, "an integer", re.escape(repr(groups)), groups)

# ---- normalized_shape

for sizes in (4, 0, -6, 12, 2**62, (4,), (6, 4), (2, 4), (1, 2, 4, 6), (24,), (4, -6), [5]):
    refused(BY_ROW, "normalized_shape", ValueError, r"the last dimensions of x.*\(2, 4, 6\)", re.escape(str(sizes)), sizes)
refused(BY_ROW, "normalized_shape", ValueError, "at most 64 integers", str(2**40), range(2**40))
refused(BY_ROW, "normalized_shape", ValueError, "at least one dimension", r"\(\)", ())
for sizes in (6.0, None, "6", (4, 6.0)):
    refused(BY_ROW, "normalized_shape", TypeError, "an integer", re.escape(repr(sizes).strip("()").split(", ")[-1]), sizes)

# ---- parameters

for name, functions in PER_CHANNEL.items():
    wrong = [(3,), (5,), (0,), (), (1,), (4, 4), (1, 1, 4), (4, 1, 1), (2, 4, 6), (1, 1, 4, 1, 1)]
    for value in (zeros(*shape) for shape in wrong):
        refused(functions, name, ValueError, r"shape \(4,\), one value per channel", shape_of(value), value)
    for kind in ("int64", "bool", "complex128", "object"):
        refused(functions, name, TypeError, "an array of a float dtype", f"dtype {kind}", np.zeros(4, kind))
for name, functions in (("weight", BY_ROW), ("bias", ("layer_norm",))):
    for shape in ((4,), (1,), (), (7,), (0,), (6, 1), (4, 6), (2, 6)):
        refused(functions, name, ValueError, r"shape \(6,\)", shape_of(zeros(*shape)), zeros(*shape))
    for kind in ("int64", "complex64", "object"):
        refused(functions, name, TypeError, "an array of a float dtype", f"dtype {kind}", np.zeros(6, kind))
refused(NORMS, "weight", TypeError, "an array of a float dtype", "dtype <U1", ["a", "b"])
for kind in ("float8_e4m3fn", "float8_e5m2"):
    eight = np.zeros(4, getattr(ml_dtypes, kind))
    refused(BY_CHANNEL, "weight", TypeError, "an array of a float dtype", f"dtype {kind}", eight)

# ---- running statistics

refused(RUNNING, "running_mean", ValueError, "an array", "None", None, from_x=False)
refused(RUNNING, "running_mean", ValueError, "an array", "None", None, running_var=np.ones(4), from_x=False)
refused(RUNNING, "running_var", ValueError, "an array", "None", None, running_mean=np.ones(4), from_x=False)
for name, other in (("running_mean", "running_var"), ("running_var", "running_mean")):
    in_place = "an array that can be updated in place"
    refused(RUNNING, name, ValueError, in_place, "read-only", read_only(zeros(4)), **{other: np.ones(4)})
    for value in ([0.0] * 4, (0.0,) * 4):
        refused(RUNNING, name, TypeError, in_place, re.escape(repr(value)), value, **{other: np.ones(4)})

# ---- out, dtype, activation, residual

for shape in ((2, 4, 7), (2, 24), (1, 2, 4, 6), (2, 4, 1), ()):
    refused(NORMS, "out", ValueError, r"shape \(2, 4, 6\)", shape_of(zeros(*shape)), zeros(*shape))
for kind in ("float64", "int32", "float16", "complex64"):
    refused(NORMS, "out", TypeError, "dtype float32", f"dtype {kind}", np.zeros(SHAPE, kind))
refused(NORMS, "out", TypeError, "dtype float64", "dtype float32", zeros(*SHAPE), dtype="f8")
refused(NORMS, "out", TypeError, "dtype float64", "dtype float8_e5m2", np.zeros(SHAPE, ml_dtypes.float8_e5m2), dtype="f8")
refused(NORMS, "out", TypeError, "dtype float64", "dtype float32", zeros(*SHAPE), x=np.zeros(SHAPE, np.uint8))
refused(NORMS, "out", TypeError, r"a numpy\.ndarray", "list", zeros(*SHAPE).tolist())
refused(NORMS, "out", ValueError, "a writeable array", "read-only", read_only(zeros(*SHAPE)))
for name, at in (("running_mean", 46), ("running_var", 0)):  # one value of which is in out
    memory = np.ones(50, np.float32)
    statistics = {"running_mean": np.zeros(4), "running_var": np.ones(4), name: memory[at : at + 4]}
    out = memory[2:].reshape(SHAPE)
    refused(RUNNING, "out", ValueError, "memory of its own", "that of statistics that are updated", out, **statistics)
repeating = np.lib.stride_tricks.as_strided(zeros(6), SHAPE, (0, 0, 4))
refused(NORMS, "out", ValueError, "elements do not share memory", "stride of 0", repeating)
for dtype in (np.int32, "g", bool, "complex64", "nonsense", 3, {"names": ["a"]}, "\ud800"):
    refused(EVERY, "dtype", TypeError, "float16, bfloat16 .*, float32 or float64", re.escape(ascii(dtype)), dtype)
for activation in ("ReLU", "", "swish", "gelu_erf"):
    refused(NORMS, "activation", ValueError, "one of None, 'relu', .*'leaky_relu'", re.escape(repr(activation)), activation)
# Cut where a character of two bytes would be cut in half.
refused(NORMS, "activation", ValueError, "one of None, 'relu', .*'leaky_relu'", r"'a\\xe9.*\.\.\.", "a" + "é" * 60)
for activation in (1, b"relu", True, ["relu"]):
    refused(NORMS, "activation", TypeError, "one of None, 'relu', .*'leaky_relu'", re.escape(repr(activation)), activation)
for shape in ((2, 4, 7), (4, 6), (1, 4, 6), (2, 4, 1), ()):
    refused(NORMS, "residual", ValueError, r"the shape of x, \(2, 4, 6\)", shape_of(zeros(*shape)), zeros(*shape))
refused(NORMS, "residual", TypeError, "bool, integer, float16", "dtype complex64", np.zeros(SHAPE, "c8"))

# ---- flags

for value in ("no", None, np.array("no"), np.ones(2)):
    for functions, flag in ((("moments",), "keepdims"), (NORMS, "return_stats")):
        refused(functions, flag, TypeError, "a bool", "", value)

# ---- moments

for axis in (3, -4, (0, 3)):
    refused(("moments",), "axis", ValueError, "an axis of an array of 3 dimensions", "3|-4", axis)
for axis in ((0, 0), (1, -2), [2, 2]):
    refused(("moments",), "axis", ValueError, "each axis once", re.escape(str(axis)), axis)
for axis in (1.0, "0", {0}, (0, 1.0)):
    refused(("moments",), "axis", TypeError, "an integer", "0", axis)
for axis in (np.array([0.0]), np.zeros(0), np.array("0")):
    refused(("moments",), "axis", TypeError, "an integer", re.escape(f"an array of shape {axis.shape}"), axis)
refused(("moments",), "ddof", TypeError, "a number", "'one'", "one")
for ddof in (np.nan, np.inf):
    refused(("moments",), "ddof", ValueError, "a finite number", repr(ddof), ddof)
