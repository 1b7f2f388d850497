"""Data sets as the comparison reads them: all that the labels tell, and what is missing as a row of its own."""

import hashlib
import math
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from align_iqa_plugin.compare import datasets
from align_iqa_plugin.compare.datasets import dataset_options, read_dataset, sample_images, with_other_prompts
from align_iqa_plugin.compare.store import LabelledImage
from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
from align_iqa_plugin.data.labels import LabelError
from align_iqa_plugin.data.uris import read_uri

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables(tmp_path):
    """Images, and meta info tables in pyiqa's forms: no reference, and with references."""
    (tmp_path / 'images').mkdir()
    for number in range(6):
        Image.new('L', (16, 16), 40 * number).save(tmp_path / 'images' / f'{number}.png')
    rows = [[f'{number}.png', number / 2, 'test' if number % 2 else 'train'] for number in range(6)]
    pd.DataFrame(rows, columns=['name', 'mos', 'split_1']).to_csv(tmp_path / 'plain.csv', index=False)
    rows = [['0.png', name, score] for name, score, _ in rows]
    pd.DataFrame(rows, columns=['ref', 'name', 'mos']).to_csv(tmp_path / 'pairs.csv', index=False)
    return tmp_path


def section(tables, kind='GeneralNRDataset', table='plain.csv', **more):
    return {
        'name': 'set',
        'type': kind,
        'dataroot_target': str(tables / 'images'),
        'meta_info_file': str(tables / table),
        **more,
    }


def test_the_samples_come_with_prompts_mos_and_generators():
    images = sample_images()
    assert len(images) == 12
    assert all(image.prompt and image.generator and 0 < image.mos < 5 and 0 < image.mos_align < 5 for image in images)
    assert all(hashlib.sha256(Path(image.path).read_bytes()).hexdigest() == image.sha256 for image in images)
    assert {image.generator for image in sample_images()} == {'AttnGAN', 'DALLE2', 'glide', 'midjourney', 'sd1.5', 'xl2.2'}


@pytest.mark.parametrize('name', ['agiqa3k', 'AGIQA-3K'])
@pytest.mark.parametrize('root', ['.', 'AGIQA-3K'])
def test_a_release_is_found_below_the_folder_of_data_sets_or_in_its_own(small_releases, name, root):
    images = read_dataset(dataset_options(name, {}, small_releases / root))
    table = pd.read_csv(small_releases / 'AGIQA-3K' / 'data.csv', dtype=str, keep_default_na=False)
    assert [image.image for image in images] == table['name'].tolist()
    assert [image.prompt for image in images] == table['prompt'].tolist()
    assert [image.mos for image in images] == table['mos_quality'].astype(float).tolist()
    assert [image.mos_align for image in images] == table['mos_align'].astype(float).tolist()
    assert {image.mos_std for image in images} == {0.1}
    assert images[0].generator == 'AttnGAN' and images[0].prompt_id == '000'


@pytest.mark.parametrize('name', ['agiqa1k', 'aigciqa2023', 'aigiqa20k', 'pkuaigiqa4k', 'livechallenge', 'biq2021'])
def test_every_release_can_be_read(small_releases, name):
    images = read_dataset(dataset_options(name, {}, small_releases))
    assert images and all(image.sha256 and math.isfinite(image.mos) and not image.problem for image in images)
    assert any(image.prompt for image in images) == (name not in ('livechallenge', 'biq2021'))


@pytest.mark.parametrize('file', sorted((ROOT / 'options' / 'data').glob('*.yml')), ids=lambda file: file.stem)
def test_our_option_files_name_the_images_that_the_dataset_of_pyiqa_would_have(small_releases, file, monkeypatch):
    (small_releases.parent / 'run').mkdir(exist_ok=True)
    monkeypatch.chdir(small_releases.parent / 'run')
    sections = yaml.safe_load(file.read_text())
    for name in sections:
        options = dataset_options(name, sections, small_releases)
        images = read_dataset(options)
        dataset = AIGCIQADataset(options)
        assert [(image.path, image.mos, image.prompt) for image in images] == [tuple(item[:3]) for item in dataset.paths_mos]


def test_the_official_split_of_a_release_is_chosen_by_its_name(small_releases):
    options = dataset_options('biq2021', {}, small_releases)
    counts = {phase: len(read_dataset(options, split='official_split', phase=phase)) for phase in ('train', 'val', 'test')}
    assert counts == {'train': 36, 'val': 4, 'test': 8}


@pytest.mark.parametrize('phase', ['train', 'test'])
def test_split_and_phase_choose_as_in_training(tiny_images, phase):
    columns = {'image_column': 'name', 'score_column': 'mos_quality'}
    options = {'type': 'AIGCIQADataset', 'dataroot_target': str(tiny_images), **columns}
    chosen = AIGCIQADataset({**options, 'split_index': 2, 'split_ratio': '712', 'phase': phase})
    images = read_dataset(options, split='2', phase=phase)
    assert [image.path for image in images] == [item[0] for item in chosen.paths_mos]
    assert images == read_dataset(options, split='ratio712_seed123_split_02', phase=phase)
    with pytest.raises(ValueError, match='split .split_of_nobody'):
        read_dataset(options, split='split_of_nobody', phase=phase)


def test_data_sets_of_pyiqa_are_read_by_its_own_classes(tables):
    expected = [(f'{number}.png', number / 2) for number in range(6)]
    plain = read_dataset(section(tables))
    pairs = read_dataset(section(tables, 'GeneralFRDataset', 'pairs.csv'))
    assert [(image.image, image.mos) for image in plain] == expected
    assert [(image.image, image.mos) for image in pairs] == expected
    half = read_dataset(section(tables, split_index='split_1', phase='test'))
    assert [image.image for image in half] == ['1.png', '3.png', '5.png']


def test_mos_come_out_with_higher_is_better(tables):
    images = read_dataset(section(tables, lower_better=True, mos_range=[0, 10]))
    assert [image.mos for image in images] == [10 - number / 2 for number in range(6)]


@pytest.mark.parametrize('kind', ['AIGCIQADataset', 'GeneralNRDataset'])
def test_a_missing_image_keeps_its_row_and_its_mos(tables, kind):
    (tables / 'images' / '2.png').unlink()
    images = read_dataset(section(tables, kind))
    assert [image.mos for image in images] == [number / 2 for number in range(6)]
    assert [bool(image.problem) for image in images] == [number == 2 for number in range(6)]
    assert images[2].image == '2.png' and images[2].sha256 == '' and 'no such file' in images[2].problem


def test_a_split_of_a_table_with_missing_images_is_refused(tables):
    (tables / 'images' / '2.png').unlink()
    with pytest.raises(ValueError, match='1 image is missing.*row 4'):
        read_dataset(section(tables, 'AIGCIQADataset'), split='split_1')


@pytest.mark.parametrize('key, value', [('augment', {'hflip': True}), ('input_size', 224), ('split_file', 'a.pkl')])
def test_options_that_change_the_images_or_run_code_are_refused(tables, key, value):
    with pytest.raises(ValueError, match=key):
        read_dataset(section(tables, **{key: value}))


@pytest.mark.parametrize(
    'change, reason',
    [
        ({'meta_info_file': 'nowhere.csv'}, 'nowhere.csv'),
        ({'type': 'NoSuchDataset'}, 'NoSuchDataset'),
        ({'split_index': 'split_9'}, 'split_9'),
        ({'phase': 'val', 'split_index': 'split_1'}, "no image in the phase 'val'"),
    ],
)
def test_options_that_name_nothing_are_refused(tables, change, reason):
    with pytest.raises(ValueError, match=reason):
        read_dataset(section(tables) | change)


def test_a_name_that_is_no_data_set_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(ValueError, match="unknown data set or table 'agiqa4k'; did you mean 'agiqa3k'"):
        dataset_options('agiqa4k', {}, tmp_path)


def test_a_table_of_ones_own_can_be_named(tables):
    table = tables / 'images' / 'mine.csv'
    table.write_text('name,mos,prompt\n1.png,3,None\n2.png,4,NA\n')
    images = read_dataset(dataset_options(str(table), {}, None))
    assert [(image.image, image.mos, image.prompt) for image in images] == [('1.png', 3.0, 'None'), ('2.png', 4.0, 'NA')]


@given(st.lists(st.sampled_from(['', 'a', 'b', 'c']), max_size=12), st.integers(0, 3))
def test_other_prompts_are_those_of_other_images(prompts, seed):
    images = [LabelledImage(f'{number}', '', f'sha{number}', prompt=prompt) for number, prompt in enumerate(prompts)]
    changed = with_other_prompts(images, seed=seed)
    assert changed == with_other_prompts(images, seed=seed)
    for image, other in zip(images, changed, strict=True):
        possible = {*prompts} - {'', image.prompt}
        assert other.other_prompt in possible if len({*prompts} - {''}) > 1 else other.other_prompt == ''
    reversed_ = with_other_prompts(images[::-1], seed=seed)
    assert reversed_ == changed[::-1]


def test_another_seed_shuffles_otherwise():
    images = [LabelledImage(f'{number}', '', f'sha{number}', prompt=f'{number}') for number in range(50)]
    shuffled = [[image.other_prompt for image in with_other_prompts(images, seed=seed)] for seed in (0, 1)]
    assert shuffled[0] != shuffled[1]
    assert len(set(shuffled[0])) > 20


def test_images_at_addresses_are_known_by_their_content_and_a_missing_one_has_a_problem(tiny_images, tmp_path):
    there = tiny_images / 'images' / '000.png'
    (tmp_path / 'labels.csv').write_text(f'name,mos\n{there},1\nfile://{there},2\nfile:///nowhere/x.png,3\n')
    local, remote, missing = read_dataset({'type': 'AIGCIQADataset', 'meta_info_file': str(tmp_path / 'labels.csv')})
    assert remote.path == f'file://{there}' and remote.sha256 == local.sha256 and not remote.problem
    assert missing.sha256 == '' and missing.problem.startswith('cannot be read: ') and missing.mos == 3


def test_a_split_of_images_at_addresses_reads_each_once_and_names_the_row_of_one_that_cannot_be_read(
    tiny_images, tmp_path, monkeypatch
):
    reads = []
    monkeypatch.setattr(datasets, 'read_uri', lambda address: reads.append(address) or read_uri(address))
    there = [f'file://{path}' for path in sorted((tiny_images / 'images').glob('*.png'))]
    rows = [f'{address},{number},prompt {number}' for number, address in enumerate(there)]
    table = tmp_path / 'labels.csv'
    options = {'type': 'AIGCIQADataset', 'meta_info_file': str(table), 'split_index': 1, 'split_ratio': '712', 'phase': 'test'}
    table.write_text('\n'.join(['name,mos,prompt', *rows]))
    images = read_dataset(options)
    assert 0 < len(images) < len(there)
    assert sorted(reads) == there
    table.write_text('\n'.join(['name,mos,prompt', *rows, 'file:///nowhere/x.png,3,y']))
    with pytest.raises(LabelError, match=f'row {len(there) + 2}: file:///nowhere/x.png cannot be read: .*nowhere'):
        read_dataset(options)
