"""What a process does with its memory: keeps it to itself, and gives large pieces back.

Called by the programs that see keys in the clear and hold large requests, the API and the gateway,
before they hold one.
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
    """No core file, no debugger, no look into `/proc/<pid>` from other processes of this user.

    Root can still look. Where the system knows neither, it is logged and the program goes on.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        log.warning("memory is not protected from dumps: errno %d", ctypes.get_errno())


def give_back_large_pieces() -> None:
    """What a large request took goes back to the system as soon as it is let go.

    glibc takes the size of what was freed for one to keep at hand, up to 32 MiB, in each thread.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
