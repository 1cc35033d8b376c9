"""`python -m fusednorm`: Ctrl-C, outputs that cannot be written, and workers that must not outlive it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fusednorm import RunningMoments
from fusednorm.__main__ import main
from processes import SECONDS, run_python

WORKERS = r"""
import sys
from fusednorm.commands.console import exit_code
from fusednorm.commands.workers import answers

def command():
    with answers(exec, ["import os, time; os.write(1, b'at work\\n'); time.sleep(600)"] * 2, 2, 1) as results:
        print("started", flush=True)
        return len(list(results))

sys.exit(exit_code(command))
"""
FINALIZER = """
import signal, sys, time
from fusednorm.commands.console import exit_code

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def command():
    Finalized()
    time.sleep(600)

sys.exit(exit_code(command))
"""


def start(*arguments, **environment):
    """Start this Python as the leader of a group, as a shell starts a command."""
    command, environment = [sys.executable, *map(str, arguments)], os.environ | environment
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, env=environment)


def press_until_it_ends(run, most):
    """Send Ctrl-C to a process and to those that it has started; gives what they print from then on."""
    for _ in range(most):
        if run.poll() is not None:
            break
        os.killpg(run.pid, signal.SIGINT)
        time.sleep(0.01)
    try:
        return run.communicate(timeout=SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)


@pytest.fixture
def interruptible():
    """Jobs in a shell's background ignore the interrupt, and so would the processes that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("presses", [1, 1000])
@pytest.mark.usefixtures("interruptible")
def test_interrupt_prints_the_statistics_so_far(workers, presses, tmp_path):
    """The second file's complaint says that the first has been read; the third would take seconds."""
    np.save(tmp_path / "a.npy", np.ones((4, 3)))
    (tmp_path / "b.npy").write_bytes(b"")
    np.lib.format.open_memmap(tmp_path / "c.npy", "w+", np.uint8, (2**14, 3, 2**19)).flush()
    with start("-m", "fusednorm", "stats", "--json", "--workers", workers, tmp_path) as run:
        complaint = run.stderr.readline()
        out, err = press_until_it_ends(run, presses)
    assert "b.npy" in complaint
    assert run.returncode == 130
    assert err == "stats: interrupted, statistics so far:\n"
    result = json.loads(out)
    assert (result["files"], result["skipped"]) == (1, 1)
    assert result["count"] >= 4


def test_an_interrupt_while_statistics_are_merged_counts_nothing_twice(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", np.ones((4, 3)))
    merge = RunningMoments.merge

    def interrupted(self, other):
        merge(self, other)
        monkeypatch.setattr(RunningMoments, "merge", merge)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunningMoments, "merge", interrupted)
    monkeypatch.setattr(sys, "argv", ["fusednorm", "stats", "--json", str(tmp_path)])
    assert main() == 130
    assert json.loads(capsys.readouterr().out)["count"] == 4


@pytest.mark.parametrize("lines", [1, 3])
@pytest.mark.parametrize("presses", [1, 1000])
@pytest.mark.usefixtures("interruptible")
def test_interrupt_ends_workers(lines, presses):
    """While they start, and at work."""
    with start("-c", WORKERS) as run:
        read = [run.stdout.readline() for _ in range(lines)]
        _, err = press_until_it_ends(run, presses)
    assert read == ["started\n", "at work\n", "at work\n"][:lines]
    assert (run.returncode, err) == (130, "")


@pytest.mark.parametrize("lines", [1, 3])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_workers_end_with_the_process_that_started_them(number, lines):
    """They hold its outputs, which are read until nobody does."""
    with start("-c", WORKERS) as run:
        for _ in range(lines):
            run.stdout.readline()
        run.send_signal(number)
        _, err = press_until_it_ends(run, 0)
    assert (run.returncode, err) == (-number, "")


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_that_meets_a_finalizer_counts():
    result = run_python("-c", FINALIZER)
    assert (result.returncode, result.stderr) == (130, "")


@pytest.mark.usefixtures("interruptible")
def test_interrupt_ends_the_demo():
    with start("-m", "fusednorm", PYTHONUNBUFFERED="1") as run:
        run.stdout.readline()
        _, err = press_until_it_ends(run, 1000)
    assert (run.returncode, err) == (130, "")


def test_a_demo_that_nothing_reads():
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-u", "-m", "fusednorm"]
    result = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=SECONDS, check=False)
    os.close(theirs)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_output_that_is_full(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    command = [sys.executable, "-m", "fusednorm", "stats", "--json", str(tmp_path / "x.npy"), str(tmp_path / "absent.npy")]
    with open("/dev/full", "w") as full:
        no_out = subprocess.run(command[:-1], stdout=full, stderr=subprocess.PIPE, text=True, timeout=SECONDS, check=False)
        no_err = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, timeout=SECONDS, check=False)
    assert (no_out.returncode, no_out.stderr) == (1, f"fusednorm: [Errno 28] {os.strerror(28)}\n")
    assert (no_err.returncode, json.loads(no_err.stdout)["files"]) == (0, 1)


@pytest.mark.parametrize(("closed", "code"), [("stdout", 141), ("stderr", 0)])
def test_an_output_that_nothing_reads(closed, code, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "fusednorm", "stats", "--json", str(tmp_path / "x.npy"), str(tmp_path / "absent.npy")]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: theirs}
    result = subprocess.run(command, **streams, text=True, timeout=SECONDS, check=False)
    os.close(theirs)
    assert result.returncode == code
    if closed == "stdout":
        assert result.stderr == f"skipped {tmp_path / 'absent.npy'}: no such file\n"
    else:
        assert json.loads(result.stdout)["files"] == 1


def test_without_stderr(tmp_path):
    """As pythonw has it."""
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    code = "import sys; sys.stderr = None; from fusednorm.__main__ import main; sys.exit(main())"
    result = run_python("-c", code, "stats", "--json", str(tmp_path / "x.npy"), str(tmp_path / "absent.npy"))
    assert result.returncode == 0
    assert json.loads(result.stdout)["skipped"] == 1
