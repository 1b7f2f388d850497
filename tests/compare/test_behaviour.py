"""The behaviour of metrics: which pictures are scored for it, and exact numbers for metrics whose scores are known."""

import json
import math
import warnings

import numpy as np
import pandas
import pytest

from align_iqa_plugin.compare.behaviour import behaviour_images, summarise_behaviour
from align_iqa_plugin.compare.store import LabelledImage
from align_iqa_plugin.data.degradations import BLANKS, CHANGES, LEVELS

VALUES = {'a.png': 10.0, 'b.png': 20.0, 'c.png': 30.0, 'd.png': 40.0}
SPREAD = float(np.std(list(VALUES.values()), ddof=1))


def summarise(copies, resamples=200, real=None):
    """Of the one data set, without any warning, and as what it becomes in a file; its images are those of the sample."""
    scores = copies[copies['copy'] == 'original'] if real is None else real
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        result = summarise_behaviour(copies, scores, seed=0, resamples=resamples)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    return result


def toy(image, copy, level):
    """Falls by 2 a level, but for ties, a rise and a fall of some images only; moves by known amounts under changes."""
    value, place = VALUES.get(image, 25.0), list(VALUES).index(image) if image else 0
    of_kind = {
        'blur': value - 2 * level,
        'jpeg': value - 2 * min(level, 3),  # the last two are equal
        'noise': value + level,
        'resize': value - 2 * level if place < 3 else value,
        'contrast': value - (level if place % 2 else -level),
    }
    of_change = {'flip': value + 1, 'crop 1': value + (-1) ** place, 'crop 8': value - place}
    return of_kind.get(copy, of_change.get(copy, {'black': 5.0, 'white': 20.0, 'uniform noise': 99.0}.get(copy, value)))


# What is scored


def images(count):
    return [LabelledImage(f'{n}.png', f'/{n}.png', f'sha{n}', prompt=f'prompt {n}', mos=1.0) for n in range(count)]


def test_the_sample_is_scored_with_all_copies_and_its_prompts_and_every_empty_picture_once():
    made = behaviour_images(images(50), 10, seed=1)
    assert len(made) == 10 * (1 + 4 * len(LEVELS) + len(CHANGES)) + len(BLANKS)
    sample = {each.image for each in made if each.copy == 'original'}
    assert len(sample) == 10
    for each in made:
        assert each.prompt == (f'prompt {each.image[:-4]}' if each.image else made[0].prompt)
        assert math.isnan(each.mos) and each.other_prompt == ''
    assert {(each.sha256, each.path) for each in made if each.copy == 'original'} == {
        (f'sha{name[:-4]}', f'/{name}') for name in sample
    }


def test_the_sample_depends_on_the_seed_and_a_larger_one_holds_the_smaller_one():
    def sample(count, seed, labelled):
        return [each.image for each in behaviour_images(labelled, count, seed=seed) if each.copy == 'original']

    few, many = sample(5, 1, images(50)), sample(20, 1, images(50)[::-1])
    assert many[:5] == few, 'the order of the labels makes no difference'
    assert sample(5, 2, images(50)) != few
    assert sorted(sample(99, 1, images(7))) == [f'{n}.png' for n in range(7)], 'fewer if there are fewer'


def test_missing_images_are_not_drawn_equal_ones_once_and_none_gives_nothing():
    missing = LabelledImage('gone.png', '/gone.png', '', problem='there is no such file.')
    again = LabelledImage('again.png', '/again.png', 'sha0', prompt='another')
    made = behaviour_images([*images(2), again, missing], 9, seed=1)
    assert {each.image for each in made} == {'0.png', '1.png', ''}
    assert behaviour_images([missing], 9, seed=1) == behaviour_images(images(3), 0, seed=1) == []


# What is said of it


def test_shares_are_exact_and_ties_and_rises_are_not_monotone(copy_table):
    numbers = summarise(copy_table(VALUES, toy))['metrics']['toy']
    shares = {kind: share['value'] for kind, share in numbers['monotone'].items()}
    assert shares == {'all': 0.45, 'blur': 1.0, 'jpeg': 0.0, 'noise': 0.0, 'resize': 0.75, 'contrast': 0.5}
    assert {kind: share['n'] for kind, share in numbers['monotone'].items()} == {'all': 20} | dict.fromkeys(LEVELS, 4)
    assert all(share['failed'] == 0 for share in numbers['monotone'].values())


def test_intervals_resample_the_images(copy_table):
    monotone = summarise(copy_table(VALUES, toy), resamples=2000)['metrics']['toy']['monotone']
    assert (monotone['blur']['low'], monotone['blur']['high']) == (1, 1)
    # of 4 draws among images of which half fall, none or all do in 1 of 16 samples
    assert (monotone['contrast']['low'], monotone['contrast']['high']) == (0, 1)
    # an image has 1, 2 or 3 of 5 monotone sequences: never none, never all
    assert 0.2 < monotone['all']['low'] < 0.45 < monotone['all']['high'] <= 0.6


def test_a_metric_for_which_lower_is_better_is_turned_over_in_every_number(copy_table):
    one = summarise(copy_table(VALUES, toy))
    other = summarise(copy_table(VALUES, lambda *copy: -toy(*copy), lower_better=True))
    assert other['metrics']['toy'].pop('lower_better') and not one['metrics']['toy'].pop('lower_better')
    assert other == one


def test_changes_are_in_standard_deviations_and_in_units_of_the_metric(copy_table):
    numbers = summarise(copy_table(VALUES, toy))['metrics']['toy']
    assert numbers['spread'] == pytest.approx(SPREAD)
    expected = {'flip': (1, 1), 'crop 1': (0, 1), 'crop 8': (-1.5, 1.5), 'PNG': (0, 0)}
    for change, (mean, absolute) in expected.items():
        cell = numbers['changes'][change]
        assert (cell['raw_mean'], cell['raw_absolute'], cell['n'], cell['failed']) == (mean, absolute, 4, 0)
        assert (cell['mean'], cell['absolute']) == pytest.approx((mean / SPREAD, absolute / SPREAD))


def test_lines_are_mean_scores_in_standard_deviations_of_the_sample(copy_table):
    levels = summarise(copy_table(VALUES, toy))['metrics']['toy']['levels']
    assert levels['blur'] == pytest.approx([-2 * level / SPREAD for level in range(5)])
    assert levels['contrast'] == pytest.approx([0] * 5)


def test_empty_pictures_stand_among_all_images_of_the_data_set(copy_table):
    real = pandas.DataFrame({'metric': 'toy', 'score': [4.0, 10.0, 20.0, 30.0, np.nan], 'reason': ['', '', '', '', 'broke']})
    numbers = summarise(copy_table(VALUES, toy), real=real)['metrics']['toy']
    assert numbers['percentiles'] == {'black': 0.25, 'white': 0.5, 'uniform noise': 1.0}


def test_a_metric_that_ignores_everything_has_share_0_and_no_numbers_in_standard_deviations(copy_table):
    numbers = summarise(copy_table(VALUES, lambda *copy: 3.0))['metrics']['toy']
    assert {share['value'] for share in numbers['monotone'].values()} == {0.0}
    assert numbers['spread'] is None and numbers['levels']['blur'] == [None] * 5
    assert numbers['changes']['flip'] == {'mean': None, 'absolute': None, 'raw_mean': 0, 'raw_absolute': 0, 'n': 4, 'failed': 0}
    assert set(numbers['percentiles'].values()) == {0.0}


def test_a_failed_copy_makes_its_sequence_a_failed_one_and_is_named(copy_table):
    def broken(image, copy, level):
        return math.nan if (image, copy, level) in (('b.png', 'blur', 2), ('c.png', 'flip', 0)) else toy(image, copy, level)

    result = summarise(copy_table(VALUES, broken))
    numbers = result['metrics']['toy']
    assert (numbers['monotone']['blur']['value'], numbers['monotone']['blur']['n']) == (0.75, 4)
    assert [numbers['monotone'][kind]['failed'] for kind in ('all', 'blur', 'jpeg')] == [1, 1, 0]
    assert (numbers['changes']['flip']['n'], numbers['changes']['flip']['failed']) == (3, 1)
    assert numbers['changes']['flip']['raw_mean'] == 1
    assert result['failures'] == [{'metric': 'toy', 'reason': 'broke', 'count': 2, 'example': 'b.png, blur 2'}]
    # the line is that of whole sequences, so that its levels are of the same images
    whole = np.mean([VALUES[name] for name in ('a.png', 'c.png', 'd.png')])
    assert numbers['levels']['blur'][1] == pytest.approx((whole - 2 - 25) / SPREAD)


def test_an_image_without_a_score_fails_in_every_kind(copy_table):
    def broken(image, copy, level):
        return math.nan if (image, copy) == ('b.png', 'original') else toy(image, copy, level)

    numbers = summarise(copy_table(VALUES, broken))['metrics']['toy']
    assert {kind: share['failed'] for kind, share in numbers['monotone'].items()} == {'all': 5} | dict.fromkeys(LEVELS, 1)
    assert numbers['changes']['PNG']['failed'] == 1


def test_where_nothing_has_a_score_every_number_is_undefined_and_every_sequence_failed(copy_table):
    result = summarise(copy_table(VALUES, lambda *copy: math.nan))
    numbers = result['metrics']['toy']
    assert (numbers['monotone']['all']['value'], numbers['monotone']['all']['failed']) == (0.0, 20)
    assert numbers['levels']['jpeg'] == [None] * 5
    assert numbers['changes']['gray']['raw_mean'] is None
    assert set(numbers['percentiles'].values()) == {None}
    assert sum(row['count'] for row in result['failures']) == 4 * 30 + 3


def test_metrics_and_a_single_image_are_apart(copy_table):
    copies = [copy_table({'a.png': 1.0}, toy, metric=metric) for metric in ('one', 'two')]
    result = summarise(pandas.concat(copies, ignore_index=True))
    assert result['n'] == 1 and list(result['metrics']) == ['one', 'two']
    assert result['metrics']['one']['monotone']['blur']['value'] == 1
    assert result['metrics']['one']['spread'] is None
