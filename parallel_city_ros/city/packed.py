"""Files that gzip or bzip2 has packed, unpacked as they are read, up to a size."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path

from parallel_city_ros.errors import CityFileError

GZIP, BZIP2 = b"\x1f\x8b", b"BZh"
MOST_UNPACKED = 2 << 30     # bytes
LOOK_BYTES = 4096


def open_unpacked(path: Path) -> io.BufferedIOBase:
    """The file's bytes, unpacked if it is packed."""
    with open(path, "rb") as file:
        opened = _unpacker(file.read(len(BZIP2)))
    return io.BufferedReader(_Unpacked(path, opened), 1 << 20) if opened else open(path, "rb")


def unpacked_head(head: bytes) -> bytes:
    """The same of a file's first bytes, of gzip only: bzip2 tells nothing before a whole block."""
    if not head.startswith(GZIP):
        return head
    try:
        return zlib.decompressobj(31).decompress(head, 1 << 16)
    except zlib.error:
        return b""


def head_of_packed(path: Path, head: bytes) -> bytes:
    """The beginning of what is in a packed file; the head itself of others, and of broken ones."""
    if (opened := _unpacker(head)) is None:
        return head
    try:
        with opened(path) as file:
            return file.read(LOOK_BYTES)
    except (OSError, EOFError, zlib.error):
        return head


def _unpacker(head: bytes) -> Callable | None:
    return gzip.open if head.startswith(GZIP) else bz2.open if head.startswith(BZIP2) else None


class _Unpacked(io.RawIOBase):
    """A packed file, up to a size: a few kilobytes can unpack to more than fits the memory."""

    def __init__(self, path: Path, opened: Callable):
        self.path, self.file, self.size = path, opened(path, "rb"), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = self.file.readinto(buffer)
        self.size += count
        if self.size > MOST_UNPACKED:
            raise CityFileError(f"{self.path}: unpacks to more than {MOST_UNPACKED >> 30} GiB; "
                                "split it")
        return count

    def close(self) -> None:
        self.file.close()
        super().close()
