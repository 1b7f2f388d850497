"""Ctrl-C and SIGTERM in a training: the first one stops it after its iteration, the second at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM stopped the training; `signal` is the signal's number, the message says what was saved."""

    def __init__(self, number: int, sentence: str):
        super().__init__(sentence)
        self.signal = number


class StopRequest:
    """The signal that has arrived, if any.

    Attributes:
        number: of the signal; None before it.
        can_wait: whether the training will look at `number` after its iteration; otherwise a signal raises `Interrupted`.
    """

    number: int | None = None
    can_wait = False

    def __call__(self, number: int, frame) -> None:
        if not self.can_wait or self.number is not None:
            raise Interrupted(number, 'stopped at once; what was saved before is kept.')
        self.number = number


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Inside, Ctrl-C and SIGTERM are noted in the `StopRequest`; outside of the main thread, none arrive."""
    stop, before = StopRequest(), {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
