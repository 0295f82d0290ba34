"""Memory of this process, where glibc keeps it."""

import ctypes

_LIBC = ctypes.CDLL(None)
_M_ARENA_MAX = -8       # of mallopt(3)


def give_back_memory() -> None:
    """Hand back to the system what temporaries took, which glibc may keep for good."""
    if (trim := getattr(_LIBC, "malloc_trim", None)) is not None:
        trim(0)


def share_one_heap() -> None:
    """Let all threads that begin from now on allocate from the heap of the first.

    By default each gets one of up to eight a core, and a process that makes threads again and
    again grows until each heap has seen the most that any of them needs.
    """
    if (mallopt := getattr(_LIBC, "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, 1)
