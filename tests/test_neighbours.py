"""Other libraries with threads in the same process, pools of processes, and threads that share layers."""

import importlib.util
import itertools
import multiprocessing
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import cases
import fusednorm as fn
import layer_cases
import neighbours
import numpy as np
import oracle
import pools
import pytest
from processes import SECONDS, run_python

OTHERS = ("torch", "sklearn", "onnxruntime")


def run_script(module, *arguments, **environment):
    result = run_python(module.__file__, *arguments, **environment)
    assert (result.returncode, result.stdout.strip()) == (0, "ok"), result.stderr


def present(*names):
    """Skip where one is absent; onnxruntime's model is made with onnx."""
    for name in (*names, *(["onnx"] if "onnxruntime" in names else [])):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("first", [True, False], ids=["fusednorm first", "fusednorm last"])
def test_one_neighbour(other, first):
    present(other)
    run_script(neighbours, *(("fusednorm", other) if first else (other, "fusednorm")))


@pytest.mark.slow
def test_all_neighbours():
    present("torch", "sklearn")
    more = [name for name in ("onnxruntime",) if importlib.util.find_spec(name) and importlib.util.find_spec("onnx")]
    run_script(neighbours, "torch", "fusednorm", "sklearn", *more)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pool_of_processes(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"needs {method}")
    run_script(pools, method)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_joblib(backend):
    present("joblib")
    run_script(pools, backend)


# ---- threads that share layers, the interpreter switching between them as often as it can


@pytest.fixture
def restless():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*functions):
    """Run each in a thread of its own; an error of one is the test's."""
    with ThreadPoolExecutor(len(functions)) as pool:
        for future in [pool.submit(function) for function in functions]:
            future.result(timeout=SECONDS)


@pytest.mark.parametrize(("kind", "axes"), [(fn.BatchNorm1d, (0, 2)), (fn.InstanceNorm1d, 2)])
def test_training_beside_evaluation(kind, axes, restless, rng):
    """Four threads train, four evaluate, save and copy: no update is lost, and no reader sees a half-written state."""
    layer = kind(3, momentum=0.001, track_running_stats=True, dtype=np.float64)
    x = rng.normal(0, 1, (4, 3, 20))
    x += 1 - x.mean(axes, keepdims=True)
    reader = pickle.loads(pickle.dumps(layer)).eval()
    reader.running_mean, reader.running_var = layer.running_mean, layer.running_var
    each = 1000

    def train():
        for _ in range(each):
            layer(x)

    def read():
        for _ in range(each):
            assert np.isfinite(reader(x)).all()
            state = pickle.loads(pickle.dumps(layer)).state_dict()
            assert 0 <= state["num_batches_tracked"] <= 4 * each
            assert ((state["running_mean"] >= 0) & (state["running_mean"] < 1)).all()

    at_once(*[train] * 4, *[read] * 4)
    if kind is fn.BatchNorm1d:  # the other one counts no batches, as in torch
        assert layer.num_batches_tracked == 4 * each
    wanted = 1 - (1 - layer.momentum) ** (4 * each)
    np.testing.assert_allclose(layer.running_mean, wanted, rtol=16 * each * oracle.EPS64)


@layer_cases.every_kind
def test_one_layer_in_eight_threads(case, restless, rng):
    """In evaluation, with a parameter that others assign all the while: each result is that of one of the two values."""
    layer = layer_cases.draw_state(case.make(), rng).eval()
    arrays = [cases.draw(rng, case.shape) for _ in range(2)]
    choices = [None] if getattr(layer, "weight", None) is None else [layer.weight.copy(), -layer.weight]
    wanted = []
    for x, weight in itertools.product(arrays, choices):
        layer.weight = weight
        wanted.append(layer(x).tobytes())
    possible = [set(wanted[: len(choices)]), set(wanted[len(choices) :])]

    def evaluate(i):
        for _ in range(500):
            assert layer(arrays[i]).tobytes() in possible[i]

    def assign():
        for _, weight in zip(range(2000), itertools.cycle(choices), strict=False):
            layer.weight = weight

    at_once(*[lambda: evaluate(0), lambda: evaluate(1)] * 3, *[assign] * 2)


def test_running_moments_in_eight_threads(restless, rng):
    batches = [cases.draw(rng, (7, 3, 5)) for _ in range(8)]
    stats = fn.RunningMoments()

    def update(x):
        for _ in range(500):
            stats.update(x)

    at_once(*[lambda x=x: update(x) for x in batches])
    everything = fn.moments(np.concatenate(batches).astype(np.float64), (0, 2))
    assert stats.count == 8 * 500 * 35
    np.testing.assert_allclose(stats.mean, everything.mean, rtol=64 * oracle.EPS64)
    np.testing.assert_allclose(stats.var(), everything.var, rtol=64 * oracle.EPS64)
