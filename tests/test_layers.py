"""The layers: what they compute, their attributes, modes and errors, held against torch where it is there."""

import copy
import inspect
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import cases
import fusednorm as fn
import layer_cases
import numpy as np
import oracle
import pytest
from layer_cases import ALL, BATCH, INSTANCE, ONE_OF_EACH
from processes import SECONDS, output_of

every_layer = pytest.mark.parametrize("case", ALL, ids=layer_cases.LayerCase.id)
every_kind = pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.name)
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


def agree(got, wanted, scale=4):
    """Both promise 2e-6 relative to the weights, which are at most 1.5, and biases of a size of about 2."""
    wanted = np.asarray(wanted.detach())
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=scale * 2e-6)


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
        np.testing.assert_allclose(got, first(x), rtol=2e-6, atol=2e-6)
    for a, b in zip(last.state_dict().values(), first.state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2 * EPS32, atol=2 * EPS32)


def test_sample_without_batch_axis(rng):
    x = cases.draw(rng, (6, 4, 5))
    wanted = fn.instance_norm(x, channel_axis=0)
    for axis in (0, 1, -3):
        assert cases.same_bits(fn.InstanceNorm2d(6, channel_axis=axis)(x), wanted)
    with pytest.raises(ValueError, match=r"expected shape \(6, H, W\), got"):
        fn.InstanceNorm2d(6, channel_axis=0)(x[None])


# ---- running statistics


@pytest.mark.parametrize("name", ["BatchNorm1d", "InstanceNorm1d"])
def test_momentum_none_is_the_average_of_the_batches(name, rng):
    layer = getattr(fn, name)(4, momentum=None, track_running_stats=True)
    batches = [rng.normal(i, i + 1, (3 + i, 4, 5)) for i in range(4)]
    for x in batches:
        layer(x)
    axes = (0, 2) if name == "BatchNorm1d" else (2,)
    means = [x.mean(axes) for x in batches]
    variances = [x.var(axes, ddof=1) for x in batches]
    if name == "InstanceNorm1d":
        means, variances = [m.mean(0) for m in means], [v.mean(0) for v in variances]
    assert layer.num_batches_tracked == 4
    # One rounding to float32 for every batch.
    np.testing.assert_allclose(layer.running_mean, np.mean(means, 0), rtol=4 * EPS32, atol=4 * EPS32)
    np.testing.assert_allclose(layer.running_var, np.mean(variances, 0), rtol=4 * EPS32)


def test_running_statistics_of_a_half_precision_layer_are_float32(rng):
    for dtype, statistic in (("f2", "f4"), ("f4", "f4"), ("f8", "f8")):
        layer = fn.BatchNorm1d(3, dtype=dtype)
        assert (layer.weight.dtype, layer.bias.dtype) == (np.dtype(dtype),) * 2
        assert (layer.running_mean.dtype, layer.running_var.dtype) == (np.dtype(statistic),) * 2
        assert layer.num_batches_tracked.dtype == np.int64


def test_float64_layer_keeps_float64(rng):
    layer = fn.BatchNorm1d(3, dtype=np.float64)
    x = rng.normal(1, 1, (50, 3))
    layer(x)
    np.testing.assert_allclose(layer.running_mean, 0.1 * x.mean(0), rtol=oracle.sums_unit(50))


def test_bfloat16_parameters(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    layer = fn.LayerNorm(8, dtype=ml_dtypes.bfloat16)
    assert layer.weight.dtype == ml_dtypes.bfloat16
    layer.weight = [1.25] * 8
    assert layer.weight.dtype == ml_dtypes.bfloat16
    x = cases.draw(rng, (3, 8))
    assert cases.same_bits(layer(x), fn.layer_norm(x, 8, np.full(8, 1.25, np.float32)))


@pytest.mark.parametrize("case", [c for c in [*BATCH, *INSTANCE] if len(c.shape) > 2], ids=layer_cases.LayerCase.id)
def test_empty_batch_leaves_the_state_alone(case, rng):
    batched = int(case.name[-2]) + 2
    x = np.zeros((0, *case.shape[1:]) if len(case.shape) == batched else (6, 0, *case.shape[2:]), np.float32)
    layer = layer_cases.draw_state(case.make(), rng)
    before = layer_cases.state_bytes(layer)
    assert layer(x).shape == x.shape
    assert layer_cases.state_bytes(layer) == before


WRONG_CALLS = [
    (case, wrong)
    for case in (*BATCH, *INSTANCE)
    for wrong in ("x", "out", "eps", "one value", "read-only running_var", "read-only num_batches_tracked")
    if not wrong.startswith("read-only") or case.make().num_batches_tracked is not None
]


@pytest.mark.parametrize(("case", "wrong"), WRONG_CALLS, ids=[f"{case.id()}-{wrong}" for case, wrong in WRONG_CALLS])
def test_error_in_training_changes_nothing(case, wrong, rng):
    layer = layer_cases.draw_state(case.make(), rng)
    x, out = cases.draw(rng, case.shape), None
    if wrong == "x":
        x = x[..., None, None]
    elif wrong == "out":
        out = np.zeros((3, 3), np.float32)
    elif wrong == "eps":
        layer.eps = -1
    elif wrong == "one value":
        channels = 1 if case.name.startswith("Batch") or len(case.shape) == int(case.name[-2]) + 2 else 0
        x = x[tuple(slice(None) if i == channels else slice(1) for i in range(x.ndim))]
    else:
        layer.momentum = None
        getattr(layer, wrong.removeprefix("read-only ")).flags.writeable = False
    before = layer_cases.state_bytes(layer)
    with pytest.raises((TypeError, ValueError), match="expected"):
        layer(x, out=out)
    assert layer_cases.state_bytes(layer) == before


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


# ---- attributes


@every_layer
def test_writes_and_assignments_count_at_the_next_call(case, rng):
    layer, x = layer_cases.draw_state(case.make(), rng).eval(), cases.draw(rng, case.shape)
    for name in layer.state_dict():
        if name == "num_batches_tracked":
            continue
        for change in (lambda a: a.__imul__(2), lambda a: a + np.float32(0.5), lambda a: (a * 1.5).tolist()):
            before = layer(x)
            new = change(getattr(layer, name))
            setattr(layer, name, new)
            after = layer(x)
            assert not np.array_equal(before, after), name
            fresh = case.make().eval()
            fresh.load_state_dict(layer.state_dict())
            assert cases.same_bits(after, fresh(x))


def test_an_assigned_array_is_the_layers():
    layer, weight = fn.LayerNorm(3), np.ones(3)
    layer.weight = weight
    assert layer.weight is weight
    weight[:] = 2
    np.testing.assert_array_equal(layer(np.array([[1.0, 2.0, 3.0]])), fn.layer_norm([[1.0, 2.0, 3.0]], 3, weight))


@every_kind
def test_none_is_allowed_where_torch_allows_it(case, rng):
    layer = case.make()
    layer.weight = None
    if hasattr(layer, "bias"):
        layer.bias = None
    layer(cases.draw(rng, case.shape))
    assert not {"weight", "bias"} & layer.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("weight", np.ones(4, np.float32), ValueError, r"BatchNorm2d: weight: expected shape \(3,\), got shape \(4,\)"),
        ("bias", 1.0, ValueError, r"BatchNorm2d: bias: expected shape \(3,\), got shape \(\)"),
        ("running_mean", np.ones((1, 3)), ValueError, r"running_mean: expected shape \(3,\), got shape \(1, 3\)"),
        ("num_batches_tracked", np.array([1]), ValueError, r"num_batches_tracked: expected shape \(\), got shape \(1,\)"),
        ("num_batches_tracked", np.array(1.5), TypeError, "num_batches_tracked: expected an integer, got dtype float64"),
        ("weight", np.ones(3, np.int64), TypeError, "weight: expected an array of a float dtype, got dtype int64"),
        ("weight", np.ones(3, np.complex64), TypeError, "weight: expected an array of a float dtype, got dtype complex64"),
        ("weight", "abc", TypeError, "weight: expected an array of a float dtype, got dtype <U3"),
        ("weight", [[1.0], [2.0, 3.0]], ValueError, "weight: expected what numpy.asarray reads, got list"),
    ],
)
def test_wrong_assignment(name, value, error, text):
    layer = fn.BatchNorm2d(3)
    before = getattr(layer, name)
    with pytest.raises(error, match=text):
        setattr(layer, name, value)
    assert getattr(layer, name) is before


def test_lists_and_numbers_are_converted():
    layer = fn.BatchNorm1d(2, dtype=np.float16)
    layer.weight, layer.running_var, layer.num_batches_tracked = [1, 2], (3, 4.5), 5
    assert (layer.weight.dtype, layer.running_var.dtype) == (np.float16, np.float32)
    assert layer.num_batches_tracked.dtype == np.int64
    layer(np.array([[1.0, 2.0], [3.0, 5.0]]))
    assert layer.num_batches_tracked == 6
    layer.num_batches_tracked += 1
    assert layer.num_batches_tracked == 7


def test_modes_return_the_layer():
    layer = fn.LayerNorm(3)
    assert layer.eval() is layer
    assert layer.training is False
    assert layer.train() is layer
    assert layer.training is True
    assert layer.train(False).training is False


@pytest.mark.parametrize("case", BATCH, ids=layer_cases.LayerCase.id)
def test_reset(case, rng):
    layer = layer_cases.draw_state(case.make(), rng)
    layer.reset_parameters()
    assert layer_cases.state_bytes(layer) == layer_cases.state_bytes(case.make())


# ---- copies, processes, threads


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy} | {
    f"pickle {p}": lambda layer, p=p: pickle.loads(pickle.dumps(layer, p)) for p in range(2, pickle.HIGHEST_PROTOCOL + 1)
}


@pytest.mark.parametrize("how", COPIES)
@every_layer
def test_copies(case, how, rng):
    layer = layer_cases.draw_state(case.make(), rng).eval()
    twin, x = COPIES[how](layer), cases.draw(rng, case.shape)
    assert repr(twin) == repr(layer)
    assert twin.training is False
    assert layer_cases.state_bytes(twin) == layer_cases.state_bytes(layer)
    assert cases.same_bits(twin(x), layer(x))
    before = layer_cases.state_bytes(layer)
    shared = [np.shares_memory(a, b) for a, b in zip(twin.state_dict().values(), layer.state_dict().values(), strict=True)]
    assert all(shared) if how == "copy" else not any(shared)
    twin.train()(x)
    if how != "copy":
        assert layer_cases.state_bytes(layer) == before


@pytest.mark.parametrize("momentum", [None, 0.001])
@pytest.mark.parametrize("width", [1, 2000], ids=["with the GIL", "without"])
def test_no_training_update_is_lost(momentum, width, four_threads, rng):
    """Every batch has mean 1 and counts once, so the sums of the updates are known whatever the order."""
    layer = fn.BatchNorm1d(3, momentum=momentum, dtype=np.float64)
    x = rng.normal(0, 1, (16, 3, width))
    x += 1 - x.mean((0, 2), keepdims=True)
    n = 400 if width == 1 else 40
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: layer(x), range(n), timeout=SECONDS))
    assert layer.num_batches_tracked == n
    wanted = 1 if momentum is None else 1 - (1 - momentum) ** n
    np.testing.assert_allclose(layer.running_mean, wanted, rtol=4 * n * oracle.EPS64)


def test_threads_in_eval(four_threads, rng):
    layer = layer_cases.draw_state(fn.BatchNorm1d(6), rng).eval()
    arrays = [cases.draw(rng, (n, 6, 50)) for n in (3, 100, 400)] * 8
    wanted = [layer(x) for x in arrays]
    with ThreadPoolExecutor(8) as pool:
        for got, one in zip(pool.map(layer, arrays, timeout=SECONDS), wanted, strict=True):
            assert cases.same_bits(got, one)


FORK = """
import os, signal, threading, numpy as np, fusednorm as fn
layer = fn.BatchNorm1d(2)
layer._lock.acquire()
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    layer(np.array([[1.0, 2.0], [3.0, 5.0]]))
    os._exit(7 if layer.num_batches_tracked == 1 else 8)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), layer._lock.locked())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_while_another_thread_trains():
    assert output_of(FORK) == "7 True"
