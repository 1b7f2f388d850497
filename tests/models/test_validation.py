import math

import pytest
import torch

from align_iqa_plugin.models.validation import Selection, validation_metrics

METRICS = {'srcc': {'type': 'calculate_srcc'}, 'rmse': {'type': 'calculate_rmse', 'better': 'lower'}}


def table(*correlated):
    """Scores in the order of the MOS (1), in the reverse order (-1), or constant (0: no SRCC), a column each."""
    mos = torch.arange(5.0)[:, None]
    columns = [mos * sign for sign in correlated]
    return torch.cat([*columns, *[mos] * len(columns), *[torch.ones(5, 1)] * len(columns)], 1)


def add(selection, name, iteration, *correlated):
    return selection.add(name, iteration, validation_metrics(table(*correlated), [], METRICS))


@pytest.mark.filterwarnings('ignore:An input array is constant')
def test_the_best_network_is_the_first_with_the_best_value_and_nan_is_never_best():
    selection, seen = Selection(['set'], {'metrics': METRICS}), []
    for iteration, sign in enumerate((0, -1, 0, 1, 0.5, -1, 0), 1):
        is_best = add(selection, 'set', iteration, sign)
        seen.append((is_best, selection.best_iteration, selection.validations_without_improvement))
    assert seen == [(False, -1, 1), (True, 2, 0), (False, 2, 1), (True, 4, 0), (False, 4, 1), (False, 4, 2), (False, 4, 3)]
    assert selection.best['set']['srcc'] == {'val': pytest.approx(1), 'iter': 4, 'better': 'higher'}


def test_lower_can_be_better():
    selection = Selection(['set'], {'metrics': METRICS, 'key_metric': 'rmse'})
    assert [add(selection, 'set', i, factor) for i, factor in enumerate((0.5, 1.0, 0.9), 1)] == [True, True, False]


@pytest.mark.parametrize('first', ['one', 'other'])
def test_one_set_selects_and_the_results_of_all_are_those_of_that_network(first):
    selection = Selection(['one', 'other'], {'metrics': METRICS, 'select_on': 'other'})
    names = sorted(('one', 'other'), key=lambda name: name != first)
    for iteration, signs in enumerate(({'other': -1, 'one': 1}, {'other': 1, 'one': -1}, {'other': 0.5, 'one': 1}), 1):
        for name in names:
            add(selection, name, iteration, signs[name])
    results = {name: (found['srcc']['val'], found['srcc']['iter']) for name, found in selection.best.items()}
    assert results == {'other': (pytest.approx(1), 2), 'one': (pytest.approx(-1), 2)}


@pytest.mark.parametrize(('key', 'value'), [('select_on', 'third'), ('key_metric', 'plcc')])
def test_an_unknown_choice_is_an_error(key, value):
    with pytest.raises(ValueError, match=f'val.{key}: unknown .*{value}.*choose from'):
        Selection(['one'], {'metrics': METRICS, key: value})


def test_further_scores_have_metrics_of_their_own_on_the_images_that_have_them():
    data = table(-1, 1)
    data[3:, 5] = 0  # two images lack the second score
    data[3:, 3] = math.nan
    results = validation_metrics(data, ['mos_align'], METRICS)
    assert results.keys() == {'srcc', 'rmse', 'mos_align srcc', 'mos_align rmse'}
    assert results['srcc'] == pytest.approx(-1)
    assert results['mos_align srcc'] == pytest.approx(1)


def test_a_metric_of_fewer_than_two_images_is_nan():
    data = table(1)
    data[1:, 2] = 0
    assert all(math.isnan(value) for value in validation_metrics(data, [], METRICS).values())


def test_a_selection_goes_on_from_its_state():
    one, other = (Selection(['set'], {'metrics': METRICS}) for _ in range(2))
    add(one, 'set', 1, 1)
    add(one, 'set', 2, -1)
    other.load_state_dict(one.state_dict())
    assert not add(other, 'set', 3, 1)
    assert (other.best_iteration, other.validations_without_improvement) == (1, 2)
