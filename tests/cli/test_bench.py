"""`align-iqa bench`: a row for each case, and problems beside them."""

import pytest
from typer.testing import CliRunner

from align_iqa_plugin.cli import app
from align_iqa_plugin.evaluation import cost
from align_iqa_plugin.evaluation.cost import CaseError, Cost


def run(*arguments):
    return CliRunner().invoke(app, ['bench', *arguments])


@pytest.mark.slow
def test_every_case_is_a_row_and_the_first_of_its_kind_has_ratio_one():
    result = run('--batch-size', '1', '--repeats', '1', '--device', 'cpu')
    assert result.exit_code == 0, result.output
    rows = [line.strip() for line in result.output.splitlines()]
    rows = [row for row in rows if row.startswith((*cost.CASES, *cost.CASES.values()))]
    named = {row.split('  ')[0]: row for row in rows}
    order = [
        'backbone, forward',
        'align_iqa, forward',
        'align_iqa-fast, forward',
        'backbone, fine-tuning step',
        'align_iqa, training step',
        'align_iqa-fast, training step',
    ]
    assert list(named) == order
    assert all(named[reference].count('1.00') >= 2 for reference in cost.CASES.values())
    trained = [named[case].split()[-2] for case in order]
    assert trained == ['0.00', '3.35', '1.11', '85.80', '3.35', '1.11']


def test_a_device_that_cannot_be_used_fails_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(cost, 'measure', lambda *arguments, **keywords: pytest.fail('measured'))
    result = run('--device', 'warp')
    assert result.exit_code == 2
    assert "the device 'warp' cannot be used" in result.stderr


def test_a_case_that_fails_is_named_with_its_reason_and_the_others_are_rows(monkeypatch):
    given = {}

    def measure(cases, **options):
        given.update(options, cases=cases)
        yield Cost('metric, align_iqa', 0.2, 1, 700.0, 1, 85_800_000)
        yield CaseError('metric, hyperiqa failed: no connection')
        yield Cost('metric, cnniqa', 0.1, 0.5, 70.0, 0.1, 730_000)

    monkeypatch.setattr(cost, 'measure', measure)
    result = run('--metrics', '--batch-size', '2', '--repeats', '3', '--device', 'cpu')
    assert result.exit_code == 1
    assert result.stderr == 'align-iqa bench: metric, hyperiqa failed: no connection\n'
    assert [line.strip().split('  ')[0] for line in result.stdout.splitlines() if 'metric, ' in line] == [
        'metric, align_iqa',
        'metric, cnniqa',
    ]
    assert '0.73 M' in result.stdout and '0.50' in result.stdout
    assert given == {'cases': cost.METRIC_CASES, 'batch_size': 2, 'repeats': 3, 'device': 'cpu'}
