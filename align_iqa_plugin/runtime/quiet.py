"""Silence for logs of other packages, whose lines would land between a progress bar's, or say what nobody has asked."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_log() -> Iterator[None]:
    """Inside, pyiqa's log shows warnings and errors only."""
    from pyiqa.utils import get_root_logger

    logger = get_root_logger()
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def without_line(logger: str, beginning: str) -> Iterator[None]:
    """Inside, the logger of this name leaves out lines that begin like this, and no others."""

    def is_another(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(beginning)

    filtered = logging.getLogger(logger)
    filtered.addFilter(is_another)
    try:
        yield
    finally:
        filtered.removeFilter(is_another)
