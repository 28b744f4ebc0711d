"""How the C library keeps freed memory.

A forward pass allocates and frees the same megabytes for each request. By default glibc hands them back to the kernel
each time, and the next request faults them in again page by page: 2,300 page faults for half of MobileNetV2, which on
a host with a tenth of a core took longer than the computation. A server keeps them instead, and gives them back when
it changes its stage.

Threads share one arena in servers and in the dispatcher. By default there are up to eight for each processor, and what
short-lived threads leave behind in each is megabytes: a dispatcher that loses and finds hosts again grows by tens.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_NEVER_BYTES = 1 << 30
_LARGEST_MMAP_THRESHOLD_BYTES = 32 << 20  # DEFAULT_MMAP_THRESHOLD_MAX of 64-bit glibc; more is refused


def share_one_arena() -> None:
    """Let all threads of this process allocate from the same memory; call it before the first of them starts.

    Without glibc nothing changes.
    """
    _set(_M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Keep what is freed in this process, up to a gibibyte, for all threads; call it before the first one starts.

    Without glibc nothing changes.
    """
    share_one_arena()
    _set(_M_TRIM_THRESHOLD, _NEVER_BYTES)
    _set(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD_BYTES)


def release_freed_memory() -> None:
    """Give what is free back to the kernel now."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def _set(parameter: int, value: int) -> None:
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(parameter, value)
