"""Locks: one process at a time, and none that a dead process leaves behind."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from align_iqa_plugin.runtime import lock as module
from align_iqa_plugin.runtime.lock import InUse, lock

ROOT = Path(module.__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from align_iqa_plugin.runtime.lock import lock

with lock(Path(sys.argv[1]), 'is taken'):
    print('inside', flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(path):
    """Another process that has the lock."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    process = subprocess.Popen([sys.executable, '-c', HOLDER, str(path)], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout.readline() == 'inside\n'
        yield process
    finally:
        process.kill()
        process.communicate()


def test_another_process_is_kept_out_until_the_one_inside_ends_even_if_it_is_killed(tmp_path):
    path = tmp_path / 'folder' / 'lock'
    with holder(path) as process:
        with pytest.raises(InUse, match='is taken by a friend'), lock(path, 'is taken by a friend'):
            pass
        process.kill()
        with lock(path, 'is taken', seconds=-1):
            pass


def test_a_process_may_enter_its_own_lock_again_and_has_it_until_the_outer_block_ends(tmp_path):
    path = tmp_path / 'lock'
    with lock(path, 'is taken'):
        with lock(path, 'is taken'):
            pass
        code = HOLDER.replace('time.sleep(60)', '')
        environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
        done = subprocess.run([sys.executable, '-c', code, path], capture_output=True, text=True, env=environment)
        assert done.returncode == 1 and 'InUse: is taken' in done.stderr


def test_a_lock_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='file/lock. cannot be made'), lock(tmp_path / 'file' / 'lock', 'is taken'):
        pass
