"""The help of every command shows what is written in the code."""

import re

import pytest
import typer
from typer.testing import CliRunner

from align_iqa_plugin.cli import app


def commands(command, words=()):
    """Each command and group with the words that call it."""
    yield words, command
    for name, inner in getattr(command, 'commands', {}).items():
        yield from commands(inner, (*words, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def plain(text):
    """Letters and signs alone: not where lines end, nor what is drawn around them. A bracket that is escaped is one."""
    return re.sub(r'[\s\u2500-\u257f]', '', text.replace('\\[', '['))


@pytest.mark.parametrize('words', COMMANDS, ids=' '.join)
def test_no_word_of_the_help_is_lost(words):
    command = COMMANDS[words]
    result = CliRunner().invoke(app, [*words, '--help'], env={'COLUMNS': '200', 'TERMINAL_WIDTH': '200'})
    assert result.exit_code == 0
    shown = plain(result.output)
    for text in [command.help, *(each.help for each in command.params if getattr(each, 'help', None))]:
        for sentence in re.split(r'\n\n|(?<=\.)\s', text or ''):
            assert plain(sentence) in shown, sentence
