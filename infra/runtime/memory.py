"""Process memory: keep it private, and return large pieces to the system.

The API and the gateway call this before they hold keys in the clear or large requests.
"""

from __future__ import annotations

import ctypes
import logging
import resource
import sys

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1024 * 1024


def forbid_dumps() -> None:
    """Disable core files, debuggers and access to `/proc/<pid>` by other processes of this user.

    Root still has access. If the system supports neither, this is logged and the program continues.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        log.warning("memory is not protected from dumps: errno %d", ctypes.get_errno())


def give_back_large_pieces() -> None:
    """Make the allocator return large blocks to the system as soon as they are freed.

    By default glibc raises its threshold to the size of freed blocks, up to 32 MiB, and keeps such
    blocks in each thread.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
