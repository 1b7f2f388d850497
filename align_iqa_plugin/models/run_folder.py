"""The folder of a training, `experiments/NAME`, and its log, which pyiqa's logger writes."""

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path

from pyiqa.utils import get_root_logger, mkdir_and_rename
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
        own.append(logging.FileHandler(path, encoding='utf-8'))
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


class _Console(logging.Handler):
    """Prints this package's messages and pyiqa's warnings to stderr, above a progress bar; not those marked as `quiet`."""

    def filter(self, record: logging.LogRecord) -> bool:
        ours = 'align_iqa_plugin' in record.pathname and not getattr(record, 'quiet', False)
        return record.levelno > logging.INFO or ours

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
