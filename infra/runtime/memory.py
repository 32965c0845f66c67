"""Keep a process's memory to itself: it holds keys.

Called by the programs that see keys in the clear, the API and the gateway, before they hold one.
"""

from __future__ import annotations

import ctypes
import logging
import resource
import sys

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4


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
