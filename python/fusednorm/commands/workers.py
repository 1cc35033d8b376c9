"""Processes that share out the work of a command, and end when it does, however that is.

Each has a pipe of its own, and no lock is shared, so that they may be killed at any moment: those of `concurrent.futures` may
not, and may take long to finish what they hold.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from fusednorm.config import set_num_threads

T = TypeVar("T")
R = TypeVar("R")


class WorkerDiedError(Exception):
    """A worker has ended before its work has."""


@contextmanager
def answers(call: Callable[[T], R], tasks: list[T], workers: int, together: int) -> Iterator[Iterator[R]]:
    """Give what the call returns for each task, in their order; tasks travel several at a time."""
    size = max(1, min(together, len(tasks) // workers))
    batches = [tasks[i : i + size] for i in range(0, len(tasks), size)]
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    # Ctrl-C is for this process alone: what it ignores when it starts others, they ignore.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        try:
            for _ in range(min(workers, len(batches))):
                ours, theirs = context.Pipe()
                pipes.append(ours)
                with theirs:
                    process = context.Process(target=serve, args=(call, theirs), daemon=True)
                    process.start()
                processes.append(process)
        finally:
            signal.signal(signal.SIGINT, before)
        yield in_order(pipes, batches)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for pipe in pipes:
            pipe.close()


def in_order(pipes: list[Connection], batches: list[list[Any]]) -> Iterator[Any]:
    """Give a batch to each worker that has none, and yield the answers when it is their turn."""
    todo = iter(enumerate(batches))
    at_work: dict[Connection, int] = {}
    answered: dict[int, Any] = {}
    turn = 0
    idle = pipes
    while turn < len(batches):
        try:
            for pipe, (number, batch) in zip(idle, todo, strict=False):  # in this order: zip drops no batch
                pipe.send(batch)
                at_work[pipe] = number
            ready = wait(list(at_work))
            idle = [pipe for pipe in at_work if pipe in ready]
            for pipe in idle:
                answered[at_work.pop(pipe)] = pipe.recv()
        except (EOFError, OSError):
            raise WorkerDiedError from None
        while turn in answered:
            answer = answered.pop(turn)
            turn += 1
            if isinstance(answer, Exception):
                raise answer
            yield from answer


def serve(call: Callable[[Any], Any], pipe: Connection) -> None:
    """Be a worker: answer batches of tasks, on one thread, for as long as someone asks."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    set_num_threads(1)
    with suppress(EOFError, OSError):
        while True:
            pipe.send(answer(call, pipe.recv()))


def answer(call: Callable[[Any], Any], batch: list[Any]) -> list[Any] | Exception:
    """Call it for each task; what it raises is an answer too."""
    try:
        return [call(task) for task in batch]
    except Exception as error:
        return error


def end_with_parent() -> None:
    """End this process when the one that started it has ended, whatever is being read."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
