"""Machines unlike this one: limits on threads, nothing readable or writable, processors with fewer instructions.

Each runs `smoke.py` in a process of its own, and must give the bits that it gives here.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import smoke
from processes import SECONDS, output_of, run_python

SMOKE = smoke.__file__


def run_smoke(before="", under=(), **environment):
    """Return what the script says, run after some code, under some other program."""
    code = f"import sys; sys.path.insert(0, {str(Path(SMOKE).parent)!r}); import smoke\n{before}\nsmoke.main()"
    command = [*under, sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def here():
    return run_smoke()


# ---- limits


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_THREAD_LIMIT": "1"},
        {"OMP_DYNAMIC": "true"},
        {"OMP_NUM_THREADS": "64", "OMP_DYNAMIC": "true", "OMP_THREAD_LIMIT": "3"},
        {"OMP_STACKSIZE": "64k", "OMP_NUM_THREADS": "8"},
        {"OMP_PROC_BIND": "true", "OMP_PLACES": "{0}"},
    ],
    ids=lambda e: " ".join(f"{k}={v}" for k, v in e.items()),
)
def test_openmp_variables(environment, here):
    """Four threads are asked for, whatever comes of it."""
    said = run_smoke("import fusednorm; fusednorm.set_num_threads(4)", **environment)
    assert said["hash"] == here["hash"]


# The limit counts the user's processes: root's are not limited, so it becomes a user who has no other.
NO_THREADS = """
import resource, os, threading
import numpy.random, fusednorm
fusednorm.set_num_threads(4)
if os.getuid() == 0:
    os.setuid(54321)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    threading.Thread(target=int).start()
except RuntimeError:
    pass
else:
    raise SystemExit("the limit limits nothing")
"""


def test_no_thread_can_be_started(here):
    assert run_smoke(NO_THREADS)["hash"] == here["hash"]


FEW_THREADS = """
import os, resource, numpy as np, fusednorm as fn
if os.getuid() == 0:
    os.setuid(54321)
resource.setrlimit(resource.RLIMIT_NPROC, (6, 6))
fn.set_num_threads(64)
for _ in range(3):
    fn.layer_norm(np.ones((4096, 64), "f4"), 64)
print(1 < len(os.listdir("/proc/self/task")) <= 6)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_fewer_threads_than_wanted():
    assert output_of(FEW_THREADS, OPENBLAS_NUM_THREADS="1") == "True"


# What the system refused once it may grant later.
MORE_LATER = """
import os, resource, numpy as np, fusednorm as fn
if os.getuid() == 0:
    os.setuid(54321)
fn.set_num_threads(16)
for most, calls in ((6, 1), (64, 300)):
    resource.setrlimit(resource.RLIMIT_NPROC, (most, 64))
    for _ in range(calls):
        fn.layer_norm(np.ones((4096, 64), "f4"), 64)
print(len(os.listdir("/proc/self/task")) >= 16)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_more_threads_than_there_could_be():
    assert output_of(MORE_LATER, OPENBLAS_NUM_THREADS="1") == "True"


# OpenMP ends threads that a smaller team does not need: when a larger one is wanted again, the system may refuse them.
FEWER_LATER = """
import os, resource, time, numpy as np, fusednorm as fn
if os.getuid() == 0:
    os.setuid(54321)
for n, most in ((16, 64), (2, 64), (16, 6)):
    resource.setrlimit(resource.RLIMIT_NPROC, (most, 64))
    fn.set_num_threads(n)
    fn.layer_norm(np.ones((4096, 64), "f4"), 64)
while len(os.listdir("/proc/self/task")) > 6:  # those that end take their time
    time.sleep(0.01)
print("right")
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_fewer_threads_than_there_were():
    assert output_of(FEWER_LATER, OPENBLAS_NUM_THREADS="1") == "right"


# In a child, whose address space may grow by so many bytes: the call works, or nothing has been written.
LITTLE_MEMORY = """
import os, resource, numpy as np, fusednorm as fn
fn.set_num_threads(1)
channels = 300_000
def address_space():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
def state():
    return [np.full(channels, value, dtype) for value in (0, 1)] + [np.full((6, channels), 7, np.float32)]
x = np.random.default_rng(0).random((6, channels), np.float32)
dtype, calls = np.dtype("KIND"), {
    "batch": lambda s: fn.batch_norm(x, s[0], s[1], training=True, out=s[2], return_stats=True),
    "layer": lambda s: fn.layer_norm(x.T, 6, out=s[2].T, return_stats=True),
    "sum": lambda s: fn.add_layer_norm(x, x[::-1], channels, out=(s[2], None)),
}
def code(call, extra):
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + extra, resource.RLIM_INFINITY))
    given, before = states.pop(), state_before
    try:
        call(given)
    except MemoryError:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return 1 if all(np.array_equal(a, b) for a, b in zip(given, before)) else 3
    return 2
seen = set()
for name, call in calls.items():
    for extra in range(0, 40 << 20, 1 << 20):
        states, state_before = [state()], state()
        child = os.fork()
        if child == 0:
            try:
                os._exit(code(call, extra))
            finally:
                os._exit(4)
        seen.add((name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
print(sorted(seen))
"""


@pytest.mark.skipif("FUSEDNORM_SANITIZED" in os.environ, reason="the sanitizer's own memory is beyond any limit")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.parametrize("kind", ["f2", "f4"])
def test_nothing_is_written_where_memory_lacks(kind):
    names = ("batch", "layer", "sum")
    assert output_of(LITTLE_MEMORY.replace("KIND", kind)) == str([(name, code) for name in names for code in (1, 2)])


CACHE_FIRST = """
import resource, numpy as np, fusednorm as fn
x = np.ones((1024, 1024), np.float32)
for rows in range(512, 1024, 64):
    fn.layer_norm(x[:rows], 1024)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
print(fn.layer_norm(x, 1024).shape, fn.moments(np.ones((1, 200_000)), 0).mean.shape)
"""


@pytest.mark.skipif("FUSEDNORM_SANITIZED" in os.environ, reason="the sanitizer's own memory is beyond any limit")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_freed_results_are_given_back_where_memory_lacks():
    assert output_of(CACHE_FIRST) == "(1024, 1024) (200000,)"


# ---- files

NOTHING_WRITABLE = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""


@pytest.mark.parametrize("text", ["1GiB", "-1", "a", "9" * 30, "1.5"])
def test_a_cache_size_that_is_no_number(text):
    result = run_python("-c", "import fusednorm", FUSEDNORM_CACHE_BYTES=text)
    assert f"ImportError: FUSEDNORM_CACHE_BYTES: expected a number of bytes, got '{text}'" in result.stderr


def test_no_file_can_be_written(here):
    assert run_smoke(NOTHING_WRITABLE, HOME="/nonexistent", TMPDIR="/nonexistent") == here


# What a process in a container without /sys, and with a closed /proc, gets.
CLOSED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
static int is_closed(const char *p) {
    return !strncmp(p, "/sys/", 5) || (!strncmp(p, "/proc/", 6) && (strstr(p, "cgroup") || strstr(p, "cpuinfo")));
}
#define REFUSE(name)                                                                  \
    FILE *name(const char *path, const char *mode) {                                  \
        FILE *(*next)(const char *, const char *) = dlsym(RTLD_NEXT, #name);           \
        if (!is_closed(path)) return next(path, mode);                                \
        fprintf(stderr, "refused %s\n", path);                                        \
        errno = EACCES;                                                               \
        return NULL;                                                                  \
    }
REFUSE(fopen)
REFUSE(fopen64)
"""


def test_no_cgroup_can_be_read(here, tmp_path):
    """Then nothing but OMP_NUM_THREADS limits the threads."""
    if not sys.platform.startswith("linux") or not shutil.which("cc"):
        pytest.skip("needs Linux and a C compiler")
    (tmp_path / "closed.c").write_text(CLOSED)
    library = tmp_path / "closed.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "closed.c", "-ldl"], check=True)
    command = [sys.executable, SMOKE]
    preloaded = f"{os.environ.get('LD_PRELOAD', '')} {library}"  # behind a sanitizer's
    environment = os.environ | {"LD_PRELOAD": preloaded, "OMP_NUM_THREADS": "5"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert "refused /proc/self/cgroup" in result.stderr
    assert json.loads(result.stdout) == here | {"threads": 5}


# ---- processors


@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "isa"), [("Nehalem", "baseline"), ("SandyBridge", "baseline"), ("Haswell", "avx2")])
def test_processor(cpu, isa, here):
    """From 2008 without AVX, 2011 with AVX, 2013 with AVX2 and no AVX-512: NumPy's own oldest is the first."""
    emulator = shutil.which("qemu-x86_64")
    if not emulator or os.uname().machine != "x86_64":
        pytest.skip("needs qemu-user and x86-64")
    # NumPy's OpenBLAS takes the emulator for a newer processor.
    said = run_smoke(under=(emulator, "-cpu", cpu), OMP_NUM_THREADS="2", OPENBLAS_CORETYPE="Nehalem")
    assert (said["isa"], said["hash"]) == (isa, here["hash"])


@pytest.mark.slow
def test_aarch64(here):
    """FUSEDNORM_AARCH64: a command that runs Python with the package built for it. .ci/aarch64 makes it."""
    command = os.environ.get("FUSEDNORM_AARCH64")
    if not command:
        pytest.skip("needs FUSEDNORM_AARCH64, see .ci/aarch64")
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "2"}
    result = subprocess.run(
        [*command.split(), str(Path(SMOKE))], env=environment, capture_output=True, text=True, timeout=4 * SECONDS, check=False
    )
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert (said["isa"], said["hash"]) == ("neon", here["hash"])
