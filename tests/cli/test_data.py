"""The commands of `align-iqa data`, on small copies of the releases and on a CSV of one's own; their option files."""

import csv
import os
import re
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from align_iqa_plugin.cli import app
from align_iqa_plugin.data.images import DIED, read_image
from align_iqa_plugin.data.labels import read_labels
from align_iqa_plugin.data.releases import RELEASES
from align_iqa_plugin.data.splits import content_hashes, image_level_split, prompt_disjoint_split, split_name
from align_iqa_plugin.register import register_datasets

OPTIONS = Path(__file__).resolve().parents[2] / 'options' / 'data'
each_release = pytest.mark.parametrize('release', RELEASES, ids=lambda release: release.key)


def run(command, *arguments):
    return CliRunner().invoke(app, ['data', command, *map(str, arguments)])


def read(path):
    with open(path, encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


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


def test_the_command_writes_a_csv_whose_other_columns_are_untouched(folder, tmp_path):
    result = run('prepare', folder, '-o', tmp_path / 'meta.csv', *NAMED)
    assert result.exit_code == 0, result.output
    source, written = read(folder / 'data.csv'), read(tmp_path / 'meta.csv')
    assert list(written[0])[:4] == ['file', 'rating', 'caption', 'note']
    assert list(written[0])[4:14] == [split_name(split) for split in range(1, 11)]
    assert [{name: row[name] for name in source[0]} for row in written] == source
    contents = content_hashes([folder / row['file'] for row in source])
    expected = prompt_disjoint_split([row['caption'] for row in source], contents, 3)
    assert [row[split_name(3)] for row in written] == expected
    assert [row['image712_seed123_split_03'] for row in written] == image_level_split(contents, 3)
    assert all(written[0][name] == written[39][name] for name in written[0] if 'split' in name)


def test_the_same_input_gives_the_same_bytes_and_leaves_nothing_else(folder, tmp_path):
    for name in ('one.csv', 'two.csv', 'one.csv'):
        assert run('prepare', folder / 'data.csv', '-o', tmp_path / name, *NAMED).exit_code == 0
    assert (tmp_path / 'one.csv').read_bytes() == (tmp_path / 'two.csv').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['one.csv', 'set', 'two.csv']


def test_the_table_shows_images_and_prompts_of_each_phase(folder, tmp_path):
    result = run('prepare', folder, '-o', tmp_path / 'm.csv', *NAMED)
    rows = read(tmp_path / 'm.csv')
    for name in [name for name in rows[0] if 'split' in name]:
        (line,) = [line for line in result.stdout.splitlines() if name in line]
        shown = [tuple(map(int, pair)) for pair in re.findall(r'(\d+) \((\d+)\)', line)]
        for phase, (images, prompts) in zip(('train', 'val', 'test'), shown, strict=True):
            chosen = [row for row in rows if row[name] == phase]
            assert (images, prompts) == (len(chosen), len({row['caption'] for row in chosen}))


def test_pyiqas_own_dataset_reads_the_csv(folder, tmp_path):
    from pyiqa.data import build_dataset

    assert run('prepare', folder, '-o', tmp_path / 'meta.csv', *NAMED).exit_code == 0
    rows = read(tmp_path / 'meta.csv')
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
        (
            ['{folder}', '-o', 'm.csv', '--image-column', 'file', '--score-column', 'rating'],
            ["'prompt'", 'caption', "--prompt-column ''"],
        ),
        (['{folder}', '-o', 'm.csv', '--release', 'agiqa3k'], ['no table of AGIQA-3K', "'mos_quality'"]),
        (['{folder}', '-o', 'm.csv', '--release', 'none'], ["unknown release 'none'", 'agiqa3k']),
        (['{folder}', '-o', 'no/such/m.csv', *NAMED], ['no/such/m.csv', 'there is no folder']),
        (['{folder}', '-o', '{folder}/data.csv', *NAMED], ['data.csv', 'another file']),
        (['{folder}', '-o', 'm.csv', *NAMED, '--images', '{folder}/no'], ['none of the 40 images', 'row 2']),
    ],
)
def test_bad_input_ends_in_status_2_and_a_sentence(folder, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    before = (folder / 'data.csv').read_bytes()
    result = run('prepare', *(argument.replace('{folder}', str(folder)) for argument in arguments))
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit) and 'Traceback' not in result.output
    assert all(word in result.stderr for word in words), result.stderr
    assert (folder / 'data.csv').read_bytes() == before and not (tmp_path / 'm.csv').exists()


def test_too_few_prompts_for_the_splits_are_an_error(tmp_path):
    (tmp_path / 'data.csv').write_text('name,mos,prompt\na.png,1,a\nb.png,2,a\n')
    for i, name in enumerate(['a.png', 'b.png']):
        Image.new('RGB', (8, 8), (i, 0, 0)).save(tmp_path / name)
    result = run('prepare', tmp_path, '-o', tmp_path / 'm.csv')
    assert result.exit_code == 2 and 'too few prompts' in result.stderr
    assert not (tmp_path / 'm.csv').exists()


def test_an_interrupted_write_leaves_the_older_file(folder, tmp_path, monkeypatch):
    output = tmp_path / 'm.csv'
    output.write_text('older')

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('align_iqa_plugin.runtime.atomic.os.replace', fail)
    result = run('prepare', folder, '-o', output, *NAMED)
    assert result.exit_code == 2 and 'No space left' in result.stderr
    assert output.read_text() == 'older'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['m.csv', 'set']


@each_release
def test_every_release_is_prepared_and_read_again_by_its_splits(small_releases, tmp_path, release):
    from pyiqa.data import build_dataset

    register_datasets()
    result = run('prepare', small_releases / release.name, '-o', tmp_path / 'meta.csv')
    assert result.exit_code == 0, result.output
    rows = read(tmp_path / 'meta.csv')
    splits = [name for name in rows[0] if 'split' in name]
    generators = sorted({row['generator'] for row in rows}) if 'generator' in rows[0] else []
    official = ['official_split'] if release.test_table else []
    assert splits[20:] == [*(f'generator_split_{generator}' for generator in generators), *official]
    options = {'type': 'AIGCIQADataset', 'dataroot_target': str(small_releases / release.name / release.image_folder)}
    options |= {'name': 'small', 'meta_info_file': str(tmp_path / 'meta.csv'), 'split_index': splits[-1]}
    options |= {} if release.prompt_column else {'prompt_column': None}
    for phase in ('train', 'val', 'test'):
        names = [Path(path).name for path, *_ in build_dataset({**options, 'phase': phase}).paths_mos]
        assert names == [row[release.image_column] for row in rows if row[splits[-1]] == phase]


def test_a_split_on_the_fly_is_the_one_that_is_prepared(small_releases, tmp_path):
    from pyiqa.data import build_dataset

    register_datasets()
    assert run('prepare', small_releases / 'AGIQA-1K', '-o', tmp_path / 'meta.csv').exit_code == 0
    rows = read(tmp_path / 'meta.csv')
    for split in ('generator_split_deepai', 'image712_seed123_split_02', 'ratio712_seed123_split_02'):
        options = {'name': 'small', 'type': 'AIGCIQADataset', 'dataroot_target': str(small_releases / 'AGIQA-1K')}
        dataset = build_dataset({**options, 'split_index': split, 'phase': 'test'})
        expected = [row['Image'] for row in rows if row[split] == 'test']
        assert [Path(path).name for path, *_ in dataset.paths_mos] == expected and expected


def test_known_columns_come_first_in_a_prepared_csv(small_releases, tmp_path):
    assert run('prepare', small_releases / 'AGIQA-3K', '-o', tmp_path / 'meta.csv').exit_code == 0
    (first, *_) = read(tmp_path / 'meta.csv')
    expected = ['name', 'mos_quality', 'prompt', 'prompt_id', 'generator', 'mos_align', 'adj1', 'adj2', 'style']
    assert list(first)[:9] == expected
    assert (first['prompt_id'], first['generator']) == ('000', 'AttnGAN')


def test_a_table_with_columns_of_any_names_is_prepared_with_a_split_for_each_generator(tiny_images, tmp_path):
    rows = read(tiny_images / 'data.csv')
    lines = [f'{row["name"]},{row["mos_quality"]},{row["prompt"]},{"ab"[i % 2]}' for i, row in enumerate(rows)]
    (tmp_path / 'own.csv').write_text('\n'.join(['file,rating,caption,model', *lines]))
    columns = [*NAMED, '--generator-column', 'model']
    assert run('verify', tmp_path / 'own.csv', '--images', tiny_images, *columns, '--workers', 1).exit_code == 0
    result = run('prepare', tmp_path / 'own.csv', '--images', tiny_images, *columns, '-o', tmp_path / 'meta.csv')
    assert result.exit_code == 0, result.output
    for row in read(tmp_path / 'meta.csv'):
        assert (row['generator_split_a'] == 'test') == (row['generator'] == 'a')


@pytest.fixture
def agiqa_3k(small_releases, tmp_path):
    """A small copy of AGIQA-3K, to be damaged."""
    return Path(shutil.copytree(small_releases / 'AGIQA-3K', tmp_path / 'AGIQA-3K'))


@each_release
def test_a_sound_release_is_verified(small_releases, release):
    result = run('verify', small_releases / release.name, '--workers', 1)
    assert result.exit_code == 0, result.output
    *notes, verdict = result.stdout.splitlines()
    assert verdict.startswith(release.name) and ': sound; ' in verdict
    assert all(line.startswith('note: ') for line in notes)


@pytest.mark.parametrize('workers', [1, 2])
def test_every_problem_is_reported_in_one_pass(agiqa_3k, workers):
    images = agiqa_3k / 'images'
    rows = read(agiqa_3k / 'data.csv')
    (images / rows[3]['name']).unlink()
    truncated = images / rows[5]['name']
    truncated.write_bytes(truncated.read_bytes()[:-30])
    (images / rows[6]['name']).write_text('no image')
    (images / rows[7]['name']).write_bytes(b'')
    shutil.copy(images / rows[10]['name'], images / rows[30]['name'])
    shutil.copy(images / rows[10]['name'], images / rows[50]['name'])
    rows[8]['mos_quality'] = 'nan'
    rows[9]['mos_quality'] = '5.01'
    rows[25]['prompt'] = 'of another image'
    os.rename(images / rows[12]['name'], images / 'new_normal_012.jpg')
    rows[12]['name'] = 'new_normal_012.jpg'
    Image.new('RGB', (8, 8)).save(images / 'unlisted.png')
    with open(agiqa_3k / 'data.csv', 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)

    result = run('verify', agiqa_3k, '--workers', workers)
    assert result.exit_code == 1 and result.exception.args == (1,)
    *lines, verdict = result.stdout.splitlines()
    expected = {
        f'missing: row 5: {rows[3]["name"]}: there is no such file',
        f"corrupt: row 7: '{truncated}' is damaged",
        f"corrupt: row 8: '{images / rows[6]['name']}' is not a picture",
        f"corrupt: row 9: '{images / rows[7]['name']}' is empty",
        f'duplicate: row 32: {rows[30]["name"]}, {rows[50]["name"]}: the same file as {rows[10]["name"]} in row 12.',
        f"mislabelled: row 10: {rows[8]['name']}: mos_quality is 'nan'",
        f'mislabelled: row 11: {rows[9]["name"]}: mos_quality is 5.01, outside its range 0 to 5',
        'mislabelled: row 14: new_normal_012.jpg is no image name of AGIQA-3K',
        f"mislabelled: row 27: {rows[25]['name']}: its prompt is 'of another image', that of 005 is 'prompt 5' in row 7",
        'note: 1 image has no row, in the same folders: unlisted.png',
        'note: AGIQA-3K has 2,982 images, here are 119.',
    }
    assert len(lines) == len(expected)
    for start in expected:
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    assert verdict.endswith('3 corrupt, 1 duplicate, 4 mislabelled, 1 missing; 2 notes.')


def test_a_known_duplicate_is_a_note(agiqa_3k):
    # in the release, these are one file; the small copy has other names of the same pattern
    rows = read(agiqa_3k / 'data.csv')
    group = ['midjourney_normal_072.jpg', 'midjourney_normal_094.jpg']
    for row, name in zip(rows[60:62], group, strict=True):
        os.remove(agiqa_3k / 'images' / row['name'])
        Image.new('RGB', (9, 9)).save(agiqa_3k / 'images' / name)
        row['name'] = name
    with open(agiqa_3k / 'data.csv', 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    result = run('verify', agiqa_3k, '--workers', 1)
    assert result.exit_code == 0
    assert f'note: duplicate: row 63: {group[1]}: the same file as {group[0]} in row 62.' in result.stdout


def test_one_file_in_several_rows_is_no_duplicate(tmp_path):
    (tmp_path / 'data.csv').write_text('name,mos,prompt\na.png,1,a\na.png,2,b\n')
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    result = run('verify', tmp_path, '--workers', 1)
    assert result.exit_code == 0 and '2 images of 2 prompts: sound; 0 notes.' in result.stdout


def test_a_table_in_the_working_folder_is_found_by_its_bare_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    Image.new('RGB', (9, 9)).save('unlisted.png')
    result = run('verify', 'data.csv', *NAMED, '--workers', 1)
    assert result.exit_code == 1, result.output
    *lines, verdict = result.stdout.splitlines()
    assert lines[0].startswith('duplicate: row 41: 039.png: the same file as 000.png') and len(lines) == 2
    assert lines[1].startswith('note: 1 image ') and lines[1].endswith(': unlisted.png')
    assert verdict == 'data.csv, 40 images of 20 prompts: 1 duplicate; 1 note.'
    result = run('prepare', 'data.csv', *NAMED, '-o', 'meta.csv')
    assert result.exit_code == 0 and len(read('meta.csv')) == 40


@pytest.mark.skipif(os.name == 'nt', reason='processes must inherit the patch')
@pytest.mark.parametrize('workers', [1, 2])
def test_an_image_that_kills_its_decoder_is_a_corrupt_one_and_named(folder, monkeypatch, workers):
    deadly, read = str(folder / '002.png'), read_image
    monkeypatch.setattr(
        'align_iqa_plugin.data.verify.read_image',
        lambda path: os.kill(os.getpid(), signal.SIGKILL) if path == deadly else read(path),
    )
    result = run('verify', folder, *NAMED, '--workers', workers)
    assert result.exit_code == 1
    (problem,) = [line for line in result.stdout.splitlines() if line.startswith('corrupt')]
    assert deadly in problem and problem.endswith(DIED)


def test_an_unlikely_name_is_only_a_note_where_the_names_were_not_checked_on_the_release(small_releases, tmp_path):
    folder = Path(shutil.copytree(small_releases / 'AIGIQA-20K', tmp_path / 'AIGIQA-20K'))
    text = (folder / 'info_train.csv').read_text()
    (folder / 'info_train.csv').write_text(text.replace('A_0000.png', 'A.png'))
    os.rename(folder / 'train' / 'A_0000.png', folder / 'train' / 'A.png')
    result = run('verify', folder, '--workers', 1)
    assert result.exit_code == 0 and 'note: mislabelled: row 2: A.png is no image name of AIGIQA-20K.' in result.stdout


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['nowhere'], ['nowhere', 'cannot be read']),
        (['.'], ['has no data.csv', 'AIGCIQA2023_Prompts.xlsx']),
        (['empty.csv'], ['empty.csv', 'is empty']),
        (['own.csv'], ['own.csv', 'leads to no image', 'row 2: a.png: there is no such file', 'row 3: b.png']),
        (['own.csv', '--release', 'agiqa3k'], ['no table of AGIQA-3K']),
        (['own.csv', '--release', 'agiqa'], ["unknown release 'agiqa'"]),
        (['own.csv', '--prompt-column', 'caption'], ["no column 'caption'", "--prompt-column ''"]),
    ],
)
def test_what_is_no_data_set_ends_in_status_2_and_a_sentence(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty.csv').touch()
    (tmp_path / 'own.csv').write_text('name,mos,prompt\na.png,1,a\nb.png,2,b\n')
    result = run('verify', *arguments)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit) and 'Traceback' not in result.output
    assert all(word in result.stderr for word in words), result.stderr


def test_the_list_names_every_release_with_its_counts_licence_and_page():
    result = run('list')
    assert result.exit_code == 0
    for release in RELEASES:
        (line,) = [line for line in result.stdout.splitlines() if f' {release.key} ' in line]
        cells = [cell.strip() for cell in line.strip('│').split('│')]
        assert cells[:3] == [release.name, release.key, f'{release.images:,}']
        assert cells[6:] == [release.licence or '?', release.home, 'yes' if release.verified else 'no']
        assert all(name in cells[3] for name in release.score_ranges)


@each_release
def test_the_option_file_of_a_release_gives_pyiqas_benchmark_its_images(small_releases, monkeypatch, release):
    from pyiqa.data import build_dataloader, build_dataset

    register_datasets()
    monkeypatch.chdir(small_releases.parent)
    (file,) = OPTIONS.glob(f'{release.key}.yml')
    text = file.read_text(encoding='utf-8')
    ((name, options),) = yaml.safe_load(text).items()
    assert name == release.key and f'--data_opt {file.name}' in text and release.home in text
    assert options['dataroot_target'] == f'./datasets/{release.name}'
    options |= {'dataroot_target': str(small_releases / release.name)}
    # as the script adds them
    options |= {'num_worker_per_gpu': 0, 'prefetch_mode': 'cpu', 'num_prefetch_queue': 8}
    dataset = build_dataset(options)
    images = len(read(small_releases / release.name / release.table)) if release.table.endswith('.csv') else len(dataset)
    assert len(dataset) == {'agiqa3k': 24, 'biq2021': 8}.get(release.key, images)
    batch = next(iter(build_dataloader(dataset, options, num_gpu=0)))
    assert batch['img'].shape == (1, 3, 8, 8) and batch['mos_label'].shape == (1, 1)
    assert batch['prompt'] == [''] if release.prompt_column is None else batch['prompt'][0].strip()


def test_there_is_no_option_file_without_a_release():
    assert {file.stem for file in OPTIONS.iterdir()} == {release.key for release in RELEASES}


@pytest.mark.data
@pytest.mark.parametrize('decoded', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_real_agiqa_3k_is_sound_but_for_its_nine_known_duplicates(data_folder, monkeypatch, decoded):
    if not decoded:
        monkeypatch.setattr('align_iqa_plugin.data.verify.read_image', lambda path: None)
    result = run('verify', data_folder / 'AGIQA-3K', '--workers', 2 if decoded else 1)
    assert result.exit_code == 0, result.output
    *notes, verdict = result.stdout.splitlines()
    assert verdict == 'AGIQA-3K, 2,982 images of 300 prompts by 6 generators: sound; 9 notes.'
    assert len(notes) == 9 and all(note.startswith('note: duplicate: ') for note in notes)


@pytest.mark.data
def test_the_real_live_challenge_is_prepared_without_prompts(data_folder, tmp_path):
    result = run('prepare', data_folder / 'LIVE-Challenge-subset', '-o', tmp_path / 'live.csv')
    assert result.exit_code == 0, result.output
    rows = read(tmp_path / 'live.csv')
    assert list(rows[0])[:3] == ['name', 'mos', 'std'] and len(rows) == 727 and len(rows[0]) == 23
    assert Counter(row[split_name(1)] for row in rows) == {'train': 508, 'val': 73, 'test': 146}


def test_a_name_cannot_forge_a_line_of_verify(folder):
    forged = 'gone.png\nmissing: row 3: 001.png\x1b[1A\x1b[2K'
    with open(folder / 'data.csv', 'a', encoding='utf-8', newline='') as file:
        csv.writer(file).writerow(['a cat', '', forged, '1'])
    result = run('verify', folder, *NAMED, '--workers', '1')
    assert result.exit_code == 1 and '\x1b' not in result.output
    assert [line for line in result.stdout.splitlines() if line.startswith('missing: ')] == [
        line for line in result.stdout.splitlines() if 'gone.png' in line
    ]


def test_a_folder_named_like_markup_is_shown_as_it_is_called(folder, tmp_path):
    folder = folder.rename(tmp_path / '[red]set[_x]')
    result = run('prepare', folder, '-o', tmp_path / 'm.csv', *NAMED)
    assert result.exit_code == 0, result.output
    assert '[red]set[_x]' in ''.join(result.stdout.split())


def test_an_output_in_no_folder_is_found_before_the_labels_are_read(tmp_path):
    result = run('prepare', tmp_path / 'none', '-o', tmp_path / 'nowhere' / 'm.csv')
    assert result.exit_code == 2 and 'there is no folder' in result.stderr


def test_a_prompt_that_looks_like_a_formula_is_neutral_in_the_file_and_whole_in_training(folder, tmp_path):
    prompt = '=HYPERLINK("http://x","y")'
    rows = read(folder / 'data.csv')
    rows[5]['caption'] = prompt
    with open(folder / 'data.csv', 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert run('prepare', folder, '-o', tmp_path / 'm.csv', *NAMED).exit_code == 0
    assert read(tmp_path / 'm.csv')[5]['caption'] == f"'{prompt}"
    assert read_labels(tmp_path / 'm.csv', images=folder, prompt_column='caption').rows[5].prompt == prompt
