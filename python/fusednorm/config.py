"""What runs: version, instruction set, threads."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Literal, SupportsIndex, overload

# In another interpreter the extension, whose state is the process's, would hang or crash; NumPy does not support them either.
with contextlib.suppress(ModuleNotFoundError):  # a Python that has none
    _interpreters = import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    if _interpreters.get_current() != _interpreters.get_main():
        raise ImportError("fusednorm: expected to be imported in the main interpreter, got a subinterpreter")


@contextlib.contextmanager
def brief_spinning() -> Iterator[None]:
    """Have the OpenMP runtime that is loaded within give up its waiting threads' cores soon.

    By default libgomp's idle threads spin for milliseconds: alone that saves some microseconds a call, but beside any other
    busy thread a call waits until the scheduler takes the core away, and other libraries' threads wait for ours. Measured on
    two cores with one of them busy: 5.8 ms a call by default, 0.3 ms so (bench/README.md). The runtime reads the variable once.
    """
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "2000"
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


with brief_spinning():
    from fusednorm import _core

__version__: str = _core.config()["version"]


def set_num_threads(n: SupportsIndex) -> None:
    """Let at most ``n`` threads work, in the whole process.

    The default is ``OMP_NUM_THREADS``, or else the number of CPUs that the process may run on; at most its cgroup's CPU quota.
    No result depends on the number.

    Raises
    ------
    ValueError
        If ``n`` is not from 1 to 4096.
    TypeError
        If ``n`` is not an integer.
    """
    _core.set_num_threads(n)


def get_num_threads() -> int:
    """Return the number of threads that a large call from here would use.

    A limit set by threadpoolctl counts too, unless it equals the number that OpenMP started with: that cannot be told from no
    limit. In a child after ``os.fork`` it is 1.
    """
    return _core.get_num_threads()


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show the version, the instruction sets, the OpenMP runtime, the threads and the compiler.

    Parameters
    ----------
    mode
        ``"stdout"`` prints, ``"dicts"`` returns a dictionary.

    Raises
    ------
    ValueError
        If ``mode`` is something else.
    """
    if not isinstance(mode, str) or mode not in ("stdout", "dicts"):
        raise ValueError(f"show_config: mode: expected 'stdout' or 'dicts', got {mode!r}")
    config = _core.config()
    if mode == "dicts":
        return config
    width = max(map(len, config))
    for name, value in config.items():
        print(f"{name:{width}}  {', '.join(value) if isinstance(value, list) else value}")
    return None
