"""`align-iqa explain`: maps of all images that have a score, one table, one sheet; mistakes end it before any work."""

import csv
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from align_iqa_plugin.cli import app

metric_module = import_module('align_iqa_plugin.score.metric')


class Flat:
    device = torch.device('cpu')
    score_range = (0.0, 5.0)

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3)).tolist()

    def load_map(self):
        pass

    def quality_map(self, image, prompt):
        return np.zeros((2, 2), np.float32)

    def fit_map(self, paths, advance):
        self.learned = [path.name for path in paths]
        return paths[0].with_name('mine.map.safetensors')


@pytest.fixture(autouse=True)
def metric(monkeypatch):
    metric = Flat()
    monkeypatch.setattr(metric_module, 'load_metric', lambda device, weights: metric)
    return metric


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for i in range(2):
        Image.new('RGB', (40, 40), (100 + 50 * i,) * 3).save(folder / f'{i}.png')
    return folder


def run(*words):
    return CliRunner().invoke(app, ['explain', *map(str, words)])


def test_all_images_have_a_map_a_row_and_a_tile(images, tmp_path):
    result = run(images, '--output', tmp_path / 'maps')
    assert result.exit_code == 0, result.output
    names = {file.name for file in (tmp_path / 'maps').iterdir()}
    assert names == {'0.map.npy', '0.map.png', '1.map.npy', '1.map.png', 'scores.csv', 'sheet.png'}
    rows = list(csv.DictReader((tmp_path / 'maps' / 'scores.csv').open()))
    assert [row['map'] for row in rows] == ['0', '1'] and all(float(row['score']) for row in rows)
    assert '2 of 2 images have a map' in result.stderr
    assert run(images, '--output', tmp_path / 'maps').exit_code == 0


def test_an_image_without_a_map_makes_the_status_one(images, tmp_path):
    (images / 'bad.png').write_bytes(b'')
    result = run(images, images.parent / 'gone.png', '--output', tmp_path / 'maps')
    assert result.exit_code == 1
    assert 'is empty' in result.output and 'does not exist' in result.output
    assert '2 of 4 images have a map' in result.stderr
    assert (tmp_path / 'maps' / 'sheet.png').is_file()


def test_ctrl_c_keeps_what_was_drawn_and_says_so(images, tmp_path, metric, monkeypatch):
    maps = iter([np.zeros((2, 2), np.float32)])

    def quality_map(image, prompt):
        try:
            return next(maps)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(metric, 'quality_map', quality_map, raising=False)
    result = run(images, '--output', tmp_path / 'maps')
    assert result.exit_code == 130
    assert 'Stopped by Ctrl-C' in result.stderr
    assert sorted(file.name for file in (tmp_path / 'maps').iterdir()) == ['0.map.npy', '0.map.png']


def test_a_folder_that_cannot_be_written_into_ends_it_with_status_one(images, tmp_path, monkeypatch):
    (tmp_path / 'maps' / '0.map.npy').mkdir(parents=True)
    result = run(images, '--output', tmp_path / 'maps')
    assert result.exit_code == 1
    assert '0.map.npy' in result.stderr and 'Stopped' in result.stderr


def test_a_wrong_command_ends_before_any_work_with_one_sentence(images, tmp_path, monkeypatch):
    monkeypatch.setattr(metric_module, 'load_metric', lambda *given: pytest.fail('loaded'))
    table = tmp_path / 'table.csv'
    table.write_text(f'image,map\n{images / "0.png"},1\n')
    maps = ['--output', tmp_path / 'maps']
    for words, sentence in [
        (maps, 'name at least one image'),
        ([images, '--samples', *maps], '--samples brings its own images'),
        ([images, '--prompt', ' ', *maps], '--prompt is empty'),
        ([images, '--prompt', 'a', '--prompts', 'b.csv', *maps], 'either --prompt or --prompts'),
        ([images, '--weights', tmp_path / 'none.pth', *maps], 'are not a file'),
        ([images, '--learn-from', images, *maps], '--learn-from goes with --weights FILE'),
        ([images, '--learn-from', images, '--weights', 'packaged-fast', *maps], '--learn-from goes with --weights FILE'),
        ([images, '--output', images / 'maps'], 'is in'),
        ([images, '--output', images / '0.png'], 'is not a folder'),
        ([tmp_path / 'gone.png', *maps], 'there is nothing to score'),
        ([table, *maps], "has a column 'map'"),
    ]:
        result = run(*words)
        assert result.exit_code == 2, (words, result.output)
        assert result.stderr.startswith('align-iqa explain: ') and sentence in result.stderr, result.stderr
        assert not (tmp_path / 'maps').exists()


def test_the_map_of_other_weights_is_fitted_to_pictures_first(images, tmp_path, metric):
    weights = tmp_path / 'mine.safetensors'
    weights.write_bytes(b'...')
    words = [images, '--weights', weights, '--learn-from', images, '--output', tmp_path / 'maps']
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert metric.learned == ['0.png', '1.png'] and 'mine.map.safetensors: the map, fitted to 2 pictures' in result.stderr


def test_pictures_to_learn_from_that_do_not_exist_end_the_command(images, tmp_path, metric):
    weights = tmp_path / 'mine.safetensors'
    weights.write_bytes(b'...')
    result = run(images, '--weights', weights, '--learn-from', tmp_path / 'gone', '--output', tmp_path / 'maps')
    assert result.exit_code == 2 and 'gone' in result.stderr
    assert not hasattr(metric, 'learned') and not (tmp_path / 'maps').exists()


def test_a_map_that_cannot_be_written_ends_the_command_before_it_is_fitted(images, tmp_path, metric):
    weights = tmp_path / 'mine.safetensors'
    weights.write_bytes(b'...')
    (tmp_path / 'mine.map.safetensors').mkdir()
    result = run(images, '--weights', weights, '--learn-from', images, '--output', tmp_path / 'maps')
    assert result.exit_code == 2 and 'mine.map.safetensors' in result.stderr and '--learn-from' in result.stderr
    assert not hasattr(metric, 'learned') and not (tmp_path / 'maps').exists()


def test_ctrl_c_while_the_map_is_fitted_is_told_by_the_status(images, tmp_path, metric, monkeypatch):
    def interrupted(paths, advance):
        raise KeyboardInterrupt

    monkeypatch.setattr(metric, 'fit_map', interrupted, raising=False)
    weights = tmp_path / 'mine.safetensors'
    weights.write_bytes(b'...')
    result = run(images, '--weights', weights, '--learn-from', images, '--output', tmp_path / 'maps')
    assert result.exit_code == 130 and not (tmp_path / 'maps').exists()


def test_weights_without_a_map_are_told_how_to_get_one(images, tmp_path, metric, monkeypatch):
    def none():
        raise ValueError('no map was fitted for these weights: add --learn-from FOLDER.')

    monkeypatch.setattr(metric, 'load_map', none, raising=False)
    result = run(images, '--output', tmp_path / 'maps')
    assert result.exit_code == 2 and 'add --learn-from FOLDER' in result.stderr and not (tmp_path / 'maps').exists()
