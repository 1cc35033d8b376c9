"""`python -m fusednorm stats`: photographs, generated files, what is broken, links, parts, workers. Ctrl-C: test_console."""

import errno
import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from fusednorm import __main__ as command
from fusednorm.commands import files
from processes import run_python

Image = pytest.importorskip("PIL.Image")
datasets = pytest.importorskip("sklearn.datasets")

PHOTOGRAPHS = Path(datasets.__file__).parent / "images"


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command here; gives exit code, what --json printed (or the text), and stderr."""

    def run(*arguments, text=False):
        monkeypatch.setattr(sys, "argv", ["fusednorm", "stats", *(() if text else ("--json",)), *map(str, arguments)])
        code = command.main()
        out, err = capsys.readouterr()
        return code, out if text or not out else json.loads(out), err

    return run


def check(result, x, files, skipped=0, scale=1):
    """x: values (C, n)."""
    x = np.ascontiguousarray(x, np.float64) / scale  # sums along contiguous rows are pairwise
    assert set(result) == {"count", "mean", "var", "std", "files", "skipped"}
    assert (result["count"], result["files"], result["skipped"]) == (x.shape[1], files, skipped)
    for name, value in (("mean", x.mean(1)), ("var", x.var(1)), ("std", x.std(1))):
        np.testing.assert_allclose(result[name], value, rtol=1e-12)


def channels(*images):
    return np.concatenate([np.reshape(i, (-1, np.shape(i)[2] if np.ndim(i) == 3 else 1)) for i in images]).T


@pytest.fixture
def folder(rng, tmp_path):
    """Arrays of three images in a tree of PNG files, and the folder."""
    images = [rng.integers(0, 256, (5 + i, 7, 3), np.uint8) for i in range(3)]
    for image, name in zip(images, ("a.png", "sub/b.PNG", "sub/deep/c.bmp"), strict=True):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (tmp_path / "tree" / "notes.txt").write_text("no image")
    return images, tmp_path / "tree"


def test_photographs(run):
    images = [np.asarray(Image.open(p)) for p in sorted(PHOTOGRAPHS.glob("*.jpg"))]
    code, result, err = run(PHOTOGRAPHS, "--scale", "255")
    assert (code, err) == (0, "")
    check(result, channels(*images), 2, scale=255)


def test_the_text_can_be_pasted(run):
    code, out, _ = run(PHOTOGRAPHS, "--scale", 255, text=True)
    assert code == 0
    line = out.strip().splitlines()[-1]
    mean, std = eval(line, {"Normalize": lambda mean, std: (mean, std)})
    _, result, _ = run(PHOTOGRAPHS, "--scale", 255)
    np.testing.assert_allclose(mean, result["mean"], rtol=1e-5)
    np.testing.assert_allclose(std, result["std"], rtol=1e-5)
    assert "2 files, 0 skipped, 546,560 values per channel" in out


def test_folders_patterns_and_files(run, folder):
    images, root = folder
    check(run(root)[1], channels(*images), 3)
    check(run(root / "**" / "*.[Pp][Nn][Gg]")[1], channels(*images[:2]), 2)
    check(run(root, root / "a.png", root / "sub")[1], channels(*images), 3)  # each file once
    check(run(root / "a.png")[1], channels(images[0]), 1)


def test_a_name_with_brackets_is_a_name(run, folder, tmp_path):
    images, root = folder
    (root / "a.png").rename(tmp_path / "a[1].png")
    check(run(tmp_path / "a[1].png")[1], channels(images[0]), 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_modes(mode, run, tmp_path, rng):
    colors = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8))
    image = Image.fromarray(rng.integers(0, 65536, (6, 5), np.uint16)) if mode == "I;16" else colors.convert(mode)
    assert image.mode == mode
    path = tmp_path / ("x.tif" if mode in ("CMYK", "F") else "x.png")
    image.save(path)
    wanted = image if mode in ("L", "RGB", "I;16", "F") else image.convert("L" if mode in ("1", "LA") else "RGB")
    check(run(path)[1], channels(np.asarray(wanted)), 1)


def png(width, height, color, depth, rows):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(values, planar=False):
    """values: uint16 (height, width, channels); planar: in the file, the channels lie behind each other."""
    height, width, channels = values.shape
    bits = struct.pack(f"<{channels}H", *[16] * channels)
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    strips = channels if planar else 1
    first = 8 + len(bits) + 8 * strips
    each = values.nbytes // strips
    where = struct.pack(f"<{strips}I", *range(first, first + values.nbytes, each)) + struct.pack("<I", each) * strips
    tags += [(273, 4, strips, 8 + len(bits) if planar else first), (277, 3, 1, channels), (278, 3, 1, height)]
    tags += [(279, 4, strips, 8 + len(bits) + 4 * strips if planar else each), (284, 3, 1, 2 if planar else 1)]
    body = bits + where + np.moveaxis(values, -1, 0 if planar else -1).astype("<u2").tobytes()
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + directory


def jpeg2000(values, bits):
    """values: uint8; the header says that they have so many bits."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG2000")
    before, marker, after = file.getvalue().partition(b"\xff\x4f\xff\x51")
    precision = bytearray(after)
    precision[38] = bits - 1
    return before + marker + bytes(precision)


def avif(values, bits):
    """values: uint8; the header says that they have so many bits."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "AVIF")
    written = bytearray(file.getvalue())
    code = written.find(b"av1C")
    written[code + 6] |= {8: 0, 10: 0x40, 12: 0x60}[bits]
    channels = written.find(b"pixi") + 9
    written[channels : channels + 3] = [bits] * 3
    return bytes(written)


DEEP = ["png", "png alpha", "png gray alpha", "ppm", "ppm 10 bits", "plain ppm"]
DEEP += ["tiff", "tiff planar", "jp2", "avif 10 bits", "avif"]


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("mode", [(), ("--mode", "RGB")])
def test_deep_color_is_skipped(kind, mode, run, tmp_path, rng):
    """Pillow would give 8 of its bits, as if that were all."""
    deep = rng.integers(0, 65536, (4, 5, 3), np.uint16)
    written = {
        "png": lambda: png(5, 4, 2, 16, b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)),
        "png alpha": lambda: png(5, 4, 6, 16, (b"\0" + bytes(40)) * 4),
        "png gray alpha": lambda: png(5, 4, 4, 16, (b"\0" + bytes(20)) * 4),
        "ppm": lambda: b"P6 5 4 65535\n" + deep.astype(">u2").tobytes(),
        "ppm 10 bits": lambda: b"P6 5 4 1023\n" + (deep // 64).astype(">u2").tobytes(),
        "plain ppm": lambda: b"P3 1 1 65535\n1 2 3\n",
        "tiff": lambda: tiff(deep),
        "tiff planar": lambda: tiff(deep, planar=True),
        "jp2": lambda: jpeg2000((deep // 256).astype(np.uint8), 16),
        "avif 10 bits": lambda: avif((deep // 256).astype(np.uint8), 10),
        "avif": lambda: avif((deep // 256).astype(np.uint8), 12),
    }[kind]()
    path = tmp_path / f"x.{kind.split()[-1] if 'plain' in kind else kind.split()[0]}"
    path.write_bytes(written)
    with Image.open(path) as image:
        assert image.mode in ("RGB", "RGBA")
    code, result, err = run(path, *mode)
    depth = 10 if "10" in kind else 12 if kind == "avif" else 16
    assert (code, result) == (1, "")
    assert f"skipped {path}: {depth}-bit color, of which Pillow keeps 8 bits: save the values as .npy\n" in err


GRAY = [("u1", 1, ""), ("i1", 2, "signed 8-bit"), ("u2", 1, ""), ("i2", 2, "")]
GRAY += [("u4", 1, "unsigned 32-bit"), ("i4", 2, ""), ("f4", 3, "")]


@pytest.mark.parametrize(("dtype", "sample_format", "misread"), GRAY)
def test_gray_tiffs_are_read_or_skipped(dtype, sample_format, misread, run, tmp_path):
    values = np.array([3, 2**31 + 2**15 + 2**7 + 1]).astype("u4").astype(dtype)
    tags = [(256, 2), (257, 1), (258, 8 * values.itemsize), (259, 1), (262, 1), (273, 134), (277, 1), (278, 1)]
    tags += [(279, values.nbytes), (339, sample_format)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path = tmp_path / "x.tif"
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + directory + bytes(4) + values.tobytes())
    code, result, err = run(path)
    if misread:
        assert err.startswith(f"skipped {path}: {misread} values, which Pillow misreads: save them as .npy\n")
    else:
        assert (code, err) == (0, "")
        check(result, values[None], 1)


def bmp565(values):
    """values: uint16 (height, width), width even."""
    masks = struct.pack("<3I", 0xF800, 0x7E0, 0x1F)
    header = struct.pack("<IiiHHIIiiII", 40, values.shape[1], -values.shape[0], 1, 16, 3, values.nbytes, 0, 0, 0, 0)
    return struct.pack("<2sIII", b"BM", 66 + values.nbytes, 0, 66) + header + masks + values.astype("<u2").tobytes()


@pytest.mark.parametrize("kind", ["pbm", "pgm", "ppm", "ppm 100", "bmp", "avif"])
def test_shallow_files_are_read(kind, run, tmp_path, rng):
    """Among them those whose bits Pillow names as it names others': 16 are a pixel's, or there is no greatest value."""
    written = {
        "pbm": b"P1 3 2\n1 0 1\n0 0 1\n",
        "pgm": b"P2 3 1 255\n1 2 3\n",
        "ppm": b"P3 1 1 255\n1 2 3\n",
        "ppm 100": b"P6 1 2 100\n" + bytes([1, 2, 100, 50, 60, 70]),
        "bmp": bmp565(rng.integers(0, 65536, (4, 6), np.uint16)),
        "avif": avif(rng.integers(0, 256, (4, 6, 3), np.uint8), 8),
    }[kind]
    path = tmp_path / f"x.{kind.split()[0]}"
    path.write_bytes(written)
    with Image.open(path) as image:
        wanted = np.asarray(image.convert("L" if kind in ("pbm", "pgm") else "RGB"))
    code, result, err = run(path)
    assert (code, err) == (0, "")
    check(result, channels(wanted), 1)


def test_gray_among_color_is_skipped_or_converted(run, folder):
    images, root = folder
    gray = Image.fromarray(images[0]).convert("L")
    gray.save(root / "z.png")
    code, result, err = run(root)
    assert code == 0
    check(result, channels(*images), 3, skipped=1)
    assert err == f"skipped {root / 'z.png'}: channels: 1, the first file has 3\n"
    check(run(root, "--mode", "RGB")[1], channels(*images, np.repeat(np.asarray(gray)[..., None], 3, -1)), 4)
    _, result, _ = run(root, "--mode", "L")
    assert (result["files"], len(result["mean"])) == (4, 1)
    _, result, _ = run(root, "--channel-axis", "none")
    values = np.concatenate([np.ravel(i) for i in (*images, np.asarray(gray))])
    check(result, values[None], 4)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays(axis, order, run, tmp_path, rng, monkeypatch):
    x = np.asarray(rng.normal(100, 1, (6, 5, 40)).astype("f4"), order=order)
    np.save(tmp_path / "x.npy", x)
    wanted = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    check(run(tmp_path, "--channel-axis", axis)[1], wanted, 1)
    monkeypatch.setattr(files, "PART_BYTES", 700)
    tasks = list(files.make_tasks([str(tmp_path / "x.npy")], axis, None))
    assert len(tasks) == 8
    check(run(tmp_path, "--channel-axis", axis)[1], wanted, 1)


def test_a_file_that_ends_while_it_is_read_counts_for_nothing(run, tmp_path, rng, monkeypatch):
    x = rng.normal(size=(6, 3, 5))
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", x)
    monkeypatch.setattr(files, "PART_BYTES", 300)

    def read(task):
        return "it has ended" if task.path.endswith("a.npy") and task.part == 2 else read_task(task)

    read_task = files.read
    monkeypatch.setattr(files, "read", read)
    check(run(tmp_path)[1], np.moveaxis(x, 1, 0).reshape(3, -1), 1, skipped=1)


def test_archives(run, tmp_path, rng):
    x, y = rng.normal(size=(6, 3, 2)), rng.normal(size=(4, 3))
    np.savez_compressed(tmp_path / "a.npz", x=x, y=y)
    wanted = np.concatenate([np.moveaxis(x, 1, 0).reshape(3, -1), y.T], axis=1)
    check(run(tmp_path)[1], wanted, 1)
    np.savez(tmp_path / "b.npz", x=x, y=y[:, :2])  # all of a file counts, or nothing
    code, result, err = run(tmp_path)
    assert code == 0
    check(result, wanted, 1, skipped=1)
    assert "b.npz: RunningMoments.update: batch: expected 3 channels, got 2" in err


def test_an_archive_with_something_else_is_skipped(run, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((2, 3)))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("readme.txt", "no array")
    assert run(tmp_path / "a.npz")[2].startswith(f"skipped {tmp_path / 'a.npz'}: 'readme.txt' in it is no array\n")


def test_workers_change_no_bit(run, folder, tmp_path, rng):
    _, root = folder
    np.save(root / "x.npy", rng.normal(size=(40, 3, 9)))
    (root / "broken.png").write_bytes(b"\x89PNG")
    assert run(root, "--workers", 2) == run(root)


def test_an_empty_array(run, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((0, 3)))
    code, result, err = run(tmp_path)
    assert (code, result["count"], result["mean"], err) == (0, 0, [None] * 3, "")


def bomb(path, side=20_000):
    """Write a PNG that says it is huge."""
    path.write_bytes(png(side, side, 2, 8, b""))


def write_broken(root):
    bomb(root / "bomb.png")
    bomb(root / "warned.png", 10_000)
    (root / "empty.jpg").write_bytes(b"")
    (root / "cut.jpg").write_bytes((PHOTOGRAPHS / "china.jpg").read_bytes()[:20_000])
    (root / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    np.save(root / "objects.npy", np.array([object()]), allow_pickle=True)
    np.save(root / "complex.npy", np.zeros((2, 3), complex))
    np.save(root / "flat.npy", np.zeros(3))
    (root / "noise.npz").write_bytes(b"PK\x03\x04 no")
    return {p: p.name for p in root.iterdir()}


def test_what_cannot_be_read_is_named_and_skipped(run, folder, tmp_path):
    images, root = folder
    (tmp_path / "broken").mkdir()
    names = write_broken(tmp_path / "broken")
    code, result, err = run(root, tmp_path / "broken", tmp_path / "absent.png", root / "notes.txt")
    assert code == 0
    check(result, channels(*images), 3, skipped=len(names) + 2)
    lines = err.splitlines()
    assert len(lines) == len(names) + 2
    assert all(sum(f"skipped {path}: " in line for line in lines) == 1 for path in names)
    assert "exceeds limit" in err
    assert "flat.npy: an array of shape (3,) has no axis 1: see --channel-axis" in err
    assert "absent.png: no such file" in err
    assert "notes.txt: neither an image nor .npy or .npz" in err


def test_strict_and_nothing_at_all(run, folder, tmp_path):
    _, root = folder
    code, out, err = run(root, tmp_path / "absent.png", "--strict")
    assert (code, out, err) == (1, "", f"skipped {tmp_path / 'absent.png'}: no such file\n")
    code, out, err = run(tmp_path / "absent.png")
    assert (code, out) == (1, "")
    assert err.endswith("stats: no file could be read\n")


def test_links_are_followed_when_asked(run, folder, tmp_path):
    images, root = folder
    outside = tmp_path / "outside"
    (root / "sub").rename(outside)
    (root / "sub").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (outside / "file.npy").symlink_to(tmp_path / "absent.npy")
    check(run(root)[1], channels(images[0]), 1)
    check(run(root, "--follow-symlinks")[1], channels(*images), 3)
    check(run(root / "sub")[1], channels(*images[1:]), 2)  # a link that the user names is meant


def test_patterns_end_where_links_make_loops(folder):
    _, root = folder
    for i in range(3):
        (root / "sub" / f"loop{i}").symlink_to(root)
    code = "import sys; from fusednorm.commands import files as f; print(*(len(f.find_files(sys.argv[1:], b)) for b in (0, 1)))"
    result = run_python("-c", code, str(root / "**" / "*.[Pp][Nn][Gg]"))
    assert result.stdout.strip() == "2 2", result.stderr


@pytest.mark.parametrize("pattern", ["", "**", "**/*.png", "su*/deep"])
def test_folders_that_cannot_be_read_are_named(pattern, run, folder, monkeypatch):
    _, root = folder
    closed, scandir = str(root / "sub" / "deep"), os.scandir

    def refuse(path):
        if os.fspath(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    said = f"skipped {closed}: [Errno 13] Permission denied: '{closed}'\n"
    assert run(root / "a.png", root / pattern)[2] == said
    assert run(root / "a.png", root / pattern, "--strict") == (1, "", said)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_scales_whose_square_is_no_number(scale, run, tmp_path, rng):
    x = rng.normal(1, 1, (50, 3)) * scale**0.75
    np.save(tmp_path / "x.npy", x)
    check(run(tmp_path, "--scale", scale)[1], x.T, 1, scale=scale)


@pytest.mark.parametrize("arguments", [["--scale", "0"], ["--scale", "nan"], ["--workers", "0"], ["--channel-axis", "x"], []])
def test_wrong_arguments(arguments, run, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(*arguments, *(["x.png"] if arguments else []))
    assert exit_.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_without_pillow(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    code = "import sys; sys.modules['PIL'] = None; from fusednorm.__main__ import main; sys.exit(main())"
    result = run_python("-c", code, "stats", str(tmp_path / "x.npy"))
    assert result.returncode == 0, result.stderr
    result = run_python("-c", code, "stats", str(PHOTOGRAPHS / "china.jpg"))
    assert result.returncode == 1
    assert "images need Pillow: pip install Pillow" in result.stderr
    assert "Traceback" not in result.stderr


def test_another_module_that_is_missing(run, folder, monkeypatch):
    """What a decoder needs, say: only without Pillow itself is there no image that can be read."""

    def read_image(task):
        raise ModuleNotFoundError("No module named 'other'", name="other")

    monkeypatch.setattr(files, "read_image", read_image)
    code, _, err = run(folder[1] / "a.png")
    assert code == 1
    assert err == f"skipped {folder[1] / 'a.png'}: No module named 'other'\nstats: no file could be read\n"


def test_progress_bar_on_a_terminal_alone(folder):
    """A pseudo-terminal as stderr."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "fusednorm", "stats", str(folder[1])]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=60, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "3/3" in shown
    assert "file/s" in shown
    assert result.stdout.startswith("3 files, 0 skipped")
