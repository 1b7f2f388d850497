"""`align-iqa score`: every image gets a score or a reason, mistakes are found before any work, nothing scored is lost."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from align_iqa_plugin.archs.weights import PACKAGED_MODEL_CARD
from align_iqa_plugin.cli import app
from align_iqa_plugin.data import images
from align_iqa_plugin.score import copy_to, engine, score_folder, write
from align_iqa_plugin.score.find_images import SAMPLES
from align_iqa_plugin.score.rows import score_rows

metric_module = import_module('align_iqa_plugin.score.metric')


class Brightness:
    """A stand-in for Align-IQA: five times the mean brightness, and what it was asked. Before call `stop` it calls `how`."""

    device = torch.device('cpu')
    origin = 'brightness'

    def __init__(self, stop=None, how=None):
        self.calls, self.stop, self.how = [], stop, how

    def __call__(self, batch, prompts):
        if len(self.calls) == self.stop:
            self.how()
        self.calls.append((tuple(batch.shape), prompts))
        return (5 * batch.mean(dim=(1, 2, 3), dtype=torch.float64)).tolist()


@pytest.fixture
def use(monkeypatch):
    """Makes the command score with this."""

    def set_metric(metric):
        monkeypatch.setattr(engine, 'load_metric', lambda device, weights: metric)
        return metric

    return set_metric


@pytest.fixture
def metric(use):
    return use(Brightness())


@pytest.fixture
def folder(tmp_path, monkeypatch, metric):
    """An empty working folder, and a metric that is quick."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def grey(name, value=99, size=(40, 40)):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', size, value).save(name)
    return pytest.approx(5 * value / 255, abs=1e-4)


def run(*arguments, **options):
    return CliRunner(**options).invoke(app, ['score', *(str(argument) for argument in arguments)])


def rows_of(file):
    with open(file, encoding='utf-8', newline='') as opened:
        return list(csv.DictReader(opened))


def test_images_are_scored_in_the_order_given_in_batches_and_with_their_prompts(folder, metric):
    expected = [grey(f'{number}.png', number * 20, (40, 40 + number % 2)) for number in range(5)]
    names = [f'{number}.png' for number in range(5)]
    result = run(*names, '--prompt', 'a cat', '--batch-size', 2, '--output', 'out.csv')
    assert result.exit_code == 0 and '5 of 5 images scored' in result.stderr and '5 rows written to out.csv' in result.stderr
    rows = rows_of('out.csv')
    assert [(row['image'], row['prompt']) for row in rows] == [(name, 'a cat') for name in names]
    assert [float(row['score']) for row in rows] == expected
    assert sorted(shape[0] for shape, _ in metric.calls) == [1, 2, 2] and metric.calls[0][1] == ['a cat', 'a cat']
    assert sorted(os.listdir()) == [*names, 'out.csv']


def test_without_prompts_the_network_gets_none(folder, metric):
    grey('a.png')
    assert run('a.png', '--output', 'out.csv').exit_code == 0
    assert metric.calls == [((1, 3, 40, 40), None)]
    assert list(rows_of('out.csv')[0]) == ['image', 'score', 'std', 'width', 'height', 'error']


def test_prompts_of_a_csv_and_what_it_leaves_open(folder, metric):
    grey('a.png'), grey('b.png')
    Path('p.csv').write_text('image,prompt\na.png,a cat\nother.png,a dog\n')
    result = run('.', '--prompts', 'p.csv', '--output', 'out.csv')
    assert result.exit_code == 1 and 'other.png' in result.stderr
    assert [(row['prompt'], row['error'] == '') for row in rows_of('out.csv')] == [('a cat', True), ('', False)]
    assert metric.calls == [((1, 3, 40, 40), ['a cat'])]


def test_a_network_that_reads_no_prompts_scores_images_without_one_as_a_group(folder, metric):
    metric.reads_prompts = False
    for number, name in enumerate('abcd'):
        grey(f'{name}.png', 50 * number)
    Path('empty.png').touch()
    Path('p.csv').write_text('image,prompt\na.png,a cat\nb.png,a cat\n')
    result = run('.', '--prompts', 'p.csv', '--best', 1, '--output', 'out.csv')
    assert result.exit_code == 1 and 'Images without a prompt: 3' in result.stderr
    rows = {Path(row['image']).name: row for row in rows_of('out.csv')}
    assert [name for name, row in rows.items() if row['kept'] == 'True'] == ['b.png', 'd.png']
    assert [row['error'] for row in rows.values()] == ['', '', '', '', 'is empty (0 bytes).']
    Path('table.csv').write_text('image,prompt\na.png,a cat\nb.png,\n')
    result = run('table.csv')
    assert result.exit_code == 0 and '2 of 2 images scored' in result.stderr, result.output


def test_a_table_with_prompts_takes_no_others(folder):
    grey('a.png')
    Path('table.csv').write_text('image,prompt\na.png,a cat\n')
    result = run('table.csv', '--prompt', 'a dog')
    assert result.exit_code == 2 and 'prompts of its own' in result.stderr


def test_what_fails_gets_a_reason_and_costs_no_other_image_its_score(folder):
    grey('a.png', 102), grey('small.png', 99, (8, 40))
    Path('empty.png').touch()
    result = run('a.png', 'small.png', 'empty.png', 'missing.png', '*.gif')
    assert result.exit_code == 1 and '1 of 5 images scored' in result.stderr and '4 with an error' in result.stderr
    for text in ('2.0000', 'needs at least 32', 'is empty', 'does not exist', 'matches no file'):
        assert text in result.stdout


def test_many_rows_are_printed_only_where_no_file_takes_them(folder, monkeypatch):
    monkeypatch.setattr(write, 'TABLE_ROWS', 3)
    for number in range(4):
        grey(f'{number}.png')
    assert '0.png' in run('*.png').stdout
    assert run('*.png', '--output', 'out.csv').stdout == ''
    assert len(rows_of('out.csv')) == 4


@pytest.mark.parametrize('charset', ['cp1252', 'ascii'])
def test_a_name_that_the_terminal_cannot_show_is_no_end(folder, charset):
    grey('猫.png')
    Path('猫.txt').touch()
    result = run('.', '猫*.png', '猫.gif', '--prompt', '🐈', charset=charset)
    assert result.exit_code == 1 and '\\u732b.png' in result.stdout and '\\U0001f408' in result.stdout


def test_a_failed_write_leaves_the_old_file_and_prints_the_rows(folder, monkeypatch):
    grey('a.png', 102)
    Path('out.csv').write_text('old')
    monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    result = run('a.png', '--output', 'out.csv')
    assert result.exit_code == 1
    assert 'cannot be written: No space left on device' in result.stderr and '2.0000' in result.stdout
    assert Path('out.csv').read_text() == 'old'
    assert sorted(os.listdir()) == ['a.png', 'out.csv']


# Wrong commands


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ('', 'name at least one image, folder or glob, or use --samples.'),
        ('missing.png', "there is nothing to score: 'missing.png' does not exist."),
        ('a.png --samples', '--samples brings its own images and prompts; leave out IMAGES, --prompt and --prompts.'),
        ('--samples --prompt cat', '--samples brings its own images and prompts'),
        ('a.png --prompt cat --prompts p.csv', 'give either --prompt or --prompts.'),
        ('a.png --prompt=', '--prompt is empty; leave it out to score without a prompt.'),
        ('a.png --prompts missing.csv', 'missing.csv'),
        ('a.png --batch-size 0', '--batch-size must be at least 1, not 0.'),
        ('a.png --weights missing.safetensors', "the weights 'missing.safetensors' are not a file."),
        ('a.png --best 0', '--best must be at least 1, not 0.'),
        ('a.png --per all', '--per is for --best'),
        ('a.png --best 1 --per prompt', 'no image has a prompt to choose by'),
        ('t.csv --best 1 --per sede', "the images have no 'sede' to choose by; did you mean 'seed'?"),
        ('a.png --min-score nan', '--min-score must be a number, not nan.'),
        ('a.png --copy-to best --link-to best', 'give either --copy-to or --link-to.'),
        ('a.png --link-to best --write-metadata', '--write-metadata is for --copy-to'),
        ('a.png --copy-to a.png', "--copy-to 'a.png' is not a folder."),
        ('a.png --link-to missing/best', "there is no folder 'missing'; create it first."),
        ('x --copy-to x/best', "--copy-to 'x/best' is in 'x'"),
        ('x/b.png --link-to x', "--link-to 'x' holds pictures that are scored"),
        ('a.png --engine rays', "unknown --engine 'rays'; did you mean 'ray'?"),
        ('a.png --workers 2', '--workers is for --engine ray'),
        ('a.png --engine ray --output out.csv', "--output 'out.csv' must be a folder"),
        ('a.png --engine ray --output none/a/b', 'create it first'),
        ('a.png --output out.xlsx', "--output 'out.xlsx' must end in .csv or .json or .parquet."),
        ('a.png --output missing/out.csv', "there is no folder 'missing'; create it first."),
        ('a.png --output folder.csv', "--output 'folder.csv' is a folder."),
        ('a.png --prompts p.csv --output p.csv', "--output 'p.csv' would overwrite 'p.csv'"),
        ('t.csv --output ./t.csv', "--output 't.csv' would overwrite 't.csv'"),
        ('a.png --sheet out.jpg', "--sheet 'out.jpg' must end in .png."),
        ('a.png --sheet a.png', "--sheet 'a.png' would overwrite 'a.png'"),
        ('x --sheet x/b.png', "--sheet 'x/b.png' would overwrite 'x/b.png'"),
        ('t.csv --sheet a.png', "--sheet 'a.png' would overwrite 'a.png'"),
    ],
)
def test_a_wrong_command_is_one_sentence_before_any_work(folder, metric, arguments, sentence):
    grey('a.png'), grey('x/b.png')
    Path('p.csv').write_text('image,prompt\na.png,x\n')
    Path('t.csv').write_text('image,seed\na.png,1\n')
    Path('none').mkdir(), Path('folder.csv').mkdir()
    before = sorted(os.listdir())
    result = run(*arguments.split())
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.startswith('align-iqa score: ') and result.stderr.count('\n') == 1 and result.stdout == ''
    assert metric.calls == [] and sorted(os.listdir()) == before


def test_a_network_that_cannot_be_loaded_is_one_sentence(tmp_path, monkeypatch):
    def broken(device, weights):
        raise RuntimeError('Error(s) in loading state_dict:\n\tMissing key(s)')

    monkeypatch.setattr(metric_module, 'NetworkMetric', broken)
    result = run('--samples')
    assert result.exit_code == 2
    sentence = 'the network cannot be loaded: RuntimeError: Error(s) in loading state_dict: Missing key(s)'
    assert result.stderr == f'align-iqa score: {sentence}\n'


def test_weights_that_are_none_are_named_by_the_option(tmp_path):
    Image.new('RGB', (40, 40)).save(tmp_path / 'a.jpg')
    result = run('--samples', '--weights', tmp_path / 'a.jpg', '--device', 'cpu')
    assert result.exit_code == 2
    assert f'the network cannot be loaded: --weights: {tmp_path / "a.jpg"} cannot be read; it has to be' in result.stderr
    assert 'Error' not in result.stderr and result.stderr.count('\n') == 1


def test_a_device_that_cannot_be_used_is_one_sentence(tmp_path):
    result = run('--samples', '--device', 'nonsense')
    assert result.exit_code == 2 and "the device 'nonsense' cannot be used: RuntimeError: " in result.stderr


# Stopped commands


@pytest.fixture
def five(folder):
    for number in range(5):
        grey(f'{number}.png', number)
    return ('0.png', '1.png', '2.png', '3.png', '4.png', '--batch-size', 1, '--output', 'out.csv')


def is_complete_now(use, five, scored_again):
    """Gives the same command again, and checks that it scores only what was lost, and leaves nothing but the output."""
    metric = use(Brightness())
    result = run(*five)
    assert result.exit_code == 0 and '5 of 5 images scored' in result.stderr
    assert len(metric.calls) == scored_again
    assert [float(row['score']) for row in rows_of('out.csv')] == [pytest.approx(number / 51, abs=1e-4) for number in range(5)]
    assert sorted(os.listdir()) == [*five[:5], 'out.csv']


def test_ctrl_c_writes_what_has_been_scored_and_the_same_command_goes_on(five, use):
    def interrupt():
        raise KeyboardInterrupt

    use(Brightness(2, interrupt))
    result = run(*five, '--sheet', 'sheet.png')
    assert result.exit_code == 130
    assert '2 of 5 images scored' in result.stderr and 'Stopped by Ctrl-C: 3 images were not scored' in result.stderr
    assert [row['image'] for row in rows_of('out.csv')] == ['0.png', '1.png'] and not Path('sheet.png').exists()
    is_complete_now(use, five, scored_again=3)


def run_in_a_terminal(*arguments):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
    run(*arguments)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs processes that inherit the metric')
@pytest.mark.parametrize('number', ['SIGKILL', 'SIGTERM', 'SIGHUP'])
def test_a_killed_command_loses_nothing_that_was_saved_and_goes_on(five, use, monkeypatch, number):
    monkeypatch.setattr(score_folder, 'FILE_SECONDS', 0)
    use(Brightness(3, lambda: os.kill(os.getpid(), getattr(signal, number))))
    process = multiprocessing.get_context('fork').Process(target=run_in_a_terminal, args=five)
    process.start(), process.join()
    assert process.exitcode == -getattr(signal, number)
    assert not Path('out.csv').exists()
    is_complete_now(use, five, scored_again=2)


def test_scores_of_other_weights_are_not_taken_over(five, use):
    def interrupt():
        raise KeyboardInterrupt

    use(Brightness(2, interrupt))
    run(*five)
    use(Brightness()).origin = 'other weights'
    result = run(*five)
    assert result.exit_code == 2 and 'other weights' in result.stderr and 'delete it' in result.stderr


# Choosing, and copies


@pytest.fixture
def table(folder):
    """Six images of two prompts and two seeds, the fifth the brightest, the sixth the darkest; and one that is too small."""
    names = ['x/a.png', 'y/a.png', 'x/b.png', 'y/b.png', 'x/c.png', 'y/c.png']
    for number, name in enumerate(names):
        grey(name, 50 * (number + 1) % 256)
    grey('x/small.png', size=(8, 8))
    lines = [f'{name},{"cat" if number < 3 else "dog"},{number % 2}' for number, name in enumerate([*names, 'x/small.png'])]
    Path('t.csv').write_text('\n'.join(['image,prompt,seed', *lines]))
    return 't.csv'


def kept_in(output):
    return [row['image'] for row in rows_of(output) if row['kept'] == 'True']


def test_the_best_of_each_prompt_are_printed_drawn_and_copied_and_the_output_has_all(table):
    result = run(table, '--best', 1, '--output', 'out.csv', '--sheet', 'sheet.png', '--copy-to', 'best')
    assert result.exit_code == 1 and 'x/small.png: is 8 x 8 pixels' in result.stderr  # for the image without a score alone
    assert '2 kept: the best 1 for each prompt.' in result.stderr and '2 images copied to best.' in result.stderr
    assert [name for name in ('a.png', 'x/b.png', 'x/c.png', 'small') if name in result.stdout] == ['x/b.png', 'x/c.png']
    rows = rows_of('out.csv')
    assert list(rows[0]) == ['image', 'seed', 'score', 'std', 'kept', 'prompt', 'width', 'height', 'error'] and len(rows) == 7
    assert kept_in('out.csv') == ['x/b.png', 'x/c.png'] and sorted(os.listdir('best')) == ['b.png', 'c.png']
    assert Path('best/b.png').read_bytes() == Path('x/b.png').read_bytes()
    with Image.open('sheet.png') as drawn:
        sheet_of_two = drawn.height
    run(table, '--best', 9, '--sheet', 'sheet.png')
    with Image.open('sheet.png') as drawn:
        assert drawn.height > sheet_of_two


@pytest.mark.parametrize(
    ('options', 'kept'),
    [
        ('--best 1 --per folder', ['y/b.png', 'x/c.png']),
        ('--best 1 --per seed', ['y/b.png', 'x/c.png']),
        ('--best 2 --per all', ['y/b.png', 'x/c.png']),
        ('--min-score 2.9', ['x/b.png', 'y/b.png', 'x/c.png']),
        ('--best 1 --min-score 4', ['x/c.png']),
        ('--min-score 9', []),
    ],
)
def test_what_is_kept(table, options, kept):
    result = run(table, *options.split(), '--output', 'out.csv')
    assert kept_in('out.csv') == kept and f'{len(kept)} kept: ' in result.stderr


def test_a_choice_that_keeps_nothing_is_no_error_but_draws_no_sheet(folder):
    grey('a.png', 50)
    assert run('a.png', '--min-score', 4, '--copy-to', 'best').exit_code == 0 and os.listdir('best') == []
    result = run('a.png', '--min-score', 4, '--sheet', 'sheet.png')
    assert result.exit_code == 1 and 'no image is kept' in result.stderr


def test_links_lead_to_what_is_kept(table):
    result = run(table, '--best', 1, '--per', 'all', '--link-to', 'best')
    assert '1 image linked from best.' in result.stderr and os.readlink('best/c.png') == os.path.abspath('x/c.png')


def test_without_a_choice_all_that_have_a_score_are_copied(table):
    assert '6 images copied to best.' in run(table, '--copy-to', 'best').stderr
    assert sorted(os.listdir('best')) == ['a.png', 'a_2.png', 'b.png', 'b_2.png', 'c.png', 'c_2.png']


def test_the_same_again_copies_nothing_and_says_what_else_is_there(folder):
    grey('a.png', 50), grey('b.png', 99), grey('best/mine.png')
    assert run('a.png', 'b.png', '--best', 2, '--copy-to', 'best').exit_code == 0
    result = run('a.png', 'b.png', '--best', 1, '--copy-to', 'best')
    assert '0 images copied to best; 1 was there already; it also holds 2 other files.' in result.stderr


def test_the_score_is_written_into_copies_and_never_into_the_images(folder):
    expected = grey('a.png', 50)
    Image.new('L', (40, 40), 50).save('b.gif')
    before = {name: Path(name).read_bytes() for name in ('a.png', 'b.gif')}
    result = run('a.png', 'b.gif', '--copy-to', 'best', '--write-metadata', '--output', 'out.csv')
    assert not Path('.out.csv.scores').exists()  # nothing is left that the same command could do
    assert result.exit_code == 1 and "'b.gif' is copied without its score" in result.stderr
    assert {name: Path(name).read_bytes() for name in before} == before and sorted(os.listdir('best')) == ['a.png', 'b.gif']
    with Image.open('best/a.png') as image:
        assert float(image.text['align_iqa']) == expected


def test_an_image_that_cannot_be_linked_gets_a_reason_and_costs_no_other_its_link(folder):
    grey('a.png'), grey('b.png')
    result = run('a.png', f'file://{folder}/b.png', '--link-to', 'best')
    assert result.exit_code == 1 and 'no link leads to a URI' in result.stderr and os.listdir('best') == ['a.png']


def test_deviations_are_written_and_ties_of_the_best_are_said(folder, use):
    class Sure(Brightness):
        def predict(self, batch, prompts):
            return self(batch, prompts), [0.3] * len(batch)

    use(Sure())
    for name, value in (('a.png', 200), ('b.png', 100), ('c.png', 95)):
        grey(name, value)
    result = run('a.png', 'b.png', 'c.png', '--best', 2, '--output', 'out.csv')
    assert [row['std'] for row in rows_of('out.csv')] == ['0.3'] * 3
    assert 'are a tie' in result.output and 'no deviation' not in result.output
    assert 'are a tie' not in run('a.png', 'b.png', 'c.png', '--best', 1).output


def test_weights_without_deviations_leave_the_column_empty_which_is_said_once(folder):
    grey('a.png'), grey('b.png')
    result = run('a.png', 'b.png', '--output', 'out.csv')
    assert [row['std'] for row in rows_of('out.csv')] == ['', ''] and result.output.count('no deviation') == 1


def test_a_stop_before_the_end_chooses_and_copies_nothing(five, use):
    def interrupt():
        raise KeyboardInterrupt

    use(Brightness(2, interrupt))
    result = run(*five, '--best', 1, '--copy-to', 'best')
    assert result.exit_code == 130 and 'nothing was chosen; not all was copied' in result.stderr
    assert not Path('best').exists() and 'kept' not in rows_of('out.csv')[0]


def test_a_stop_while_copying_goes_on_without_scoring_again(five, use, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(copy_to, 'read_bytes', interrupt)
        use(Brightness())
        result = run(*five, '--best', 2, '--copy-to', 'best')
    assert result.exit_code == 130 and '0 images were not scored; not all was copied' in result.stderr
    metric = use(Brightness())
    assert run(*five, '--best', 2, '--copy-to', 'best').exit_code == 0 and metric.calls == []
    assert sorted(os.listdir('best')) == ['3.png', '4.png'] and not Path('.out.csv.scores').exists()


def test_with_ray_the_folder_of_the_scores_gets_the_columns_and_what_is_kept(table, monkeypatch):
    monkeypatch.setattr(engine, 'ray_workers', lambda workers, device: nullcontext(None))
    monkeypatch.setattr(engine, 'ray_engine', lambda team, weights, batch_size: partial(score_rows, Brightness(), batch_size=2))
    for options, kept in (('--best 1', ['x/b.png', 'x/c.png']), ('--min-score 4', ['x/c.png'])):
        run(table, '--engine', 'ray', '--output', 'scores', *options.split())
        rows = pd.read_parquet('scores')
        assert list(rows) == ['image', 'prompt', 'seed', 'score', 'std', 'kept', 'width', 'height', 'error'] and len(rows) == 7
        assert sorted(rows['image'][rows['kept']]) == [os.path.abspath(name) for name in kept]


def test_a_full_disk_while_copying_goes_on_without_scoring_again(five, use, monkeypatch):
    use(Brightness())
    with monkeypatch.context() as patch:
        patch.setattr(copy_to, 'atomic_file', lambda *_, **__: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
        result = run(*five, '--best', 1, '--copy-to', 'best')
    assert result.exit_code == 1 and 'No space left on device' in result.stderr and '0 images copied' in result.stderr
    metric = use(Brightness())
    assert run(*five, '--best', 1, '--copy-to', 'best').exit_code == 0 and metric.calls == []


# The samples and the contact sheet


def test_the_samples_are_scored_beside_their_mos(folder, metric):
    result = run('--samples', '--output', 'out.csv', '--sheet', 'sheet.png')
    assert result.exit_code == 0, result.output
    table = pd.read_csv('out.csv')
    assert list(table) == ['image', 'score', 'std', 'mos', 'prompt', 'width', 'height', 'error'] and len(table) == 12
    assert metric.calls[0][1] == list(table['prompt'])
    correlation = table['score'].rank().corr(table['mos'].rank())
    assert f'between score and MOS: {correlation:.3f} over 12 images.' in result.stdout
    assert 'Contact sheet drawn: sheet.png.' in result.stderr and Path('sheet.png').is_file()


def test_an_earlier_sheet_in_the_folder_is_not_scored(folder):
    grey('x/a.png')
    for _ in range(2):
        result = run('x', '--sheet', 'x/sheet.png', '--output', 'out.csv')
        assert result.exit_code == 0, result.output
        assert [row['image'] for row in rows_of('out.csv')] == ['x/a.png']
    assert "'x/sheet.png' is left out of the images" in result.stderr


def test_without_a_score_no_sheet_is_drawn(folder):
    grey('small.png', size=(8, 8))
    result = run('small.png', '--sheet', 'sheet.png')
    assert result.exit_code == 1 and 'No contact sheet was drawn' in result.stderr


# The real network


@pytest.mark.slow
def test_the_packaged_network_ranks_the_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = metric_module.load_metric('cpu', None)
    monkeypatch.setattr(engine, 'load_metric', lambda device, weights: loaded)
    result = run('--samples', '--device', 'cpu', '--output', 'out.csv', '--batch-size', '5')
    assert result.exit_code == 0, result.output
    table = pd.read_csv('out.csv')
    card = json.loads(PACKAGED_MODEL_CARD.read_text(encoding='utf-8'))['sample_scores']
    assert dict(zip(table['image'], table['score'], strict=True)) == pytest.approx(card, abs=2e-3)
    assert table['score'].rank().corr(table['mos'].rank()) > 0.7
    one = table['image'][4]
    shutil.copy(SAMPLES / one, tmp_path / 'one.jpg')
    run('one.jpg', '--prompt', table['prompt'][4], '--device', 'cpu', '--output', 'one.csv')
    assert pd.read_csv('one.csv')['score'][0] == pytest.approx(table['score'][4], abs=1e-4)


@pytest.mark.skipif(os.name == 'nt', reason='processes must inherit the patch')
def test_an_image_that_kills_its_decoder_gets_a_reason_and_the_others_their_scores(folder, monkeypatch):
    expected, read = grey('a.png', 50), images._read
    grey('deadly.png')
    kill = lambda path: os.kill(os.getpid(), signal.SIGKILL) if Path(path).name == 'deadly.png' else read(path)  # noqa: E731
    monkeypatch.setattr(images, '_read', kill)
    result = run('a.png', 'deadly.png', '--output', 'out.csv', '--sheet', 'sheet.png')
    assert result.exit_code == 1 and Path('sheet.png').is_file()
    one, two = rows_of('out.csv')
    assert float(one['score']) == expected and two['error'] == images.DIED
