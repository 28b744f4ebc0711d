"""How the C library keeps freed memory.

A forward pass allocates and frees the same megabytes for each request. By default glibc hands them back to the kernel
each time, and the next request faults them in again page by page: 2,300 page faults for half of MobileNetV2, which on
a host with a tenth of a core took longer than the computation. A server keeps them instead, and gives them back when
it changes its stage. All threads share one arena, or each would keep megabytes of its own.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_NEVER_BYTES = 1 << 30
_LARGEST_MMAP_THRESHOLD_BYTES = 32 << 20  # DEFAULT_MMAP_THRESHOLD_MAX of 64-bit glibc; more is refused


def keep_freed_memory() -> None:
    """Keep what is freed in this process, up to a gibibyte; call it before the first thread starts.

    Without glibc nothing changes.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER_BYTES)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD_BYTES)


def release_freed_memory() -> None:
    """Give what is free back to the kernel now."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
