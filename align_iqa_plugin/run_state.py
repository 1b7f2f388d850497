"""What a stopped training needs to go on, on disk: written whole or not at all, checked by its hash, the last two kept.

A file `experiments/NAME/training_states/ITERATION.state` is a line with the SHA-256 of the rest, then what `torch.save` made of
tensors, numbers and texts; it is read without running code.
"""

import hashlib
import io
import os
import pickle
from pathlib import Path

import torch
from pyiqa.utils import get_root_logger

KEPT = 2
TITLE = b'align_iqa_plugin run state, sha256 '
UNFINISHED = '.unfinished'


class DamagedState(ValueError):
    """A run state that is not as it was written."""


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file that holds all of `parts` or, whatever happens, is what it was before.

    Raises:
        OSError: it could not be written, for example because the disk is full; nothing is left over.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with unfinished.open('wb') as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(error.errno, f'{path} could not be written ({error.strerror or error})') from error


def saved(content: dict) -> memoryview:
    """What `torch.save` makes of tensors, numbers and texts."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def save_run_state(folder: Path, iteration: int, state: dict) -> Path:
    """Write the state of an iteration, then remove all but the last two.

    Raises:
        OSError: it could not be written; those before it are still there.
    """
    path = folder / f'{iteration}.state'
    data = saved(state)
    write_whole(path, TITLE, _hash_line(data), data)
    for old in run_states(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def read_run_state(path: Path) -> dict:
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


def latest_run_state(folder: Path) -> dict | None:
    """The newest state in a folder that is whole; None where there is none at all. A damaged one is named in the log.

    Raises:
        DamagedState: there are states, and all of them are damaged.
    """
    faults = []
    for path in run_states(folder):
        try:
            state = read_run_state(path)
        except DamagedState as fault:
            get_root_logger().warning(f'{fault} The one before it is used.')
            faults.append(str(fault))
        else:
            get_root_logger().info(f'The training goes on from {path}.')
            return state
    if faults:
        raise DamagedState(f'no run state in {folder} can be used: {" ".join(faults)} Start again without --resume.')
    return None


def run_states(folder: Path) -> list[Path]:
    """The files of run states in a folder, newest first."""
    states = [path for path in folder.glob('*.state') if path.stem.isdigit()]
    return sorted(states, key=lambda path: int(path.stem), reverse=True)


def _sync_folder(folder: Path) -> None:
    """A file's new name is on the disk only once its folder is; Windows has no such call and needs none."""
    if os.name == 'posix':
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
