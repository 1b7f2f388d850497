"""`align-iqa evaluate`: wrong commands end before any work. Its numbers are tested in test_correlation.py."""

import pytest
from typer.testing import CliRunner

from align_iqa_plugin.cli import app


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['--opt', 'none.yml'], 'none.yml'),
        (['--weights', 'none.pth'], 'none.pth'),
        (['--phase', 'tset'], "unknown phase 'tset'; did you mean 'test'?"),
        (['--output', 'nowhere/x.json'], "there is no folder 'nowhere'"),
        (['--device', 'warp'], "device 'warp'"),
        (['--split', '11'], 'split'),
    ],
)
def test_a_wrong_command_fails_with_a_sentence(words, sentence, tiny_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run('evaluate', tiny_images, *words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith('align-iqa evaluate: ') and sentence in result.stderr
    assert not list(tmp_path.iterdir())


def test_no_output_replaces_the_labels(tiny_images):
    labels = tiny_images / 'data.csv'
    before = labels.read_bytes()
    for data in (labels, tiny_images):
        result = run('evaluate', data, '--output', labels)
        assert result.exit_code == 2 and 'would overwrite' in result.stderr
    assert labels.read_bytes() == before
