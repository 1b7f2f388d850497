import os
from pathlib import Path

import pytest
from pyiqa.utils import get_root_logger

from align_iqa_plugin.models.run_folder import log_file


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='has no file that is always full')
def test_a_log_that_cannot_be_written_is_stated_once_and_does_not_end_the_training(capsys):
    handlers = get_root_logger().handlers[:]
    with log_file(Path('/dev/full')) as logger:
        for number in range(3):
            logger.info(f'iteration {number}')
    messages = capsys.readouterr().err
    assert messages.count("The log '/dev/full' lacks messages from here on: No space left on device.\n") == 1
    assert 'Traceback' not in messages
    assert logger.handlers == handlers


def test_an_error_of_another_kind_in_the_log_keeps_its_traceback(tmp_path, capsys):
    with log_file(tmp_path / 'log') as logger:
        logger.info('iteration %d', 'three', extra={'quiet': True})
    assert 'TypeError' in capsys.readouterr().err
