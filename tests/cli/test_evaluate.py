"""`align-iqa evaluate`: wrong commands end before any work. Its numbers are tested in test_correlation.py."""

import pytest
from PIL import Image
from typer.testing import CliRunner

from align_iqa_plugin.cli import app


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope='module')
def rated(tmp_path_factory):
    """A folder of ten images with data.csv."""
    folder = tmp_path_factory.mktemp('rated')
    for number in range(10):
        Image.new('RGB', (32, 32), (20 * number, 0, 0)).save(folder / f'{number}.png')
    rows = ['name,mos,prompt', *(f'{number}.png,{number},prompt {number}' for number in range(10))]
    (folder / 'data.csv').write_text('\n'.join(rows))
    return folder


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['--opt', 'none.yml'], 'none.yml'),
        (['--weights', 'none.pth'], 'none.pth'),
        (['--phase', 'tset'], "unknown phase 'tset'; did you mean 'test'?"),
        (['--output', 'nowhere/x.json'], "there is no folder 'nowhere'"),
        (['--device', 'warp'], "device 'warp'"),
        (['--split', 'nosuch'], 'nosuch'),
    ],
)
def test_a_wrong_command_fails_with_a_sentence(words, sentence, rated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run('evaluate', rated, *words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith('align-iqa evaluate: ') and sentence in result.stderr
    assert not list(tmp_path.iterdir())


def test_no_output_replaces_the_labels(rated):
    labels = rated / 'data.csv'
    before = labels.read_bytes()
    for data in (labels, rated):
        result = run('evaluate', data, '--output', labels)
        assert result.exit_code == 2 and 'would overwrite' in result.stderr
    assert labels.read_bytes() == before
