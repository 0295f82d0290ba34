"""Files that are complete or absent, and JSON that every reader takes."""

from __future__ import annotations

import math
import os
from pathlib import Path


def write_atomically(file: str | Path, content: str | bytes) -> None:
    """Write a file so that it is complete or absent, whatever interrupts."""
    file = Path(file)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    data = content.encode() if isinstance(content, str) else content
    try:
        part.write_bytes(data)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def finite(value):
    """A copy in which what JSON cannot say, NaN and infinity, is null."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
