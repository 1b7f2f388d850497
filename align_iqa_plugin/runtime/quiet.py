"""Silence for pyiqa's log, where its lines would land between a progress bar's, or say what nobody has asked."""

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
