import errno
import logging
import os
import signal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align_iqa_plugin.models import training_state
from align_iqa_plugin.models.training_state import (
    UnusableState,
    latest_training_state,
    list_training_states,
    read_training_state,
    save_training_state,
)
from align_iqa_plugin.runtime.atomic import atomic_write

STATE = {'iteration': 7, 'weights': torch.arange(1000.0), 'best': {'set': {'srcc': {'val': 0.5}}}, 'none': None}


@pytest.fixture
def warnings(monkeypatch):
    logger, seen = logging.getLogger('test of training states'), []
    monkeypatch.setattr(training_state, 'get_root_logger', lambda: logger)
    monkeypatch.setattr(logger, 'warning', seen.append)
    return seen


def test_a_state_is_read_as_it_was_written(tmp_path):
    state = read_training_state(save_training_state(tmp_path, 7, STATE))
    assert torch.equal(state.pop('weights'), STATE['weights'])
    assert state == {key: value for key, value in STATE.items() if key != 'weights'}


def test_the_last_two_states_are_kept_by_number_not_by_name(tmp_path):
    for iteration in (8, 9, 10, 11):
        save_training_state(tmp_path, iteration, STATE)
    assert [path.name for path in list_training_states(tmp_path)] == ['11.state', '10.state']
    assert len(list(tmp_path.iterdir())) == 2


def test_without_any_state_there_is_none(tmp_path):
    assert latest_training_state(tmp_path) is None
    assert latest_training_state(tmp_path / 'nowhere') is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(data=st.data())
def test_every_cut_and_every_changed_byte_is_noticed(tmp_path, data):
    path = save_training_state(tmp_path, 7, STATE)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(UnusableState, match='7.state'):
        read_training_state(path)


def test_every_changed_byte_of_the_first_line_is_noticed(tmp_path):
    path = save_training_state(tmp_path, 7, STATE)
    content = path.read_bytes()
    for place in range(content.index(b'\n') + 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UnusableState, match='7.state'):
            read_training_state(path)


def test_a_torn_state_is_named_and_the_one_before_it_is_used(tmp_path, warnings):
    for iteration in (5, 6):
        save_training_state(tmp_path, iteration, STATE | {'iteration': iteration})
    torn = tmp_path / '6.state'
    torn.write_bytes(torn.read_bytes()[:-100])
    assert latest_training_state(tmp_path)['iteration'] == 5
    assert len(warnings) == 1
    assert str(torn) in warnings[0] and 'The one before it is tried' in warnings[0]


def test_where_all_states_are_damaged_nothing_is_started_in_silence(tmp_path, warnings):
    for iteration in (5, 6):
        save_training_state(tmp_path, iteration, STATE).write_bytes(b'')
    with pytest.raises(UnusableState, match=r'no training state in .*/6.state .*/5.state .* leave out --resume'):
        latest_training_state(tmp_path)


def test_a_state_of_version_0_3_is_named_with_the_ways_to_go_on(tmp_path, warnings):
    (tmp_path / '5.state').write_bytes(b'align_iqa_plugin run state, sha256 ' + b'0' * 64 + b'\nrest')
    with pytest.raises(UnusableState, match=r'version 0.3.0 or earlier: finish .* with that version.* leave out --resume'):
        latest_training_state(tmp_path)


def test_code_in_a_state_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'harm'),)

    path = save_training_state(tmp_path, 1, {'x': Harmful()})
    with pytest.raises(UnusableState, match='cannot be read'):
        read_training_state(path)
    assert not (tmp_path / 'harm').exists()


def test_a_full_disk_leaves_the_last_state_and_nothing_else(tmp_path, monkeypatch):
    save_training_state(tmp_path, 1, STATE)
    before = (tmp_path / '1.state').read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='2.state. cannot be written: No space left on device'):
        save_training_state(tmp_path, 2, STATE)
    assert [path.name for path in tmp_path.iterdir()] == ['1.state']
    assert (tmp_path / '1.state').read_bytes() == before


def test_a_file_that_cannot_grow_leaves_what_was_there(tmp_path):
    resource = pytest.importorskip('resource')
    path = tmp_path / 'net.pth'
    atomic_write(path, b'before')
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match='net.pth. cannot be written'):
            atomic_write(path, b'x' * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b'before'
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_it_gets_the_name(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda handle: (events.append('sync'), fsync(handle)))
    monkeypatch.setattr(os, 'replace', lambda path, target: (events.append('name'), replace(path, target)))
    atomic_write(tmp_path / 'file', b'content')
    assert events == ['sync', 'name', 'sync']
