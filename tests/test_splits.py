"""Splits keep prompts and identical files together, and the command writes them as pyiqa reads them."""

import csv
import hashlib
import re
from collections import Counter, defaultdict

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from align_iqa_plugin.cli import app
from align_iqa_plugin.splits import content_hashes, prompt_disjoint_split, prompt_groups, split_name

# few values, so that prompts and contents are often shared, also in chains
ROWS = st.lists(st.tuples(st.sampled_from('abcdefghijkl'), st.integers(0, 40).map(str)), min_size=1, max_size=60)
RATIOS = st.sampled_from(['712', '802', '622', '505'])


def columns(rows):
    return [prompt for prompt, _ in rows], [content for _, content in rows]


def many(count=200):
    return [f'prompt {i % count}' for i in range(3 * count)], [f'content {i}' for i in range(3 * count)]


@settings(deadline=None)  # a loaded machine is no fault
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
def test_a_ratio_that_is_not_ten_tenths_is_refused(ratio):
    with pytest.raises(ValueError, match=re.escape(repr(ratio))):
        prompt_disjoint_split(['a'], ['1'], 1, ratio=ratio)


def test_the_name_of_a_split_is_the_one_that_pyiqa_builds():
    assert split_name(1) == 'ratio712_seed123_split_01'
    assert split_name(10, seed=7, ratio='802') == 'ratio802_seed7_split_10'


def test_files_have_the_same_hash_exactly_if_their_bytes_are_the_same(tmp_path):
    for name, content in {'a': b'1', 'b': b'1', 'c': b'2'}.items():
        (tmp_path / name).write_bytes(content)
    first, second, third = content_hashes([tmp_path / 'a', str(tmp_path / 'b'), tmp_path / 'c'])
    assert first == second == hashlib.sha256(b'1').hexdigest() != third


@pytest.mark.data
def test_agiqa_3k_keeps_its_folds_and_its_duplicates_together(data_folder):
    folder = data_folder / 'AGIQA-3K'
    with open(folder / 'data.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    prompts = [row['prompt'] for row in rows]
    contents = content_hashes([folder / 'images' / row['name'] for row in rows])
    groups = [re.findall(r'(\S+)\(', line) for line in (folder / 'duplicates.txt').read_text().splitlines()]
    assert len(groups) == 9
    for split in range(1, 11):
        phases = prompt_disjoint_split(prompts, contents, split)
        phase_of = {row['name']: phase for row, phase in zip(rows, phases, strict=True)}
        assert all(len({phase_of[name] for name in group}) == 1 for group in groups)
        if split == 1:
            assert Counter(phases) == {'train': 2077, 'val': 308, 'test': 597}
            assert Counter(dict(zip(prompts, phases, strict=True)).values()) == {'train': 209, 'val': 31, 'test': 60}


@pytest.fixture
def folder(tmp_path):
    """A generic CSV: 40 images of 20 prompts; the last is a copy of the first, under another prompt."""
    folder = tmp_path / 'set'
    folder.mkdir()
    with open(folder / 'data.csv', 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['caption', 'note', 'file', 'rating'])
        for i in range(40):
            Image.new('RGB', (8, 8), (i % 39, 0, 0)).save(folder / f'{i:03d}.png')
            caption = 'None' if i % 20 == 0 else f'"prompt", {i % 20}'
            writer.writerow([caption, '007', f'{i:03d}.png', f'{i}.50'])
    return folder


NAMED = ['--image-column', 'file', '--score-column', 'rating', '--prompt-column', 'caption']


def run(*arguments):
    return CliRunner().invoke(app, ['splits', *map(str, arguments)])


def test_the_command_writes_a_csv_whose_other_columns_are_untouched(folder, tmp_path):
    result = run(folder, '-o', tmp_path / 'meta.csv', *NAMED)
    assert result.exit_code == 0, result.output
    with open(folder / 'data.csv', encoding='utf-8', newline='') as file:
        source = list(csv.DictReader(file))
    with open(tmp_path / 'meta.csv', encoding='utf-8', newline='') as file:
        written = list(csv.DictReader(file))
    assert list(written[0])[:4] == ['file', 'rating', 'caption', 'note']
    assert list(written[0])[4:] == [split_name(split) for split in range(1, 11)]
    assert [{name: row[name] for name in source[0]} for row in written] == source
    contents = content_hashes([folder / row['file'] for row in source])
    expected = prompt_disjoint_split([row['caption'] for row in source], contents, 3)
    assert [row[split_name(3)] for row in written] == expected
    assert written[0][split_name(3)] == written[39][split_name(3)]


def test_the_same_input_gives_the_same_bytes_and_leaves_nothing_else(folder, tmp_path):
    for name in ('one.csv', 'two.csv', 'one.csv'):
        assert run(folder / 'data.csv', '-o', tmp_path / name, *NAMED).exit_code == 0
    assert (tmp_path / 'one.csv').read_bytes() == (tmp_path / 'two.csv').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['one.csv', 'set', 'two.csv']


def test_the_table_tells_images_and_prompts_of_each_phase(folder, tmp_path):
    result = run(folder, '-o', tmp_path / 'm.csv', '--splits', 2, '--seed', 7, '--ratio', '802', *NAMED)
    with open(tmp_path / 'm.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    for split in (1, 2):
        name = split_name(split, seed=7, ratio='802')
        (line,) = [line for line in result.stdout.splitlines() if name in line]
        told = [tuple(map(int, pair)) for pair in re.findall(r'(\d+) \((\d+)\)', line)]
        for phase, (images, prompts) in zip(('train', 'val', 'test'), told, strict=True):
            chosen = [row for row in rows if row[name] == phase]
            assert (images, prompts) == (len(chosen), len({row['caption'] for row in chosen}))


def test_pyiqas_own_dataset_reads_the_csv(folder, tmp_path):
    from pyiqa.data import build_dataset

    assert run(folder, '-o', tmp_path / 'meta.csv', *NAMED).exit_code == 0
    with open(tmp_path / 'meta.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    options = {'name': 'own', 'type': 'GeneralNRDataset', 'dataroot_target': str(folder), 'split_ratio': '712'}
    options['meta_info_file'] = str(tmp_path / 'meta.csv')
    for phase in ('train', 'val', 'test'):
        dataset = build_dataset({**options, 'phase': phase, 'split_index': 2})
        expected = [(row['file'], float(row['rating'])) for row in rows if row[split_name(2)] == phase]
        samples = [dataset[i] for i in range(len(dataset))]
        assert expected
        assert [(s['img_path'].rpartition('/')[2], s['mos_label'].item()) for s in samples] == expected


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['nowhere.csv', '-o', 'm.csv'], ['nowhere.csv', 'cannot be read']),
        (['{folder}', '-o', 'm.csv', '--image-column', 'fil', '--prompt-column', ''], ["'fil'", "'file'"]),
        (['{folder}', '-o', 'm.csv', '--image-column', 'file', '--score-column', 'rating'], ["'prompt'", 'caption']),
        (['{folder}', '-o', 'm.csv', *NAMED, '--ratio', '999'], ["'999'"]),
        (['{folder}', '-o', 'no/such/m.csv', *NAMED], ['no/such/m.csv', 'cannot be written']),
        (['{folder}', '-o', '{folder}/data.csv', *NAMED], ['data.csv', 'another file']),
        (['{folder}', '-o', 'm.csv', *NAMED, '--images', '{folder}/no'], ['none of the 40 images', 'row 2']),
    ],
)
def test_bad_input_ends_in_status_2_and_a_sentence(folder, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    before = (folder / 'data.csv').read_bytes()
    result = run(*(argument.replace('{folder}', str(folder)) for argument in arguments))
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit) and 'Traceback' not in result.output
    assert all(word in result.stderr for word in words), result.stderr
    assert (folder / 'data.csv').read_bytes() == before and not (tmp_path / 'm.csv').exists()


def test_too_few_prompts_for_the_ratio_are_refused(tmp_path):
    (tmp_path / 'data.csv').write_text('name,mos,prompt\na.png,1,a\nb.png,2,a\n')
    for i, name in enumerate(['a.png', 'b.png']):
        Image.new('RGB', (8, 8), (i, 0, 0)).save(tmp_path / name)
    result = run(tmp_path, '-o', tmp_path / 'm.csv')
    assert result.exit_code == 2 and 'too few prompts' in result.stderr
    assert not (tmp_path / 'm.csv').exists()


def test_an_interrupted_write_leaves_the_older_file(folder, tmp_path, monkeypatch):
    output = tmp_path / 'm.csv'
    output.write_text('older')

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('align_iqa_plugin.labels.os.replace', fail)
    result = run(folder, '-o', output, *NAMED)
    assert result.exit_code == 2 and 'No space left' in result.stderr
    assert output.read_text() == 'older'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['m.csv', 'set']
