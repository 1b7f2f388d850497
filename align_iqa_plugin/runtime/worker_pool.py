"""Calls a function in worker processes: an item that makes its process die costs no other item its result."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')


def map_in_processes(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result | None]:
    """``function(item)`` of each item, in order; None for an item that made its process die twice, the second time alone.

    A process dies if a library crashes, or if the system ends it because memory runs out. The workers end with the process
    that started them, however that ends.

    Args:
        function: one that can be pickled; it gives anything but None.
        items: what can be pickled.
        workers: processes, at least 1.

    Raises:
        Exception: whatever the function raises.
    """
    done, alone = 0, 0  # alone: how many of the next items a single process takes, one at a time
    while done < len(items):
        part = items[done : done + alone] if alone else items[done:]
        with ProcessPoolExecutor(1 if alone else min(workers, len(part)), initializer=_begin) as pool:
            try:
                for result in _results(pool, function, part, ahead=1 if alone else 2 * workers):
                    yield result
                    done += 1
                alone = 0
                continue
            except BrokenProcessPool:
                died = alone > 0  # a single process has one item at a time: the next one made it die
        if died:
            yield None
            done += 1
        alone = 2 * workers  # the item is among those that the processes had


def _results(
    pool: ProcessPoolExecutor, function: Callable[[Item], Result], items: Sequence[Item], ahead: int
) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()


def _begin() -> None:
    """Leave Ctrl-C, which reaches all processes of the terminal, to the command; end when its process has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # a forked process has none of its parent's threads, and torch would wait for them for ever
    if 'torch' in sys.modules:
        sys.modules['torch'].set_num_threads(1)
    # killed, it cannot end its workers, and those would keep the locks that they inherited
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
