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


def test_the_output_is_checked_before_the_data_and_the_network_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr('align_iqa_plugin.models.options.read_options', lambda *arguments: {'name': 'x'})
    monkeypatch.setattr('align_iqa_plugin.models.options_check.check_options', lambda options: pytest.fail('it looked'))
    result = run('protocol', tmp_path / 'x.yml', '--output', tmp_path / 'nowhere' / 'x.json')
    assert result.exit_code == 2 and 'there is no folder' in result.stderr


def test_a_home_folder_in_the_name_of_the_output_is_the_same_for_all_of_the_command(tmp_path, monkeypatch):
    written = []
    for name in ('HOME', 'USERPROFILE'):
        monkeypatch.setenv(name, str(tmp_path))
    options = {'name': 'x', 'datasets': {'train': {}}}
    monkeypatch.setattr('align_iqa_plugin.models.options.read_options', lambda *arguments: options)
    monkeypatch.setattr('align_iqa_plugin.models.options_check.check_options', lambda options: None)
    monkeypatch.setattr('align_iqa_plugin.evaluation.protocol.run_protocol', lambda *_, output, **__: written.append(output))
    monkeypatch.setattr('align_iqa_plugin.evaluation.report.results_page', lambda files: str(files))
    result = run('protocol', tmp_path / 'x.yml', '--output', '~/x.json')
    assert result.exit_code == 0, result.output
    assert written == [tmp_path / 'x.json'] and result.stdout == str(written)


def test_a_full_disk_is_a_sentence_of_both_commands(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, 'No space left on device', 'x')

    options = {'name': 'x', 'datasets': {'train': {}}}
    monkeypatch.setattr('align_iqa_plugin.models.options.read_options', lambda *arguments: options)
    monkeypatch.setattr('align_iqa_plugin.models.options_check.check_options', lambda options: None)
    monkeypatch.setattr('align_iqa_plugin.evaluation.protocol.run_protocol', full)
    monkeypatch.setattr('align_iqa_plugin.evaluation.report.results_page', lambda files: 'a page')
    monkeypatch.setattr('os.replace', full)
    for words in (['protocol', 'x.yml', '--output', tmp_path / 'x'], ['results', 'x.json', '--output', tmp_path / 'x.md']):
        result = run(*words)
        assert result.exit_code == 1 and result.stderr.startswith(f'align-iqa {words[0]}: '), result.output
        assert result.stderr.endswith('No space left on device.\n')
