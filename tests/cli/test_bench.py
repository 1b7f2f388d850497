import pytest
from typer.testing import CliRunner

from align_iqa_plugin.cli import app, bench


@pytest.mark.slow
def test_every_case_is_a_row_and_the_first_of_its_kind_has_ratio_one():
    result = CliRunner().invoke(app, ['bench', '--batch-size', '1', '--repeats', '1', '--device', 'cpu'])
    assert result.exit_code == 0, result.output
    rows = [line.strip() for line in result.output.splitlines()]
    rows = [row for row in rows if row.startswith((*bench.CASES, *bench.CASES.values()))]
    named = {row.split('  ')[0]: row for row in rows}
    order = [
        'backbone, forward',
        'align_iqa, forward',
        'with CGI, forward',
        'backbone, fine-tuning step',
        'with CGI, training step',
    ]
    assert list(named) == [*order, 'reading, from JPEGs', 'reading, image_cache']
    assert all(named[reference].count('1.00') >= 2 for reference in bench.CASES.values())
    trained = [named[case].split()[-2] for case in order]
    assert trained == ['0.00', '0.00', '0.26', '85.80', '0.26']


def test_a_device_that_cannot_be_used_is_refused_before_anything_is_measured():
    result = CliRunner().invoke(app, ['bench', '--device', 'warp'])
    assert result.exit_code == 2
    assert "the device 'warp' cannot be used" in result.stderr


@pytest.mark.slow
def test_a_case_that_fails_is_told_with_its_reason_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(bench, 'CASES', {'metric, no_such': 'metric, cnniqa', 'metric, wadiqam_nr': 'metric, cnniqa'})
    result = CliRunner().invoke(app, ['bench', '--batch-size', '1', '--repeats', '1', '--device', 'cpu'])
    assert result.exit_code == 1
    assert "metric, no_such failed: KeyError: 'no_such'" in result.stderr
    assert 'metric, wadiqam_nr' in result.stdout and '0.73 M' in result.stdout


@pytest.mark.parametrize('case', ['reading, image_cache', 'metric, cnniqa'])
def test_a_case_gives_megabytes(case):
    assert bench.peak_memory(case, 2, 'cpu')['megabytes'] > -1  # of reading a few images, it is noise around nothing


@pytest.mark.parametrize('case', ['reading, image_cache', 'metric, cnniqa'])
def test_a_case_gives_seconds(case):
    assert bench.time_by_turns([case], 2, 1, 'cpu')[case] > 0


def test_cases_are_timed_by_turns_after_a_first_run_of_each(monkeypatch):
    ran = []
    monkeypatch.setattr(bench, '_case', lambda case, *rest: (lambda: ran.append(case), {}))
    assert bench.time_by_turns(['a', 'b'], 8, 2, 'cpu').keys() == {'a', 'b'}
    assert ran == ['a', 'b'] * 3


def test_networks_with_random_weights_download_nothing_and_leave_pyiqa_as_it_was(monkeypatch):
    import urllib.request

    import timm
    import torch

    def refused(*arguments, **keywords):
        raise AssertionError('a download')

    monkeypatch.setattr(urllib.request, 'urlopen', refused)
    before = timm.create_model, torch.nn.Module.load_state_dict
    network = bench._random_network('hyperiqa')
    assert sum(parameter.numel() for parameter in network.parameters()) > 2e7
    assert (timm.create_model, torch.nn.Module.load_state_dict) == before
