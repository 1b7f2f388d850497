"""`--engine ray` on a local Ray of two workers: each image exactly once, with the local score, whichever worker dies."""

import contextlib
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter

import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from align_iqa_plugin.cli import app
from align_iqa_plugin.compare import run as comparison
from align_iqa_plugin.compare.metrics import Metric
from align_iqa_plugin.runtime.ray_workers import RayError, RayUnavailable, Workers, ray_workers
from align_iqa_plugin.score import score_folder
from align_iqa_plugin.score.metric import load_metric
from align_iqa_plugin.score.rows import Row, score_rows


@pytest.fixture(scope='module')
def local_ray():
    """A local Ray with room for two workers, started once for all tests here, since that takes seconds.

    It pretends to have a GPU, which only workers that compute nothing there may be given.
    """
    ray = pytest.importorskip('ray', reason='--engine ray needs ray[data]')
    pytest.importorskip('ray.data', reason='--engine ray needs ray[data]')
    settings = pytest.MonkeyPatch()
    settings.setenv('RAY_USAGE_STATS_ENABLED', '0')
    settings.setenv('RAY_worker_niceness', '0')  # else a busy machine starves the workers
    settings.setenv('RAY_DATA_DISABLE_PROGRESS_BARS', '1')
    settings.setenv('RAY_enable_worker_prestart', '0')  # no more workers than are used
    ray.init(address='local', num_cpus=2, num_gpus=1, include_dashboard=False, logging_level='ERROR', log_to_driver=False)
    yield ray
    ray.shutdown()
    settings.undo()


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@contextlib.contextmanager
def one_worker_killed(begun):
    """Kills the busiest worker as soon as `begun` says that there are results; gives the list of those killed."""
    import psutil

    killed, over = [], threading.Event()

    def work():
        while not over.wait(0.02):
            if begun():
                workers = {}
                for process in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error, IndexError):
                        if process.cmdline()[0].startswith('ray::MapWorker'):
                            workers[process.pid] = process.cpu_times().user
                if workers:
                    killed.append(max(workers, key=workers.get))
                    os.kill(killed[0], signal.SIGKILL)
                    return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def noise(path, seed, size=(64, 64)):
    values = torch.randint(256, (size[1], size[0], 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    Image.fromarray(values.numpy()).save(path)


def rows_in(folder):
    return pd.concat([pd.read_parquet(file) for file in sorted(folder.glob('*.parquet'))], ignore_index=True)


@pytest.mark.slow  # minutes: each worker of Ray loads torch and pyiqa anew
def test_score_survives_a_killed_worker_and_goes_on_where_it_was(local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(score_folder, 'FILE_SECONDS', 0)
    pictures, output = tmp_path / 'pictures', tmp_path / 'scores'
    pictures.mkdir()
    for i in range(24):
        noise(pictures / f'{i:02}.png', i, size=(64, 48 if i % 3 else 64))
    (pictures / 'broken.png').write_bytes(b'no picture')
    distant = f'file://{pictures}/../distant picture.png'
    noise(tmp_path / 'distant picture.png', 99)
    table = tmp_path / 'table.csv'
    table.write_text(f'image,prompt\npictures/00.png,a cat\n{distant},a "dog"\nfile:///nowhere/x.png,a bird\n'.replace('"', ''))
    arguments = ['score', pictures, table, '--engine', 'ray', '--workers', 2, '--device', 'cpu', '--output', output]

    with one_worker_killed(lambda: any(output.glob('*.parquet'))) as killed:
        result = run(*arguments)
    assert killed and result.exit_code == 1, result.output
    assert '26 of 28 images scored' in result.stderr
    assert 'A worker died' not in result.stdout
    rows = rows_in(output)
    wanted = [(str(path), None) for path in pictures.iterdir()]
    wanted += [(str(pictures / '00.png'), 'a cat'), (distant, 'a dog'), ('file:///nowhere/x.png', 'a bird')]
    assert Counter(zip(rows['image'], rows['prompt'].replace({float('nan'): None}), strict=True)) == Counter(wanted)
    failed = rows[rows['score'].isna()].set_index('image')['error']
    assert sorted(failed.index) == [str(pictures / 'broken.png'), 'file:///nowhere/x.png']
    assert 'not a picture' in failed[str(pictures / 'broken.png')]
    assert failed['file:///nowhere/x.png'].startswith('cannot be read: ')

    here = [Row(row.image, row.image, row.prompt) for row in rows.itertuples() if row.score == row.score][-8:]
    for row in here:
        row.prompt = row.prompt if isinstance(row.prompt, str) else None
    list(score_rows(load_metric('cpu', None), here, batch_size=16))
    scores = rows.set_index(['image', 'prompt'])['score']
    for row in here:
        assert scores[row.image, row.prompt or float('nan')] == pytest.approx(row.score, rel=1e-4)

    before = {file: file.read_bytes() for file in output.glob('*.parquet')}
    noise(pictures / 'broken.png', 1000)
    result = run(*arguments)
    assert '27 of 28 images scored' in result.stderr, result.output
    after = rows_in(output)
    assert len(after) == 28 and not after.duplicated(['image', 'prompt']).any()
    assert after.loc[after['image'] == str(pictures / 'broken.png'), 'score'].notna().all()
    merged = rows.dropna(subset='score').merge(after, on=['image', 'prompt'])
    assert len(merged) == 26 and (merged['score_x'] == merged['score_y']).all()
    assert sum(file.exists() and file.read_bytes() == content for file, content in before.items()) >= len(before) - 2


@pytest.mark.slow  # minutes: each worker of Ray loads torch and pyiqa anew
def test_compare_survives_a_killed_worker(local_ray, tiny_images, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(comparison, 'summarise', lambda scores, **settings: {'datasets': {}})

    def write_page(out, summary, scores, costs, provenance):
        given.update(costs=costs, made=provenance)
        scores.to_parquet(out / 'scores.parquet')

    monkeypatch.setattr(comparison, 'write_page', write_page)
    out = tmp_path / 'out'
    table = tmp_path / 'labels.csv'
    labels = pd.read_csv(tiny_images / 'data.csv')[['name', 'mos_quality', 'prompt']].head(24)
    places = [tiny_images / 'images' / name for name in labels['name']]
    labels['name'] = [f'file://{place}' if i % 2 else str(place) for i, place in enumerate(places)]
    labels.loc[len(labels)] = ['file:///nowhere/x.png', 3.0, 'prompt 1']
    labels.to_csv(table, index=False)

    def begun():
        if not (out / 'scores.sqlite').exists():
            return False
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(out / 'scores.sqlite')) as database:
            return database.execute('SELECT count(*) FROM scores').fetchone()[0] > 0
        return False

    with one_worker_killed(begun) as killed:
        result = run('compare', '-m', 'align_iqa', '-d', table, '--out', out, '--engine', 'ray', '--device', 'cpu')
    assert killed and result.exit_code == 1, result.output
    assert '24 of 25 scores' in result.stderr
    scores = pd.read_parquet(out / 'scores.parquet')
    assert scores['image'].tolist() == labels['name'].tolist()
    assert scores['score'].notna().sum() == 24
    assert scores['reason'].iloc[-1].startswith('cannot be read: ')
    with contextlib.closing(sqlite3.connect(out / 'scores.sqlite')) as database:
        assert database.execute('SELECT count(*), count(DISTINCT sha256 || prompt) FROM scores').fetchone() == (24, 24)
    costs = given['costs'].iloc[0]
    assert costs['seconds'] > 0 and costs['decode_seconds'] > 0 and costs['device'] == 'cpu'
    assert '2 workers of Ray' in given['made']['hardware']

    metric = Metric('align_iqa', torch.device('cpu'))
    for row, place in list(zip(scores.itertuples(), places, strict=False))[:5]:
        pixels = torch.tensor(list(Image.open(place).tobytes()))
        (score,) = metric(pixels.view(1, 64, 64, 3).permute(0, 3, 1, 2) / 255, [row.prompt])
        assert row.score == pytest.approx(score, rel=1e-4)

    def fail_to_compute(*arguments):
        raise AssertionError('a score that is in the store is computed again')

    monkeypatch.setattr('align_iqa_plugin.runtime.ray_workers.Workers._stream', fail_to_compute)
    result = run('compare', '-m', 'align_iqa', '-d', table, '--out', out, '--engine', 'ray', '--device', 'cpu')
    assert '24 of 25 scores' in result.stderr, result.output


class Doubling:
    """A model for the workers: twice the number; 7 always kills its worker, 3 the first time, and 5 may be an error."""

    def __init__(self, mark, failing):
        self.mark, self.failing = mark, failing

    def __call__(self, rows):
        time.sleep(0.05)
        if 7 in rows or 3 in rows and not os.path.exists(self.mark):
            with open(self.mark, 'w'):
                os.kill(os.getpid(), signal.SIGKILL)
        if self.failing and 5 in rows:
            raise ValueError('no fives')
        return [2 * row for row in rows]


@pytest.fixture
def by_value():
    """Classes of this file reach the workers, which cannot import it."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.slow  # each worker that is killed is started anew
def test_a_row_that_kills_each_worker_is_given_up_alone(local_ray, by_value, tmp_path):
    with ray_workers(2, None) as team:
        assert (team.device, team.resources['num_gpus']) == ('cuda', 1 / 2)
        arguments = {'mark': str(tmp_path / 'mark'), 'failing': False}
        results = [pair for part in team.map(Doubling, arguments, range(24), 4) for pair in part]
    assert sorted(results) == [(number, None if number == 7 else 2 * number) for number in range(24)]


def test_what_a_model_raises_reaches_the_command(local_ray, by_value, tmp_path):
    arguments = {'mark': str(tmp_path / 'mark'), 'failing': True}
    with ray_workers(2, 'cpu') as team:
        with pytest.raises(RayError, match='a worker of Ray failed: ValueError: no fives'):
            list(team.map(Doubling, arguments, [5], 4))
        with pytest.raises(RayError, match='a worker of Ray failed: TypeError: .*unknown'):
            list(team.map(Doubling, {**arguments, 'unknown': 1}, [1], 4))


def test_a_device_that_ray_lacks_is_an_error(local_ray, monkeypatch):
    monkeypatch.setattr(local_ray, 'cluster_resources', lambda: {'CPU': 2.0})
    for device, reason in (('cuda', 'no GPU'), ('cuda:1', 'choose from cpu, cuda')):
        with pytest.raises(RayUnavailable, match=reason), ray_workers(1, device):
            pass


def test_no_more_workers_than_cores(local_ray):
    with ray_workers(50, 'cpu') as team:
        assert team.number == 2


@pytest.mark.parametrize(('asked', 'number', 'share'), [(None, 8, 1), (3, 3, 1), (9, 9, 1 / 2), (32, 32, 1 / 4)])
def test_gpus_are_shared_where_there_are_more_workers(asked, number, share):
    team = Workers(asked, 'cuda', 8)
    assert (team.number, team.resources['num_gpus']) == (number, share)


@pytest.mark.parametrize('command_line', [['score', '--samples'], ['compare', '-m', 'entropy', '--samples', '--out', 'out']])
def test_without_ray_a_sentence_says_what_to_install(command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'ray', None)
    result = run(*command_line, '--engine', 'ray')
    assert result.exit_code == 2
    assert "pip install 'align-iqa-plugin[ray]'" in result.stderr
