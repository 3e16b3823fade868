"""Reading compressed files."""

import gzip
import importlib.util
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

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
        return io.BufferedReader(_ZstdFile(open(path, "rb")), 1 << 17)
    return open(path, "rb")


class _ZstdFile(io.RawIOBase):
    """The content of all frames of a file. The end of the file inside a frame is an error.

    The stream_reader of zstandard ends there without an error, as if the frame were whole.
    """

    _BLOCK = 1 << 16  # compressed bytes that are decompressed at once
    _LARGEST_WINDOW = 1 << 31  # that of ``zstd --ultra --long=31``; the package allows 2**27 by default

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._file = file
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=self._LARGEST_WINDOW)
        self._frame: Any = None  # the decompressor of the frame that is not at its end
        self._compressed, self._content = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._content:
            compressed = self._compressed or self._file.read(self._BLOCK)
            if not compressed:
                if self._frame is not None:
                    raise EOFError("the compressed file ends inside a frame")
                return 0
            frame = self._frame or self._decompressor.decompressobj()
            self._content = memoryview(frame.decompress(compressed))
            self._compressed = frame.unused_data if frame.eof else b""
            self._frame = None if frame.eof else frame
        count = min(len(buffer), len(self._content))
        buffer[:count] = self._content[:count]
        self._content = self._content[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def decompression_errors() -> tuple[type[Exception], ...]:
    """The exceptions of a damaged compressed file."""
    errors: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
    if importlib.util.find_spec("zstandard") is not None:
        import zstandard

        errors += (zstandard.ZstdError,)
    return errors
