"""Files that are complete or absent."""

from __future__ import annotations

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
