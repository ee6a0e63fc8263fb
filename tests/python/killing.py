"""A process that is gone before a step of its work, whichever."""

import os
from collections.abc import Callable
from typing import Any

from thinmeta.ending import Ending
from thinmeta.volume import WritableVolume

KILLED = 77
#: Steps between which a process may be killed: what changes something that lasts.
STEPS: list[tuple[Any, str]] = [
    *((os, name) for name in ("fsync", "replace", "unlink", "ftruncate", "pwrite", "chmod")),
    (Ending, "commit"),
    (WritableVolume, "flush"),
    (WritableVolume, "close"),
]


def killed_before(step: int, work: Callable[[], object]) -> bool:
    """Do something in a child, which is gone before a step; whether it got there."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, KILLED), "the child failed"
        return status == KILLED
    done = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done > step:
                os._exit(KILLED)
            return function(*arguments, **options)

        return call

    try:
        for owner, name in STEPS:
            setattr(owner, name, counted(getattr(owner, name)))
        work()
        os._exit(0)
    finally:
        os._exit(1)
