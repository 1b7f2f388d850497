"""The dataset, built and loaded by the real pyiqa."""

import csv
import doctest
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from pyiqa.data import build_dataloader, build_dataset

from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
from align_iqa_plugin.data.dataset_options import DatasetOptions
from align_iqa_plugin.data.labels import LabelError
from align_iqa_plugin.data.splits import content_hashes, prompt_disjoint_split
from align_iqa_plugin.register import register_datasets

HEADER = ['name', 'prompt', 'adj1', 'adj2', 'style', 'mos_quality', 'std_quality', 'mos_align', 'std_align']


@pytest.fixture(autouse=True, scope='module')
def registered():
    register_datasets()


def write_rows(folder, rows, header=HEADER):
    with open(folder / 'data.csv', 'w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows([header, *rows])


def release_rows(count=40):
    return [
        [f'{i:03d}.jpg', 'None' if i % 20 == 0 else f'prompt {i % 20}', '', '', '', i / 10, 0.1, i / 20, 0.1]
        for i in range(count)
    ]


@pytest.fixture
def release(tmp_path):
    """AGIQA-3K in small: 40 JPEGs of 32 x 24 and 20 prompts, one of them 'None'."""
    folder = tmp_path / 'AGIQA-3K'
    (folder / 'images').mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(40):
        pixels = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / 'images' / f'{i:03d}.jpg')
    write_rows(folder, release_rows())
    return folder


def section(folder, **options):
    return {'name': 'small', 'type': 'AIGCIQADataset', 'dataroot_target': str(folder), 'phase': 'train', **options}


def names(dataset):
    return [path.rpartition('/')[2] for path, *_ in dataset.paths_mos]


def error_of(options, kind=LabelError):
    with pytest.raises(kind) as caught:
        build_dataset(options)
    return str(caught.value)


def test_a_released_folder_gives_images_scores_and_prompts(release):
    dataset = build_dataset(section(release, further_score_columns=['mos_align', 'std_align']))
    assert type(dataset) is AIGCIQADataset and len(dataset) == 40
    for i in (0, 21):
        sample = dataset[i]
        assert set(sample) == {'img', 'mos_label', 'targets', 'target_mask', 'prompt', 'img_path', 'view'}
        assert sample['img'].shape == (3, 24, 32) and sample['img'].dtype == torch.float32
        with Image.open(sample['img_path']) as image:
            expected = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
        assert torch.equal(sample['img'], expected)
        assert torch.equal(sample['mos_label'], torch.tensor([i / 10]))
        assert torch.equal(sample['targets'], torch.tensor([i / 10, i / 20, 0.1]))
        assert torch.equal(sample['target_mask'], torch.tensor([True, True, True]))
        assert sample['prompt'] == ('None' if i == 0 else 'prompt 1')
        assert sample['img_path'] == str(release / 'images' / f'{i:03d}.jpg')


def test_the_same_samples_come_as_from_pyiqas_own_dataset(release, tmp_path):
    meta = tmp_path / 'meta.csv'
    meta.write_text('name,mos,prompt,split_a\n' + ''.join(f'{i:03d}.jpg,{i},p{i},train\n' for i in range(40)))
    options = section(release / 'images', meta_info_file=str(meta), split_index='split_a', augment={'center_crop': 16})
    options |= {'img_range': 2.0, 'mos_range': [0, 50], 'lower_better': True, 'mos_normalize': True}
    ours, theirs = build_dataset(options), build_dataset({**options, 'type': 'GeneralNRDataset'})
    assert len(ours) == len(theirs) == 40
    for mine, other in zip((ours[i] for i in range(40)), (theirs[i] for i in range(40)), strict=True):
        assert torch.equal(mine['img'], other['img']) and mine['img_path'] == other['img_path']
        assert torch.equal(mine['mos_label'], other['mos_label'])


def test_a_csv_with_other_columns_and_no_prompts(release, tmp_path):
    labels = tmp_path / 'own.csv'
    labels.write_text('note,rating,file\nx,3,001.jpg\nx,4,002.jpg\n')
    named = {'image_column': 'file', 'score_column': 'rating', 'prompt_column': None}
    dataset = build_dataset(section(release, meta_info_file=str(labels), **named))
    assert [(dataset[i]['mos_label'].item(), dataset[i]['prompt']) for i in range(2)] == [(3.0, ''), (4.0, '')]
    assert torch.equal(dataset[0]['targets'], torch.tensor([3.0])) and dataset[0]['target_mask'].tolist() == [True]


@pytest.mark.parametrize('workers', [0, 2])
def test_prompts_survive_pyiqas_loader_as_a_list_of_text(release, workers):
    options = section(release, batch_size_per_gpu=8, num_worker_per_gpu=workers, augment={'hflip': True})
    batch = next(iter(build_dataloader(build_dataset(options), options, seed=0)))
    assert batch['img'].shape == (8, 3, 24, 32) and batch['mos_label'].shape == (8, 1)
    assert isinstance(batch['prompt'], list) and all(type(prompt) is str for prompt in batch['prompt'])
    expected = {row[0]: row[1] for row in release_rows()}
    assert batch['prompt'] == [expected[path.rpartition('/')[2]] for path in batch['img_path']]


def test_a_pickled_copy_gives_the_same_samples(release):
    dataset = build_dataset(section(release, augment={'center_crop': 16}))
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy) == len(dataset) and torch.equal(copy[3]['img'], dataset[3]['img'])
    assert copy[3]['prompt'] == dataset[3]['prompt']


def test_a_released_folder_is_split_on_the_fly_as_the_command_splits_it(release):
    rows = release_rows()
    contents = content_hashes([release / 'images' / row[0] for row in rows])
    expected = prompt_disjoint_split([row[1] for row in rows], contents, 3)
    for phase in ('train', 'val', 'test'):
        dataset = build_dataset(section(release, split_index=3, split_ratio=712, phase=phase))
        assert names(dataset) == [row[0] for row, side in zip(rows, expected, strict=True) if side == phase]
        assert len(dataset) > 0


def test_split_columns_choose_the_rows_and_override_phase_goes_first(release):
    sides = ['train', 'val', 'test', 'train']
    rows = [[*row, side] for row, side in zip(release_rows(4), sides, strict=True)]
    write_rows(release, rows, [*HEADER, 'ratio712_seed123_split_02'])
    numbered = section(release, split_index=2, split_ratio='712')
    assert names(build_dataset(numbered)) == ['000.jpg', '003.jpg']
    assert names(build_dataset({**numbered, 'phase': 'val'})) == ['001.jpg']
    assert names(build_dataset({**numbered, 'phase': 'val', 'override_phase': 'test'})) == ['002.jpg']
    named = section(release, split_index='ratio712_seed123_split_02')
    assert names(build_dataset(named)) == ['000.jpg', '003.jpg']
    message = error_of({**numbered, 'split_index': 3})
    assert 'ratio712_seed123_split_03' in message and "'ratio712_seed123_split_02'" in message


def test_a_column_of_any_name_may_hold_the_split(release):
    rows = [[*row, side] for row, side in zip(release_rows(3), ['train', 'val', 'train'], strict=True)]
    write_rows(release, rows, [*HEADER, 'part'])
    assert names(build_dataset(section(release, split_index='part'))) == ['000.jpg', '002.jpg']


def test_a_phase_without_rows_is_an_error(release):
    message = error_of(section(release, split_index=1, phase='val'))  # pyiqa's default ratio is 802
    assert "no row for the phase 'val'" in message and 'ratio802_seed123_split_01' in message


def test_a_split_column_with_another_word_is_a_problem(release):
    rows = [[*row, side] for row, side in zip(release_rows(3), ['train', 'Train', 'test'], strict=True)]
    write_rows(release, rows, [*HEADER, 'split_a'])
    assert "row 3: split_a is 'Train'" in error_of(section(release, split_index='split_a'))


@pytest.mark.parametrize('workers', [0, 2])
def test_all_problems_of_labels_and_images_come_in_one_error(release, workers):
    rows = release_rows()
    rows[4][5] = 'nan'
    rows[5][5] = '5.01'
    rows[6][0] = 'nowhere.jpg'
    rows[9] = rows[8]
    write_rows(release, rows)
    truncated = release / 'images' / '011.jpg'
    truncated.write_bytes(truncated.read_bytes()[:-200])
    with Image.open(release / 'images' / '012.jpg') as image:
        image.verify()
    (release / 'images' / '013.jpg').write_text('no image')
    lines = error_of(section(release, num_worker_per_gpu=workers)).splitlines()
    assert str(release / 'data.csv') in lines[0] and '6 problems' in lines[0]
    starts = ['row 6: 004.jpg', 'row 7: 005.jpg', 'row 8: nowhere.jpg', 'row 11: 008.jpg', 'row 13: ', 'row 15: ']
    assert [line.strip().startswith(start) for line, start in zip(lines[1:], starts, strict=True)] == [True] * 6
    assert '011.jpg' in lines[5] and '013.jpg' in lines[6]


def test_a_truncated_image_is_found_only_in_the_phase_that_uses_it(release):
    damaged = names(build_dataset(section(release, split_index=1, split_ratio='712', phase='test')))[0]
    path = release / 'images' / damaged
    path.write_bytes(path.read_bytes()[:-200])
    assert len(build_dataset(section(release, split_index=1, split_ratio='712', phase='val'))) > 0
    assert damaged in error_of(section(release, split_index=1, split_ratio='712', phase='test'))


def test_a_problem_in_the_labels_of_another_phase_is_still_found(release):
    phase_of = dict.fromkeys(names(build_dataset(section(release, split_index=1, split_ratio='712'))), 'train')
    rows = release_rows()
    position = next(i for i, row in enumerate(rows) if row[0] not in phase_of)
    rows[position][5] = 'inf'
    write_rows(release, rows)
    assert f'row {position + 2}: {rows[position][0]}' in error_of(section(release, split_index=1, split_ratio='712'))


@pytest.mark.parametrize('workers', [0, 2])
def test_the_check_does_not_move_the_random_stream(release, workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build_dataset(section(release, num_worker_per_gpu=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_scores_of_a_known_release_are_normalised_with_its_own_range(release):
    dataset = build_dataset(section(release, mos_normalize=True, further_score_columns=['mos_align']))
    assert dataset[20]['mos_label'].item() == pytest.approx(2.0 / 5)
    assert dataset[20]['targets'].tolist() == pytest.approx([2.0 / 5, 1.0 / 5])


def test_an_empty_cell_of_a_further_score_is_a_missing_score(release):
    rows = release_rows()
    rows[3][7] = ''
    rows[4][7] = ' '
    write_rows(release, rows)
    options = section(release, further_score_columns=['mos_align', 'std_align'], mos_normalize=True, batch_size_per_gpu=8)
    dataset = build_dataset(options)
    batch = next(iter(build_dataloader(dataset, {**options, 'phase': 'val'})))
    assert batch['targets'].shape == batch['target_mask'].shape == (8, 3)
    assert batch['targets'].dtype == torch.float32 and batch['target_mask'].dtype == torch.bool
    assert batch['target_mask'].tolist() == [[True, i not in (3, 4), True] for i in range(8)]
    assert batch['targets'][:, 1].tolist() == pytest.approx([0 if i in (3, 4) else i / 20 / 5 for i in range(8)])
    assert torch.equal(batch['targets'][:, :1], batch['mos_label'])


@pytest.mark.parametrize(('column', 'cell'), [(5, ''), (7, 'nan'), (7, 'n/a'), (7, 'inf'), (7, '5.5')])
def test_no_other_cell_is_a_missing_score(release, column, cell):
    rows = release_rows()
    rows[3][column] = cell
    write_rows(release, rows)
    assert 'row 5: 003.jpg' in error_of(section(release, further_score_columns=['mos_align']))


def test_a_further_column_without_any_score_in_the_phase_is_an_error(release):
    rows = [[*row, side] for row, side in zip(release_rows(4), ['train', 'val', 'train', 'train'], strict=True)]
    for row in (rows[0], *rows[2:]):
        row[7] = ''
    write_rows(release, rows, [*HEADER, 'split_a'])
    options = section(release, split_index='split_a', further_score_columns=['mos_align'])
    assert "no row of split_a, train has a score in 'mos_align'" in error_of(options)
    assert build_dataset({**options, 'phase': 'val'})[0]['target_mask'].all()


def test_all_scores_are_normalised_with_one_range_and_turned_round_together(release, tmp_path):
    labels = tmp_path / 'own.csv'
    labels.write_text('file,bad,worse,prompt\n001.jpg,20,70,a\n002.jpg,10,,b\n')
    options = section(release, meta_info_file=str(labels), further_score_columns=['worse'], mos_normalize=True)
    dataset = build_dataset({**options, 'mos_range': [0, 100], 'lower_better': True})
    assert [dataset[i]['targets'].tolist() for i in range(2)] == [pytest.approx([0.8, 0.3]), pytest.approx([0.9, 0])]
    assert dataset[1]['target_mask'].tolist() == [True, False]
    message = error_of({**options, 'mos_range': [0, 50], 'lower_better': True})
    assert 'row 2: worse is 70, outside the range 0 to 50' in message and 'row 3' not in message
    assert build_dataset({**options, 'mos_range': [0, 50], 'mos_normalize': False})[0]['targets'].tolist() == [20, 70]


def test_scores_of_an_unknown_set_are_not_normalised_by_guess(release, tmp_path):
    labels = tmp_path / 'own.csv'
    labels.write_text('file,mos,prompt\n001.jpg,99,a\n')
    options = section(release, meta_info_file=str(labels))
    assert build_dataset(options)[0]['mos_label'].item() == 99
    message = error_of({**options, 'mos_normalize': True}, ValueError)
    assert 'mos_range and lower_better' in message
    assert 'outside its range 0 to 5' in error_of({**options, 'mos_range': [0, 5]})


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'scor_column': 'mos_align'}, "scor_column: unknown key; did you mean 'score_column'"),
        ({'split_file': 'splits.pkl'}, "split_file: unknown key; did you mean 'split_"),
        ({'augment': {'hflp': True}}, "'hflp'"),
        ({'split_index': 0}, 'split_index should be '),
        ({'split_index': True}, 'split_index should be '),
        ({'further_score_columns': 'mos_align'}, 'further_score_columns should be a valid list'),
        ({'further_score_columns': ['mos_align', 'mos_align']}, 'names a column twice'),
        ({'further_score_columns': ['a'], 'score_column': 'a'}, 'or the score_column'),
        ({'input_size': 31}, 'input_size should be greater than or equal to 32'),
        ({'input_size': True}, 'input_size should be '),
        ({'input_size': '224'}, 'input_size should be '),
        ({'input_size': [224]}, 'input_size should be '),
        ({'input_size': 64, 'augment': {'random_crop': 32}}, 'random_crop works on the whole image'),
        ({'image_cache': 'folder'}, 'image_cache was removed'),
        ({'mos_range': [5, 0]}, 'mos_range is [5, 0]'),
        ({'mos_range': 5}, 'mos_range should be '),
        ({'dataroot_target': None}, 'dataroot_target'),
        ({'split_index': 1, 'split_ratio': '123'}, "'123'"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(release, options, words):
    assert words in error_of(section(release, **options), ValueError)


def test_several_wrong_options_are_one_error(release):
    message = error_of(section(release, prompt_colum='a', img_rnge=1), ValueError)
    assert 'prompt_column' in message and 'img_range' in message


def test_switched_off_augmentation_and_empty_options_are_no_mistake(release):
    dataset = build_dataset(section(release, augment={'hflip': False}, split_index=None, further_score_columns=None))
    assert len(dataset) == 40


def test_every_key_that_pyiqas_loader_and_trainer_read_is_known():
    import inspect
    import re

    import pyiqa.data
    import pyiqa.train

    source = inspect.getsource(pyiqa.data) + inspect.getsource(pyiqa.train)
    read = set(re.findall(r"dataset_opt(?:\.get\(|\[)'(\w+)'", source.replace('"', "'")))
    assert {'batch_size_per_gpu', 'pin_memory', 'use_shuffle'} <= read <= DatasetOptions.model_fields.keys()


def test_images_of_several_sizes_in_one_batch_are_an_error_before_the_first_step(release):
    Image.new('RGB', (48, 64)).save(release / 'images' / '005.jpg')
    options = section(release, batch_size_per_gpu=4)
    message = error_of(options)
    assert 'images of 2 sizes (24 x 32, 64 x 48, height x width)' in message and 'input_size: [224, 224]' in message
    assert 'images of 2 sizes' in error_of({**options, 'augment': {'hflip': True}})
    assert 'images of 2 sizes' in error_of({**options, 'input_size': 64})
    assert len(build_dataset({**options, 'batch_size_per_gpu': 1})) == 40
    assert len(build_dataset({**options, 'augment': {'center_crop': 16}})) == 40
    dataset = build_dataset({**options, 'input_size': [32, 48]})
    assert {tuple(dataset[i]['img'].shape) for i in range(40)} == {(3, 32, 48)}


def test_squares_of_several_sizes_fit_into_one_batch_with_an_input_size(release):
    for i in range(40):
        Image.effect_noise((32 + 8 * (i % 3),) * 2, 50).save(release / 'images' / f'{i:03d}.jpg')
    options = section(release, batch_size_per_gpu=40, num_worker_per_gpu=0)
    assert 'set input_size: 224 or' in error_of(options)
    options['input_size'] = 64
    batch = next(iter(build_dataloader(build_dataset(options), options, seed=0)))
    assert batch['img'].shape == (40, 3, 64, 64)


@pytest.mark.parametrize('workers', [0, 2])
def test_images_may_be_checked_later_all_or_some_of_them(release, workers):
    for name in ('011.jpg', '013.jpg'):
        (release / 'images' / name).write_text('no image')
    dataset = build_dataset(section(release, check_images=False, num_worker_per_gpu=workers))
    assert dataset.paths == [str(release / 'images' / f'{i:03d}.jpg') for i in range(40)]
    dataset.check_images([*range(11), 12])
    dataset.check_images([])
    for indices, rows in ((None, ['row 13', 'row 15']), (iter([0, 13]), ['row 15'])):
        with pytest.raises(LabelError) as caught:
            dataset.check_images(indices)
        first, *lines = str(caught.value).splitlines()
        assert str(release / 'data.csv') in first
        assert [line.split(':')[0].strip() for line in lines] == rows and all('.jpg' in line for line in lines)


def test_images_of_several_sizes_are_found_by_a_later_check(release):
    Image.new('RGB', (48, 64)).save(release / 'images' / '005.jpg')
    dataset = build_dataset(section(release, check_images=False, batch_size_per_gpu=4))
    dataset.check_images([0, 1])
    with pytest.raises(LabelError, match='images of 2 sizes'):
        dataset.check_images([4, 5])


def test_each_row_of_a_damaged_image_is_named(release):
    rows = release_rows(3)
    rows.append([rows[1][0], 'another prompt', *rows[1][2:]])
    write_rows(release, rows)
    (release / 'images' / '001.jpg').write_text('no image')
    message = error_of(section(release))
    assert 'row 3:' in message and 'row 5:' in message and 'row 2:' not in message


def test_the_example_of_the_dataset_runs():
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(AIGCIQADataset, globs={'AIGCIQADataset': AIGCIQADataset})
    assert example.examples and doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize('start', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
def test_workers_and_pinned_memory_hand_over_the_same_batches(release, start):
    options = section(release, further_score_columns=['mos_align'], phase='val')
    dataset = build_dataset(options)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=16, num_workers=2, multiprocessing_context=start, pin_memory=torch.cuda.is_available()
    )
    batches = list(loader)
    for key in ('img', 'targets', 'target_mask'):
        assert torch.equal(torch.cat([batch[key] for batch in batches]), torch.stack([dataset[i][key] for i in range(40)]))
    assert sum((batch['img_path'] for batch in batches), []) == [dataset[i]['img_path'] for i in range(40)]


@pytest.mark.data
def test_photographs_without_prompts_are_read_too(data_folder):
    folder = data_folder / 'LIVE-Challenge-subset'
    options = section(folder, meta_info_file=str(folder / 'labels.csv'), prompt_column=None, further_score_columns=['std'])
    options |= {'split_index': 1, 'split_ratio': '712', 'mos_range': [0, 100], 'batch_size_per_gpu': 8}
    message = error_of({**options, 'split_index': None})
    assert 'images of 3 sizes (500 x 500, 608 x 608, 960 x 640, height x width)' in message
    phases = []
    for phase in ('train', 'val', 'test'):
        dataset = build_dataset({**options, 'phase': phase, 'input_size': [224, 224], 'check_images': False})
        phases.append(set(names(dataset)))
        assert dataset[0]['img'].shape == (3, 224, 224) and dataset[0]['prompt'] == ''
        assert dataset[0]['targets'].shape == (2,) and 0 <= dataset[0]['mos_label'].item() <= 100
    assert len(set.union(*phases)) == sum(map(len, phases)) == 727 and min(map(len, phases)) > 50


@pytest.mark.data
def test_the_first_fold_of_agiqa_3k(data_folder):
    options = section(data_folder / 'AGIQA-3K', split_index=1, split_ratio='712', phase='val')
    dataset = build_dataset(options)
    assert len(dataset) == 308 and len({prompt for _, _, prompt, _ in dataset.paths_mos}) == 31
    assert dataset[0]['img'].shape == (3, 512, 512)
