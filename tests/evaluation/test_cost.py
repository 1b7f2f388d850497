"""Time and memory of a case, in this process and in processes of their own."""

import urllib.request

import pytest

from align_iqa_plugin.evaluation import cost
from align_iqa_plugin.evaluation.cost import Case, CaseError, measure, metric_network, peak_memory, time_in_turns


def test_a_case_gives_megabytes_and_seconds():
    figures = peak_memory('metric, cnniqa', 1, 'cpu')
    assert figures['megabytes'] > 4 * figures['parameters'] / 1e6 > 2  # the weights in single precision, and more
    assert time_in_turns(['metric, cnniqa'], 1, 1, 'cpu')['metric, cnniqa'] > 0


def test_cases_are_timed_in_turns_after_a_first_run_of_each(monkeypatch):
    ran = []
    monkeypatch.setattr(cost, 'build_case', lambda name, *rest: Case(lambda: ran.append(name), 0.0, 0))
    assert time_in_turns(['a', 'b'], 8, 2, 'cpu').keys() == {'a', 'b'}
    assert ran == ['a', 'b'] * 3


@pytest.mark.parametrize('name', ['topiq_nr', 'cnniqa', 'musiq', 'wadiqam_nr'])
def test_networks_that_need_no_weights_download_nothing(monkeypatch, name):
    def download(*arguments, **keywords):
        raise AssertionError('a download')

    monkeypatch.setattr(urllib.request, 'urlopen', download)
    assert sum(parameter.numel() for parameter in metric_network(name).parameters()) > 7e5


@pytest.mark.slow
def test_a_case_that_fails_gives_its_reason_and_the_others_go_on():
    cases = {'metric, no_such': 'metric, cnniqa', 'metric, wadiqam_nr': 'metric, cnniqa'}
    error, reference, case = measure(cases, batch_size=1, repeats=1, device='cpu')
    assert isinstance(error, CaseError) and "metric, no_such failed: KeyError: 'no_such'" in str(error)
    assert (reference.case, reference.time_ratio, reference.memory_ratio) == ('metric, cnniqa', 1, 1)
    assert case.case == 'metric, wadiqam_nr' and case.time_ratio == case.seconds / reference.seconds
