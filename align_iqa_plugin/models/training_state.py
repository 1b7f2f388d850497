"""Training states on disk, from which a stopped training goes on: written atomically, checked by a hash, the last two kept.

A file `experiments/NAME/training_states/ITERATION.state` is one line with the SHA-256 of the rest, and then tensors, numbers
and texts as `torch.save` writes them; it is read without running code.
"""

import hashlib
import io
import pickle
from pathlib import Path

import torch
from pyiqa.utils import get_root_logger

from align_iqa_plugin.runtime.atomic import atomic_write

KEPT = 2
TITLE = b'align_iqa_plugin training state, sha256 '
OLD_TITLE = b'align_iqa_plugin run state, sha256 '  # up to version 0.3.0


class UnusableState(ValueError):
    """A training state that is damaged, or of another version."""


def serialize(content: dict) -> memoryview:
    """Tensors, numbers and texts as the bytes that `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def save_training_state(folder: Path, iteration: int, state: dict) -> Path:
    """Write the state of an iteration, then remove all but the last two.

    Raises:
        OSError: it could not be written; those before it are still there.
    """
    path = folder / f'{iteration}.state'
    data = serialize(state)
    atomic_write(path, TITLE, _hash_line(data), data)
    for old in list_training_states(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def read_training_state(path: Path) -> dict:
    """The state in a file, its tensors on the CPU.

    Raises:
        UnusableState: the file is damaged, no training state, or one of version 0.3.0 or earlier.
    """
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise UnusableState(f'{path} cannot be read ({error.strerror}).') from error
    start = len(TITLE) + 65  # 64 digits and the end of the line
    if data[: len(OLD_TITLE)] == OLD_TITLE:
        raise UnusableState(f'{path} was written by version 0.3.0 or earlier: finish the training with that version.')
    if data[: len(TITLE)] != TITLE:
        raise UnusableState(f'{path} is no training state of align-iqa.')
    if data[len(TITLE) : start] != _hash_line(data[start:]):
        raise UnusableState(f'{path} is damaged: its content does not have the SHA-256 that it was written with.')
    try:
        return torch.load(io.BytesIO(data[start:]), map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:  # undamaged, hence of another version
        raise UnusableState(f'{path} cannot be read by this version ({" ".join(str(error).split())[:200]}).') from error


def _hash_line(data: memoryview) -> bytes:
    return hashlib.sha256(data).hexdigest().encode() + b'\n'


def latest_training_state(folder: Path) -> dict | None:
    """The newest usable state in a folder, or None if there is no state at all. An unusable one is named in the log.

    Raises:
        UnusableState: there are states, but none is usable.
    """
    problems = []
    for path in list_training_states(folder):
        try:
            state = read_training_state(path)
        except UnusableState as problem:
            get_root_logger().warning(f'{problem} The one before it is tried.')
            problems.append(str(problem))
        else:
            get_root_logger().info(f'The training goes on from {path}.')
            return state
    if problems:
        raise UnusableState(
            f'no training state in {folder} can be used: {" ".join(problems)} To start from the beginning, leave out --resume.'
        )
    return None


def list_training_states(folder: Path) -> list[Path]:
    """The files of training states in a folder, newest first."""
    states = [path for path in folder.glob('*.state') if path.stem.isdigit()]
    return sorted(states, key=lambda path: int(path.stem), reverse=True)
