"""`align-iqa compare`: from names of metrics and data sets to a folder with every score, and an exit status that tells."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from align_iqa_plugin.cli import compare_display
from align_iqa_plugin.cli.compare import compare
from align_iqa_plugin.cli.many_values import ManyValues
from align_iqa_plugin.compare import behaviour as behaviour_module
from align_iqa_plugin.compare import run as run_module
from align_iqa_plugin.compare.metrics import MetricUnavailable
from align_iqa_plugin.compare.store import Configuration, LabelledImage, Store
from align_iqa_plugin.data import images

ROOT = Path(__file__).parents[2]
app = typer.Typer()
app.command(cls=ManyValues)(compare)


class Brightness:
    """Stands in for a metric of pyiqa: the brightness, and for some names what makes it special."""

    asked = []  # the number of images in each call, of all of them

    def __init__(self, name, device):
        if name == 'niqe':
            raise MetricUnavailable('needs a file that could not be downloaded: put URL at PLACE.')
        self.name, self.device = name, device
        self.configuration = Configuration(name, '{}', 'abc', '1', uses_prompt=name == 'clipscore')

    def __call__(self, images, prompts):
        if self.name == 'piqe':
            raise ValueError('broke')
        if self.name == 'nima' and len(self.asked) >= 5:
            raise KeyboardInterrupt
        self.asked.append(len(images))
        scores = images.mean((1, 2, 3)).tolist()
        return [score + len(prompt) for score, prompt in zip(scores, prompts, strict=True)] if prompts else scores


@pytest.fixture
def page(monkeypatch):
    """Quick metrics, and stand-ins for the statistics and the page that note what they are given."""
    given = SimpleNamespace(calls=0)
    Brightness.asked = []

    def interval(value):
        return {'value': value, 'low': None, 'high': None}

    def summarise(scores, *, seed, resamples):
        given.summarised, given.seed, given.resamples = scores, seed, resamples
        datasets = {}
        for name, rows in scores.groupby('dataset'):
            figures = {
                metric: {'rank': 1, 'srcc': interval(0.5), 'plcc': interval(None), 'n': len(table), 'failures': 0}
                for metric, table in rows.groupby('metric')
            }
            datasets[name] = {'n': len(rows), 'metrics': figures}
        return {'datasets': datasets}

    def write_page(directory, summary, scores, metrics, provenance):
        given.calls += 1
        given.directory, given.scores, given.metrics, given.provenance = directory, scores, metrics, provenance
        given.summary = summary
        json.dumps(summary), json.dumps(provenance)

    monkeypatch.setattr(run_module, 'summarise', summarise)
    monkeypatch.setattr(run_module, 'write_page', write_page)
    monkeypatch.setattr(run_module, 'Metric', Brightness)
    return given


@pytest.fixture
def data(tiny_images, tmp_path):
    """A folder of data sets with the tiny one under the name of a release, which has more columns."""
    folder = tmp_path / 'datasets' / 'AGIQA-3K'
    shutil.copytree(tiny_images, folder)
    table = pd.read_csv(folder / 'data.csv', dtype=str, keep_default_na=False)
    table = table.assign(adj1='', adj2='', style='', std_quality='0.2', mos_align='1', std_align='0.1')
    columns = ['name', 'prompt', 'adj1', 'adj2', 'style', 'mos_quality', 'std_quality', 'mos_align', 'std_align']
    table[columns].to_csv(folder / 'data.csv', index=False)
    return folder.parent


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_several_metrics_and_data_sets_follow_one_option(page, data, tmp_path):
    out = tmp_path / 'out'
    result = run('-m', 'entropy', 'brisque', '-d', 'agiqa3k', '--samples', '--data', data, '--out', out)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out / 'scores.csv', keep_default_na=False)
    sizes = table.groupby(['dataset', 'metric']).size().to_dict()
    assert sizes == {
        (dataset, metric): n for dataset, n in (('agiqa3k', 40), ('samples', 12)) for metric in ('entropy', 'brisque')
    }
    assert page.calls == 1 and page.directory == out
    assert page.scores.equals(page.summarised)
    assert page.metrics['metric'].tolist() == ['brisque', 'entropy']
    assert (page.seed, page.resamples) == (123, 1000)
    assert {'packages', 'hardware', 'seed', 'datasets'} <= set(page.provenance)
    assert 'cores of ' in page.provenance['hardware']
    assert '104 of 104 scores' in result.stderr
    assert 'entropy' in result.stdout and '0.500' in result.stdout


def test_a_command_reports_its_own_images_whatever_another_one_gives_the_data_set_meanwhile(page, tmp_path, monkeypatch):
    class Slow(Brightness):
        def __init__(self, name, device):
            super().__init__(name, device)
            with Store(tmp_path / 'out' / 'scores.sqlite') as other:
                other.put_images('samples', [LabelledImage('b.png', 'b.png', 'b', mos=1.0)])

    monkeypatch.setattr(run_module, 'Metric', Slow)
    result = run('-m', 'entropy', '--samples', '--out', tmp_path / 'out')
    assert result.exit_code == 1  # the other images were scored in place of these
    table = pd.read_csv(tmp_path / 'out' / 'scores.csv', keep_default_na=False)
    assert len(table) == 12 and set(table['reason']) == {'is not scored yet.'}


@pytest.mark.skipif(os.name == 'nt', reason='processes must inherit the patch')
@pytest.mark.parametrize('metric', ['entropy', 'clipscore'])
def test_a_picture_that_kills_its_decoder_has_a_reason_and_the_page_is_written(tmp_path, monkeypatch, metric):
    monkeypatch.setattr(run_module, 'Metric', Brightness)
    read = images._read
    deadly = 'sd1.5_lowcorr_183.jpg'
    kill = lambda path: os.kill(os.getpid(), signal.SIGKILL) if Path(path).name == deadly else read(path)  # noqa: E731
    monkeypatch.setattr(images, '_read', kill)
    result = run('-m', metric, '--samples', '--out', tmp_path / 'out', '--resamples', 20)
    assert result.exit_code == 1, result.output
    table = pd.read_csv(tmp_path / 'out' / 'scores.csv', keep_default_na=False).set_index('image')
    assert table['reason'].to_dict() == {name: images.DIED if name == deadly else '' for name in table.index}
    assert (tmp_path / 'out' / 'index.html').is_file()


def test_a_second_run_computes_nothing_and_gives_the_same(page, data, tmp_path):
    command = ['-m', 'entropy', 'clipscore', '-d', 'agiqa3k', '--data', data, '--out', tmp_path / 'out']
    run(*command)
    first, asked = page.scores, len(Brightness.asked)
    assert asked and first['shuffled_score'].notna().sum() == 40
    result = run(*command)
    assert result.exit_code == 0
    assert len(Brightness.asked) == asked
    assert page.scores.equals(first)


class Contrast(Brightness):
    """The contrast, or another number of some names; it knows nothing else of a picture."""

    def __call__(self, images, prompts):
        self.asked.append(len(images))
        if self.name == 'brisque':
            return [1.0] * len(images)
        contrasts = images.flatten(1).std(1)
        if self.name == 'nima' and contrasts.min() < 0.02:
            raise ValueError('nothing to see')
        return (-contrasts if self.name == 'niqe' else contrasts).tolist()


@pytest.fixture
def contrast(page, monkeypatch):
    """Metrics of contrast instead; niqe is better if lower."""
    configuration = Configuration('', '{}', 'abc', '1')

    def __init__(self, name, device):
        self.name, self.device = name, device
        self.configuration = replace(configuration, metric=name, lower_better=name == 'niqe')

    monkeypatch.setattr(Contrast, '__init__', __init__)
    monkeypatch.setattr(run_module, 'Metric', Contrast)
    return page


def shares_of(summary, metric, dataset='agiqa3k'):
    return {
        kind: share['value'] for kind, share in summary['datasets'][dataset]['behaviour']['metrics'][metric]['monotone'].items()
    }


def test_behaviour_of_known_metrics_is_exact_kept_and_shown(contrast, data, tmp_path):
    out = tmp_path / 'out'
    command = [
        '-m',
        'entropy',
        'niqe',
        'brisque',
        '-d',
        'agiqa3k',
        '--data',
        data,
        '--out',
        out,
        '--workers',
        '0',
        '--behaviour',
        '3',
    ]
    result = run(*command)
    assert result.exit_code == 0, result.output
    for metric in ('entropy', 'niqe'):  # turned over, they are the same
        shares = shares_of(contrast.summary, metric)
        assert (shares['contrast'], shares['noise']) == (1, 0)
        changes = contrast.summary['datasets']['agiqa3k']['behaviour']['metrics'][metric]['changes']
        assert changes['flip']['absolute'] == pytest.approx(0, abs=1e-3)
    assert set(shares_of(contrast.summary, 'brisque').values()) == {0}
    assert '100 %' in result.stdout and 'uniform noise' in result.stdout
    assert f'{3 * (40 + 3 * 29 + 3)} of {3 * (40 + 3 * 29 + 3)} scores' in result.stderr
    assert len(pd.read_csv(out / 'scores.csv')) == len(contrast.scores) == 3 * 40, 'copies are no images of the data set'
    table = pd.read_csv(out / 'behaviour_scores.csv', keep_default_na=False)
    assert len(table) == 3 * (3 * 30 + 3)
    asked, first = len(Brightness.asked), contrast.summary
    assert run(*command).exit_code == 0
    assert len(Brightness.asked) == asked and contrast.summary == first, 'a second run computes nothing'
    result = run(*command[:-2])
    assert result.exit_code == 0 and 'behaviour' not in contrast.summary['datasets']['agiqa3k']


def test_behaviour_has_36_images_unless_a_number_follows_and_fewer_if_there_are_fewer(contrast, data, tmp_path, monkeypatch):
    monkeypatch.setattr(behaviour_module, 'copies_of', lambda path, sha256: [])  # the samples alone
    monkeypatch.setattr(run_module, 'summarise_behaviour', lambda copies, *more, **settings: {'n': len(copies) - 3})
    monkeypatch.setattr(compare_display, 'show_behaviour', lambda summary: None)
    for words, count in ((['--behaviour', '--seed', 1], 36), (['--seed', 1, '--behaviour'], 36), (['--behaviour=99'], 40)):
        command = ['-m', 'brisque', '-d', 'agiqa3k', '--data', data, '--out', tmp_path / 'out', '--workers', 0]
        assert run(*command, *words).exit_code == 0
        assert contrast.summary['datasets']['agiqa3k']['behaviour'] == {'n': count}


def test_copies_that_fail_are_named_and_make_the_status_1(contrast, data, tmp_path):
    result = run('-m', 'nima', '-d', 'agiqa3k', '--data', data, '--out', tmp_path / 'out', '--workers', 0, '--behaviour', 3)
    assert result.exit_code == 1
    monotone = contrast.summary['datasets']['agiqa3k']['behaviour']['metrics']['nima']['monotone']
    assert (monotone['contrast']['value'], monotone['contrast']['failed'], monotone['noise']['failed']) == (0, 3, 0)
    failed = pd.read_csv(tmp_path / 'out' / 'behaviour_scores.csv', keep_default_na=False).query("reason != ''")
    assert set(failed['copy']) >= {'contrast', 'black', 'white'} and 'original' not in set(failed['copy'])
    assert f'{len(failed)} failed' in result.stderr
    assert re.search(r'nima: no score for \d+ pictures, such as \d+\.png, \w+ \d: .* ValueError: nothing to see', result.stdout)


@pytest.mark.parametrize(('count', 'words'), [(1, 'no score for black: '), (2, 'no score for 2 pictures, such as black: ')])
def test_the_number_of_pictures_without_a_score_is_said_where_there_are_several(count, words, monkeypatch, capsys):
    empty = dict.fromkeys(['kinds', 'pictures', 'rows', 'changes', 'change_rows'], [])
    failure = {'metric': 'piqe', 'count': count, 'example': 'black', 'reason': 'it is flat.'}
    view = {'images': 3, **empty, 'failures': [failure]}
    monkeypatch.setattr('align_iqa_plugin.compare.report.behaviour.behaviour_view', lambda _: view)
    compare_display.show_behaviour({'datasets': {'samples': {'behaviour': {}}}})
    assert f'piqe: {words}' in capsys.readouterr().out


def test_a_stopped_run_of_copies_goes_on(contrast, data, tmp_path, monkeypatch):
    command = ['-m', 'entropy', '-d', 'agiqa3k', '--data', data, '--out', tmp_path / 'out', '--workers', 0, '--behaviour', 3]
    call = Contrast.__call__

    def stops(self, images, prompts):
        if sum(self.asked) > 80:
            raise KeyboardInterrupt
        return call(self, images, prompts)

    monkeypatch.setattr(Contrast, '__call__', stops)
    assert run(*command).exit_code == 130
    with Store(tmp_path / 'out' / 'scores.sqlite') as store:
        kept = int(store.copy_table().query("copy != 'original'")['score'].notna().sum())
    assert 0 < kept < 90
    monkeypatch.setattr(Contrast, '__call__', call)
    Brightness.asked = []
    assert run(*command).exit_code == 0
    # of which a few were given twice, to see whether batches change their scores
    assert 90 - kept <= sum(Brightness.asked) <= 90 - kept + 4
    assert shares_of(contrast.summary, 'entropy')['contrast'] == 1


def test_a_missing_metric_is_reported_and_the_others_run_on(page, tmp_path):
    result = run('-m', 'niqe', 'entropy', '--samples', '--out', tmp_path)
    assert result.exit_code == 1
    assert 'niqe needs a file that could not be downloaded: put URL at PLACE.' in result.stderr
    assert 'metrics that could not be loaded: niqe.' in result.stderr
    assert page.scores['metric'].unique().tolist() == ['entropy']
    assert page.metrics.set_index('metric')['available'].to_dict() == {'entropy': True, 'niqe': False}


def test_failures_are_rows_and_make_the_status_1(page, data, tmp_path):
    folder = data / 'AGIQA-3K' / 'images'
    (folder / '003.png').write_bytes(b'no picture')
    (folder / '004.png').unlink()
    result = run('-m', 'entropy', 'piqe', '-d', 'agiqa3k', '--data', data, '--out', tmp_path / 'out')
    assert result.exit_code == 1
    failed = page.scores[page.scores['score'].isna()].set_index(['metric', 'image'])['reason']
    assert len(failed) == 2 + 40
    assert 'not a picture' in failed['entropy', '003.png']
    assert 'no such file' in failed['entropy', '004.png']
    assert failed['piqe', '000.png'] == 'made the metric fail: ValueError: broke'
    assert '38 of 80 scores' in result.stderr


def test_where_nothing_was_scored_there_is_no_page_and_the_status_is_1(page, tmp_path):
    for metric in ('niqe', 'piqe'):
        result = run('-m', metric, '--samples', '--out', tmp_path / metric)
        assert result.exit_code == 1
        assert (tmp_path / metric / 'scores.csv').is_file()
    assert page.calls == 0


def test_ctrl_c_keeps_the_scores_and_the_next_run_goes_on(page, data, tmp_path, monkeypatch):
    command = ['-m', 'nima', '-d', 'agiqa3k', '--data', data, '--out', tmp_path / 'out']
    result = run(*command)
    assert result.exit_code == 130
    assert 'the scores are kept' in result.stderr
    with Store(tmp_path / 'out' / 'scores.sqlite') as store:
        kept = int(store.score_table()['score'].notna().sum())
    assert 0 < kept < 40
    monkeypatch.setattr(Brightness, 'asked', [])
    monkeypatch.setattr(
        Brightness, '__call__', lambda self, images, prompts: self.asked.append(len(images)) or [1.0] * len(images)
    )
    assert run(*command).exit_code == 0
    assert (page.scores['score'] == 1.0).sum() == 40 - kept


def test_a_metric_that_another_process_scores_with_is_left_for_last(page, tmp_path, monkeypatch):
    order, claim = [], Store.claim

    def claims(self, configuration, *, wait=True):
        order.append((configuration.metric, wait))
        if configuration.metric == 'entropy' and not wait:
            return claim(self, replace(configuration, code_version='held'), wait=False)
        return claim(self, configuration, wait=wait)

    monkeypatch.setattr(Store, 'claim', claims)
    with Store(tmp_path / 'scores.sqlite') as other:
        with claim(other, replace(Brightness('entropy', 'cpu').configuration, code_version='held')):
            result = run('-m', 'entropy', 'brisque', '--samples', '--out', tmp_path)
    assert result.exit_code == 0, result.output
    assert order == [('entropy', False), ('brisque', False), ('entropy', True)]
    assert page.scores['score'].notna().sum() == 24


def test_split_and_phase_choose_the_images(page, data, tmp_path):
    common = ['-m', 'entropy', '-d', 'agiqa3k', '--data', data, '--split', '1']
    for phase in ('train', 'val', 'test'):
        assert run(*common, '--phase', phase, '--out', tmp_path / phase).exit_code == 0
    images = [set(pd.read_csv(tmp_path / phase / 'scores.csv', dtype=str)['image']) for phase in ('train', 'val', 'test')]
    assert len(set.union(*images)) == sum(map(len, images)) == 40


@pytest.mark.parametrize('arguments', [['-d', 'agiqa3k', '--phase', 'test'], ['--samples', '--phase', 'test']])
def test_a_phase_without_a_split_is_refused(page, data, tmp_path, arguments):
    result = run('-m', 'entropy', *arguments, '--data', data, '--out', tmp_path / 'out')
    assert result.exit_code == 2 and 'split' in result.stderr, result.output
    assert not (tmp_path / 'out').exists()


def test_images_that_the_metric_was_fitted_to_are_counted(page, data, tmp_path, monkeypatch):
    digests = {
        hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted((data / 'AGIQA-3K' / 'images').iterdir())[:3]
    }
    monkeypatch.setattr('align_iqa_plugin.data.training_images._known', lambda: digests)
    common = ['-d', 'agiqa3k', '--data', data, '--out', tmp_path / 'out']
    assert 'fitted' not in run('-m', 'entropy', *common).stderr
    result = run('-m', 'entropy', 'align_iqa', *common)
    assert 'NOTE: align_iqa was fitted to 3 of the images of agiqa3k' in result.stderr
    both = run('-m', 'align_iqa', 'align_iqa-fast', *common)
    assert 'NOTE: align_iqa and align_iqa-fast were fitted to 3 of the images of agiqa3k' in both.stderr


def test_columns_of_tables_and_releases_are_named_as_in_the_other_commands(page, data, tmp_path):
    table = pd.read_csv(data / 'AGIQA-3K' / 'data.csv', dtype=str, keep_default_na=False)
    table = table.assign(model='glide', file=table['name'], rating=table['mos_quality'], caption=table['prompt'])
    table[['model', 'caption', 'rating', 'file', 'mos_align']].to_csv(data / 'AGIQA-3K' / 'own.csv', index=False)
    columns = ['--image-column', 'file', '--score-column', 'rating', '--prompt-column', 'caption']
    columns += ['--generator-column', 'model']
    result = run('-m', 'entropy', '-d', data / 'AGIQA-3K' / 'own.csv', *columns, '--out', tmp_path / 'own')
    assert result.exit_code == 0, result.output
    for ours, theirs in (('image', 'file'), ('prompt', 'caption'), ('generator', 'model')):
        assert page.scores[ours].tolist() == table[theirs].tolist()
    assert page.scores['mos'].tolist() == table['rating'].astype(float).tolist()
    command = ['-m', 'entropy', '-d', 'agiqa3k', '--data', data, '--score-column', 'mos_align', '--prompt-column', '']
    result = run(*command, '--out', tmp_path / 'release')
    assert result.exit_code == 0, result.output
    assert (page.scores['mos'] == 1).all() and (page.scores['prompt'] == '').all()


def test_option_files_of_pyiqa_add_metrics_and_data_sets(page, data, tmp_path, monkeypatch):
    (tmp_path / 'metrics.yml').write_text('mine: {metric_opts: {type: Entropy}, metric_mode: NR}\n')
    (tmp_path / 'data.yml').write_text(
        f'own: {{name: Own, type: AIGCIQADataset, dataroot_target: {data}/AGIQA-3K, score_column: mos_align}}\n'
    )
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    monkeypatch.setitem(DEFAULT_CONFIGS, 'mine', None)  # so that it is taken out again
    result = run('--metric_opt', tmp_path / 'metrics.yml', '--data-opt', tmp_path / 'data.yml', '--out', tmp_path / 'out')
    assert result.exit_code == 0, result.output
    assert page.scores[['dataset', 'metric']].drop_duplicates().values.tolist() == [['own', 'mine']]
    assert (page.scores['mos'] == 1).all()


@pytest.mark.parametrize(
    'arguments, reason',
    [
        (['--samples', '-m', 'entropy'], '--out'),
        (['--samples', '--out', 'x'], '-m'),
        (['-m', 'entropy', '--out', 'x'], '-d'),
        (['-m', 'entropie', '--samples', '--out', 'x'], "did you mean 'entropy'"),
        (['-m', 'ssim', '--samples', '--out', 'x'], 'reference'),
        (['-m', 'entropy', '-d', 'agiqa4k', '--out', 'x'], "'agiqa4k'"),
        (['-m', 'entropy', '-d', 'livec', '--score-column', 'mos', '--out', 'x'], 'by position, so none can be named'),
        (['-m', 'entropy', '-d', 'agiqa3k', '--data', 'nowhere', '--out', 'x'], 'nowhere'),
        (['-m', 'entropy', '--samples', '--phase', 'best', '--out', 'x'], 'best'),
        (['-m', 'entropy', '--samples', '--device', 'tpu9', '--out', 'x'], 'tpu9'),
        (['-m', 'entropy', '--data_opt', 'nothing.yml', '--out', 'x'], 'nothing.yml'),
        (['-m', 'entropy', '--samples', '--out', 'taken'], 'taken'),
        (['-m', 'entropy', '--samples', '--out', 'nowhere/x'], "there is no folder 'nowhere'"),
        (['-m', 'entropy', '--data_opt', 'number.yml', '--out', 'x'], 'd is 5, not a section'),
        (['-m', 'entropy', '--data_opt', 'text.yml', '--out', 'x'], 'mos_range'),
        (['-m', 'entropy', '--data_opt', 'deep.yml', '--out', 'x'], 'nested more than 50 deep'),
    ],
)
def test_a_wrong_command_fails_with_a_sentence_before_any_work(page, arguments, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('taken').write_text('a file')
    Path('number.yml').write_text('d: 5\n')
    Path('text.yml').write_text('d: {type: AIGCIQADataset, meta_info_file: taken, mos_range: 5}\n')
    Path('deep.yml').write_text('[' * 50_000)
    result = run(*arguments)
    assert result.exit_code == 2
    (sentence,) = [line for line in result.stderr.splitlines() if line]
    assert sentence.startswith('align-iqa compare: ') and reason in sentence
    assert not Path('x').exists() and Brightness.asked == []


@pytest.mark.parametrize('names', [('a/labels.csv', 'b/labels.csv'), ('a/samples.csv', '--samples')])
def test_two_data_sets_of_one_name_are_an_error(page, tiny_images, names, tmp_path):
    for name in names:
        if name.endswith('.csv'):
            table = tmp_path / 'tables' / name
            shutil.copytree(tiny_images, table.parent)
            (table.parent / 'data.csv').rename(table)
    words = [name if name.startswith('-') else tmp_path / 'tables' / name for name in names]
    result = run('-m', 'entropy', '-d', *words, '--out', tmp_path / 'out')
    assert result.exit_code == 2 and Path(names[0]).stem in result.stderr, result.output
    assert not (tmp_path / 'out').exists()


def test_another_data_set_of_a_name_does_not_replace_results_and_corrected_labels_do(page, tmp_path):
    for number, name in enumerate(('a', 'b')):
        (folder := tmp_path / name).mkdir()
        for image in range(3):
            Image.new('L', (40, 40), 50 * number + image).save(folder / f'{image}.png')
        (folder / 'labels.csv').write_text('name,mos\n' + ''.join(f'{image}.png,{image}\n' for image in range(3)))
    out = tmp_path / 'out'
    words = '-m', 'entropy', '--out', out, '-d'
    assert run(*words, tmp_path / 'a' / 'labels.csv').exit_code == 0
    before = (out / 'scores.csv').read_bytes()
    result = run(*words, tmp_path / 'b' / 'labels.csv')
    assert result.exit_code == 2 and "data set 'labels' without any of these images" in result.stderr, result.output
    assert (out / 'scores.csv').read_bytes() == before
    (tmp_path / 'a' / 'labels.csv').write_text('name,mos\n0.png,9\n1.png,8\n')
    assert run(*words, tmp_path / 'a' / 'labels.csv').exit_code == 0
    assert pd.read_csv(out / 'scores.csv')['mos'].tolist() == [9, 8]


def test_a_folder_with_another_database_is_refused(page, tmp_path):
    (tmp_path / 'scores.sqlite').write_text('notes')
    result = run('-m', 'entropy', '--samples', '--out', tmp_path)
    assert result.exit_code == 2
    assert 'scores.sqlite' in result.stderr


@pytest.mark.slow
def test_a_command_killed_at_any_moment_goes_on_and_two_at_once_share_the_work(data, tmp_path):
    """The real command with a real metric; what it prints at the end needs no page."""
    out = tmp_path / 'out'
    code = (
        'import sys, time\n'
        'from align_iqa_plugin.compare import metrics, run\n'
        'run.summarise = lambda *a, **k: {"datasets": {}}\n'
        'run.write_page = lambda *a: None\n'
        'call = metrics.Metric.__call__\n'
        'def slowly(self, images, prompts):\n'
        '    time.sleep(0.05 * len(images))\n'
        '    return call(self, images, prompts)\n'
        'metrics.Metric.__call__ = slowly\n'
        'from align_iqa_plugin.cli import app\n'
        'print("ready", flush=True)\n'
        'app()\n'
    )
    command = [sys.executable, '-c', code, 'compare', '-m', 'entropy', '-d', 'agiqa3k', '--data', str(data), '--out', str(out)]
    command += ['--batch-size', '2']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}

    def start():
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == 'ready\n'
        return process

    def scores():
        if not (out / 'scores.sqlite').is_file():
            return {}
        database = sqlite3.connect(out / 'scores.sqlite')
        try:
            return dict(database.execute('SELECT sha256, score || scored_at FROM scores'))
        except sqlite3.OperationalError:  # killed before the tables were made
            return {}
        finally:
            database.close()

    chance, kept = random.Random(1), {}
    for _ in range(3):
        process = start()
        deadline = time.monotonic() + 60
        while len(scores()) <= len(kept) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert kept.items() <= scores().items(), 'a score was lost or computed again'
        kept = scores()
    assert kept
    processes = [start(), start()]
    for process in processes:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    table = pd.read_csv(out / 'scores.csv', keep_default_na=False)
    assert len(table) == len(scores()) == 40
    assert kept.items() <= scores().items()
    assert table['score'].notna().all()


def test_real_metrics_on_the_samples_give_scores_offline(page, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(run_module, 'summarise', lambda *arguments, **keywords: {'datasets': {}})
    monkeypatch.setattr(run_module, 'write_page', lambda *arguments: None)
    result = run('-m', 'piqe', '--samples', '--device', 'cpu', '--out', tmp_path)
    assert result.exit_code == 0, result.output
    import pyiqa

    table = pd.read_csv(tmp_path / 'scores.csv', keep_default_na=False)
    metric = pyiqa.create_metric('piqe', device=torch.device('cpu'))
    for row in table.iloc[[0, 7]].itertuples():
        assert row.score == pytest.approx(metric(row.path).item(), rel=1e-4)
    assert table['lower_better'].all()


def test_results_that_cannot_be_written_are_a_sentence_and_the_scores_are_kept(page, data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "'scores.csv' cannot be written: No space left on device")

    monkeypatch.setattr(run_module, 'write_results', full)
    result = run('-m', 'entropy', '-d', 'agiqa3k', '--data', data, '--out', tmp_path / 'out')
    assert result.exit_code == 1 and 'The scores are kept.' in result.stderr, result.output
    assert len(Brightness.asked)
