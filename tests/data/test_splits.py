"""Splits keep identical files together, and prompts and generators where their names promise it."""

import hashlib
import re
from collections import Counter, defaultdict

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from align_iqa_plugin.data.labels import LabelError, read_labels
from align_iqa_plugin.data.splits import (
    content_hashes,
    fixed_test_split,
    generator_split_name,
    image_level_split,
    image_split_name,
    ipce_split_name,
    leave_one_generator_out_split,
    prompt_disjoint_split,
    prompt_groups,
    split_by_name,
    split_name,
    split_names,
)

# few values, so that prompts and contents are often shared, also in chains
ROWS = st.lists(st.tuples(st.sampled_from('abcdefghijkl'), st.integers(0, 40).map(str)), min_size=1, max_size=60)
RATIOS = st.sampled_from(['712', '802', '622', '505'])


def columns(rows):
    return [prompt for prompt, _ in rows], [content for _, content in rows]


def many(count=200):
    return [f'prompt {i % count}' for i in range(3 * count)], [f'content {i}' for i in range(3 * count)]


@settings(deadline=None)  # a loaded machine is no problem
@given(ROWS, RATIOS, st.integers(1, 10), st.integers(0, 999))
def test_every_row_gets_one_phase_and_nothing_is_on_two_sides(rows, ratio, split, seed):
    prompts, contents = columns(rows)
    phases = prompt_disjoint_split(prompts, contents, split, seed=seed, ratio=ratio)
    assert len(phases) == len(rows) and set(phases) <= {'train', 'val', 'test'}
    for keys in (prompts, contents):
        sides = defaultdict(set)
        for key, phase in zip(keys, phases, strict=True):
            sides[key].add(phase)
        assert all(len(side) == 1 for side in sides.values())


@settings(deadline=None)
@given(ROWS, st.integers(1, 10), st.randoms())
def test_a_split_does_not_depend_on_the_order_of_the_rows(rows, split, random):
    shuffled = random.sample(rows, len(rows))
    expected = dict(zip(rows, prompt_disjoint_split(*columns(rows), split), strict=True))
    assert dict(zip(shuffled, prompt_disjoint_split(*columns(shuffled), split), strict=True)) == expected


@settings(deadline=None)
@given(ROWS, RATIOS, st.integers(1, 10))
def test_shares_of_prompts_are_within_one_group_of_the_ratio(rows, ratio, split):
    prompts, contents = columns(rows)
    prompts_of_group = defaultdict(set)
    for prompt, group in zip(prompts, prompt_groups(prompts, contents), strict=True):
        prompts_of_group[group].add(prompt)
    largest = max(map(len, prompts_of_group.values()))
    phases = dict(zip(prompts, prompt_disjoint_split(prompts, contents, split, ratio=ratio), strict=True))
    counts = Counter(phases.values())
    for phase, tenths in zip(('train', 'val', 'test'), ratio, strict=True):
        assert abs(counts[phase] - len(phases) * int(tenths) / 10) < largest + 1e-9
        assert tenths != '0' or counts[phase] == 0


@settings(deadline=None)
@given(ROWS)
def test_rows_are_in_one_group_exactly_if_a_chain_of_prompts_and_files_joins_them(rows):
    groups = prompt_groups(*columns(rows))
    reached = {0}  # a plain flood from the first row
    while True:
        prompts, contents = columns([rows[i] for i in reached])
        further = {i for i, (prompt, content) in enumerate(rows) if prompt in prompts or content in contents}
        if further == reached:
            break
        reached = further
    assert {i for i, group in enumerate(groups) if group == groups[0]} == reached


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_another_seed_gives_another_split(seed, other):
    assume(seed != other)
    assert prompt_disjoint_split(*many(), 1, seed=seed) != prompt_disjoint_split(*many(), 1, seed=other)


def test_ten_splits_are_ten_different_ones():
    assert len({tuple(prompt_disjoint_split(*many(), split)) for split in range(1, 11)}) == 10


def test_prompts_that_differ_in_case_or_white_space_are_one():
    assert len(set(prompt_groups(['A  cat', 'a cat ', 'a dog'], ['1', '2', '3']))) == 2


def test_rows_without_a_prompt_are_held_together_by_their_content_only():
    groups = prompt_groups(['', ' ', '', 'a cat'], ['1', '2', '1', '3'])
    assert groups[0] == groups[2] and len(set(groups)) == 3


def test_a_split_stays_what_it_was():
    # trainings are compared across versions by the name of a split: the same name has to mean the same rows
    prompts, contents = [f'prompt {i}' for i in range(60)], [f'content {i * i % 50}' for i in range(60)]
    phases = prompt_disjoint_split(prompts, contents, 1)
    assert hashlib.sha256(','.join(phases).encode()).hexdigest().startswith('dd9d4be49dbed1a1')


@pytest.mark.parametrize('ratio', ['', '71', '713', '7120', 'abc', '-12'])
def test_a_ratio_that_is_not_ten_tenths_is_an_error(ratio):
    with pytest.raises(ValueError, match=re.escape(repr(ratio))):
        prompt_disjoint_split(['a'], ['1'], 1, ratio=ratio)
    with pytest.raises(ValueError, match=re.escape(repr(ratio))):
        image_level_split(['1'], 1, ratio=ratio)


def test_the_name_of_a_split_is_the_one_that_pyiqa_builds():
    assert split_name(1) == 'ratio712_seed123_split_01'
    assert split_name(10, seed=7, ratio='802') == 'ratio802_seed7_split_10'


CONTENTS = st.lists(st.integers(0, 40).map(str), min_size=1, max_size=60)


@settings(deadline=None)
@given(CONTENTS, RATIOS, st.integers(1, 10), st.integers(0, 999))
def test_by_image_identical_files_stay_together_and_shares_of_rows_are_within_one_file_of_the_ratio(
    contents, ratio, split, seed
):
    phases = image_level_split(contents, split, seed=seed, ratio=ratio)
    assert len(phases) == len(contents) and len(set(zip(contents, phases, strict=True))) == len(set(contents))
    largest = max(Counter(contents).values())
    for phase, tenths in zip(('train', 'val', 'test'), ratio, strict=True):
        assert abs(phases.count(phase) - len(contents) * int(tenths) / 10) < largest + 1e-9


def test_by_image_the_shares_are_those_of_rows_and_not_of_files():
    contents = [*(f'once {i}' for i in range(100)), *(f'twice {i // 2}' for i in range(200))]
    for split in range(1, 11):
        counts = Counter(image_level_split(contents, split))
        assert abs(counts['test'] - 60) < 2 and abs(counts['val'] - 30) < 3


@settings(deadline=None)
@given(CONTENTS, st.integers(1, 10), st.randoms())
def test_a_split_by_image_does_not_depend_on_the_order_of_the_rows(contents, split, random):
    shuffled = random.sample(contents, len(contents))
    expected = dict(zip(contents, image_level_split(contents, split), strict=True))
    assert dict(zip(shuffled, image_level_split(shuffled, split), strict=True)) == expected


def test_a_split_by_image_differs_with_seed_and_number_and_spreads_prompts():
    prompts, contents = many()
    splits = [image_level_split(contents, split) for split in range(1, 11)] + [image_level_split(contents, 1, seed=7)]
    assert len(set(map(tuple, splits))) == 11
    test_prompts = {prompt for prompt, phase in zip(prompts, splits[0], strict=True) if phase == 'test'}
    assert len(test_prompts & {prompt for prompt, phase in zip(prompts, splits[0], strict=True) if phase == 'train'}) > 50


MADE = st.lists(
    st.tuples(st.sampled_from(['A', 'B', 'C', '']), st.sampled_from('abcdefghijkl'), st.integers(0, 40).map(str)),
    min_size=1,
    max_size=60,
)


@settings(deadline=None)
@given(MADE, st.integers(0, 999))
def test_leaving_a_generator_out_tests_on_all_of_it_and_keeps_val_prompts_and_copies_out_of_train(rows, seed):
    generators, prompts, contents = map(list, zip(*rows, strict=True))
    phases = leave_one_generator_out_split(generators, prompts, contents, 'A', seed=seed)
    assert [phase == 'test' for phase in phases] == [generator == 'A' for generator in generators]
    tested = {content for content, phase in zip(contents, phases, strict=True) if phase == 'test'}
    for content, phase in zip(contents, phases, strict=True):
        assert (content in tested) == (phase in ('test', 'unused'))
    for keys in (prompts, contents):
        sides = {phase: {key for key, at in zip(keys, phases, strict=True) if at == phase} for phase in ('train', 'val')}
        assert not sides['train'] & sides['val']


@settings(deadline=None)
@given(MADE, st.randoms())
def test_leaving_a_generator_out_does_not_depend_on_the_order_of_the_rows(rows, random):
    def phase_of(rows):
        return dict(zip(rows, leave_one_generator_out_split(*map(list, zip(*rows, strict=True)), 'A'), strict=True))

    assert phase_of(random.sample(rows, len(rows))) == phase_of(rows)


def test_validation_is_a_tenth_of_the_prompts_with_all_images_of_the_other_generators():
    # the last generator made several images of some prompts: it is prompts that are counted, not images
    rows = [(generator, f'prompt {i}', f'{generator}{i}') for generator in 'ABC' for i in range(60)]
    rows += [('C', f'prompt {i}', f'C{i}, {again}') for again in range(5) for i in range(0, 60, 3)]
    generators, prompts, contents = map(list, zip(*rows, strict=True))
    vals = set()
    for left_out in 'ABC':
        phases = leave_one_generator_out_split(generators, prompts, contents, left_out)
        val = frozenset(prompt for prompt, phase in zip(prompts, phases, strict=True) if phase == 'val')
        for generator, prompt, phase in zip(generators, prompts, phases, strict=True):
            assert phase == ('test' if generator == left_out else 'val' if prompt in val else 'train')
        vals.add(val)
    assert len(vals) == 3 and all(len(prompts) == 6 for prompts in vals)


def test_the_official_split_takes_its_validation_from_the_training_images(small_releases):
    labels = read_labels(small_releases / 'BIQ2021')
    phases = split_by_name(labels, 'official_split')
    assert Counter(phases) == {'train': 36, 'val': 4, 'test': 8}
    assert [phase == 'test' for phase in phases] == [phase == 'test' for phase in labels.column('phase')]
    assert split_names(labels)[20:] == ['official_split']


def test_without_a_table_of_test_images_there_is_no_official_split(small_releases):
    with pytest.raises(LabelError, match='official_split'):
        split_by_name(read_labels(small_releases / 'LIVE-Challenge'), 'official_split')


def test_a_copy_of_a_test_image_is_in_no_phase():
    contents = [f'content {i}' for i in range(20)] + ['content 0']
    for val in (True, False):
        phases = fixed_test_split([i < 5 for i in range(21)], [''] * 21, contents, order='', val=val)
        assert phases[:5] == ['test'] * 5 and phases[20] == 'unused'
        assert Counter(phases[5:20]) == ({'train': 13, 'val': 2} if val else {'train': 15})


def test_the_folds_of_ipce_are_prompts_of_agiqa_3k_with_and_without_a_validation_part(small_releases):
    labels = read_labels(small_releases / 'AGIQA-3K')
    contents = content_hashes([row.path for row in labels.rows])
    ids = labels.column('prompt_id')
    for fold in range(1, 11):
        without, with_val = (split_by_name(labels, ipce_split_name(fold, val=val), contents) for val in (False, True))
        assert Counter(without) == {'train': 96, 'test': 24} and Counter(with_val) == {'train': 84, 'val': 12, 'test': 24}
        assert [phase == 'test' for phase in without] == [phase == 'test' for phase in with_val]
        assert len(set(zip(ids, with_val, strict=True))) == len(set(ids))
    with pytest.raises(LabelError, match=r'ipce_split_11.* ipce_split_01 to ipce_split_10\.'):
        split_by_name(labels, 'ipce_split_11', contents)
    with pytest.raises(LabelError, match="unknown split 'ipce_split_01'"):
        split_by_name(read_labels(small_releases / 'AGIQA-1K'), 'ipce_split_01')


@pytest.fixture
def made(tmp_path):
    """Labels of 40 files by two generators, of 20 prompts."""
    lines = [f'{i}.png,{i},prompt {i % 20},{"first" if i < 20 else "second"}' for i in range(40)]
    for i in range(40):
        (tmp_path / f'{i}.png').write_bytes(b'%d' % i)
    (tmp_path / 'data.csv').write_text('\n'.join(['image,mos,prompt,generator', *lines]))
    return read_labels(tmp_path)


def test_every_split_is_found_by_its_name(made):
    prompts, contents = [row.prompt for row in made.rows], content_hashes([row.path for row in made.rows])
    generators = made.column('generator')
    expected = {split_name(split): prompt_disjoint_split(prompts, contents, split) for split in range(1, 11)}
    expected |= {image_split_name(split): image_level_split(contents, split) for split in range(1, 11)}
    expected |= {
        generator_split_name(generator): leave_one_generator_out_split(generators, prompts, contents, generator)
        for generator in ('first', 'second')
    }
    assert split_names(made) == list(expected) and all('split' in name for name in expected)
    assert {name: split_by_name(made, name) for name in expected} == expected
    assert {name: split_by_name(made, name, contents) for name in expected} == expected
    other = prompt_disjoint_split(prompts, contents, 3, seed=7, ratio='802')
    assert split_by_name(made, 'ratio802_seed7_split_03') == other
    assert split_by_name(made, 'image802_seed7_split_03') == image_level_split(contents, 3, seed=7, ratio='802')


@pytest.mark.parametrize('name', ['generator_split_third', 'generator_split_', 'split_01', 'ratio712_seed123_split_01x', ''])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(made, name):
    with pytest.raises(LabelError, match=re.escape(repr(name))) as caught:
        split_by_name(made, name)
    for known in (split_name(1), image_split_name(10), 'generator_split_first', 'generator_split_second'):
        assert known in str(caught.value)


def test_a_name_with_a_ratio_that_is_not_ten_tenths_is_an_error(made):
    with pytest.raises(LabelError, match='ratio713_seed123_split_01.*713'):
        split_by_name(made, 'ratio713_seed123_split_01')


def test_without_two_generators_there_is_no_split_by_generator(made, tmp_path):
    text = (tmp_path / 'data.csv').read_text()
    (tmp_path / 'data.csv').write_text(text.replace('second', 'first'))
    assert split_names(read_labels(tmp_path)) == split_names(made)[:20]
    (tmp_path / 'data.csv').write_text(text.replace('generator', 'maker'))
    assert split_names(read_labels(tmp_path)) == split_names(made)[:20]
    (tmp_path / 'data.csv').write_text(text.replace('second', ''))
    assert split_names(read_labels(tmp_path)) == split_names(made)[:20]


def test_files_have_the_same_hash_exactly_if_their_bytes_are_the_same(tmp_path):
    for name, content in {'a': b'1', 'b': b'1', 'c': b'2'}.items():
        (tmp_path / name).write_bytes(content)
    first, second, third = content_hashes([tmp_path / 'a', str(tmp_path / 'b'), tmp_path / 'c'])
    assert first == second == hashlib.sha256(b'1').hexdigest() != third


@pytest.fixture(scope='module')
def agiqa_3k(data_folder):
    labels = read_labels(data_folder / 'AGIQA-3K')
    return labels, content_hashes([row.path for row in labels.rows])


@pytest.mark.data
@pytest.mark.parametrize(
    ('kind', 'count', 'sha256'),
    [
        # the first are those that the results in the README and the packaged model rest on
        ('ratio', 10, '4b800b800749dc49e7867688c69fe9ffcba7e799284b69ce0d49a2cbd666c65f'),
        ('image', 10, 'd5e94826a962534c4dcd46156adb8170c54b55c2b62f5017a28d1331836fd4f3'),
        ('generator', 6, 'e5da498659d233e3775302c17c9f894649abfc9c91d851994f874a41116583b5'),
    ],
)
def test_the_splits_of_agiqa_3k_stay_what_they_were(agiqa_3k, kind, count, sha256):
    names = [name for name in split_names(agiqa_3k[0]) if name.startswith(kind)]
    text = '\n'.join(','.join(split_by_name(agiqa_3k[0], name, agiqa_3k[1])) for name in names)
    assert len(names) == count and hashlib.sha256(text.encode()).hexdigest() == sha256


@pytest.mark.data
def test_the_folds_of_ipce_are_the_published_ones(agiqa_3k, data_folder):
    labels, contents = agiqa_3k
    lines = (data_folder / 'AGIQA-3K' / 'public_folds.csv').read_text().splitlines()[1:]
    for fold, ids in (line.split(',') for line in lines):
        phases = split_by_name(labels, ipce_split_name(int(fold)), contents)
        rows = list(zip(labels.column('prompt_id'), phases, strict=True))
        assert {prompt_id for prompt_id, phase in rows if phase == 'test'} == set(ids.split())
        assert len({prompt_id for prompt_id, phase in rows if phase == 'train'}) == 240
        assert phases.count('unused') <= 6
    assert len(lines) == 10


@pytest.mark.data
def test_the_splits_of_agiqa_3k_keep_its_duplicates_together(agiqa_3k, data_folder):
    lines = (data_folder / 'AGIQA-3K' / 'duplicates.txt').read_text().splitlines()
    groups = [re.findall(r'(\S+)\(', line) for line in lines]
    assert sorted(' '.join(group) for group in groups) == sorted(agiqa_3k[0].release.duplicates) and len(groups) == 9
    names = agiqa_3k[0].column('name')
    for split in split_names(agiqa_3k[0]):
        phase_of = dict(zip(names, split_by_name(agiqa_3k[0], split, agiqa_3k[1]), strict=True))
        assert all(len({phase_of[name] for name in group} - {'unused'}) == 1 for group in groups)


@pytest.mark.data
def test_the_first_fold_of_agiqa_3k_has_the_sizes_that_its_results_state(agiqa_3k):
    phases = split_by_name(agiqa_3k[0], split_name(1), agiqa_3k[1])
    prompts = [row.prompt for row in agiqa_3k[0].rows]
    assert Counter(phases) == {'train': 2077, 'val': 308, 'test': 597}
    assert Counter(dict(zip(prompts, phases, strict=True)).values()) == {'train': 209, 'val': 31, 'test': 60}


@pytest.mark.data
def test_each_of_the_six_generators_of_agiqa_3k_is_left_out_once(agiqa_3k):
    generators = agiqa_3k[0].column('generator')
    assert set(generators) == {name.split('_')[0] for name in agiqa_3k[0].column('name')}
    unused = {}
    for generator in sorted(set(generators)):
        phases = split_by_name(agiqa_3k[0], generator_split_name(generator), agiqa_3k[1])
        assert {name for name, phase in zip(generators, phases, strict=True) if phase == 'test'} == {generator}
        rows = zip(agiqa_3k[0].rows, phases, strict=True)
        assert len({row.prompt for row, phase in rows if phase == 'val'}) == 30
        unused[generator] = phases.count('unused')
    # one file is both an image of DALLE2 and two images of glide
    assert {name: count for name, count in unused.items() if count} == {'DALLE2': 2, 'glide': 1}
