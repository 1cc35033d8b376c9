"""Threads: how many, who may limit them, fork, other interpreters, callers in parallel, and the GIL."""

import multiprocessing
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cases
import fusednorm as fn
import numpy as np
import pytest
from processes import SECONDS, output_of, run_python

GET = "import fusednorm as fn; print(fn.get_num_threads())"
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.mark.parametrize("n", [1, 2, 3, 64, 4096, np.int64(5)])
def test_set_and_get(n, restore_threads):
    fn.set_num_threads(n)
    assert fn.get_num_threads() == n
    assert fn.show_config("dicts")["threads"] == n


def test_default_is_at_most_the_cpus_of_the_process():
    assert 1 <= int(output_of(GET, OMP_NUM_THREADS=None)) <= CPUS


@pytest.mark.parametrize("n", [1, 2, 3])
def test_openmp_variable(n):
    """A number over the cgroup's quota is cut to the quota; 1 never is."""
    got = int(output_of(GET, OMP_NUM_THREADS=str(n)))
    assert got == n if n == 1 else 1 <= got <= n


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_affinity_limits_the_default():
    code = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}]); {GET}"
    assert output_of(code, OMP_NUM_THREADS=None) == "1"


def test_set_wins_over_the_default():
    assert output_of(f"import fusednorm as fn; fn.set_num_threads(3); {GET}", OMP_NUM_THREADS="1") == "3"


def test_set_holds_for_every_python_thread(restore_threads):
    fn.set_num_threads(3)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(fn.get_num_threads).result() == 3


def test_threadpoolctl_limit():
    pytest.importorskip("threadpoolctl")
    code = """
import fusednorm as fn
from threadpoolctl import threadpool_limits
fn.set_num_threads(4)
with threadpool_limits(1):
    print(fn.get_num_threads())
with threadpool_limits(1, user_api="openmp"):
    print(fn.get_num_threads())
print(fn.get_num_threads())
"""
    assert output_of(code, OMP_NUM_THREADS="2").split() == ["1", "1", "4"]


def test_small_work_starts_no_thread():
    """Linux counts the process's threads: OpenMP's would stay after the call."""
    code = """
import os, numpy as np, fusednorm as fn
fn.set_num_threads(4)
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
fn.layer_norm(np.ones((32, 64), np.float32), 64)
small = count()
fn.layer_norm(np.ones((4000, 512), np.float32), 512)
print(small - before, count() - before)
"""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("needs /proc")
    small, large = map(int, output_of(code, OPENBLAS_NUM_THREADS="1").split())
    assert (small, large) == (0, 3)


# ---- fork


def large(seed=0):
    return np.random.default_rng(seed).normal(3, 2, (64, 50_000)).astype(np.float32)


def row_digest(seed=0):
    return fn.layer_norm(large(seed), 50_000).tobytes()[:4000]


AFTER_FORK = """
import os, signal, sys, numpy as np, fusednorm as fn
fn.set_num_threads(4)
x = np.random.default_rng(0).normal(3, 2, (64, 50_000)).astype(np.float32)
parent = fn.layer_norm(x, 50_000)
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    same = np.array_equal(fn.layer_norm(x, 50_000), parent) and fn.moments(x).mean > 0
    os._exit(7 if same and fn.get_num_threads() == 1 else 8)
status = os.waitpid(pid, 0)[1]
again = np.array_equal(fn.layer_norm(x, 50_000), parent)
print(os.waitstatus_to_exitcode(status), fn.get_num_threads(), again)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_child_after_fork_works():
    """It runs serially; its alarm kills a child that hangs."""
    assert output_of(AFTER_FORK) == "7 4 True"


MULTIPROCESSING = """
import multiprocessing, numpy as np, fusednorm as fn
fn.set_num_threads(4)
x = np.random.default_rng(0).normal(3, 2, (64, 50_000)).astype(np.float32)
parent = fn.layer_norm(x, 50_000)
def work(i):
    return np.array_equal(fn.layer_norm(x, 50_000), parent)
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map_async(work, range(4)).get(timeout=60))
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_multiprocessing_after_fork_works():
    result = run_python("-c", MULTIPROCESSING)
    assert result.stdout.strip() == "[True, True, True, True]", result.stderr


SUBINTERPRETER = '''
import importlib, sys
interpreters = importlib.import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
other = interpreters.create()
interpreters.run_string(other, """
import os
try:
    import fusednorm
except ImportError as error:
    os.write(1, str(error).encode())
""")
interpreters.destroy(other)
'''


@pytest.mark.parametrize("before", ["", "import fusednorm"])
def test_a_subinterpreter_is_refused(before):
    assert output_of(before + SUBINTERPRETER).startswith("fusednorm: expected to be imported in the main interpreter")


# ---- several Python threads

DAEMONS = """
import threading, time, numpy as np, fusednorm as fn
x = np.ones((16, 16, 56, 56), np.float32)
layer = fn.BatchNorm2d(16)
swapped, wide = np.ones((512, 64), ">f4"), np.ones((512, 64))
work = (lambda: fn.layer_norm(x, 56), lambda: layer(x), lambda: fn.moments(x),
        lambda: fn.batch_norm_backward(x, x, training=True), lambda: fn.layer_norm(x, 56, np.ones(56, np.float16)))
casts = (lambda: fn.layer_norm(swapped, 64, swapped[0]), lambda: fn.layer_norm_backward(swapped, wide, 64))
def repeat(call):
    while True:
        call()
for call in CALLS:
    threading.Thread(target=repeat, args=(call,), daemon=True).start()
time.sleep(0.2)
"""


@pytest.mark.parametrize("calls", ["work", "casts * 3"])
@pytest.mark.parametrize("_", range(4))
def test_daemon_threads_inside_calls_when_the_interpreter_ends(calls, _):
    assert output_of(DAEMONS.replace("CALLS", calls)) == ""


def test_eight_python_threads_at_once(four_threads):
    expected = [row_digest(i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(row_digest, [*range(8)] * 3, timeout=SECONDS)) == expected * 3


def test_eight_python_threads_on_small_arrays(four_threads, rng):
    """These calls keep the GIL, or hand it over, at the size where that changes."""
    calls = []
    for norm in cases.NORMS:
        for shape in ((4, 6, 35), (8, 6, 170), (8, 6, 171), (16, 6, 500)):
            x = cases.draw(rng, shape)
            calls.append((cases.make_call(norm, x, rng), x))
    expected = [call.run(x) for call, x in calls]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            for y, plain in zip(pool.map(lambda pair: pair[0].run(pair[1]), calls, timeout=SECONDS), expected, strict=True):
                assert cases.same_bits(y, plain)


def test_set_num_threads_during_calls(restore_threads):
    expected, stop = row_digest(), threading.Event()

    def change():
        while not stop.is_set():
            for n in (1, 2, 5):
                fn.set_num_threads(n)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        assert all(row_digest() == expected for _ in range(10))
    finally:
        stop.set()
        changer.join()


@pytest.mark.parametrize("name", ["layer_norm", "batch_norm", "moments"])
def test_gil_is_released(name, restore_threads):
    """Another Python thread runs while a call of one thread works: nothing else here would ever let it."""
    x = np.ones((64, 50_000), np.float32)
    out, begin, done = np.empty_like(x), threading.Event(), threading.Event()
    call = {
        "layer_norm": lambda: fn.layer_norm(x, 50_000, out=out),
        "batch_norm": lambda: fn.batch_norm(x, training=True, out=out),
        "moments": lambda: fn.moments(x),
    }[name]

    def other():
        begin.wait()
        done.set()

    fn.set_num_threads(1)
    thread, interval = threading.Thread(target=other), sys.getswitchinterval()
    sys.setswitchinterval(SECONDS)  # the interpreter takes the GIL from nobody for so long
    try:
        thread.start()
        begin.set()
        # A busy machine may wake the other one only after a few calls.
        assert any(call() is not None and done.is_set() for _ in range(200))
    finally:
        begin.set()
        sys.setswitchinterval(interval)
        thread.join()
