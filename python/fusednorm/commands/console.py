"""What every command does about its messages, Ctrl-C, and an output that cannot be written."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress


def say(message: str) -> None:
    """Print to stderr, if it can be written; without a console (pythonw) there is none, and print would take stdout."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(message, file=sys.stderr, flush=True)


def interrupt(*_: object) -> None:
    """Handle the first Ctrl-C; another one would break off what this one asks for."""
    signal.signal(signal.SIGINT, lambda *_: None)
    raise KeyboardInterrupt


def interrupt_again(ignored: "sys.UnraisableHookArgs") -> None:
    """Repeat a Ctrl-C that Python could only ignore, since it met a finalizer; the moment lets that one end."""
    if ignored.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(ignored)
        return
    signal.signal(signal.SIGINT, interrupt)
    threading.Timer(0.01, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()


def exit_code(command: Callable[[], int]) -> int:
    """Run the command of this process, and return its exit code, also where the user or the output puts an end to it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's jobs in the background ignore it
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = interrupt_again
    try:
        try:
            return command()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where Python writes the rest at exit
        if isinstance(error, BrokenPipeError):  # what reads the output, head for one, has ended
            return 141
        say(f"fusednorm: {error}")
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python ends with it, and not with a handler
