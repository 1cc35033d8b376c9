"""The files of ``python -m fusednorm stats``: which there are, and the statistics of each.

Large arrays are mapped and read in parts. Files may be read by several processes; what comes back keeps their order.
"""

import glob
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusednorm.arrays import Array
from fusednorm.commands.workers import answers
from fusednorm.config import get_num_threads, set_num_threads
from fusednorm.running import RunningMoments

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# Named one by one, since Pillow also opens formats that start other programs (EPS).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
IMAGES = (".avif", ".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
ARRAYS = (".npy", ".npz")
TIFF_BITS_PER_SAMPLE, TIFF_SAMPLE_FORMAT = 258, 339  # the tags of TIFF 6.0
# Of these formats and bits, Pillow takes the first values for signed, the second for unsigned.
TIFF_MISREAD = {(1, 32): "unsigned 32-bit", (2, 8): "signed 8-bit"}
CODE_HEADER = 1 << 20  # bytes of a file in which its code begins, after a color profile at most
PART_BYTES = 1 << 26  # a mapped array is read, shown in the progress bar and given to the workers in parts of this size


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
        matches = [path] if os.path.lexists(path) or not glob.has_magic(path) else sorted(expand(path, follow_symlinks))
        for match in [m for m in matches if follow_symlinks or not matches_link(path, m)] or [path]:
            files += walk(match, follow_symlinks) if os.path.isdir(match) else [match]
    return list(dict.fromkeys(files))


def matches_link(pattern: str, match: str) -> bool:
    """Whether a part of the match that the pattern does not spell out is a symbolic link."""
    parts = Path(match).parts
    spelled = next((i for i, part in enumerate(Path(pattern).parts) if glob.has_magic(part)), len(parts))
    return any(os.path.islink(os.path.join(*parts[:i])) for i in range(spelled + 1, len(parts) + 1))


def expand(pattern: str, follow_symlinks: bool) -> list[str]:
    """Return what a pattern matches; glob's own ``**`` would follow loops of links without end."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return glob.glob(pattern)
    stars = parts.index("**")
    found: list[str] = []  # folders that cannot be read count as matches, to be named later
    for top in filter(os.path.isdir, expand(str(Path(*parts[:stars])), follow_symlinks)):
        for where, _ in folders(top, follow_symlinks, found, hidden=False):
            found += expand(str(Path(glob.escape(where), *parts[stars + 1 :])), follow_symlinks)
    return found


def walk(folder: str, follow_symlinks: bool) -> Iterator[str]:
    """Yield the regular files below a folder that have a known suffix, and the folders that cannot be read."""
    unreadable: list[str] = []
    for where, names in folders(folder, follow_symlinks, unreadable):
        for name in names:
            path = os.path.join(where, name)
            known = Path(name).suffix.lower() in (*IMAGES, *ARRAYS)
            if known and os.path.isfile(path) and (follow_symlinks or not os.path.islink(path)):
                yield path
    yield from unreadable


def folders(top: str, follow_symlinks: bool, unreadable: list[str], hidden: bool = True) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and those below it, with the names of their files; each is entered once, whatever links to it."""
    seen = set()
    for where, below, names in os.walk(top, followlinks=follow_symlinks, onerror=lambda e: unreadable.append(e.filename)):
        real = os.path.realpath(where)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if hidden or not name.startswith("."))
        yield where, sorted(names)


def make_tasks(files: list[str], channel_axis: int | None, mode: str | None) -> Iterator[Task]:
    """Yield every part of every file; only .npy files are mapped, and so have parts."""
    for path in files:
        mapped = path.lower().endswith(".npy") and os.path.isfile(path)
        parts = 1 + os.path.getsize(path) // PART_BYTES if mapped else 1
        for part in range(parts):
            yield Task(path, part, parts, channel_axis, mode)


# ---- reading


def read(task: Task) -> RunningMoments | str:
    """Return the statistics of a part of a file, or why there are none."""
    suffix = Path(task.path).suffix.lower()
    try:
        if os.path.isdir(task.path):
            os.scandir(task.path).close()  # raises what had kept its files from being found
        if not os.path.isfile(task.path):
            raise ValueError("no such file" if not os.path.lexists(task.path) else "not a regular file")
        if suffix in ARRAYS:
            return read_arrays(task)
        if suffix in IMAGES:
            return read_image(task)
        raise ValueError("neither an image nor .npy or .npz")
    except Exception as error:  # a broken file may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == "PIL":
            raise
        return " ".join(str(error).split()) or type(error).__name__


def read_arrays(task: Task) -> RunningMoments:
    """Read a part of an npy file, or every array of an npz archive."""
    stats = RunningMoments(task.channel_axis)
    if task.path.lower().endswith(".npy"):
        return add(stats, part_of(np.lib.format.open_memmap(task.path, "r"), task))
    with open(task.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        for name in archive:
            x = archive[name]
            if not isinstance(x, np.ndarray):
                raise ValueError(f"{name!r} in it is no array")
            add(stats, x)
    return stats


def add(stats: RunningMoments, x: Array) -> RunningMoments:
    """Update with words for people who see a file and not the array."""
    axis = stats.channel_axis
    if axis is not None and not -x.ndim <= axis < x.ndim:
        raise ValueError(f"an array of shape {x.shape} has no axis {axis}: see --channel-axis")
    return stats.update(x)


def part_of(x: Array, task: Task) -> Array:
    """Cut along the axis that is outermost in memory, but not along the channels."""
    channel = None if task.channel_axis is None or not -x.ndim <= task.channel_axis < x.ndim else task.channel_axis % x.ndim
    axes = [i for i in range(x.ndim) if i != channel]
    if task.parts == 1 or not axes:
        return x if task.part == 0 else x[:0]
    axis = max(axes, key=lambda i: x.strides[i])
    cut = [x.shape[axis] * i // task.parts for i in (task.part, task.part + 1)]
    return x[(slice(None),) * axis + (slice(*cut),)]


def bits(image: "ImageFile", path: str) -> int:
    """Return how many bits the file has for each value; Pillow decodes color of more than 8 to 8, and says nothing."""
    if image.format in ("JPEG2000", "AVIF"):
        with open(path, "rb") as file:
            header = file.read(CODE_HEADER)
        return jpeg2000_bits(header) if image.format == "JPEG2000" else avif_bits(header)
    if image.format == "TIFF":
        return tiff_tag(image, TIFF_BITS_PER_SAMPLE)
    found = 8
    for tile in image.tile:  # how Pillow is going to decode: "RGB;16B" of a PNG, ("RGB", greatest value) of a PPM
        raw, *rest = (tile.args,) if isinstance(tile.args, str) else tile.args or ("",)
        if image.format == "PNG" and ";16" in str(raw):
            found = 16
        elif image.format == "PPM" and rest:
            found = max(found, int(rest[0]).bit_length())
    return found


def tiff_tag(image: "ImageFile", tag: int) -> int:
    """Return the greatest value of a tag that has one for each channel; 1 is the default of those that are read here."""
    return int(max(getattr(image, "tag_v2", {}).get(tag, (1,)), default=1))


def jpeg2000_bits(header: bytes) -> int:
    """Return the bits of the deepest component, which the codestream's SIZ marker names (ISO/IEC 15444-1, A.5.1)."""
    _, found, size = header.partition(b"\xff\x4f\xff\x51")
    count = int.from_bytes(size[36:38], "big")
    return max((byte % 128 + 1 for byte in size[38 : 38 + 3 * count : 3]), default=8) if found else 8


def avif_bits(header: bytes) -> int:
    """Return the bits of the deepest part, which its av1C box names (AV1 in ISO base media, 2.3.3): 8, 10 or 12."""
    boxes = header.split(b"av1C\x81")[1:]
    return max((8 + 2 * (box[1] >> 6 & 1) + 2 * (box[1] >> 5 & 1) for box in boxes if len(box) > 1), default=8)


def read_image(task: Task) -> RunningMoments:
    """Read an image as height x width x channels."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(task.path, formats=FORMATS) as image:
            kind = (tiff_tag(image, TIFF_SAMPLE_FORMAT), tiff_tag(image, TIFF_BITS_PER_SAMPLE))
            if kind in TIFF_MISREAD:
                raise ValueError(f"{TIFF_MISREAD[kind]} values, which Pillow misreads: save them as .npy")
            deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
            if not deep and (depth := bits(image, task.path)) > 8:
                raise ValueError(f"{depth}-bit color, of which Pillow keeps 8 bits: save the values as .npy")
            if deep and task.mode is not None:
                raise ValueError(f"an image of mode {image.mode} is not converted to {task.mode}")
            mode = task.mode or ("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
            pixels = np.asarray(image if deep or image.mode == mode else image.convert(mode))
    stats = RunningMoments(None if task.channel_axis is None else -1)
    return stats.update(pixels if pixels.ndim == 3 else pixels[..., None])


@contextmanager
def readings(tasks: list[Task], workers: int) -> Iterator[Iterator[RunningMoments | str]]:
    """Give what `read` gives for each task, in their order."""
    if workers == 1:
        threads = get_num_threads()
        set_num_threads(1)  # a second one sleeps while an image is decoded, and to wake it takes longer than the sums do
        try:
            yield map(read, tasks)
        finally:
            set_num_threads(threads)
        return
    # Small files travel several at a time; what a worker has read of its share is lost when Ctrl-C ends the program.
    with answers(read, tasks, workers, together=1 if any(task.parts > 1 for task in tasks) else 8) as results:
        yield results
