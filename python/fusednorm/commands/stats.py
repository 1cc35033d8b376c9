"""The command ``python -m fusednorm stats``: mean and standard deviation of files that do not fit into memory.

The statistics of the files (see `fusednorm.commands.files`) are merged in their order, so that the numbers do not depend on the
number of processes.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fusednorm.commands.console import say
from fusednorm.commands.files import Task, find_files, make_tasks, readings
from fusednorm.commands.workers import WorkerDiedError
from fusednorm.running import RunningMoments

EPILOG = """
Images are height x width x channels: gray ones have one channel, all others are converted to RGB (palettes looked up,
transparency dropped, CMYK converted, of animations the first frame); 16-bit gray stays 16-bit, 16-bit color is skipped (Pillow
keeps 8 bits of it). The first file sets the number of channels; a file with another number is skipped. --mode converts every
image, for folders that mix gray and color.
In folders, files of other types and symbolic links are left out. Variances are those of the data (divisor: the count).
Exit code: 0; 1 if no file could be read, or one could not with --strict, or the result cannot be written; 2 for wrong
arguments; 130 after Ctrl-C; 141 where the program that reads the output has ended.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = "Print mean and standard deviation per channel of images and of .npy and .npz arrays, in one pass."
    parser.epilog = EPILOG
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file, a folder (with all below it), or a quoted pattern")
    parser.add_argument(
        "--channel-axis",
        type=axis,
        default=1,
        metavar="N",
        help="axis of the channels in .npy and .npz arrays (default 1: N x C x ...; -1: the last); "
        "none: one statistic of all values, images too",
    )
    parser.add_argument("--mode", choices=("RGB", "L"), help="convert every 8-bit image to color or to gray")
    parser.add_argument("--scale", type=_positive(float), default=1.0, metavar="S", help="divide the values, by 255 say")
    parser.add_argument("--workers", type=_positive(int), default=1, metavar="N", help="read with N processes (default 1)")
    parser.add_argument("--json", action="store_true", help="print count, mean, var, std, files and skipped as JSON")
    parser.add_argument("--strict", action="store_true", help="stop at the first file that cannot be read, with exit code 1")
    parser.add_argument("--follow-symlinks", action="store_true", help="follow symbolic links in folders")


def axis(text: str) -> int | None:
    """Read --channel-axis; argparse's message has this function's name."""
    return None if text.lower() == "none" else int(text)


def _positive(kind: type) -> Any:
    def number(text: str) -> Any:
        value = kind(text)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError
        return value

    number.__name__ = f"positive {kind.__name__}"  # what argparse's message calls it
    return number


# ---- the result


@dataclass
class Total:
    """What has been read so far."""

    stats: RunningMoments  # of whole files
    files: int = 0
    of_file: RunningMoments | None = None  # the parts so far of the file that is being read
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, task: Task, reading: RunningMoments | str) -> str | None:
        """Merge one reading, or return why its file is skipped, once."""
        if task.path in self.skipped:
            return None
        if isinstance(reading, RunningMoments):
            expected, got = self.stats.num_channels, reading.num_channels
            if expected == got or 0 in (expected, got):
                self.of_file = reading if self.of_file is None else self.of_file.merge(reading)
                if task.part == task.parts - 1:
                    self.files += 1
                    self.keep_parts()
                return None
            reading = f"channels: {got}, the first file has {expected}"
        self.of_file = None
        self.skipped[task.path] = reading
        shown = task.path if task.path.isprintable() else ascii(task.path)
        return f"skipped {shown}: {reading}"

    def keep_parts(self) -> None:
        """Merge what has been read of the file at hand."""
        if self.of_file is not None:
            total = self.stats + self.of_file  # a Ctrl-C meanwhile changes nothing: this is then called again
            self.stats, self.of_file = total, None

    def scaled(self, scale: float) -> dict[str, Any]:
        """Return what --json prints; what is not finite is null there."""
        with np.errstate(all="ignore"):
            lists = {"mean": self.stats.mean / scale, "var": self.stats.var() / scale / scale, "std": self.stats.std() / scale}
        plain = {name: [v if math.isfinite(v) else None for v in np.ravel(a).tolist()] for name, a in lists.items()}
        return {"count": self.stats.count, **plain, "files": self.files, "skipped": len(self.skipped)}

    def text(self, scale: float) -> str:
        """Return the same for people, with a line to paste."""
        result = self.scaled(scale)
        shown = {name: ["nan" if v is None else f"{v:.6g}" for v in result[name]] for name in ("mean", "std", "var")}
        rows = [("channel", *shown), *((str(i), *row) for i, row in enumerate(zip(*shown.values(), strict=True)))]
        table = "\n".join("  ".join(cell.rjust(12 if i else 7) for i, cell in enumerate(row)) for row in rows)
        mean, std = (", ".join(shown[name]) for name in ("mean", "std"))
        files = f"{self.files:,} file{'s' * (self.files != 1)}"
        counts = f"{files}, {len(self.skipped):,} skipped, {result['count']:,} values per channel"
        return f"{counts}\n\n{table}\n\nNormalize(mean=[{mean}], std=[{std}])"


def progress_bar(tasks: list[Task], files: int) -> Any:
    """Return tqdm's bar, if stderr is a terminal and tqdm is installed."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    return tqdm(total=len(tasks), unit="file" if len(tasks) == files else "part", file=sys.stderr, dynamic_ncols=True)


def read_all(tasks: list[Task], total: Total, arguments: argparse.Namespace, bar: Any) -> int:
    """Read every task into total, and return the exit code."""
    try:
        with readings(tasks, arguments.workers) as results:
            for task, reading in zip(tasks, results, strict=True):
                message = total.add(task, reading)
                if message:
                    bar.write(message, file=sys.stderr) if bar else say(message)
                    if arguments.strict:
                        return 1
                if bar:
                    bar.update()
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        say(f"stats: images need Pillow: pip install Pillow ({error})")
        return 1
    except WorkerDiedError:
        say("stats: a worker process ended, perhaps for want of memory")
        return 1
    finally:
        if bar:
            bar.close()
    return 0 if total.files else 1


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit code."""
    files = find_files(arguments.paths, arguments.follow_symlinks)
    tasks = list(make_tasks(files, arguments.channel_axis, arguments.mode))
    # Channels of the total are what the files have; None: the one of all values.
    total = Total(RunningMoments(None if arguments.channel_axis is None else 1))
    code = read_all(tasks, total, arguments, progress_bar(tasks, len(files)))
    if code == 1:
        if not total.files:
            say("stats: no file could be read")
        return 1
    if code == 130:
        total.keep_parts()
        say("stats: interrupted, statistics so far:")
    print(json.dumps(total.scaled(arguments.scale)) if arguments.json else total.text(arguments.scale))
    return code
