"""What a stopped training needs to go on, on disk: written whole or not at all, checked by its hash, the last two kept.

A file `experiments/NAME/training_states/ITERATION.state` is a line with the SHA-256 of the rest, then what `torch.save` made of
tensors, numbers and texts; it is read without running code.
"""

import hashlib
import io
import pickle
from pathlib import Path

import torch
from pyiqa.utils import get_root_logger

from align_iqa_plugin.runtime.atomic import atomic_write

KEPT = 2
TITLE = b'align_iqa_plugin run state, sha256 '


class DamagedState(ValueError):
    """A run state that is not as it was written."""


def serialize(content: dict) -> memoryview:
    """What `torch.save` makes of tensors, numbers and texts."""
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
        DamagedState: the file is not whole, or not a run state.
    """
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise DamagedState(f'{path} cannot be read ({error.strerror}).') from error
    start = len(TITLE) + 65  # 64 digits and the end of the line
    if data[: len(TITLE)] != TITLE:
        raise DamagedState(f'{path} is no run state of align-iqa.')
    if data[len(TITLE) : start] != _hash_line(data[start:]):
        raise DamagedState(f'{path} is damaged: its content does not have the SHA-256 that it was written with.')
    try:
        return torch.load(io.BytesIO(data[start:]), map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:  # whole, hence of another version
        raise DamagedState(f'{path} cannot be read by this version ({" ".join(str(error).split())[:200]}).') from error


def _hash_line(data: memoryview) -> bytes:
    return hashlib.sha256(data).hexdigest().encode() + b'\n'


def latest_training_state(folder: Path) -> dict | None:
    """The newest state in a folder that is whole; None where there is none at all. A damaged one is named in the log.

    Raises:
        DamagedState: there are states, and all of them are damaged.
    """
    problems = []
    for path in list_training_states(folder):
        try:
            state = read_training_state(path)
        except DamagedState as problem:
            get_root_logger().warning(f'{problem} The one before it is used.')
            problems.append(str(problem))
        else:
            get_root_logger().info(f'The training goes on from {path}.')
            return state
    if problems:
        raise DamagedState(f'no run state in {folder} can be used: {" ".join(problems)} Start again without --resume.')
    return None


def list_training_states(folder: Path) -> list[Path]:
    """The files of run states in a folder, newest first."""
    states = [path for path in folder.glob('*.state') if path.stem.isdigit()]
    return sorted(states, key=lambda path: int(path.stem), reverse=True)
