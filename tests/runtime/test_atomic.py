"""A file appears whole or not at all, with the user's mode, and nothing is left beside it."""

import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from align_iqa_plugin.runtime.atomic import atomic_file, atomic_write, part_of

posix = pytest.mark.skipif(os.name != 'posix', reason='modes and signals of POSIX')


def test_a_file_replaces_another_and_leaves_nothing_beside_it(tmp_path):
    for content in (b'one', b'two'):
        atomic_write(tmp_path / 'a', content)
        assert (tmp_path / 'a').read_bytes() == content
    assert os.listdir(tmp_path) == ['a']


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    atomic_write(tmp_path / 'a', b'old')
    with pytest.raises(OSError, match=f"'{tmp_path / 'a'}' cannot be written: No space left"):
        with atomic_file(tmp_path / 'a') as part:
            part.write_bytes(b'half')
            raise OSError(28, 'No space left on device')
    assert os.listdir(tmp_path) == ['a'] and (tmp_path / 'a').read_bytes() == b'old'


@posix
@pytest.mark.parametrize(('umask', 'mode'), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_has_the_users_mode_whatever_the_writer_gave_it(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_file(tmp_path / 'a') as part:
            part.unlink()
            part.touch(mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'a').stat().st_mode) == mode


def test_what_a_killed_process_left_is_removed_and_what_another_is_writing_is_not(tmp_path):
    old, abandoned, busy, other = (
        tmp_path / name for name in ('.a.1.part', '.a.1.0123abcd.part', '.a.2.0123abcd.part', '.b.1.0123abcd.part')
    )
    for path in (old, abandoned, busy, other):
        path.write_bytes(b'half')
    for path in (old, abandoned, other):
        os.utime(path, (time.time() - 7200,) * 2)
    atomic_write(tmp_path / 'a', b'whole')
    assert sorted(os.listdir(tmp_path)) == ['.a.2.0123abcd.part', '.b.1.0123abcd.part', 'a']


@posix
def test_a_process_that_is_told_to_stop_leaves_no_part(tmp_path):
    code = f"""
import time
from align_iqa_plugin.runtime.atomic import atomic_file
with atomic_file({str(tmp_path / 'a')!r}) as part:
    print(flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert len(os.listdir(tmp_path)) == 1
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == []


def test_signals_are_handled_as_before(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    atomic_write(tmp_path / 'a', b'')
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_home_that_no_user_has_is_a_name_like_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atomic_write('~nobody-of-this-name', b'')
    assert os.listdir() == ['~nobody-of-this-name']
    assert part_of(tmp_path / 'a').parent == tmp_path


@pytest.mark.parametrize('name', ['a' * 255, 'ü' * 127])
def test_a_file_of_the_longest_possible_name_is_written_and_its_abandoned_part_removed(tmp_path, name):
    part = part_of(tmp_path / name)
    part.touch()
    os.utime(part, (0, 0))
    atomic_write(tmp_path / name, b'whole')
    assert os.listdir(tmp_path) == [name]


def test_processes_of_one_number_do_not_share_a_part(tmp_path):
    assert part_of(tmp_path / 'a') != part_of(tmp_path / 'a')
