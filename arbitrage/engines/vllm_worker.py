"""Goes along into the processes that vLLM starts, and ends them once their replica is gone.

A replica that is killed cannot tell them to end, and they would go on holding the accelerator's
memory, so that no new replica finds room. vLLM imports `Guard` in each worker before it loads the
model; `watch` sees the replica's end without polling (Linux only, as vLLM is).
"""

from __future__ import annotations

import os
import select
import signal
import threading

REPLICA = "ARBITRAGE_REPLICA_PID"


class Guard:
    """What vLLM mixes into its worker: nothing but the watch that importing it started."""


def watch(replica: int, parent: int) -> None:
    """Waits until the replica is gone, then ends this process and its parent, vLLM's core.

    Where the replica is the parent itself, there is no other; and where it was gone before, the
    parent may be anybody who took this process over.
    """
    core = None if parent == replica else parent
    try:
        handle = os.pidfd_open(replica)
    except ProcessLookupError:
        core = None
    else:
        select.select([handle], [], [])
    if core is not None and os.getppid() == core:
        os.kill(core, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def guard() -> None:
    """Starts the watch, unless this is the replica."""
    replica = int(os.environ.get(REPLICA, os.getpid()))
    if replica != os.getpid():
        threading.Thread(target=watch, args=(replica, os.getppid()), daemon=True).start()


guard()
