"""Measure fusednorm against its peers: `python bench/run.py --help`. How it is measured: bench/README.md."""

import argparse
import fnmatch
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fusednorm
import report
from cases import SUITES, Case, all_cases
from peers import PEERS, work

# Until the threads of the peer before have fallen asleep.
PAUSE_SECONDS = 0.01
# The load from which the user is warned.
BUSY = 0.5
# Freed memory up to 32 MB is used again, for every peer alike. glibc's own limits move with the history of the process.
MALLOC = "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=4294967296"


class Worker:
    """A peer in a process of its own."""

    def __init__(self, peer: str, threads: int) -> None:
        self.peer = peer
        self.connection, other = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=work, args=(peer, threads, other), daemon=True)
        self.process.start()
        other.close()
        self.about = self.connection.recv()

    def ask(self, request: Case | str | None) -> Any:
        """Send a request, and wait for the answer."""
        try:
            self.connection.send(request)
            return self.connection.recv()
        except (EOFError, BrokenPipeError):
            self.process.join()
            raise SystemExit(f"{self.peer}: its process ended with exit code {self.process.exitcode}") from None

    def prepare(self, case: Case) -> bool:
        """Whether the peer computes the case, and correctly. It is an error if fusednorm does not."""
        answer = self.ask(case)
        if isinstance(answer, str):
            print(f"{case.name}: left out: {self.peer}: {answer}", file=sys.stderr)
            if self.peer == "fusednorm":
                raise SystemExit(1)
        return isinstance(answer, int)

    def sample(self) -> float:
        """Seconds per call, over at least 20 ms."""
        time.sleep(PAUSE_SECONDS)
        seconds: float = self.ask(None)
        return seconds


def start(threads: int, names: Iterable[str]) -> list[Worker]:
    """Start the peers that are installed."""
    os.environ.update(OMP_NUM_THREADS=str(threads), NUMBA_NUM_THREADS=str(threads), GLIBC_TUNABLES=MALLOC)
    workers = [Worker(name, threads) for name in names]
    for worker in workers:
        if isinstance(worker.about, str):
            print(f"without {worker.peer}: {worker.about}", file=sys.stderr)
    return [worker for worker in workers if not isinstance(worker.about, str)]


def measure(case: Case, workers: list[Worker], rounds: int) -> dict[str, Any]:
    """Time every peer in turn, round by round. Ratios are of the same round: the machine is then the same for both."""
    able = [worker for worker in workers if worker.prepare(case)]
    samples: dict[str, list[float]] = {worker.peer: [] for worker in able}
    for _ in range(rounds):
        for worker in able:
            samples[worker.peer].append(worker.sample())
    ours = samples["fusednorm"]
    return {
        **asdict(case),
        "name": case.name,
        "label": case.label,
        "seconds": {peer: statistics.median(times) for peer, times in samples.items()},
        "ratio": {
            peer: statistics.median(theirs / own for theirs, own in zip(times, ours, strict=True))
            for peer, times in samples.items()
        },
    }


def progress(cases: list[Case]) -> Iterator[Case]:
    try:
        from tqdm import tqdm
    except ImportError:
        return iter(cases)
    return iter(tqdm(cases, unit="case", leave=False, disable=None))


def choose(arguments: argparse.Namespace) -> list[Case]:
    cases = [case for case in all_cases() if arguments.suite in (case.suite, "all")]
    cases = [case for case in cases if fnmatch.fnmatch(case.name.lower(), arguments.cases.lower())]
    if arguments.quick:
        cases = [case for case in cases if case.quick]
    if not cases:
        raise SystemExit("no case has such a name; --list shows them")
    return cases


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench/run.py", description="Measure fusednorm against its peers.")
    parser.add_argument("--suite", choices=(*SUITES, "all"), default="all")
    parser.add_argument("--cases", metavar="GLOB", default="*", help="only the cases whose name matches, like '*ResNet*last'")
    others = [peer for peer in PEERS if peer not in ("fusednorm", "numpy")]
    parser.add_argument(
        "--peers", metavar="A,B", default=",".join(others), help=f"beside fusednorm and numpy: {','.join(others)}"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="samples of each peer (default: 9, with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="about one case in four, in a minute")
    parser.add_argument("--threads", type=int, metavar="N", help="for every peer (default: what fusednorm would use)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and what they were measured on")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a bar chart, .svg or .png (needs matplotlib)")
    parser.add_argument("--compare", type=Path, metavar="EARLIER.json", help="show how fusednorm's times have changed since")
    parser.add_argument("--from", type=Path, metavar="FILE.json", dest="source", help="measure nothing, report what FILE holds")
    parser.add_argument("--list", action="store_true", help="show the names of the cases and stop")
    arguments = parser.parse_args()
    arguments.peers = {"fusednorm", "numpy", *filter(None, arguments.peers.split(","))}
    if unknown := arguments.peers - set(PEERS):
        parser.error(f"--peers: no peer is called {', '.join(unknown)}")
    if min(arguments.rounds or 1, arguments.threads or 1) < 1:
        parser.error("--rounds and --threads take numbers from 1")
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib")
    for file in filter(None, (arguments.json, arguments.markdown, arguments.plot)):
        file.parent.mkdir(parents=True, exist_ok=True)
    return arguments


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    cases = choose(arguments)
    load = os.getloadavg()[0]
    if load > BUSY:
        print(
            f"The machine is busy (load {load:.1f}): OpenMP waits for the slowest thread, expect times of 4 ms.",
            file=sys.stderr,
        )
    workers = start(arguments.threads or fusednorm.get_num_threads(), [name for name in PEERS if name in arguments.peers])
    rounds = arguments.rounds or (3 if arguments.quick else 9)
    results = [measure(case, workers, rounds) for case in progress(cases)]
    machine = report.describe_machine() | {"rounds": rounds, "load": load}
    for worker in workers:
        machine |= worker.about
    return {"machine": machine, "cases": results}


def main() -> None:
    arguments = parse()
    if arguments.list:
        print("\n".join(case.name for case in choose(arguments)))
        return
    earlier = json.loads(arguments.compare.read_text()) if arguments.compare else None
    record = json.loads(arguments.source.read_text()) if arguments.source else run(arguments)
    print(report.table(record))
    if earlier:
        print(report.comparison(record, earlier))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(report.table(record))
    if arguments.plot:
        report.plot(record, arguments.plot)


if __name__ == "__main__":
    main()
