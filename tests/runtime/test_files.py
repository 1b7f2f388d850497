"""Files within limits: what is no file, or too large, is an error and not read."""

import hashlib
import os
from pathlib import Path

import pytest

from align_iqa_plugin.runtime.files import expand_home, file_digest, read_bytes

POSIX = pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='has no pipes in folders')


def test_a_file_is_read_up_to_the_limit(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'12345')
    assert read_bytes(path, most=5) == b'12345'
    with pytest.raises(OSError, match='more than 4 bytes'):
        read_bytes(path, most=4)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / 'none', most=4)


@POSIX
@pytest.mark.parametrize('name', ['pipe', '/dev/zero'])
@pytest.mark.parametrize('read', [lambda path: read_bytes(path, most=10), file_digest], ids=['read_bytes', 'file_digest'])
def test_a_pipe_or_a_device_is_no_file(tmp_path, name, read):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(OSError, match='pipe or a device'):
        read(tmp_path / name)


def test_a_hash_is_that_of_the_whole_file(tmp_path):
    content = os.urandom(2**20 + 5)
    (tmp_path / 'file').write_bytes(content)
    assert file_digest(tmp_path / 'file') == hashlib.sha256(content).hexdigest()


def test_a_home_folder_is_found_and_one_of_nobody_stays_as_it_is_written():
    assert expand_home('~/pictures') == Path.home() / 'pictures'
    assert expand_home('~nobody of this name/a.pth') == Path('~nobody of this name/a.pth')
