import logging

import pytest

from align_iqa_plugin.runtime.quiet import without_line


def test_lines_that_begin_so_are_left_out_inside_and_no_others(caplog):
    logger = logging.getLogger('of.another.package')
    with pytest.raises(RuntimeError), without_line('of.another.package', 'Skipping op Split'):
        logger.warning('Skipping op %s.', 'Split')
        logger.warning('Skipping op %s.', 'Add')
        raise RuntimeError
    logger.warning('Skipping op %s.', 'Split')
    assert caplog.messages == ['Skipping op Add.', 'Skipping op Split.']
