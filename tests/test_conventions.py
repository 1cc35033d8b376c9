"""States by the conventions of Keras, Flax, ONNX and torch."""

from types import SimpleNamespace

import cases
import fusednorm as fn
import numpy as np
import pytest
from oracle import agree


def arrays(rng, n=4):
    mean, weight, bias = rng.normal(0, 1, (3, n)).astype(np.float32)
    return SimpleNamespace(mean=mean, var=rng.uniform(0.5, 2, n).astype(np.float32), weight=weight, bias=bias)


def keras(a, of=""):
    names = {"gamma": a.weight, "beta": a.bias, "moving_mean": a.mean, "moving_variance": a.var}
    return {of + name: value for name, value in names.items()}


def flax(a, of="BatchNorm_0"):
    return {"params": {of: {"scale": a.weight, "bias": a.bias}}, "batch_stats": {of: {"mean": a.mean, "var": a.var}}}


def onnx(a):
    return {"scale": a.weight, "B": a.bias, "input_mean": a.mean, "input_var": a.var}


def torch_state(a, of=""):
    names = {"weight": a.weight, "bias": a.bias, "running_mean": a.mean, "running_var": a.var}
    return {of + name: value for name, value in names.items()} | {of + "num_batches_tracked": np.array(3)}


# Convention: the state, the framework's eps, the axis of its channels, and the weight of the old average by default.
STATES = {
    "keras": (keras, 1e-3, -1, 0.99),
    "flax": (flax, 1e-5, -1, 0.99),
    "onnx": (onnx, 1e-5, 1, 0.9),
    "torch": (torch_state, 1e-5, 1, 0.9),
}
every_convention = pytest.mark.parametrize("convention", STATES)


def normalized(x, a, eps, axis):
    """Write the formula that all of them document, in float64."""
    shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
    mean, var, weight, bias = (v.astype(np.float64).reshape(shape) for v in (a.mean, a.var, a.weight, a.bias))
    return (x - mean) / np.sqrt(var + eps) * weight + bias


@every_convention
def test_evaluation_is_theirs(convention, rng):
    make, eps, axis, _ = STATES[convention]
    a = arrays(rng)
    layer = fn.from_state(fn.BatchNorm2d, make(a), convention)
    assert (type(layer), layer.training, layer.eps, layer.channel_axis) == (fn.BatchNorm2d, False, eps, axis)
    x = cases.draw(rng, (2, 5, 6, 4) if axis == -1 else (2, 4, 5, 6))
    wanted = normalized(x, a, eps, axis)
    agree(layer(x), wanted, np.abs(wanted).max())
    for name, value in (("weight", a.weight), ("bias", a.bias), ("running_mean", a.mean), ("running_var", a.var)):
        assert cases.same_bits(getattr(layer, name), value)


@every_convention
@pytest.mark.parametrize("momentum", [None, 0.75])
def test_running_mean_follows_as_theirs(convention, momentum, rng):
    """Theirs: new = old * momentum + batch * (1 - momentum); torch's momentum is the batch's."""
    make, _, _, old = STATES[convention]
    a = arrays(rng)
    layer = fn.from_state(fn.BatchNorm1d, make(a), convention, momentum=momentum).train()
    if momentum is not None:
        old = 1 - momentum if convention == "torch" else momentum
    x = cases.draw(rng, (50, 4))
    layer(x)
    np.testing.assert_allclose(layer.running_mean, a.mean * old + x.mean(0, dtype="f8") * (1 - old), rtol=1e-6, atol=1e-6)
    # The one thing that stays ours: the variance is unbiased.
    np.testing.assert_allclose(layer.running_var, a.var * old + x.var(0, ddof=1, dtype="f8") * (1 - old), rtol=1e-6)


@pytest.mark.parametrize(
    ("state", "convention", "name"),
    [
        (lambda a: keras(a, "bn1/") | keras(arrays(np.random.default_rng(1)), "bn2/"), "keras", "bn1"),
        (lambda a: {k + ":0": v for k, v in keras(a, "model/block1/bn/").items()}, "keras", ""),
        (lambda a: {k + ":0": v for k, v in keras(a, "model/block1/bn/").items()}, "keras", "block1/bn"),
        (lambda a: {"layers": {"bn": keras(a)}}, "keras", "bn"),
        (
            lambda a: {"params": {"Block_0": flax(a)["params"]}, "batch_stats": {"Block_0": flax(a)["batch_stats"]}},
            "flax",
            "Block_0",
        ),
        (lambda a: {"scale": a.weight, "bias": a.bias, "mean": a.mean, "var": a.var}, "flax", ""),
        (lambda a: {"scale": a.weight, "bias": a.bias, "mean": a.mean, "var": a.var}, "onnx", ""),
        (lambda a: torch_state(a, "net.bn1.") | torch_state(a, "net.bn10."), "torch", "bn1"),
        (lambda a: torch_state(a, "net.bn1.") | torch_state(a, "net.bn10."), "torch", "net.bn1"),
    ],
)
def test_names_and_paths(state, convention, name, rng):
    a = arrays(rng)
    if name == "Block_0":
        name = "Block_0/BatchNorm_0"
    layer = fn.from_state(fn.BatchNorm2d, state(a), convention, name=name)
    for ours, value in (("weight", a.weight), ("bias", a.bias), ("running_mean", a.mean), ("running_var", a.var)):
        assert cases.same_bits(getattr(layer, ours), value)


@every_convention
def test_other_layers(convention, rng):
    weight, bias = rng.normal(1, 0.3, (2, 6)).astype(np.float32)
    names = {"keras": ("gamma", "beta"), "torch": ("weight", "bias"), "onnx": ("scale", "B"), "flax": ("scale", "bias")}
    state = dict(zip(names[convention], (weight, bias), strict=True))
    eps = {"keras": 1e-3, "flax": 1e-6}.get(convention, 1e-5)
    last = convention in ("keras", "flax")
    x = cases.draw(rng, (3, 4, 6) if last else (3, 6, 4))
    layer = fn.from_state(fn.LayerNorm, state, convention)
    rows = cases.draw(rng, (3, 6))
    assert cases.same_bits(layer(rows), fn.layer_norm(rows, 6, weight, bias, eps))
    axis = -1 if last else 1
    group = fn.from_state(fn.GroupNorm, state, convention, num_groups=2)
    assert cases.same_bits(group(x), fn.group_norm(x, 2, weight, bias, eps, channel_axis=axis))
    instance = fn.from_state(fn.InstanceNorm1d, state, convention)
    assert cases.same_bits(instance(x), fn.instance_norm(x, None, None, weight, bias, eps=eps, channel_axis=axis))
    key = "scale" if convention == "keras" else names[convention][0]
    rms = fn.from_state(fn.RMSNorm, {key: weight}, convention)
    rms_eps = {"keras": 1e-6, "flax": 1e-6, "onnx": 1e-5, "torch": None}[convention]
    assert cases.same_bits(rms(rows), fn.rms_norm(rows, 6, weight, rms_eps))


def test_without_scale_or_center(rng):
    a = arrays(rng)
    x = cases.draw(rng, (5, 4))
    full = keras(a)
    for left_out, weight, bias in ((["gamma"], None, a.bias), (["beta"], a.weight, None), (["gamma", "beta"], None, None)):
        state = {name: value for name, value in full.items() if name not in left_out}
        layer = fn.from_state(fn.BatchNorm1d, state, "keras")
        np.testing.assert_array_equal(layer(x), fn.batch_norm(x, a.mean, a.var, weight, bias, eps=1e-3))
    with pytest.raises(ValueError, match="got no 'running_var'"):
        fn.from_state(fn.BatchNorm1d, {"gamma": a.weight, "moving_mean": a.mean}, "keras")


def test_batch_norm_needs_its_statistics(rng):
    """Flax keeps them in a collection of its own, which is easily forgotten."""
    a = arrays(rng)
    with pytest.raises(ValueError, match="got no 'running_mean', no 'running_var'"):
        fn.from_state(fn.BatchNorm2d, flax(a)["params"], "flax")
    layer = fn.from_state(fn.BatchNorm2d, flax(a)["params"], "flax", track_running_stats=False)
    assert layer.running_mean is None


def test_options(rng):
    a = arrays(rng)
    layer = fn.from_state(fn.BatchNorm2d, keras(a), "keras", eps=0.5, dtype=np.float64, channel_axis=1, activation="relu")
    assert (layer.eps, layer.weight.dtype, layer.channel_axis, layer.activation) == (0.5, np.float64, 1, "relu")


@pytest.mark.parametrize(
    ("state", "convention", "name", "error", "text"),
    [
        ({"gamma": [1.0]}, "caffe", "", ValueError, "convention: expected 'torch', 'keras', 'flax', 'onnx', got 'caffe'"),
        ([1, 2], "keras", "", TypeError, "state: expected a mapping of names to arrays, got list"),
        ({}, "keras", "", ValueError, "state: expected gamma, .*, got no array of a layer ''"),
        ({"a/gamma": [1.0]}, "keras", "b", ValueError, "got no array of a layer 'b'"),
        ({"weight": [1.0]}, "keras", "", ValueError, "state: expected gamma, .*, got unknown 'weight'"),
        (
            {"a/gamma": [1.0], "b/gamma": [1.0]},
            "keras",
            "",
            ValueError,
            "name: expected the name of one of the layers a, b, got ''",
        ),
        *(({key: [1.0]}, "keras", "", ValueError, f"got unknown '{key}'$") for key in ("", ":0", ":", "/", "..")),
        ({"bn": {"": [1.0]}}, "flax", "", ValueError, "got unknown 'bn/'"),
        ({"gamma": [1.0, 2], "beta": [1.0]}, "keras", "", ValueError, r"'bias' of shape \(1,\)"),
    ],
)
def test_wrong_state(state, convention, name, error, text):
    with pytest.raises(error, match=text):
        fn.from_state(fn.LayerNorm, state, convention, name=name)


@pytest.mark.parametrize("kind", [fn.LayerNorm(1), "LayerNorm", dict])
def test_wrong_kind(kind):
    with pytest.raises(TypeError, match="from_state: kind: expected a layer's class"):
        fn.from_state(kind, {"gamma": [1.0]}, "keras")


@pytest.mark.parametrize(
    ("kind", "state", "convention", "name"),
    [
        (fn.LayerNorm, {"params": {"LayerNorm_0": {"scale": np.ones(4)}, "Dense_0": {"bias": np.ones(4)}}}, "flax", ""),
        (
            fn.BatchNorm2d,
            {"bn.weight": [1.0], "bn.running_mean": [0.0], "bn.running_var": [1.0], "fc.bias": [7.0]},
            "torch",
            "",
        ),
        (
            fn.BatchNorm2d,
            {
                "params": {"A": {"BN": {"scale": [1.0], "bias": [0.0]}}},
                "batch_stats": {"B": {"BN": {"mean": [0.0], "var": [1.0]}}},
            },
            "flax",
            "BN",
        ),
    ],
)
def test_arrays_of_two_layers_are_not_mixed(kind, state, convention, name):
    with pytest.raises(ValueError, match="from_state: name: expected the name of one of the layers"):
        fn.from_state(kind, state, convention, name=name)


def test_names_that_are_no_text():
    with pytest.raises(TypeError, match="from_state: name: expected text, got 3"):
        fn.from_state(fn.LayerNorm, {"scale": [1.0]}, "flax", name=3)
    with pytest.raises(ValueError, match="from_state: convention: expected"):
        fn.from_state(fn.LayerNorm, {"scale": [1.0]}, [])


def test_a_layer_of_the_top_comes_before_one_within(rng):
    """As in every ResNet."""
    names = ("weight", "bias", "running_mean", "running_var")
    state = {f"{layer}.{name}": rng.random(3) for layer in ("bn1", "layer1.0.bn1", "layer2.0.bn1") for name in names}
    for name in ("bn1", "layer1.0.bn1"):
        layer = fn.from_state(fn.BatchNorm2d, state, "torch", name=name)
        np.testing.assert_array_equal(layer.running_mean, state[f"{name}.running_mean"])
    for name in ("", "0.bn1"):
        with pytest.raises(ValueError, match=r"expected the name of one of the layers .*layer1/0/bn1, layer2/0/bn1, got"):
            fn.from_state(fn.BatchNorm2d, state, "torch", name=name)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_dtype_is_that_of_the_arrays(dtype, rng):
    state = {"scale": rng.random(3).astype(dtype), "bias": rng.random(3).astype(dtype)}
    layer = fn.from_state(fn.LayerNorm, state, "flax")
    np.testing.assert_array_equal(layer.weight, state["scale"])
    assert layer.bias.dtype == dtype
    assert fn.from_state(fn.LayerNorm, state, "flax", dtype=np.float32).weight.dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "options", "error", "text"),
    [
        (fn.GroupNorm, {}, TypeError, "from_state: num_groups: expected an integer, got none"),
        (fn.LayerNorm, {"eps": "a"}, TypeError, "from_state: eps: expected a number, got 'a'"),
        (fn.LayerNorm, {"eps": -1}, ValueError, "from_state: eps: expected a finite number >= 0, got -1"),
        (fn.LayerNorm, {"activation": "ReLU"}, ValueError, "LayerNorm: activation: expected one of None, .*, got 'ReLU'"),
        (fn.LayerNorm, {"momentum": 2}, ValueError, "from_state: momentum: expected a number from 0 to 1, got 2"),
        (fn.LayerNorm, {"momentum": -0.1}, ValueError, "from_state: momentum: expected a number from 0 to 1, got -0.1"),
        (fn.LayerNorm, {"channel_axis": 1}, TypeError, "channel_axis"),
    ],
)
def test_wrong_options(kind, options, error, text):
    with pytest.raises(error, match=text):
        fn.from_state(kind, {"gamma": np.ones(4), "beta": np.ones(4)}, "keras", **options)


@pytest.mark.parametrize("convention", ["torch", "keras"])
@pytest.mark.parametrize("momentum", ["x", [0.1]])
def test_momentum_is_a_number(convention, momentum):
    names = {"torch": ("running_mean", "running_var"), "keras": ("moving_mean", "moving_variance")}[convention]
    with pytest.raises(TypeError, match="from_state: momentum: expected a number"):
        fn.from_state(fn.BatchNorm1d, {name: np.ones(2) for name in names}, convention, momentum=momentum)
