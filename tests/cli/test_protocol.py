"""`align-iqa protocol` and `align-iqa results`: what ends before any work. The folds are tested in tests/evaluation."""

import json

import pytest
from typer.testing import CliRunner

from align_iqa_plugin.cli import app


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_output_is_checked_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('align_iqa_plugin.models.options.read_options', lambda *arguments: {'name': 'x'})
    monkeypatch.setattr('align_iqa_plugin.models.options_check.check_options', lambda options: None)
    monkeypatch.setattr('align_iqa_plugin.evaluation.protocol.run_protocol', lambda *_, **__: pytest.fail('it ran'))
    option = tmp_path / 'x.yml'
    option.write_text('name: x\n')
    for output, sentence in (('nowhere/x.json', 'there is no folder'), (option, 'would overwrite')):
        result = run('protocol', option, '--output', output)
        assert result.exit_code == 2 and sentence in result.stderr, result.output
    assert option.read_text() == 'name: x\n'


def test_the_page_of_results_does_not_replace_the_results(tmp_path):
    results = tmp_path / 'results.json'
    results.write_text(json.dumps({'name': 'x', 'split': 'prompt', 'options': {}, 'folds': {}}))
    before = results.read_bytes()
    result = run('results', results, '--output', results)
    assert result.exit_code == 2 and 'would overwrite' in result.stderr
    assert results.read_bytes() == before
