"""Memory of this process."""

import ctypes


def give_back_memory() -> None:
    """Hand back to the system what temporaries took, which glibc may keep for good."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
