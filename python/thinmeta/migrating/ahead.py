"""Work that is done ahead by threads, and whose results come in order."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from thinmeta.arguments import threads_argument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from typing import TypeVar

    Item = TypeVar("Item")
    Result = TypeVar("Result")

__all__ = ["MAX_THREADS", "ahead", "thread_count"]

MAX_THREADS = 8


def thread_count(threads: int | None) -> int:
    """How many threads work: as many as were asked for, or the cores, at most 8.

    Raises:
        UsageError: There is no such number of threads.
    """
    return threads_argument(threads) or min(len(os.sched_getaffinity(0)), MAX_THREADS)


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, waiting: int
) -> Iterator[Result]:
    """The results in the order of the items.

    Args:
        work: What is done with each; by threads, at the same time.
        items: Asked for one after the other, by the caller's thread.
        threads: How many work.
        waiting: How many results there are at most that nobody has taken yet.
    """
    queue: deque[Future[Result]] = deque()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="thinmeta-migrate")
    try:
        for item in items:
            queue.append(executor.submit(work, item))
            if len(queue) > waiting:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        # Nobody reads from anything any more when this returns.
        executor.shutdown(wait=True, cancel_futures=True)
