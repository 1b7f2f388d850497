"""The folder of a training, `experiments/NAME`, its log, which pyiqa's logger writes, and its curves in TensorBoard."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path

from pyiqa.utils import get_root_logger, init_tb_logger, mkdir_and_rename
from tqdm import tqdm

from align_iqa_plugin.models.process_group import rank
from align_iqa_plugin.runtime.lock import lock


def run_lock(root: Path, name: str, *, wait: bool = False) -> AbstractContextManager[None]:
    """A lock of the experiment of this name; `InUse` where another process is inside it, if it is not to be waited for."""
    problem = (
        f"another process is training '{root / 'experiments' / name}': wait until it has ended, or give this training another "
        'name with --set name=NAME.'
    )
    return lock(root / 'experiments' / '.locks' / name, problem, seconds=-1 if wait else 0)


def make_folders(options: dict, root: Path, *, keep: bool) -> None:
    """Make the folders of a training; without `keep`, existing ones of the same name are renamed with the time."""
    with redirect_stdout(sys.stderr):  # pyiqa prints what it renames, but stdout is for results
        if not keep:
            mkdir_and_rename(options['path']['experiments_root'])
            if options['logger'].get('use_tb_logger'):
                (root / 'tb_logger_archived').mkdir(exist_ok=True)
                mkdir_and_rename(str(root / 'tb_logger' / options['name']))
    for name in ('models', 'training_states'):
        Path(options['path'][name]).mkdir(parents=True, exist_ok=True)


@contextmanager
def log_file(path: Path) -> Iterator[logging.Logger]:
    """Inside, pyiqa's logger writes all to a file of process 0 and less to the console, whoever set it up before."""
    logger = get_root_logger()
    handlers, level = logger.handlers[:], logger.level
    own: list[logging.Handler] = [_Console()]
    if rank() == 0:
        own.append(_LogFile(path, encoding='utf-8'))
    logger.handlers = own
    logger.setLevel(logging.INFO if rank() == 0 else logging.ERROR)
    for handler in own:
        handler.setFormatter(logging.Formatter('%(asctime)s %(levelname)s: %(message)s'))
    try:
        yield logger
    finally:
        for handler in own:
            handler.close()
        logger.handlers = handlers
        logger.setLevel(level)


@contextmanager
def curves(folder: Path) -> Iterator:
    """Gives TensorBoard's writer of curves into a folder; a full disk is an OSError where a number is added.

    What cannot be written at the end is a warning in the log.
    """

    def pass_over(thread_error: threading.ExceptHookArgs) -> None:
        # the writer's thread keeps its OSError for the next call, and prints a traceback besides
        ours = type(thread_error.thread).__module__.startswith('tensorboard')
        if not (ours and isinstance(thread_error.exc_value, OSError)):
            print_traceback(thread_error)

    print_traceback, threading.excepthook = threading.excepthook, pass_over
    try:
        writer = init_tb_logger(log_dir=str(folder))
        try:
            yield writer
        finally:
            try:
                writer.close()
            except OSError as error:
                get_root_logger().warning(f"The curves in '{folder}' lack their end: {error.strerror or error}.")
    finally:
        threading.excepthook = print_traceback


class _LogFile(logging.FileHandler):
    """States once on stderr that the log cannot be written, in place of a traceback for each message."""

    is_whole = True

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._report(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # the messages that it still had
            self._report(error)

    def _report(self, error: OSError) -> None:
        if self.is_whole:
            self.is_whole = False
            line = f"The log '{self.baseFilename}' lacks messages from here on: {error.strerror or error}."
            tqdm.write(line, file=sys.stderr)


class _Console(logging.Handler):
    """Prints this package's messages and pyiqa's warnings to stderr, above a progress bar; not those marked as `quiet`."""

    def filter(self, record: logging.LogRecord) -> bool:
        ours = 'align_iqa_plugin' in record.pathname and not getattr(record, 'quiet', False)
        return record.levelno > logging.INFO or ours

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
