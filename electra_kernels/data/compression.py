"""Reading compressed files."""

import gzip
import importlib.util
import io
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from electra_kernels.errors import UserError


def open_decompressed(path: Path, compression: str) -> BinaryIO:
    """Open a file for reading, decompressed.

    Raises:
        OSError: the file cannot be opened.
        UserError: it needs a package that is not installed.
    """
    if compression == "gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if compression == "zst":
        if importlib.util.find_spec("zstandard") is None:
            raise UserError(f"{path}: reading it needs the package zstandard (pip install zstandard)")
        import zstandard

        file = open(path, "rb")  # noqa: SIM115 -- the stream closes it
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=True)
        return io.BufferedReader(cast(io.RawIOBase, stream), 1 << 17)
    return open(path, "rb")


def decompression_errors() -> tuple[type[Exception], ...]:
    """The exceptions of a damaged compressed file."""
    errors: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
    if importlib.util.find_spec("zstandard") is not None:
        import zstandard

        errors += (zstandard.ZstdError,)
    return errors
