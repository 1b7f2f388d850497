"""`align-iqa fit`, with a network of a size for tests."""

import csv
import random

import pyiqa
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import align_iqa_plugin  # noqa: F401  so that the tests also pass where torch's autoload is switched off
from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.exported import exported
from align_iqa_plugin.cli import app


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    """A network whose head knows the brightness of images, weights.safetensors, and 40 images of 10 prompts."""
    root = tmp_path_factory.mktemp('fit')
    torch.manual_seed(0)
    plain = {'guide': 'none', 'injection': 'none', 'aggregation': 'stage_pool'}
    net = AlignIQA(backbone='test_vit', backbone_weights='random', input_size=32, stages=2, **plain).eval()
    generator, images, shades = random.Random(0), [], []
    for number in range(40):
        shade = generator.randrange(256)
        color = (shade, generator.randrange(256), shade)
        Image.new('RGB', (48, 48), color).save(root / f'{number:02}.png')
        images.append(torch.tensor(color).float().view(3, 1, 1).expand(3, 48, 48) / 255)
        shades.append(shade / 255)
    with torch.no_grad():
        vectors = net.forward_features(torch.stack(images))
    net.head.fit(vectors, torch.tensor(shades)[:, None], alpha=1.0, folds=[number % 4 for number in range(40)])
    net.is_trained = True
    (root / 'weights.safetensors').write_bytes(exported(net, {}, {}))
    return root, shades


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def write(root, name, rows):
    with (root / name).open('w', newline='') as file:
        csv.writer(file).writerows(rows)
    return root / name


def scores(root, output):
    metric = pyiqa.create_metric('align_iqa', pretrained_model_path=str(output), device='cpu')
    return torch.cat([metric(str(root / f'{number:02}.png')) for number in range(40)])[:, 0], metric


def fitted(work, table, tmp_path, *words):
    output = tmp_path / 'mine.safetensors'
    arguments = ['--weights', work[0] / 'weights.safetensors', '--cache', tmp_path / 'cache', '--device', 'cpu']
    return run('fit', table, '--output', output, *arguments, *words), output


def test_ratings_on_another_scale_are_followed(work, tmp_path):
    root, shades = work
    header = ['image', 'score', 'prompt']
    rows = [[f'{number:02}.png', 20 + 60 * shades[number], f'prompt {number % 10}'] for number in range(30)]
    result, output = fitted(work, write(root, 'ratings.csv', [header, *rows]), tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith('30 ratings of 30 images, 10 prompts.')
    assert 'SRCC' in result.stdout and 'PLCC' in result.stdout
    assert Image.open(output.with_suffix('.png')).format == 'PNG'
    found, metric = scores(root, output)
    wanted = 20 + 60 * torch.tensor(shades)
    assert (found[30:] - wanted[30:]).abs().mean() < 6
    assert metric.score_range == f'~{min(row[1] for row in rows):g}, ~{max(row[1] for row in rows):g}'


def test_pairs_give_scores_on_the_scale_of_before(work, tmp_path):
    root, shades = work
    before, _ = scores(root, root / 'weights.safetensors')
    draws = random.Random(1)
    pairs = [draws.sample(range(40), 2) for _ in range(60)]
    rows = [[f'{a:02}.png', f'{b:02}.png', 'a' if shades[a] > shades[b] else 'b'] for a, b in pairs]
    result, output = fitted(work, write(root, 'pairs.csv', [['image_a', 'image_b', 'better'], *rows]), tmp_path)
    assert result.exit_code == 0, result.output
    assert 'pairs in order' in result.stdout
    found, metric = scores(root, output)
    assert metric.score_range == '~0, ~5'  # as registered
    assert float(found.mean()) == pytest.approx(float(before.mean()), abs=0.1)
    assert float(found.std()) == pytest.approx(float(before.std()), rel=0.2)
    right = [(found[a] > found[b]) == (shades[a] > shades[b]) for a, b in pairs]
    assert sum(right) > 0.9 * len(right)


def test_a_second_run_reads_no_picture_again(work, tmp_path, monkeypatch):
    root, shades = work
    table = write(root, 'ratings.csv', [['image', 'score'], *([f'{n:02}.png', shades[n]] for n in range(20))])
    assert fitted(work, table, tmp_path)[0].exit_code == 0

    def fail(path):
        raise AssertionError(f'{path} is read again')

    monkeypatch.setattr('align_iqa_plugin.models.rating_fit.read_image', fail)
    assert fitted(work, table, tmp_path)[0].exit_code == 0


def test_ratings_at_random_are_said_to_teach_nothing_and_to_contradict_each_other(work, tmp_path):
    root, _ = work
    draws = random.Random(0)
    rows = [[f'{number % 20:02}.png', draws.random(), f'{number // 20}'] for number in range(60)]
    result, _ = fitted(work, write(root, 'random.csv', [['image', 'score', 'rater'], *rows]), tmp_path)
    assert result.exit_code == 0, result.output
    assert '60 ratings of 20 images, 3 raters.' in result.stdout
    assert 'rate more images' in result.stdout and 'contradict each other' in result.stdout


def test_a_fit_that_does_harm_is_said_to_be_worse(work, tmp_path, monkeypatch):
    root, shades = work
    # a cross-validation that predicts the reverse of each rating
    monkeypatch.setattr('align_iqa_plugin.evaluation.rating_report.cross_validated', lambda problem, advance: -problem.values)
    table = write(root, 'harm.csv', [['image', 'score'], *([f'{n:02}.png', shade] for n, shade in enumerate(shades))])
    result, _ = fitted(work, table, tmp_path)
    assert result.exit_code == 0 and 'On ratings that it has not seen, the fit agrees less' in result.stdout
    assert 'too few' not in result.stdout


@pytest.mark.parametrize(
    ('rows', 'words'),
    [
        ([[f'{n:02}.png', 3] for n in range(20)], 'all the same'),
        ([[f'{n:02}.png', n] for n in range(3)], 'at least 5'),
        ([['00.png', n] for n in range(20)], 'fewer than 3'),
        ([['99.png', 3]], "99.png' is not there"),
    ],
)
def test_ratings_from_which_nothing_can_be_learned_are_refused(work, tmp_path, rows, words):
    result, output = fitted(work, write(work[0], 'bad.csv', [['image', 'score'], *rows]), tmp_path)
    assert result.exit_code == 2
    assert words in result.stderr and not output.exists()


def test_an_image_that_cannot_be_read_is_named(work, tmp_path):
    (work[0] / 'broken.png').write_bytes(b'no picture')
    rows = [['image', 'score'], ['broken.png', 1], *([f'{n:02}.png', n] for n in range(8))]
    result, _ = fitted(work, write(work[0], 'broken.csv', rows), tmp_path)
    assert result.exit_code == 2 and 'broken.png' in result.stderr
