"""Layers as objects: attributes, modes, copies, several threads, fork, signals."""

import copy
import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import cases
import fusednorm as fn
import layer_cases
import numpy as np
import oracle
import pytest
from fusednorm.layers import BatchNorm
from layer_cases import BATCH, every_kind, every_layer
from processes import SECONDS, output_of

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
        ("weight", [[1.0], [2.0, 3.0]], ValueError, "weight: expected an array or what numpy.asarray can read, got list"),
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
holder = threading.Thread(target=layer._lock.acquire)
holder.start()
holder.join()
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    layer(np.array([[1.0, 2.0], [3.0, 5.0]]))
    os._exit(7 if layer.num_batches_tracked == 1 else 8)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), layer._lock.acquire(blocking=False))
"""


FORK_STATISTICS = """
import copy, os, pickle, signal, threading, numpy as np, fusednorm as fn
stats = fn.RunningMoments(-1).update(np.ones((1, 2)))
for one in (stats, copy.deepcopy(stats), pickle.loads(pickle.dumps(stats))):
    holder = threading.Thread(target=one._lock.acquire)
    holder.start()
    holder.join()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        os._exit(one.update(np.zeros((1, 2))).count)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), one._lock.acquire(blocking=False))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("code", "said"), [(FORK, ["7 False"]), (FORK_STATISTICS, ["2 False"] * 3)], ids=["layer", "statistics"]
)
def test_fork_while_another_thread_has_the_lock(code, said):
    assert output_of(code).splitlines() == said


REENTRANT_RESIDUAL = """
import numpy as np, fusednorm as fn
x = np.array([[0.0], [2.0]])
class Residual:
    def __array__(self, dtype=None, copy=None):
        layer(x + 2)
        return x
for layer in (fn.BatchNorm1d(1, momentum=None), fn.InstanceNorm1d(1, momentum=None, track_running_stats=True)):
    x = x.reshape(x.shape if isinstance(layer, fn.BatchNorm1d) else (1, 1, 2))
    layer(x, residual=Residual())
    print(layer.num_batches_tracked, layer.running_mean)
"""


SIGNALS = """
import signal, numpy as np, fusednorm as fn

def fresh():
    stats = fn.RunningMoments()
    stats.handled = 0
    return stats

def handle(*_):
    stats.update(x)
    layer(x)
    stats.handled += 1
    handled.append(1)
    signal.setitimer(signal.ITIMER_REAL, 1e-4)

x, layer, stats, rounds, handled, lost = np.array([[1.0], [3.0]]), fn.BatchNorm1d(1), fresh(), 0, [], 0
signal.signal(signal.SIGALRM, handle)
handle()
while len(handled) < 2000:
    stats.update(x)
    layer(x)
    stats, done = fresh(), stats
    rounds += 1
    lost += 2 * (1 + done.handled) - done.count
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(lost, rounds + len(handled) - layer.num_batches_tracked)
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (REENTRANT_RESIDUAL, ["2 [2.]"] * 2),
        pytest.param(SIGNALS, ["0 0"], marks=pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")),
    ],
    ids=["residual", "signals"],
)
def test_use_in_the_middle_of_an_update(code, said):
    """By what the update calls, or the handler of a signal: everything counts, and nothing waits for itself."""
    assert output_of(code).splitlines() == said


class Equal(fn.RunningMoments):
    def __eq__(self, other):
        raise RuntimeError

    __hash__ = None


def test_subclasses_may_define_equality():
    assert copy.deepcopy(Equal()).update([[1.0]]).count == 1


@pytest.mark.parametrize(
    ("counter", "momentum"),
    [(np.array(127, "i1"), 0.1), (2**63 - 1, 0.1), (np.array(2**64 - 1, "u8"), 0.1), (np.array(-1), 0.1), (np.array(-1), None)],
)
def test_a_counter_that_cannot_count_on(counter, momentum, rng):
    layer = fn.BatchNorm1d(2, momentum=momentum)
    layer.num_batches_tracked = counter
    out = np.full((4, 2), 7.0)
    with pytest.raises(ValueError, match="BatchNorm1d: num_batches_tracked: expected a number from 0 on"):
        layer(rng.normal(size=(4, 2)), out=out)
    assert (out == 7).all()
    assert not layer.running_mean.any()


@pytest.mark.parametrize("number", [-1, 2**63, 2**64, 2**70])
def test_a_number_that_no_counter_holds(number):
    layer = fn.BatchNorm1d(2)
    with pytest.raises(
        ValueError, match=f"BatchNorm1d: num_batches_tracked: expected a number from 0 to {2**63 - 1}, got {number}"
    ):
        layer.num_batches_tracked = number
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize(("error", "counted"), [(None, 1), (KeyboardInterrupt, 1), (MemoryError, 0)])
@pytest.mark.parametrize("kind", ["BatchNorm1d", "InstanceNorm1d"])
def test_what_was_updated_is_counted(kind, error, counted, monkeypatch, rng):
    """Python raises KeyboardInterrupt when the kernels have returned, other errors come before they begin."""
    layer = getattr(fn, kind)(2, momentum=None, track_running_stats=True)
    name = "batch_norm" if kind == "BatchNorm1d" else "instance_norm"
    function = getattr(fn.functional, name)

    def interrupted(*arguments, **named):
        result = function(*arguments, **named) if counted else None
        if error:
            raise error
        return result

    monkeypatch.setattr(fn.functional, name, interrupted)
    with suppress(error or ()):
        layer(rng.normal(3, 1, (5, 2, 4)))
    assert layer.num_batches_tracked == counted
    assert layer.running_mean.any() == counted


def test_a_counter_counts_to_its_end():
    layer = fn.BatchNorm1d(2)
    layer.num_batches_tracked = np.array(254, "u1")
    layer(np.arange(6.0).reshape(3, 2))
    assert layer.num_batches_tracked == 255


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_lists_beyond_the_range_of_float32(name):
    layer = fn.BatchNorm2d(3)
    with np.errstate(all="raise"):
        setattr(layer, name, [1e300] * 3)
    assert np.isposinf(getattr(layer, name)).all()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: fn.BatchNorm2d("3"), "BatchNorm2d: num_features: expected an integer, got '3'"),
        (lambda: fn.BatchNorm2d(3.0), "BatchNorm2d: num_features: expected an integer, got 3.0"),
        (lambda: fn.InstanceNorm1d(3, channel_axis="a"), "InstanceNorm1d: channel_axis: expected an integer, got 'a'"),
        (lambda: fn.LayerNorm("3"), "LayerNorm: normalized_shape: expected an integer, got '3'"),
        (lambda: fn.GroupNorm(2, "4"), "GroupNorm: num_channels: expected an integer, got '4'"),
        (lambda: fn.LayerNorm(b"\x03"), "LayerNorm: normalized_shape: expected an integer, got b"),
        (lambda: fn.LayerNorm(bytearray(3)), "LayerNorm: normalized_shape: expected an integer, got bytearray"),
        (lambda: fn.LayerNorm((3, -1)), r"LayerNorm: normalized_shape: expected one or more sizes, got \(3, -1\)"),
        (lambda: fn.BatchNorm2d(2**62), "BatchNorm2d: num_features: expected parameters that memory can hold"),
        (lambda: fn.BatchNorm2d(2**70, affine=False), "BatchNorm2d: num_features: expected parameters that memory can hold"),
        (lambda: fn.GroupNorm(1, 2**62), "GroupNorm: num_channels: expected parameters that memory can hold"),
        *(
            (lambda shape=shape: fn.RMSNorm(shape), "RMSNorm: normalized_shape: expected parameters that memory can hold")
            for shape in (2**70, (2**40, 2**40), (2**62, 0), (2**70, 0), (1,) * 65, range(2**40), range(2**70))
        ),
        (lambda: setattr(fn.LayerNorm(3), "normalized_shape", "x"), "LayerNorm: normalized_shape: expected an integer"),
        (lambda: setattr(fn.LayerNorm(3), "normalized_shape", ()), "LayerNorm: normalized_shape: expected one or more sizes"),
        (lambda: setattr(fn.GroupNorm(1, 3), "channel_axis", "a"), "GroupNorm: channel_axis: expected an integer, got 'a'"),
        (
            lambda: setattr(fn.GroupNorm(1, 3), "channel_axis", 64),
            "GroupNorm: channel_axis: expected an axis of an array of 64",
        ),
        (lambda: BatchNorm(3, channel_axis=-65), "BatchNorm: channel_axis: expected an axis of an array of 64 dimensions"),
        (lambda: setattr(fn.BatchNorm2d(3), "num_batches_tracked", 3.5), "num_batches_tracked: expected an integer"),
        (lambda: setattr(fn.BatchNorm2d(3), "channel_axis", 7), "BatchNorm2d: channel_axis: expected an axis"),
    ],
)
def test_errors_of_layers_name_the_argument(make, text):
    with pytest.raises((TypeError, ValueError), match=text):
        make()


def test_sizes_as_an_array_and_another_channel_axis(rng):
    assert fn.LayerNorm(np.array([3, 5])).normalized_shape == (3, 5)
    x = rng.normal(size=(2, 3, 4, 5))
    layer = fn.BatchNorm2d(5)
    layer.channel_axis = -1
    np.testing.assert_array_equal(layer(x), fn.batch_norm(x, training=True, channel_axis=-1))


def test_an_assigned_size_is_a_shape(rng):
    layer = fn.RMSNorm((3, 4), elementwise_affine=False)
    layer.normalized_shape = 4
    assert layer.normalized_shape == (4,)
    x = rng.normal(size=(2, 3, 4))
    np.testing.assert_array_equal(layer(x), fn.rms_norm(x, 4))
