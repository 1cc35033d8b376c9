"""The command ``python -m fusednorm stats``: mean and standard deviation of files that do not fit into memory.

Files are read whole or, where large arrays are mapped, in parts; each gives a `RunningMoments`, and these are merged in the
order of the files, so that the numbers do not depend on the number of processes.
"""

import argparse
import glob
import json
import math
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fusednorm.config import set_num_threads
from fusednorm.functional import Array
from fusednorm.running import RunningMoments

# Named one by one, since Pillow also opens formats that start other programs (EPS).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
IMAGES = (".avif", ".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
ARRAYS = (".npy", ".npz")
PART_BYTES = 1 << 26  # a mapped array is read, shown in the progress bar and given to the workers in parts of this size
EPILOG = """
Images are height x width x channels: gray ones have one channel, all others are converted to RGB (palettes looked up,
transparency dropped, CMYK converted, of animations the first frame); 16-bit gray stays 16-bit. The first file sets the
number of channels; a file with another number is skipped. --mode converts every image, for folders that mix gray and color.
In folders, files of other types and symbolic links are left out. Variances are those of the data (divisor: the count).
Exit code: 0; 1 if no file could be read, or one could not with --strict; 2 for wrong arguments; 130 after Ctrl-C.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = "Print mean and standard deviation per channel of images and of .npy and .npz arrays, in one pass."
    parser.epilog = EPILOG
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file, a folder (with all below it), or a quoted pattern")
    parser.add_argument(
        "--channel-axis",
        type=_axis,
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


def _axis(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)


def _positive(kind: type) -> Any:
    def number(text: str) -> Any:
        value = kind(text)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError
        return value

    number.__name__ = f"positive {kind.__name__}"  # what argparse's message calls it
    return number


# ---- finding


@dataclass(frozen=True)
class Task:
    """One part of one file, and how to read it."""

    path: str
    part: int
    parts: int
    channel_axis: int | None
    mode: str | None


def find_files(paths: list[str], follow_symlinks: bool) -> list[str]:
    """Return the files that the paths name, each once; those of folders and patterns sorted."""
    files: list[str] = []
    for path in paths:
        matches = [path] if os.path.lexists(path) or not glob.has_magic(path) else sorted(glob.glob(path, recursive=True))
        for match in matches or [path]:
            files += walk(match, follow_symlinks) if os.path.isdir(match) else [match]
    return list(dict.fromkeys(files))


def walk(folder: str, follow_symlinks: bool) -> Iterator[str]:
    """Yield the regular files below a folder that have a known suffix; a folder is entered once, whatever links to it."""
    seen = set()
    for where, folders, names in os.walk(folder, followlinks=follow_symlinks):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            path = os.path.join(where, name)
            known = Path(name).suffix.lower() in (*IMAGES, *ARRAYS)
            if known and os.path.isfile(path) and (follow_symlinks or not os.path.islink(path)):
                yield path


def make_tasks(files: list[str], arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield every part of every file; only .npy files are mapped, and so have parts."""
    for path in files:
        mapped = path.lower().endswith(".npy") and os.path.isfile(path)
        parts = 1 + os.path.getsize(path) // PART_BYTES if mapped else 1
        for part in range(parts):
            yield Task(path, part, parts, arguments.channel_axis, arguments.mode)


# ---- reading


def read(task: Task) -> RunningMoments | str:
    """Return the statistics of a part of a file, or why there are none."""
    suffix = Path(task.path).suffix.lower()
    try:
        if not os.path.isfile(task.path):
            raise ValueError("no such file" if not os.path.lexists(task.path) else "not a regular file")
        if suffix in ARRAYS:
            return read_arrays(task)
        if suffix in IMAGES:
            return read_image(task)
        raise ValueError("neither an image nor .npy or .npz")
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a broken file may raise anything
        return " ".join(str(error).split()) or type(error).__name__


def read_arrays(task: Task) -> RunningMoments:
    """Read a part of an npy file, or every array of an npz archive."""
    stats = RunningMoments(task.channel_axis)
    if task.path.lower().endswith(".npy"):
        return stats.update(part_of(np.lib.format.open_memmap(task.path, "r"), task))
    with open(task.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        for name in archive:
            stats.update(archive[name])
    return stats


def part_of(x: Array, task: Task) -> Array:
    """Cut along the axis that is outermost in memory, but not along the channels."""
    channel = None if task.channel_axis is None or not -x.ndim <= task.channel_axis < x.ndim else task.channel_axis % x.ndim
    axes = [i for i in range(x.ndim) if i != channel]
    if task.parts == 1 or not axes:
        return x if task.part == 0 else x[:0]
    axis = max(axes, key=lambda i: x.strides[i])
    cut = [x.shape[axis] * i // task.parts for i in (task.part, task.part + 1)]
    return x[(slice(None),) * axis + (slice(*cut),)]


def read_image(task: Task) -> RunningMoments:
    """Read an image as height x width x channels."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(task.path, formats=FORMATS) as image:
            deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
            if deep and task.mode is not None:
                raise ValueError(f"an image of mode {image.mode} is not converted to {task.mode}")
            mode = task.mode or ("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
            pixels = np.asarray(image if deep or image.mode == mode else image.convert(mode))
    stats = RunningMoments(None if task.channel_axis is None else -1)
    return stats.update(pixels if pixels.ndim == 3 else pixels[..., None])


def start_worker() -> None:
    """Leave Ctrl-C to the parent, and the other processors to the other workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_num_threads(1)


@contextmanager
def readings(tasks: list[Task], workers: int) -> Iterator[Iterator[RunningMoments | str]]:
    """Give what `read` gives for each task, in their order."""
    if workers == 1:
        yield map(read, tasks)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    try:
        yield pool.map(read, tasks, chunksize=max(1, min(8, len(tasks) // workers)))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# ---- the result


@dataclass
class Total:
    """What has been read so far."""

    stats: RunningMoments
    files: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, task: Task, reading: RunningMoments | str) -> str | None:
        """Merge one reading, or return why its file is skipped, once."""
        if task.path in self.skipped:
            return None
        if isinstance(reading, RunningMoments):
            expected, got = self.stats.num_channels, reading.num_channels
            if expected == got or 0 in (expected, got):
                self.stats.merge(reading)
                self.files += task.part == task.parts - 1
                return None
            reading = f"{got} channels where the first file has {expected}"
        self.skipped[task.path] = reading
        return f"skipped {task.path}: {reading}"

    def scaled(self, scale: float) -> dict[str, Any]:
        """Return what --json prints; what is not finite is null there."""
        lists = {"mean": self.stats.mean / scale, "var": self.stats.var() / scale**2, "std": self.stats.std() / scale}
        plain = {name: [v if math.isfinite(v) else None for v in np.ravel(a).tolist()] for name, a in lists.items()}
        return {"count": self.stats.count, **plain, "files": self.files, "skipped": len(self.skipped)}

    def text(self, scale: float) -> str:
        """Return the same for people, with a line to paste."""
        result = self.scaled(scale)
        shown = {name: ["nan" if v is None else f"{v:.6g}" for v in result[name]] for name in ("mean", "std", "var")}
        rows = [("channel", *shown), *((str(i), *row) for i, row in enumerate(zip(*shown.values(), strict=True)))]
        table = "\n".join("  ".join(cell.rjust(12 if i else 7) for i, cell in enumerate(row)) for row in rows)
        mean, std = (", ".join(shown[name]) for name in ("mean", "std"))
        counts = f"{self.files:,} files, {len(self.skipped):,} skipped, {result['count']:,} values per channel"
        return f"{counts}\n\n{table}\n\nNormalize(mean=[{mean}], std=[{std}])"


def progress_bar(tasks: list[Task], files: int) -> Any:
    """Return tqdm's bar, if stderr is a terminal and tqdm is installed."""
    if not sys.stderr.isatty():
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
                    bar.write(message, file=sys.stderr) if bar else print(message, file=sys.stderr, flush=True)
                    if arguments.strict:
                        return 1
                if bar:
                    bar.update()
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        print(f"stats: images need Pillow, pip install 'fusednorm[cli]' ({error})", file=sys.stderr)
        return 1
    except BrokenProcessPool:
        print("stats: a worker process ended, perhaps for want of memory", file=sys.stderr)
        return 1
    finally:
        if bar:
            bar.close()
    return 0 if total.files else 1


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit code."""
    try:
        files = find_files(arguments.paths, arguments.follow_symlinks)
        tasks = list(make_tasks(files, arguments))
    except KeyboardInterrupt:
        return 130
    # Channels of the total are what the files have; None: the one of all values.
    total = Total(RunningMoments(None if arguments.channel_axis is None else 1))
    code = read_all(tasks, total, arguments, progress_bar(tasks, len(files)))
    if code == 1:
        if not total.files:
            print("stats: no file could be read", file=sys.stderr)
        return 1
    if code == 130:
        print("stats: interrupted, statistics so far:", file=sys.stderr)
    print(json.dumps(total.scaled(arguments.scale)) if arguments.json else total.text(arguments.scale))
    return code
