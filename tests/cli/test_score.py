"""`align-iqa score`: every picture gets a score or a reason, and no picture costs another one its score."""

import csv
import hashlib
import json
import os
import shutil
import stat
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from align_iqa_plugin.archs.pretrained import PACKAGED_MODEL_CARD
from align_iqa_plugin.cli.score import Row, batches, match_prompts, sample_rows, score_batch
from align_iqa_plugin.data import images
from align_iqa_plugin.score import contact_sheet as sheet

command = import_module('align_iqa_plugin.cli.score')  # `align_iqa_plugin.cli.score` may be the function in it
app = typer.Typer()
app.command()(command.score)
WEIGHTS = Path(command.__file__).parents[1] / 'weights'


class Brightness:
    """A stand-in for the network: five times the mean brightness, and what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, batch, caption_list=None):
        assert batch.dtype == torch.float32 and 0 <= batch.min() and batch.max() <= 1
        self.calls.append((tuple(batch.shape), caption_list))
        return 5 * batch.mean(dim=(1, 2, 3), dtype=torch.float64)[:, None]

    @property
    def sizes(self):
        return [shape[0] for shape, _ in self.calls]


@pytest.fixture
def metric(monkeypatch):
    metric = Brightness()
    monkeypatch.setattr(command, 'load_metric', lambda device, weights: metric)
    return metric


@pytest.fixture
def folder(tmp_path, monkeypatch, metric):
    """An empty working folder, and a network that is quick."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def grey(name, value, size=(40, 40)):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', size, value).save(name)
    return pytest.approx(5 * value / 255, abs=1e-4)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows_of(file):
    with open(file, encoding='utf-8', newline='') as opened:
        return list(csv.DictReader(opened))


def scored(*arguments, status=0):
    result = run(*arguments, '--output', 'out.csv')
    assert result.exit_code == status, result.output
    return rows_of('out.csv')


# Which images


def test_files_folders_and_globs_are_found_in_the_order_given(folder):
    for name in ('b.png', 'a.png', 'sub/d.PNG', 'sub/deep/e.jpg', 'c1.png', 'c2.png'):
        grey(name, 99)
    names = [row['image'] for row in scored('b.png', 'sub', 'c*.png', 'a.png')]
    assert names == ['b.png', 'sub/d.PNG', 'sub/deep/e.jpg', 'c1.png', 'c2.png', 'a.png']


def test_a_glob_may_reach_into_subfolders(folder):
    grey('x/a.png', 99), grey('x/y/b.png', 99)
    assert [row['image'] for row in scored('**/*.png')] == ['x/a.png', 'x/y/b.png']


def test_an_image_that_is_named_twice_is_scored_once(folder):
    grey('x/a.png', 99)
    assert [row['image'] for row in scored('x/a.png', 'x', './x/*.png')] == ['x/a.png']


def test_a_file_whose_name_looks_like_a_glob_is_a_file(folder):
    grey('a[1].png', 99), grey('a1.png', 10)
    assert [row['image'] for row in scored('a[1].png')] == ['a[1].png']


def test_other_and_hidden_files_of_a_folder_are_passed_over_but_counted(folder):
    grey('x/a.png', 99), grey('x/.hidden.png', 99), grey('x/.git/b.png', 99)
    Path('x/notes.txt').write_text('notes')
    result = run('x')
    assert result.exit_code == 0
    assert '1 of 1 images scored' in result.stderr
    assert '1 files in the folders were left out' in result.stderr


def test_a_table_names_images_and_prompts_and_may_stand_beside_images_without(folder, metric):
    expected = [grey('x/a.png', 99), grey('x/b.png', 50)]
    Path('x/table.csv').write_text('image,prompt\na.png,a cat\n')
    rows = scored('x/table.csv', 'x')
    assert [(row['image'], row['prompt']) for row in rows] == [('x/a.png', 'a cat'), ('x/a.png', ''), ('x/b.png', '')]
    assert [float(row['score']) for row in rows] == [expected[0], *expected]
    assert sorted(prompts or [] for _, prompts in metric.calls) == [[], ['a cat']]


def test_a_table_with_prompts_takes_no_others(folder):
    grey('a.png', 99)
    Path('table.csv').write_text('image,prompt\na.png,a cat\n')
    result = run('table.csv', '--prompt', 'a dog')
    assert result.exit_code == 2 and 'the table brings prompts of its own' in result.stderr


def test_a_faulty_table_is_refused(folder):
    Path('table.csv').write_text('picture\na.png\n')
    result = run('table.csv')
    assert result.exit_code == 2 and 'needs a column image' in result.stderr


def test_an_address_is_scored_and_a_folder_at_one_is_searched(folder):
    expected = [grey('x/a b.png', 99), grey('x/sub/c.png', 50)]
    Path('x/notes.txt').write_text('notes')
    address = f'file://{folder}/x'
    rows = scored(address, f'{address}/a b.png', f'{address}/none.png', 'other://x', status=1)
    assert [row['image'] for row in rows[:2]] == [f'{address}/a b.png', f'{address}/sub/c.png']
    assert [float(row['score']) for row in rows[:2]] == expected
    assert [row['image'] for row in rows[2:]] == [f'{address}/none.png', 'other://x']
    assert all(row['error'].startswith('cannot be listed: ') for row in rows[2:])


def test_an_argument_that_leads_to_no_image_gets_a_row(folder):
    grey('a.png', 99)
    Path('empty').mkdir()
    rows = scored('missing.png', 'empty', '*.gif', 'a.png', status=1)
    assert [(row['image'], row['error']) for row in rows] == [
        ('missing.png', 'does not exist.'),
        ('empty', 'is a folder without a picture.'),
        ('*.gif', 'matches no file.'),
        ('a.png', ''),
    ]


# Odd pictures


def test_every_odd_picture_gets_a_score_or_a_row_with_its_reason(folder, monkeypatch):
    fine = {'grey.png': grey('grey.png', 51)}
    Image.new('CMYK', (40, 40)).save('cmyk.jpg')
    Image.new('P', (40, 40)).save('palette.gif')
    Image.new('RGBA', (40, 40)).save('alpha.png')
    Image.fromarray(np.full((40, 40), 51 * 256, dtype=np.uint16)).save('deep.png')
    frames = [Image.new('L', (40, 40), value) for value in (51, 255)]
    frames[0].save('animated.webp', save_all=True, append_images=frames[1:], lossless=True)
    fine |= {'cmyk.jpg': 5, 'palette.gif': 0, 'alpha.png': 5, 'deep.png': fine['grey.png'], 'animated.webp': 1}
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('L', (60, 40), 51).save('turned.png', exif=exif)
    fine['turned.png'] = fine['grey.png']

    Image.new('L', (1, 1)).save('pixel.png')
    Path('empty.png').touch()
    Path('text.jpg').write_text('no picture')
    shutil.copy('cmyk.jpg', 'cut.jpg')
    os.truncate('cut.jpg', os.path.getsize('cmyk.jpg') // 2)
    monkeypatch.setattr(images, 'MAX_PIXELS', 300 * 300)
    grey('huge.png', 51, (301, 300))
    problems = {
        'pixel.png': 'is 1 x 1 pixels; the network needs at least 32 on each side.',
        'empty.png': 'is empty (0 bytes).',
        'text.jpg': 'is not a picture in a known format',
        'cut.jpg': 'is damaged or of an unknown kind',
        'huge.png': 'has more than 90,000 pixels; make it smaller.',
    }
    names = sorted(fine | problems)
    rows = scored(*names, status=1)
    assert [row['image'] for row in rows] == names
    for row in rows:
        if row['image'] in fine:
            assert float(row['score']) == pytest.approx(fine[row['image']], abs=0.02) and row['error'] == ''
        else:
            assert row['score'] == '' and row['error'].startswith(problems[row['image']])
    sizes = {row['image']: (row['width'], row['height']) for row in rows}
    assert sizes['turned.png'] == ('40', '60') and sizes['pixel.png'] == ('1', '1')


def test_a_picture_that_becomes_too_thin_says_so(folder, monkeypatch):
    monkeypatch.setattr(images, 'MAX_KEPT_PIXELS', 40 * 400)
    grey('a.png', 51), grey('thin.png', 51, (1000, 40))
    error = scored('a.png', 'thin.png', status=1)[1]['error']
    assert error.startswith('is 1,000 x 40, which is averaged down to 500 x 20 pixels; the network needs at least 32')


# ResumableBatchSampler


def test_pictures_of_one_size_share_batches_and_rows_keep_their_order(folder, metric):
    expected = [grey(f'{number}.png', number * 20, (40, 40 + number % 2)) for number in range(9)]
    rows = scored(*(f'{number}.png' for number in range(9)), '--batch-size', 2)
    assert [row['image'] for row in rows] == [f'{number}.png' for number in range(9)]
    assert [float(row['score']) for row in rows] == expected
    assert sorted(metric.sizes) == [1, 2, 2, 2, 2]


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(32, 60), st.integers(32, 60)), max_size=30),
    batch_size=st.integers(1, 5),
    limit=st.integers(1000, 20_000),
)
def test_batches_hold_every_picture_once_by_one_size_and_within_the_limits(sizes, batch_size, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, 'MAX_KEPT_PIXELS', limit)
        patch.setattr(images, 'read_image', lambda path: picture_of(sizes[int(path.name)]))
        rows = [Row(str(number), Path(str(number))) for number in range(len(sizes))]
        given_out = list(batches(rows, batch_size, advance=None))
    for batch in given_out:
        assert len({picture.size for _, picture in batch}) == 1
        pixels = sum(picture.width * picture.height for _, picture in batch)
        assert len(batch) == 1 or (len(batch) <= batch_size and pixels <= limit)
    assert sorted(int(row.image) for batch in given_out for row, _ in batch) == list(range(len(sizes)))


def picture_of(size):
    picture = Image.new('RGB', size)
    picture.info['full_size'] = size
    return picture


def test_few_pictures_wait_even_if_every_one_has_its_own_size(monkeypatch):
    monkeypatch.setattr(images, 'MAX_KEPT_PIXELS', 10_000)
    read = []
    monkeypatch.setattr(images, 'read_image', lambda path: read.append(path) or picture_of((40, 40 + len(read))))
    given_out = batches([Row(str(number), Path(str(number))) for number in range(100)], 16, advance=None)
    for number in range(1, 80):
        next(given_out)
        assert len(read) - number <= 20_000 / (40 * 40)


def test_a_failing_batch_is_tried_one_by_one(folder, monkeypatch):
    class Fragile(Brightness):
        def __call__(self, batch, caption_list=None):
            scores = super().__call__(batch, caption_list)
            if len(batch) > 2:
                raise torch.OutOfMemoryError('CUDA out of memory.\nTried to allocate')
            if (scores > 4).any():
                raise ValueError('too bright')
            return scores

    monkeypatch.setattr(command, 'load_metric', lambda device, weights: Fragile())
    expected = [grey(f'{value}.png', value) for value in (100, 150, 200, 250)]
    rows = scored('100.png', '150.png', '200.png', '250.png', status=1)
    assert [float(row['score']) for row in rows[:3]] == expected[:3]
    assert [row['error'] for row in rows] == [*[''] * 3, 'made the network fail: ValueError: too bright']


def test_each_picture_keeps_its_own_prompt_when_a_batch_is_taken_apart():
    asked = []

    def metric(batch, caption_list):
        if len(batch) > 1:
            raise RuntimeError('no')
        asked.extend(caption_list)
        return batch.mean(dim=(1, 2, 3))[:, None]

    results = score_batch(metric, [Image.new('RGB', (32, 32), value) for value in ('black', 'white')], ['a', 'b'])
    assert asked == ['a', 'b'] and results == [(0.0, ''), (1.0, '')]


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_score_that_is_not_finite_is_an_error(folder, monkeypatch, value):
    monkeypatch.setattr(command, 'load_metric', lambda *_: lambda batch, caption_list: torch.full((len(batch), 1), value))
    grey('a.png', 99)
    result = run('a.png', '--output', 'out.json')
    assert result.exit_code == 1
    (row,) = json.loads(Path('out.json').read_text(), parse_constant=pytest.fail)
    assert row['score'] is None and row['error'] == f'got the score {value}.'


# Prompts


def test_one_prompt_goes_to_every_image(folder, metric):
    grey('a.png', 99), grey('b.png', 99)
    rows = scored('a.png', 'b.png', '--prompt', 'a cat, "[red]big[/red]"')
    assert metric.calls == [((2, 3, 40, 40), ['a cat, "[red]big[/red]"'] * 2)]
    assert [row['prompt'] for row in rows] == ['a cat, "[red]big[/red]"'] * 2


def test_without_prompts_the_network_gets_none(folder, metric):
    grey('a.png', 99)
    (row,) = scored('a.png')
    assert metric.calls == [((1, 3, 40, 40), None)]
    assert list(row) == ['image', 'score', 'width', 'height', 'error']


@pytest.mark.parametrize('column', ['image', 'name'])
def test_prompts_from_a_csv_follow_name_or_relative_path(folder, metric, column):
    for name in ('001', 'x/b.png', 'y/b.png', 'y/c.png'):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new('L', (40, 40)).save(name, format='PNG')
    text = f'{column},mos,prompt\n001,1,null\nx/b.png,2,"one, ""two"""\n./y\\b.png,3,None\nc.png,4,ü 猫\n'
    Path('p.csv').write_text('\ufeff' + text, encoding='utf-8')
    rows = scored('001', 'x', 'y', '--prompts', 'p.csv')
    assert [row['prompt'] for row in rows] == ['null', 'one, "two"', 'None', 'ü 猫']
    assert metric.calls[0][1] == ['null', 'one, "two"', 'None', 'ü 猫']


def test_an_image_without_one_clear_prompt_gets_a_row(folder, metric):
    for name in ('none.png', 'x/same.png', 'y/same.png', 'two.png', 'blank.png', 'fine.png'):
        grey(name, 99)
    Path('p.csv').write_text(
        'image,prompt\nsame.png,a\ntwo.png,b\ntwo.png,c\nblank.png," "\nfine.png,d\nfine.png,d\nother.png,e\n'
    )
    result = run('none.png', 'x', 'y', 'two.png', 'blank.png', 'fine.png', '--prompts', 'p.csv', '--output', 'out.csv')
    assert result.exit_code == 1
    ambiguous = "has no clear prompt: 'same.png' in 'p.csv' fits 2 of the images; write it with its folder there."
    assert [row['error'] for row in rows_of('out.csv')] == [
        "has no prompt: no name in 'p.csv' fits it.",
        ambiguous,
        ambiguous,
        "has no clear prompt: 'two.png' stands in 'p.csv' with 2 different ones.",
        "has no prompt: 'blank.png' stands in 'p.csv' with an empty one.",
        '',
    ]
    assert metric.calls == [((1, 3, 40, 40), ['d'])]
    assert "1 names in 'p.csv' fit none of the images: other.png" in result.stderr


def test_the_longest_fitting_path_wins(folder):
    Path('p.csv').write_text('image,prompt\na.png,base name\nx/a.png,with folder\n')
    rows = [Row('x/a.png', Path('x/a.png')), Row('y/a.png', Path('y/a.png'))]
    match_prompts(rows, Path('p.csv'))
    assert [(row.prompt, row.error) for row in rows] == [('with folder', ''), ('base name', '')]


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        (b'', 'needs the columns image (or name) and prompt; it has: none.'),
        (b'file,prompt\na.png,x\n', 'needs the columns image (or name) and prompt; it has: file, prompt.'),
        (b'image,prompt\na.png,one, two\n', "line 2 of 'p.csv' does not have 2 fields; quote its commas."),
        (b'image,prompt\na.png\n', "line 2 of 'p.csv' does not have 2 fields; quote its commas."),
        (b'image,prompt\n,x\n', "line 2 of 'p.csv' names no image."),
        (b'image,prompt\na.png,\xff\n', 'are not a CSV in UTF-8'),
        (b'image,prompt\na.png,"x\n', 'are not a CSV in UTF-8'),
    ],
)
def test_a_wrong_prompts_file_is_refused(folder, metric, content, sentence):
    grey('a.png', 99)
    Path('p.csv').write_bytes(content)
    result = run('a.png', '--prompts', 'p.csv')
    assert result.exit_code == 2 and sentence in result.stderr
    assert metric.calls == []


# Output


@pytest.mark.parametrize('ending', ['.csv', '.json', '.parquet', '.CSV'])
def test_each_kind_of_output_holds_the_same_rows(folder, ending):
    grey('ü[b].png', 99), grey('small.png', 99, (8, 40))
    output = Path(f'out{ending}')
    assert run('ü[b].png', 'small.png', '--prompt', 'NA', '--output', output).exit_code == 1
    if ending == '.json':
        rows = json.loads(output.read_text(encoding='utf-8'))
    elif ending == '.parquet':
        table = pd.read_parquet(output)
        assert table['score'].dtype == np.float64 and table['width'].dtype == np.int64
        rows = table.astype(object).where(table.notna(), None).to_dict('records')
    else:
        rows = [
            {**row, 'score': float(row['score']) if row['score'] else None, 'width': int(row['width'])}
            | {'height': int(row['height'])}
            for row in rows_of(output)
        ]
    score = pytest.approx(99 / 51, abs=1e-4)
    reason = 'is 8 x 40 pixels; the network needs at least 32 on each side.'
    assert rows == [
        {'image': 'ü[b].png', 'score': score, 'prompt': 'NA', 'width': 40, 'height': 40, 'error': ''},
        {'image': 'small.png', 'score': None, 'prompt': 'NA', 'width': 8, 'height': 40, 'error': reason},
    ]
    assert list(rows[0]) == ['image', 'score', 'prompt', 'width', 'height', 'error']


def test_the_table_shows_every_name_in_full_and_as_it_is(folder):
    name = 'x' * 150 + '[red]b[/red]\x1b[31m.png'
    grey(name, 102)
    result = run(name)
    assert 'x' * 150 + '[red]b[/red]\N{REPLACEMENT CHARACTER}[31m.png' in result.stdout
    assert '2.0000' in result.stdout


def test_many_rows_are_printed_only_where_no_file_takes_them(folder, monkeypatch):
    monkeypatch.setattr(command, 'TABLE_ROWS', 3)
    for number in range(4):
        grey(f'{number}.png', 99)
    assert '0.png' in run('*.png').stdout
    assert run('*.png', '--output', 'out.csv').stdout == ''
    Path('4.png').touch()
    assert '4.png: is empty (0 bytes).' in run('*.png', '--output', 'out.csv').stderr
    assert len(rows_of('out.csv')) == 5


@pytest.mark.skipif(os.name == 'nt', reason='such a name exists only where names are bytes')
@pytest.mark.parametrize('ending', ['.csv', '.json', '.parquet'])
def test_a_name_that_is_no_utf8_can_still_be_written(folder, ending):
    name = os.fsdecode(b'a\xff.png')
    Image.new('L', (40, 40)).save(name)
    result = run(name, '--output', f'out{ending}')
    assert result.exit_code == 0, result.output
    assert b'a\\udcff.png' in Path(f'out{ending}').read_bytes().replace(b'\\\\', b'\\')


def test_a_failed_write_leaves_the_old_file_and_prints_the_rows(folder, monkeypatch):
    grey('a.png', 102)
    Path('out.csv').write_text('old')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(command.os, 'replace', full)
    result = run('a.png', '--output', 'out.csv')
    assert result.exit_code == 1
    assert "'out.csv' could not be written: No space left on device" in result.stderr and '2.0000' in result.stdout
    assert Path('out.csv').read_text() == 'old'
    assert sorted(os.listdir()) == ['a.png', 'out.csv']


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no such permissions')
def test_the_output_has_the_permissions_of_any_new_file(folder):
    grey('a.png', 102)
    Path('other').touch()
    run('a.png', '--output', 'out.csv')
    assert stat.S_IMODE(os.stat('out.csv').st_mode) == stat.S_IMODE(os.stat('other').st_mode)


# Wrong commands


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ('', 'name at least one image, folder or glob, or use --samples.'),
        ('missing.png', "there is nothing to score: 'missing.png' does not exist."),
        ('*.gif', "there is nothing to score: '*.gif' matches no file."),
        ('none', "there is nothing to score: 'none' is a folder without a picture."),
        ('a.png --samples', '--samples brings its own images and prompts; leave out IMAGES, --prompt and --prompts.'),
        ('--samples --prompt cat', '--samples brings its own images and prompts'),
        ('a.png --prompt cat --prompts p.csv', 'give either --prompt or --prompts.'),
        ('a.png --prompt=', '--prompt is empty; leave it out to score without a prompt.'),
        ('a.png --prompts missing.csv', "the prompts 'missing.csv' cannot be read: No such file or directory."),
        ('a.png --batch-size 0', '--batch-size must be at least 1, not 0.'),
        ('a.png --weights missing.safetensors', "the weights 'missing.safetensors' are not a file."),
        ('a.png --device nonsense', "the device 'nonsense' cannot be used: RuntimeError: "),
        ('a.png --output out.xlsx', "--output 'out.xlsx' must end in .csv or .json or .parquet."),
        ('a.png --output missing/out.csv', "there is no folder 'missing'; create it first."),
        ('a.png --output folder.csv', "--output 'folder.csv' is a folder."),
        ('a.png --prompts p.csv --output p.csv', "--output 'p.csv' would overwrite the prompts"),
        ('a.png --sheet out.jpg', "--sheet 'out.jpg' must end in .png."),
        ('a.png --sheet a.png', "--sheet 'a.png' would overwrite one of the images"),
    ],
)
def test_a_wrong_command_is_refused_with_one_sentence_before_any_work(folder, metric, arguments, sentence):
    grey('a.png', 99)
    Path('p.csv').write_text('image,prompt\na.png,x\n')
    Path('none').mkdir(), Path('folder.csv').mkdir()
    before = sorted(os.listdir())
    result = run(*arguments.split())
    assert result.exit_code == 2
    assert f'align-iqa score: {sentence}' in result.stderr or sentence in result.stderr
    assert result.stderr.startswith('align-iqa score: ') and result.stderr.count('\n') == 1 and result.stdout == ''
    assert metric.calls == [] and sorted(os.listdir()) == before


@pytest.mark.skipif(os.name == 'nt' or os.geteuid() == 0, reason='needs a user whom permissions bind')
def test_a_folder_without_write_permission_is_refused(folder, metric):
    grey('a.png', 99)
    Path('locked').mkdir(mode=0o555)
    result = run('a.png', '--output', 'locked/out.csv')
    assert result.exit_code == 2 and "'locked/out.csv' cannot be written: Permission denied." in result.stderr
    assert metric.calls == []


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='needs a folder in which even root cannot write')
def test_a_folder_in_which_nothing_can_be_written_is_refused(folder, metric):
    grey('a.png', 99)
    result = run('a.png', '--output', '/proc/self/out.csv')
    assert result.exit_code == 2 and "'/proc/self/out.csv' cannot be written: " in result.stderr
    assert metric.calls == []


def test_a_network_that_cannot_be_loaded_is_one_sentence(folder, monkeypatch):
    def broken(device, weights):
        raise RuntimeError('Error(s) in loading state_dict:\n\tMissing key(s)')

    monkeypatch.setattr(command, 'load_metric', broken)
    grey('a.png', 99)
    result = run('a.png')
    assert result.exit_code == 2
    sentence = 'the network cannot be loaded: RuntimeError: Error(s) in loading state_dict: Missing key(s)'
    assert result.stderr == f'align-iqa score: {sentence}\n'


# Ctrl-C


def test_ctrl_c_writes_what_has_been_scored(folder, monkeypatch):
    class Interrupted(Brightness):
        def __call__(self, batch, caption_list=None):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().__call__(batch, caption_list)

    monkeypatch.setattr(command, 'load_metric', lambda device, weights: Interrupted())
    for number in range(5):
        grey(f'{number}.png', 99)
    result = run('*.png', '--batch-size', 1, '--output', 'out.csv', '--sheet', 'sheet.png')
    assert result.exit_code == 130
    assert '2 of 5 images scored' in result.stderr and 'Stopped by Ctrl-C: 3 images were not scored' in result.stderr
    assert [row['image'] for row in rows_of('out.csv')] == ['0.png', '1.png']


# The samples


def test_the_samples_are_scored_beside_their_mos(folder, metric):
    result = run('--samples', '--output', 'out.csv')
    assert result.exit_code == 0, result.output
    table = pd.read_csv('out.csv')
    assert list(table) == ['image', 'score', 'mos', 'prompt', 'width', 'height', 'error'] and len(table) == 12
    assert metric.calls[0][1] == list(table['prompt'])
    correlation = table['score'].rank().corr(table['mos'].rank())
    assert f'between score and MOS: {correlation:.3f} over 12 images.' in result.stdout


def test_equal_scores_have_no_rank_correlation(folder, monkeypatch):
    monkeypatch.setattr(command, 'load_metric', lambda *_: lambda batch, caption_list: torch.ones(len(batch), 1))
    result = run('--samples')
    assert result.exit_code == 0 and 'not defined without two different scores' in result.stdout


def test_the_samples_are_a_dozen_pictures_of_different_prompts_and_all_generators():
    rows = sample_rows()
    assert len(rows) == 12 == len({row.prompt for row in rows})
    assert {row.image.split('_')[0] for row in rows} == {'AttnGAN', 'DALLE2', 'glide', 'midjourney', 'sd1.5', 'xl2.2'}
    assert all(images.read_image(row.path).size == (512, 512) for row in rows)
    assert sorted(row.image for row in rows) == sorted(path.name for path in command.SAMPLES.glob('*.jpg'))


@pytest.mark.data
def test_the_samples_follow_the_rule_of_their_notice(data_folder):
    from align_iqa_plugin.data.splits import prompt_disjoint_split

    release = data_folder / 'AGIQA-3K'
    with open(release / 'data.csv', encoding='utf-8-sig', newline='') as file:
        lines = list(csv.DictReader(file))
    contents = [hashlib.sha256((release / 'images' / line['name']).read_bytes()).hexdigest() for line in lines]
    phases = prompt_disjoint_split([line['prompt'] for line in lines], contents, 1)
    test = [line for line, phase in zip(lines, phases, strict=True) if phase == 'test']
    test.sort(key=lambda line: (float(line['mos_quality']), line['name']))

    of_real_people = ('bill gates and jason statham fight m , hyper detail', 'superman punches the pope')
    chosen = []
    for part in range(12):
        start, end = part * len(test) // 12, (part + 1) * len(test) // 12
        generators = [line['name'].split('_')[0] for line in chosen]
        barred = {*of_real_people, *(line['prompt'] for line in chosen)}
        free = [place for place in range(start, end) if test[place]['prompt'] not in barred]
        middle = (start + end - 1) / 2
        taken = {place: generators.count(test[place]['name'].split('_')[0]) for place in free}
        chosen.append(test[min(free, key=lambda place, taken=taken, middle=middle: (taken[place], abs(place - middle)))])
    assert [(line['name'], line['prompt'], float(line['mos_quality'])) for line in chosen] == [
        (row.image, row.prompt, row.mos) for row in sample_rows()
    ]
    for row in sample_rows():
        assert row.path.read_bytes() == (release / 'images' / row.image).read_bytes()


# The sheet


def test_the_sheet_shows_the_images_best_first(folder):
    values = {'dark': 50, 'bright': 200, 'middle': 120}
    for name, value in values.items():
        grey(f'{name}.png', value)
    Path('empty.png').touch()
    assert run('*.png', '--sheet', 'sheet.png').exit_code == 1
    with Image.open('sheet.png') as drawn:
        centres = [sheet.GAP + column * (sheet.SIDE + sheet.GAP) + sheet.SIDE // 2 for column in range(3)]
        colours = [drawn.getpixel((centre, sheet.HEADER + sheet.SIDE // 2)) for centre in centres]
    assert colours == [(value,) * 3 for value in (200, 120, 50)]


def test_an_earlier_sheet_in_the_folder_is_not_scored(folder):
    grey('x/a.png', 99)
    for _ in range(2):
        result = run('x', '--sheet', 'x/sheet.png', '--output', 'out.csv')
        assert result.exit_code == 0, result.output
        assert [row['image'] for row in rows_of('out.csv')] == ['x/a.png']
    assert "'x/sheet.png' is left out of the images" in result.stderr


def test_a_long_sheet_is_thinned_out_evenly_and_says_so(folder, monkeypatch):
    monkeypatch.setattr(sheet, 'MAX_TILES', 4)
    shown = []
    monkeypatch.setattr(sheet, '_draw_tile', lambda drawn, tile, rank, left, top: shown.append((tile.name, rank)))
    for value in range(10):
        grey(f'{value}.png', 250 - value)
    result = run('*.png', '--sheet', 'sheet.png')
    assert result.exit_code == 0 and 'Sheet drawn: sheet.png (4 of 10 images).' in result.stderr
    assert shown == [('0.png', 0), ('3.png', 3), ('6.png', 6), ('9.png', 9)]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 130))
def test_the_grid_has_room_for_every_tile_and_no_empty_line(number):
    places = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheet, '_draw_tile', lambda drawn, tile, rank, left, top: places.append((left, top)))
        drawn = sheet.draw_sheet([sheet.Tile(Path('a'), 'a', 1.0)] * number)
    assert len(set(places)) == len(places) == min(number, sheet.MAX_TILES)
    assert all(left + sheet.SIDE + sheet.GAP <= drawn.width for left, _ in places)
    bottom = max(top for _, top in places) + sheet.SIDE + sheet.CAPTION
    assert bottom <= drawn.height <= bottom + 2 * sheet.GAP


@settings(deadline=None)
@given(st.text(max_size=400), st.booleans())
def test_a_shortened_text_fits(text, keep_end):
    font = sheet._font(13)
    assert font.getlength(sheet._shortened(text, font, 224, keep_end=keep_end)) <= 224


def test_a_sheet_survives_a_thin_picture_and_one_that_is_gone(folder):
    grey('thin.png', 99, (16_000, 32))
    tiles = [sheet.Tile(Path('thin.png'), 'thin.png', 2.0), sheet.Tile(Path('gone.png'), 'gone.png', 1.0, 3.0, 'a cat')]
    assert sheet.draw_sheet(tiles).width == 3 * (sheet.SIDE + sheet.GAP) + sheet.GAP


# The real network


@pytest.mark.slow
@pytest.mark.skipif(not list(WEIGHTS.glob('align_iqa*.safetensors')), reason='the weights are not in this checkout')
def test_the_packaged_network_ranks_the_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run('--samples', '--device', 'cpu', '--output', 'out.csv', '--batch-size', '5')
    assert result.exit_code == 0, result.output
    table = pd.read_csv('out.csv')
    card = json.loads(PACKAGED_MODEL_CARD.read_text(encoding='utf-8'))['sample_scores']
    assert dict(zip(table['image'], table['score'], strict=True)) == pytest.approx(card, abs=2e-3)
    assert table['score'].rank().corr(table['mos'].rank()) > 0.7
    one = table['image'][4]
    shutil.copy(command.SAMPLES / one, tmp_path / 'one.jpg')
    run('one.jpg', '--prompt', table['prompt'][4], '--device', 'cpu', '--output', 'one.csv')
    assert pd.read_csv('one.csv')['score'][0] == pytest.approx(table['score'][4], abs=1e-4)
