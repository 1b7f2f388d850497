"""What is kept: the best of each group, those that score enough, and never an image without a score."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_iqa_plugin.score.choose import Choice, choose, describe, mark_kept, ties
from align_iqa_plugin.score.rows import Row


def row(name, score, prompt=None, **columns):
    return Row(name, name if '://' in name else Path(name), prompt, score=score, columns=columns)


def kept(rows, **choice):
    return [each.image for each in choose(rows, Choice(**choice))]


CATS_AND_DOGS = [row('a', 1.0, 'cat'), row('b', 4.0, 'dog'), row('c', 3.0, 'cat'), row('d', 2.0, 'dog'), row('e', 5.0, 'cat')]


def test_the_best_of_each_prompt_are_kept_best_first_where_images_have_prompts():
    assert kept(CATS_AND_DOGS, best=2) == ['e', 'c', 'b', 'd'] == kept(CATS_AND_DOGS, best=2, per='prompt')


def test_the_best_of_all_are_kept_where_no_image_has_a_prompt():
    rows = [row('x/a', 1.0), row('y/b', 3.0), row('x/c', 2.0)]
    assert kept(rows, best=2) == ['y/b', 'x/c'] == kept(rows, best=2, per='all')


def test_prompts_can_be_left_aside():
    assert kept(CATS_AND_DOGS, best=2, per='all') == ['e', 'b']


def test_the_best_of_each_folder_are_kept_and_uris_have_folders_too():
    rows = [row('x/a', 1.0), row('./x/b', 2.0), row('y/c', 1.0), row('s3://x/a', 1.0), row('s3://x/b', 2.0)]
    assert kept(rows, best=1, per='folder') == ['./x/b', 'y/c', 's3://x/b']


def test_the_best_of_each_value_of_a_column_are_kept_and_rows_without_one_are_a_group():
    rows = [row('a', 1.0, seed='1'), row('b', 2.0, seed='1'), row('c', 3.0), row('d', 4.0, seed=''), row('e', 0.0, seed='2')]
    assert kept(rows, best=1, per='seed') == ['b', 'd', 'e']


def test_a_column_called_folder_comes_before_the_folders():
    rows = [row('x/a', 1.0, folder='1'), row('x/b', 2.0, folder='2')]
    assert kept(rows, best=1, per='folder') == ['x/a', 'x/b']


def test_images_without_a_prompt_among_others_are_one_group():
    assert kept([row('a', 1.0, 'cat'), row('b', 1.0), row('c', 2.0)], best=1) == ['a', 'c']


def test_a_score_that_is_just_enough_is_kept():
    rows = [row('a', 2.999), row('b', 3.0), row('c', 4.0)]
    assert kept(rows, min_score=3) == ['c', 'b'] and kept(rows, min_score=5) == []


def test_prompts_do_not_matter_to_the_lowest_score_alone():
    assert kept(CATS_AND_DOGS, min_score=3) == ['e', 'b', 'c']


def test_both_conditions_keep_what_fulfils_both():
    assert kept(CATS_AND_DOGS, best=1, min_score=4.5) == ['e']


def test_of_equal_scores_the_first_is_kept_and_no_more_than_asked_for():
    assert kept([row('a', 2.0), row('b', 1.0), row('c', 2.0), row('d', 2.0)], best=2) == ['a', 'c']


def test_an_image_without_a_score_is_never_kept():
    failed = Row('bad', Path('bad'), error='is damaged.')
    assert kept([failed, row('a', -1.0)], best=5) == ['a'] and kept([failed], min_score=-9) == [] == kept([failed], best=1)


def test_every_row_is_marked_as_kept_or_not():
    rows = [row('a', 1.0), row('b', 2.0), Row('bad', Path('bad'), error='is damaged.')]
    assert mark_kept(rows, Choice(best=1)) == [rows[1]]
    assert [each.kept for each in rows] == [False, True, False]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from('xyz'))), st.integers(1, 4), st.integers(0, 5))
def test_both_conditions_are_the_intersection_of_each(scores, best, lowest):
    rows = [row(str(number), float(score), prompt) for number, (score, prompt) in enumerate(scores)]
    both = set(kept(rows, best=best, min_score=lowest))
    assert both == set(kept(rows, best=best)) & set(kept(rows, min_score=lowest))


@pytest.mark.parametrize(
    ('per', 'reason'),
    [('sede', "no 'sede' to choose by; did you mean 'seed'?"), ('none', 'choose from all, folder, prompt, seed')],
)
def test_an_unknown_group_is_a_sentence_that_names_those_there_are(per, reason):
    with pytest.raises(ValueError, match=reason.replace('?', '[?]')):
        choose([row('a', None, seed='1')], Choice(best=1, per=per))


def test_prompts_that_no_image_has_are_a_sentence():
    with pytest.raises(ValueError, match='no image has a prompt'):
        choose([row('a', 1.0)], Choice(best=1, per='prompt'))


@pytest.mark.parametrize(
    ('choice', 'words'),
    [
        ({'best': 4}, 'the best 4 for each prompt'),
        ({'best': 4, 'per': 'all'}, 'the best 4 of all'),
        ({'best': 1, 'min_score': 3}, 'the best 1 for each prompt with a score of at least 3'),
        ({'min_score': 2.5}, 'those with a score of at least 2.5'),
    ],
)
def test_a_choice_is_described(choice, words):
    assert describe(CATS_AND_DOGS, Choice(**choice)) == words


def test_a_tie_is_counted_where_the_last_that_is_kept_and_the_next_are_within_the_error_of_their_difference():
    cats = [row('a', 3.0, 'cat'), row('b', 2.0, 'cat'), row('c', 1.8, 'cat')]
    dogs = [row('d', 3.0, 'dog'), row('e', 2.0, 'dog'), row('f', 1.0, 'dog')]
    one = [row('g', 3.0, 'one fish')]
    for each in (*cats, *dogs, *one):
        each.std = 0.4
    assert ties([*cats, *dogs, *one], Choice(best=2)) == (1, 2)
    assert ties([*cats, *dogs, *one], Choice(best=1)) == (0, 2)


def test_scores_without_deviations_are_no_ties():
    assert ties(CATS_AND_DOGS, Choice(best=1)) == (0, 0) == ties(CATS_AND_DOGS, Choice(min_score=1))
