import pytest
from typer.testing import CliRunner

from align_iqa_plugin.cli import app, bench


@pytest.mark.slow
def test_every_case_is_a_row_and_the_first_of_its_kind_has_ratio_one():
    result = CliRunner().invoke(app, ['bench', '--batch-size', '1', '--repeats', '1', '--device', 'cpu'])
    assert result.exit_code == 0, result.output
    rows = [line.strip() for line in result.output.splitlines() if line.strip().startswith(bench.CASES)]
    assert len(rows) == len(bench.CASES)
    assert [row.count('1.00') >= 2 for row in rows] == [True, False, True, False, True, False]
    assert '0.00 M' in rows[0]


def test_a_case_that_fails_ends_the_command_with_its_reason():
    result = CliRunner().invoke(app, ['bench', '--device', 'warp'])
    assert result.exit_code == 1
    assert 'backbone, forward failed' in result.output


@pytest.mark.parametrize('case', ['reading, image_cache', 'metric, cnniqa'])
def test_a_case_gives_seconds_and_megabytes(case):
    figures = bench.measure(case, 2, 1, 'cpu')
    assert figures['seconds'] > 0
    assert figures['megabytes'] > -1  # of reading a few images, it is noise around nothing


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
