"""The layers: what they compute and what they refuse, held against torch where it is there."""

import copy
import inspect

import cases
import fusednorm as fn
import layer_cases
import numpy as np
import oracle
import pytest
from layer_cases import ALL, BATCH, every_kind, every_layer

STATISTICS = ("running_mean", "running_var")
EPS32 = np.finfo(np.float32).eps


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def pair(case, torch, rng):
    """Return a layer, and torch's with the same values."""
    layer = layer_cases.draw_state(case.make(), rng)
    peer = case.make_torch(torch)
    peer.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in layer.state_dict().items()})
    return layer, peer


def agree(got, wanted):
    assert got.dtype == wanted.detach().numpy().dtype
    oracle.agree(got, wanted)


def agree_in_state(layer, peer):
    ours, theirs = layer.state_dict(), peer.state_dict()
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        other = theirs[name].numpy()
        assert array.dtype == other.dtype
        assert array.shape == other.shape
        np.testing.assert_allclose(array, other, rtol=8 * EPS32, atol=8 * EPS32, err_msg=name)


# ---- as in torch


@every_layer
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_result_and_state_are_those_of_torch(case, training, torch, rng):
    layer, peer = pair(case, torch, rng)
    layer.train(training)
    peer.train(training)
    for _ in range(3):
        x = cases.draw(rng, case.shape)
        agree(layer(x), peer(torch.from_numpy(x)))
        agree_in_state(layer, peer)


@every_layer
def test_new_layer_is_that_of_torch(case, torch):
    layer, peer = case.make(), case.make_torch(torch)
    assert repr(layer) == repr(peer)
    assert layer.extra_repr() == peer.extra_repr()
    agree_in_state(layer, peer)
    assert layer.training is True
    for name in inspect.signature(type(peer)).parameters:
        if name not in ("bias", "dtype", "device"):
            assert getattr(layer, name) == getattr(peer, name), name
    assert (getattr(layer, "bias", None) is None) == (getattr(peer, "bias", None) is None)


@every_kind
def test_constructor_is_that_of_torch(case, torch):
    theirs = inspect.signature(getattr(torch.nn, case.name)).parameters
    ours = inspect.signature(getattr(fn, case.name)).parameters
    shared = [name for name in theirs if name not in ("device", "dtype")]
    assert [name for name in ours if name not in ("dtype", "activation", "channel_axis")] == shared
    assert all(ours[name].default == theirs[name].default for name in shared)
    assert all(ours[name].kind == theirs[name].kind for name in shared)
    extra = ("dtype", "activation", *(["channel_axis"] if "channel_axis" in ours else []))
    assert all(ours[name].kind == ours[name].KEYWORD_ONLY for name in extra)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_state_without_one_statistic_is_refused(statistic, rng):
    """In torch too, though later."""
    layer = fn.BatchNorm1d(6).eval()
    setattr(layer, statistic, None)
    with pytest.raises(ValueError, match=statistic):
        layer(cases.draw(rng, (5, 6)))


def test_both_statistics_taken_away_is_as_in_torch(torch, rng):
    layer, peer = pair(BATCH[0], torch, rng)
    for one in (layer.eval(), peer.eval()):
        one.running_mean = one.running_var = None
    x = cases.draw(rng, BATCH[0].shape)
    agree(layer(x), peer(torch.from_numpy(x)))


@pytest.mark.parametrize("change", [{"momentum": 0.7}, {"eps": 0.3}, {"track_running_stats": False}], ids=str)
def test_options_may_change_later(change, torch, rng):
    layer, peer = pair(BATCH[0], torch, rng)
    for name, value in change.items():
        setattr(layer, name, value)
        setattr(peer, name, value)
    for training in (True, False):
        x = cases.draw(rng, BATCH[0].shape)
        agree(layer.train(training)(x), peer.train(training)(torch.from_numpy(x)))
        agree_in_state(layer, peer)


def test_repr_shows_what_torch_does_not_have():
    assert repr(fn.BatchNorm2d(3, activation="relu", channel_axis=-1)) == (
        "BatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, channel_axis=-1, "
        "activation='relu')"
    )
    assert repr(fn.RMSNorm(3, activation="silu")) == "RMSNorm((3,), eps=None, elementwise_affine=True, activation='silu')"


# ---- what is computed, without torch


@cases.every_float
@every_layer
def test_layer_is_its_function(case, dtype, rng):
    layer = layer_cases.draw_state(case.make(), rng).eval()
    x = cases.draw(rng, case.shape, dtype)
    if case.name.startswith("Batch"):
        wanted = fn.batch_norm(
            x,
            layer.running_mean,
            layer.running_var,
            layer.weight,
            layer.bias,
            training=not layer.track_running_stats,
            eps=layer.eps,
        )
    elif case.name.startswith("Instance"):
        axis = 1 if len(case.shape) == int(case.name[-2]) + 2 else 0
        statistics = layer.running_mean, layer.running_var
        wanted = fn.instance_norm(
            x,
            *statistics,
            layer.weight,
            layer.bias,
            use_input_stats=not layer.track_running_stats,
            eps=layer.eps,
            channel_axis=axis,
        )
    elif case.name == "GroupNorm":
        wanted = fn.group_norm(x, layer.num_groups, layer.weight, layer.bias, layer.eps)
    elif case.name == "LayerNorm":
        wanted = fn.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    else:
        wanted = fn.rms_norm(x, layer.normalized_shape, layer.weight, layer.eps)
    assert cases.same_bits(layer(x), wanted)


@every_layer
def test_out(case, rng):
    layer = case.make()
    x = cases.draw(rng, case.shape)
    fresh, out = copy.deepcopy(layer)(x), np.empty_like(x)
    assert layer(x, out=out) is out
    assert cases.same_bits(out, fresh)
    assert layer(x, out=x) is x


@every_kind
def test_input_that_is_no_array(case, rng):
    layer, x = case.make(), cases.draw(rng, case.shape, np.float64)
    wanted = copy.deepcopy(layer)(x)
    np.testing.assert_array_equal(layer(x.tolist()), wanted)
    for bad in ([[1.0], [2.0, 3.0]], None, "text"):
        before = layer_cases.state_bytes(layer)
        with pytest.raises((TypeError, ValueError), match="expected"):
            layer(bad)
        assert layer_cases.state_bytes(layer) == before


@pytest.mark.parametrize(
    "case",
    [c for c in ALL if not c.name.startswith(("LayerNorm", "RMS")) and len(c.shape) > 2],
    ids=layer_cases.LayerCase.id,
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_channels_last(case, training, rng):
    first = case.make().train(training)
    last = case.make(channel_axis=-1).train(training)
    batched = case.name == "GroupNorm" or len(case.shape) == int(case.name[-2]) + 2
    for _ in range(2):
        x = cases.draw(rng, case.shape)
        moved = np.moveaxis(x, 1 if batched else 0, -1)
        got = np.moveaxis(last(moved), -1, 1 if batched else 0)
        # The sums run in another order.
        oracle.agree(got, first(x), scale=1)
    for a, b in zip(last.state_dict().values(), first.state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2 * EPS32, atol=2 * EPS32)


def test_sample_without_batch_axis(rng):
    x = cases.draw(rng, (6, 4, 5))
    wanted = fn.instance_norm(x, channel_axis=0)
    for axis in (0, 1, -3):
        assert cases.same_bits(fn.InstanceNorm2d(6, channel_axis=axis)(x), wanted)
    with pytest.raises(ValueError, match=r"expected shape \(6, H, W\), got"):
        fn.InstanceNorm2d(6, channel_axis=0)(x[None])


# ---- errors


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (fn.BatchNorm1d(3), (3,), r"\(N, 3\) or \(N, 3, L\)"),
        (fn.BatchNorm1d(3), (2, 3, 4, 5), r"\(N, 3\) or \(N, 3, L\)"),
        (fn.BatchNorm1d(3), (2, 4), r"\(N, 3\) or \(N, 3, L\)"),
        (fn.BatchNorm1d(3, affine=False, track_running_stats=False), (2, 4, 7), r"\(N, 3\) or \(N, 3, L\)"),
        (fn.BatchNorm1d(3, channel_axis=-1), (2, 3, 4), r"\(N, 3\) or \(N, L, 3\)"),
        (fn.BatchNorm1d(3, channel_axis=2), (2, 3), r"\(N, L, 3\)"),
        (fn.BatchNorm2d(3), (2, 3, 4), r"\(N, 3, H, W\)"),
        (fn.BatchNorm2d(3), (2, 4, 4, 3), r"\(N, 3, H, W\)"),
        (fn.BatchNorm2d(3, channel_axis=-1), (2, 3, 4, 4), r"\(N, H, W, 3\)"),
        (fn.BatchNorm3d(3), (2, 3, 4, 4), r"\(N, 3, D, H, W\)"),
        (fn.InstanceNorm1d(3), (3,), r"\(N, 3, L\) or \(3, L\)"),
        (fn.InstanceNorm1d(3), (2, 4, 5), r"\(N, 3, L\) or \(3, L\)"),
        (fn.InstanceNorm1d(3), (4, 5), r"\(N, 3, L\) or \(3, L\)"),
        (fn.InstanceNorm2d(3, channel_axis=-1), (4, 5, 2), r"\(N, H, W, 3\) or \(H, W, 3\)"),
        (fn.InstanceNorm3d(3), (2, 3), r"\(N, 3, D, H, W\) or \(3, D, H, W\)"),
        (fn.LayerNorm(3), (3, 4), r"\(\*, 3\)"),
        (fn.LayerNorm((2, 3)), (3,), r"\(\*, 2, 3\)"),
        (fn.RMSNorm(3), (), r"\(\*, 3\)"),
        (fn.GroupNorm(3, 6), (2, 5, 6), r"at least 2 dimensions and 6 channels along axis 1"),
        (fn.GroupNorm(3, 6, affine=False), (6,), r"at least 2 dimensions and 6 channels along axis 1"),
        (fn.GroupNorm(3, 6, affine=False, channel_axis=2), (4, 6), r"at least 3 dimensions and 6 channels along axis 2"),
    ],
    ids=lambda v: str(v).partition("(")[0] or str(v),
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_wrong_shape(layer, shape, expected, training):
    before = layer_cases.state_bytes(layer)
    text = rf"^{type(layer).__name__}: x: expected (shape )?{expected}, got shape {str(shape).replace('(', '[(]')}".replace(
        "[(]", r"\("
    )
    text = text.removesuffix(")") + r"\)$"
    with pytest.raises(ValueError, match=text):
        layer.train(training)(np.zeros(shape, np.float32))
    assert layer_cases.state_bytes(layer) == before


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: fn.BatchNorm1d(-1), ValueError, "BatchNorm1d: num_features: expected a number >= 0, got -1"),
        (lambda: fn.BatchNorm1d(2.5), TypeError, "integer"),
        (lambda: fn.BatchNorm2d(2, channel_axis=4), ValueError, "BatchNorm2d: channel_axis: expected .* 4 dimensions, got 4"),
        (lambda: fn.BatchNorm2d(2, channel_axis=-5), ValueError, "BatchNorm2d: channel_axis: expected .* 4 dimensions, got -5"),
        (lambda: fn.InstanceNorm2d(2, channel_axis=-4), ValueError, "InstanceNorm2d: channel_axis: expected .*, got -4"),
        (lambda: fn.GroupNorm(4, 6), ValueError, "GroupNorm: num_groups: expected a positive divisor of num_channels 6, got 4"),
        (lambda: fn.GroupNorm(0, 6), ValueError, "GroupNorm: num_groups: expected a positive divisor of num_channels 6, got 0"),
        (lambda: fn.LayerNorm(()), ValueError, r"LayerNorm: normalized_shape: expected one or more sizes, got \(\)"),
        (lambda: fn.RMSNorm((2, -3)), ValueError, r"RMSNorm: normalized_shape: expected .*, got \(2, -3\)"),
        (lambda: fn.LayerNorm("3"), TypeError, "integer"),
        (lambda: fn.LayerNorm(3, dtype=np.int32), TypeError, "LayerNorm: dtype: expected float16, .*, got .*int32"),
        (lambda: fn.GroupNorm(2, 6, dtype="nonsense"), TypeError, "GroupNorm: dtype: expected float16, .*, got 'nonsense'"),
    ],
)
def test_wrong_constructor(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_gradients_check_the_rank():
    x = np.ones((8, 3), "f4")
    with pytest.raises(ValueError, match=r"BatchNorm2d: x: expected shape \(N, 3, H, W\), got shape \(8, 3\)"):
        fn.BatchNorm2d(3).backward(x, x)


@pytest.mark.parametrize("layer", [fn.BatchNorm2d(3), fn.BatchNorm2d(3).eval(), fn.InstanceNorm1d(3)], ids=repr)
@pytest.mark.parametrize("x", ["a", None, np.ones((2, 3, 4, 4), complex)], ids=str)
def test_a_wrong_dtype_is_no_wrong_shape(layer, x):
    with pytest.raises(TypeError, match=r": x: expected "):
        layer(x)


@pytest.mark.parametrize("argument", ["out", "residual", "grad"])
def test_errors_of_a_single_sample_speak_of_its_shape(argument):
    layer, x, wrong = fn.InstanceNorm1d(4), np.ones((4, 5)), np.zeros((1, 4, 5))
    with pytest.raises(ValueError, match=rf"{argument}: expected the shape of x, \(4, 5\), got shape \(1, 4, 5\)"):
        layer.backward(wrong, x) if argument == "grad" else layer(x, **{argument: wrong})


@pytest.mark.parametrize("dtype", ["\ud800", np.arange(2), object])
def test_dtypes_that_parameters_cannot_have(dtype):
    with pytest.raises(TypeError, match="BatchNorm1d: dtype: expected float16, bfloat16, float32 or float64"):
        fn.BatchNorm1d(3, dtype=dtype)


def test_no_dtype_is_the_default():
    assert fn.LayerNorm(3, dtype=None).weight.dtype == np.float32
