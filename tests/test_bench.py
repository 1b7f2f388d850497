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


def test_reading_takes_a_batch_from_the_samples_faster_with_the_cache():
    seconds = {case: bench.measure(case, 8, 3, 'cpu')['seconds'] for case in bench.CASES if case.startswith('reading')}
    assert seconds['reading, image_cache'] < seconds['reading, from JPEGs']
