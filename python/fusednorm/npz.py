"""Arrays in files, each by its name, for `RunningMoments`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from fusednorm.arrays import Array


def write(where: str, file: IO[bytes], arrays: Mapping[str, Array]) -> None:
    """Write an npz archive; `where` opens the error's text."""
    try:
        file.write(b"")
    except (AttributeError, TypeError):
        raise _no_file(where, file) from None
    named: dict[str, Any] = dict(arrays)
    np.savez(file, **named)


@contextmanager
def opened(where: str, file: IO[bytes]) -> Iterator[np.lib.npyio.NpzFile]:
    """Open what `write` wrote. No pickled object is read, and no array before it is asked for."""
    import zipfile  # with all that it brings, a third of the package's import
    import zlib

    try:
        with _archive(where, file) as archive:
            yield archive
    except (EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: encrypted, for one
        raise ValueError(f"{where}: file: expected what save() wrote, got a broken file: {error}") from error


def _archive(where: str, file: IO[bytes]) -> np.lib.npyio.NpzFile:
    read = getattr(file, "read", None)
    if read is None or not isinstance(read(0), bytes):
        raise _no_file(where, file)
    expected = f"{where}: file: expected what save() wrote"
    try:
        found: object = np.load(file, allow_pickle=False)
    except ValueError as error:  # what is no archive may be a pickle, to NumPy
        raise ValueError(f"{expected}, got another file") from error
    if not isinstance(found, np.lib.npyio.NpzFile):
        raise ValueError(f"{expected}, got an array that is in no npz archive")
    return found


def _no_file(where: str, file: object) -> TypeError:
    return TypeError(f"{where}: file: expected a path or a binary file, got {type(file).__name__}")
