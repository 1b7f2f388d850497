"""What is said of an error stays on its line, and controls no terminal."""

import pytest

from align_iqa_plugin.runtime.errors import message_of, printable


@pytest.mark.parametrize('text', ['a\nb', 'a\r\x1b[2Kb', 'a\x07', 'a\u202eb', 'a\u2028b', 'a\udcff'])
def test_codes_and_line_breaks_are_replaced(text):
    assert printable(text).isprintable() and printable(text)[0] == 'a'


def test_an_error_of_the_system_names_its_file_and_no_number():
    assert message_of(PermissionError(13, 'Permission denied', 'x')) == "'x': Permission denied."
    assert message_of(OSError(28, "'x' cannot be written: No space left")) == "'x' cannot be written: No space left."
    assert message_of(FileNotFoundError('data: there is no file x.')) == 'data: there is no file x.'


def test_later_lines_are_indented_so_that_none_looks_like_a_message_of_its_own():
    assert message_of("'x\nalign-iqa: sound' is gone.") == "'x\n  align-iqa: sound' is gone."
    assert message_of(ValueError('2 problems\n  row 2: a\n  row 3: b')) == '2 problems\n  row 2: a\n  row 3: b'
