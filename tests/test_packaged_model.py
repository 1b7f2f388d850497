"""The model that the package carries, as a user meets it."""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pyiqa
import pytest
import torch
from PIL import Image, ImageCms
from pyiqa import pyiqa_cmd
from scipy.stats import spearmanr
from torchvision.transforms.functional import to_tensor

import align_iqa_plugin  # noqa: F401  so that the tests also pass where torch's autoload is switched off
from align_iqa_plugin.archs.weights import PACKAGED, PACKAGED_FAST_CARD, PACKAGED_MODEL_CARD
from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
from align_iqa_plugin.data.images import read_image, read_resized
from align_iqa_plugin.score.find_images import sample_rows
from align_iqa_plugin.score.metric import load_metric
from align_iqa_plugin.score.rows import Row, score_rows


@pytest.fixture(scope='module')
def metric():
    return pyiqa.create_metric('align_iqa', device='cpu')


@pytest.fixture(scope='module')
def card():
    return json.loads(PACKAGED_MODEL_CARD.read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def samples():
    rows = sample_rows()
    return rows, torch.stack([to_tensor(read_image(row.path)) for row in rows])


@pytest.fixture(scope='module')
def prediction(metric, samples):
    """Of the samples, in one batch."""
    return metric.net.predict(samples[1])


@pytest.fixture(scope='module')
def scores(prediction):
    return prediction.scores.flatten().tolist()


def test_it_scores_the_samples_as_its_card_says(card, samples, scores):
    for row, score in zip(samples[0], scores, strict=True):
        assert score == pytest.approx(card['sample_scores'][row.image], abs=2e-3)  # other processors round otherwise


@pytest.mark.gpu
def test_a_gpu_gives_the_scores_and_deviations_of_the_cpu(samples, prediction):
    on_gpu = pyiqa.create_metric('align_iqa', device='cuda').net.predict(samples[1].cuda())
    torch.testing.assert_close(on_gpu.scores.cpu(), prediction.scores, atol=2e-3, rtol=0)
    torch.testing.assert_close(on_gpu.std.cpu(), prediction.std, atol=2e-3, rtol=0)


@pytest.mark.gpu
def test_bf16_on_a_gpu_moves_a_score_by_less_than_a_tenth(samples, prediction):
    metric = pyiqa.create_metric('align_iqa', device='cuda')
    with torch.autocast('cuda', torch.bfloat16):
        scores = metric(samples[1].cuda())
    torch.testing.assert_close(scores.cpu().float(), prediction.scores, atol=0.1, rtol=0)


def test_most_mos_are_within_the_predicted_interval(samples, prediction):
    mos = torch.tensor([row.mos for row in samples[0]])[:, None]
    assert ((prediction.scores - mos).abs() <= 1.6449 * prediction.std).float().mean() > 0.5


def test_the_deviation_grows_on_what_is_no_generated_image(metric, samples, prediction):
    images = samples[1][:4]
    noise = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    degraded = (0.3 * images + 0.35 + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    std = metric.net.predict(torch.cat([noise, torch.ones_like(noise), degraded])).std
    assert (std[:2] > 1.1 * prediction.std.median()).all()
    assert (std[2:] > prediction.std[:4]).all()


@pytest.fixture(scope='module')
def fast():
    return pyiqa.create_metric('align_iqa-fast', device='cpu')


def test_the_model_of_one_view_scores_as_its_card_says_on_the_same_scale_and_needs_no_more_than_its_input_size(
    fast, samples, scores
):
    card = json.loads(PACKAGED_FAST_CARD.read_text(encoding='utf-8'))
    small = torch.stack([to_tensor(read_resized(row.path, 224)) for row in samples[0][::6]])
    with torch.no_grad():
        found, resized = fast(samples[1][::2]).flatten(), fast(small).flatten()
    assert found.tolist() == pytest.approx([card['sample_scores'][row.image] for row in samples[0][::2]], abs=2e-3)
    assert found.tolist() == pytest.approx(scores[::2], abs=0.6)
    assert resized.tolist() == pytest.approx(found[::3].tolist(), abs=0.05)  # of 5: what rounding to 8 bits does


def test_its_ranking_of_the_samples_agrees_with_people(samples, scores):
    assert spearmanr(scores, [row.mos for row in samples[0]])[0] > 0.7


def test_the_metric_scores_an_image_alone_as_predict_does_in_a_batch(metric, samples, scores):
    alone = [metric(image[None]).item() for image in samples[1][::3]]
    assert alone == pytest.approx(scores[::3], abs=1e-5, rel=0)


def test_prompts_are_accepted_and_change_nothing(fast, samples):
    rows, images = samples
    assert torch.equal(fast(images[:2]), fast(images[:2], caption_list=[row.prompt for row in rows[:2]]))


def test_as_a_loss_it_improves_an_image_and_stays_on_the_scale_of_the_ratings(samples):
    loss = pyiqa.create_metric('align_iqa-fast', as_loss=True, device='cpu')
    assert loss.net.score_range == (0.0, 5.0)
    image = samples[1][:1].clone().requires_grad_()
    before = loss(image)
    before.backward()
    assert image.grad.isfinite().all()
    after = loss((image + 0.02 * image.grad / image.grad.abs().max()).clamp(0, 1).detach().requires_grad_())
    assert after > before

    loss.net.head.bias += 6 - before.item()  # the score itself is above the scale now
    image.grad = None
    score = loss(image)
    score.backward()
    assert 4.9 < score < 5 < loss(image.detach())
    assert image.grad.isfinite().all() and image.grad.abs().sum() > 0, 'and it can still rise'


def test_a_gray_image_and_an_image_beside_it_are_taken(fast):
    gray = torch.rand(1, 1, 64, 96)
    assert fast(gray).shape == (1, 1)
    assert torch.equal(fast(gray, gray), fast(gray))


@pytest.fixture(scope='module')
def white(fast):
    return fast(torch.ones(1, 3, 64, 96))


@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_white_is_in_range_in_every_type(fast, white, kind):
    assert torch.equal(fast(torch.ones(1, 3, 64, 96).to(kind)), white)


@pytest.mark.parametrize('path', [PACKAGED_MODEL_CARD, PACKAGED_FAST_CARD], ids=['best', 'fast'])
def test_a_card_names_the_files_by_their_hashes(path):
    for name, file in json.loads(path.read_text(encoding='utf-8'))['files'].items():
        assert hashlib.sha256((PACKAGED / name).read_bytes()).hexdigest() == file['sha256'], name


def test_it_is_at_least_as_good_as_its_linear_probe(card):
    measured = card['measured_here']
    for phase in ('validation', 'test'):
        for number in ('SRCC', 'PLCC'):
            assert measured[phase][number] >= measured[f'linear_probe_{phase}'][number]


# One file, one score


@pytest.fixture(scope='module')
def odd_files(tmp_path_factory, samples):
    """A picture in every form that readers treat in different ways."""
    folder = tmp_path_factory.mktemp('odd')
    picture = Image.open(samples[0][0].path).resize((96, 72))
    grey = np.asarray(picture.convert('L'))
    under = np.random.default_rng(0).integers(0, 256, (72, 96, 3), dtype=np.uint8)
    alpha = np.where(grey > 99, 255, 0).astype(np.uint8)[..., None]
    exif = Image.Exif()
    exif[0x0112] = 3
    pictures = {
        'grey16.png': Image.fromarray(grey.astype(np.uint16) * 257),
        'alpha.png': Image.fromarray(np.concatenate([np.where(alpha > 0, np.asarray(picture), under), alpha], -1)),
        'palette.gif': picture.quantize(32),
        'clear_palette.png': picture.quantize(32),
        'cmyk.jpg': picture.convert('CMYK'),
        'turned.jpg': picture,
        'profile.png': picture,
    }
    options = {
        'turned.jpg': {'exif': exif},
        'clear_palette.png': {'transparency': 3},
        'profile.png': {'icc_profile': ImageCms.ImageCmsProfile(ImageCms.createProfile('LAB')).tobytes()},
    }
    for name, form in pictures.items():
        form.save(folder / name, **options.get(name, {}))
    return [folder / name for name in pictures]


def test_a_file_has_one_score_whoever_reads_it(small_weights, odd_files, tmp_path, monkeypatch, capsys):
    metric = pyiqa.create_metric('align_iqa', device='cpu', pretrained_model_path=str(small_weights))
    rows = [Row(path.name, path) for path in odd_files]
    by_command = {row.image: row.score for row in score_rows(load_metric('cpu', small_weights), rows, batch_size=4)}
    assert len({round(score, 3) for score in by_command.values()}) == len(rows)
    (tmp_path / 'data.csv').write_text('name,mos\n' + ''.join(f'{path},1\n' for path in odd_files))
    columns = {'image_column': 'name', 'score_column': 'mos', 'prompt_column': None}
    dataset = AIGCIQADataset({'meta_info_file': str(tmp_path / 'data.csv'), **columns})
    for path, sample in zip(odd_files, dataset, strict=True):
        assert sample['img_path'] == str(path)
        assert torch.equal(sample['img'], to_tensor(read_image(path)))
    path = next(path for path in odd_files if path.name == 'alpha.png')
    with Image.open(path) as opened:
        forms = (str(path), path, path.read_bytes(), opened, read_image(path))
        found = [metric(form).item() for form in forms]
    assert found == pytest.approx([by_command[path.name]] * len(forms), abs=1e-4)

    monkeypatch.setattr(pyiqa_cmd, 'create_metric', lambda name, device: metric)
    monkeypatch.setattr(sys, 'argv', ['pyiqa', 'align_iqa', '-t', str(odd_files[0].parent), '-v'])
    pyiqa_cmd.main()
    printed = capsys.readouterr().out
    for path in odd_files:
        (score,) = re.findall(rf"{re.escape(path.name)}': (\S+\d)", printed)
        assert float(score) == pytest.approx(by_command[path.name], abs=2e-4)  # it prints 4 digits


def test_a_file_that_cannot_be_read_is_one_sentence_for_pyiqa_too(metric, tmp_path):
    Image.new('F', (40, 40)).save(tmp_path / 'float.tif')
    for path, reason in ((tmp_path / 'float.tif', 'white is not known'), (Path('missing.png'), 'does not exist')):
        with pytest.raises(ValueError, match=f"^'.*{path.name}' .*{reason}"):
            metric(str(path))


def test_other_metrics_of_pyiqa_read_as_before(odd_files):
    from pyiqa.utils.img_util import imread2tensor

    other = pyiqa.create_metric('entropy', device='cpu')
    for path in odd_files:
        assert torch.equal(other(str(path)), other(imread2tensor(str(path), rgb=True)[None]))
