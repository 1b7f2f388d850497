"""The pages keep to what the package has: links, commands, options, option files, versions."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from align_iqa_plugin.cli import app
from align_iqa_plugin.models.options import read_options

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]


def code_lines(page: Path) -> list[str]:
    """The lines inside the code blocks of a page."""
    lines, inside = [], False
    for line in page.read_text(encoding='utf-8').splitlines():
        if line.lstrip().startswith('```'):
            inside = not inside
        elif inside:
            lines.append(line.strip())
    return lines


def commands() -> list[tuple[str, str]]:
    return [(page.name, line) for page in PAGES for line in code_lines(page) if line.startswith('align-iqa ')]


def test_the_readme_is_one_page_of_short_lines():
    lines = (ROOT / 'README.md').read_text(encoding='utf-8').splitlines()
    assert len(lines) <= 130
    too_long = [line for line in lines if len(line) > 120 and not line.startswith('python3 -m venv')]
    assert not too_long


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page):
    links = re.findall(r'\]\((?!https?://)([^)#\s]+)[^)]*\)', page.read_text(encoding='utf-8'))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize(('page', 'line'), commands(), ids=str)
def test_every_command_has_the_options_that_a_page_gives_it(page, line):
    words = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    while hasattr(command, 'commands'):
        name = words.pop(0)
        assert name in command.commands, f'{page}: align-iqa has no command {name}'
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if re.match(r'--?[a-z]', word) and word not in known]
    assert not unknown
    files = [word for word in words if word.startswith('options/')]
    assert all((ROOT / file).is_file() for file in files)


def test_the_example_of_a_whole_option_file_is_one(tmp_path):
    page = (ROOT / 'docs' / 'data.md').read_text(encoding='utf-8')
    example = re.search(r'```yaml\n(.+?)```', page, re.DOTALL)[1]
    (tmp_path / 'mine.yml').write_text(example, encoding='utf-8')
    options = read_options(tmp_path / 'mine.yml', ())
    assert options['datasets']['val']['score_column'] == 'quality'


def test_the_citation_is_of_the_newest_version_in_the_changelog():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    changelog = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    assert citation['cff-version'] == '1.2.0'
    assert citation['version'] == re.search(r'^## (\d\S+)', changelog, re.MULTILINE)[1]
