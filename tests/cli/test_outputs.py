"""Outputs are checked before any work, and what is printed fits any terminal."""

import os
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from align_iqa_plugin.cli.outputs import OutputError, check_output, show_any_character, try_to_write


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problem(path, **options):
    before = sorted(os.listdir())
    with pytest.raises(OutputError) as caught:
        check_output('--output', path, **options)
    assert sorted(os.listdir()) == before
    assert str(caught.value).startswith('--output ') and '\n' not in str(caught.value)
    return str(caught.value)


def test_what_can_be_written_is_fine_and_leaves_nothing_behind():
    Path('old.csv').write_text('old')
    for path in (None, 'new.csv', 'old.csv', 'OLD.CSV', Path('old.csv').absolute()):
        check_output('--output', path, endings=('.csv',), inputs=['other.csv', None, 's3://bucket/new.csv'])
    Path('there').mkdir()
    for path in ('there', 'new'):
        check_output('--output', path, folder=True)
    assert sorted(os.listdir()) == ['old.csv', 'there'] and Path('old.csv').read_text() == 'old'


def test_an_input_is_not_overwritten_whatever_it_is_called():
    Path('in.csv').write_text('mine')
    Path('sub').mkdir()
    same = ['in.csv', './in.csv', 'sub/../in.csv', str(Path('in.csv').absolute())]
    try:
        os.symlink('in.csv', 'link.csv'), os.link('in.csv', 'hard.csv')
        same += ['link.csv', 'hard.csv']
    except OSError:  # not everywhere
        pass
    for name in same:
        assert 'would overwrite' in problem(name, inputs=['other.csv', 'in.csv'])
        assert 'would overwrite' in problem('in.csv', inputs=[Path(name)])


@pytest.mark.parametrize(
    ('path', 'options', 'reason'),
    [
        ('out.xlsx', {'endings': ('.csv', '.json')}, 'must end in .csv or .json.'),
        ('folder', {}, 'is a folder.'),
        ('file', {'folder': True}, 'is not a folder.'),
        ('missing/out.csv', {}, "there is no folder 'missing'"),
        ('missing/out', {'folder': True}, "there is no folder 'missing'"),
        ('x' * 300 + '.csv', {}, 'cannot be written: '),
    ],
)
def test_what_cannot_be_written_is_one_sentence(path, options, reason):
    Path('folder').mkdir()
    Path('file').write_text('')
    assert reason in problem(path, **options)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs named pipes')
def test_a_special_file_is_not_replaced():
    os.mkfifo('pipe')
    assert 'is not a regular file' in problem('pipe')


@pytest.mark.skipif(os.name == 'nt' or os.geteuid() == 0, reason='needs a user whom permissions bind')
def test_a_folder_without_write_permission_is_one_sentence():
    Path('locked').mkdir(mode=0o555)
    assert 'cannot be written: Permission denied.' in problem('locked/out.csv')


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='needs a folder in which even root cannot write')
def test_a_folder_in_which_nothing_can_be_written_is_one_sentence():
    assert 'cannot be written: ' in problem('/proc/self/out.csv')


def test_a_failed_write_is_a_sentence(capsys):
    def full():
        raise OSError(28, "'out.csv' cannot be written: No space left on device")

    assert try_to_write(lambda: '2 rows written.') and not try_to_write(full)
    assert capsys.readouterr().err == "2 rows written.\n'out.csv' cannot be written: No space left on device.\n"


@pytest.mark.parametrize('encoding', ['cp1252', 'ascii'])
def test_a_terminal_that_lacks_a_character_gets_its_code(monkeypatch, encoding):
    for name in ('stdout', 'stderr'):
        monkeypatch.setattr(sys, name, TextIOWrapper(BytesIO(), encoding))
    show_any_character()
    print('猫', flush=True)
    print('猫', file=sys.stderr, flush=True)
    assert sys.stdout.buffer.getvalue() == sys.stderr.buffer.getvalue() == b'\\u732b' + os.linesep.encode()
