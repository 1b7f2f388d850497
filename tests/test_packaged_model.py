"""The model that the package carries, as a user meets it."""

import hashlib
import json

import pyiqa
import pytest
import torch
from scipy.stats import spearmanr
from torchvision.transforms.functional import to_tensor

import align_iqa_plugin  # noqa: F401  so that the tests also pass where torch's autoload is switched off
from align_iqa_plugin.archs.weights import PACKAGED, PACKAGED_MODEL_CARD
from align_iqa_plugin.data.images import read_image
from align_iqa_plugin.score.find_images import sample_rows


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


def test_it_scores_the_samples_as_its_card_says(metric, card, samples):
    rows, images = samples
    scores = metric(images).flatten().tolist()
    for row, score in zip(rows, scores, strict=True):
        assert score == pytest.approx(card['sample_scores'][row.image], abs=2e-3)  # other processors round otherwise


def test_its_ranking_of_the_samples_agrees_with_people(metric, samples):
    rows, images = samples
    assert spearmanr(metric(images).flatten().tolist(), [row.mos for row in rows])[0] > 0.7


def test_a_score_is_the_same_alone_and_in_a_batch(metric, samples):
    images = samples[1]
    alone = torch.cat([metric(image[None]) for image in images])
    torch.testing.assert_close(metric(images), alone, atol=1e-5, rtol=0)


def test_prompts_are_accepted_and_change_nothing(metric, samples):
    rows, images = samples
    assert torch.equal(metric(images[:2]), metric(images[:2], caption_list=[row.prompt for row in rows[:2]]))


def test_as_a_loss_it_improves_an_image(samples):
    image = samples[1][:1].clone().requires_grad_()
    loss = pyiqa.create_metric('align_iqa', as_loss=True, device='cpu')
    before = loss(image)
    before.backward()
    assert image.grad.isfinite().all()
    after = loss((image + 0.02 * image.grad / image.grad.abs().max()).clamp(0, 1).detach())
    assert after > before


def test_a_gray_image_and_an_image_beside_it_are_taken(metric):
    gray = torch.rand(1, 1, 64, 96)
    assert metric(gray).shape == (1, 1)
    assert torch.equal(metric(gray, gray), metric(gray))


def test_the_card_names_the_files_by_their_hashes(card):
    for name, file in card['files'].items():
        assert hashlib.sha256((PACKAGED / name).read_bytes()).hexdigest() == file['sha256'], name


def test_it_is_at_least_as_good_as_its_linear_probe(card):
    measured = card['measured_here']
    for phase in ('validation', 'test'):
        for number in ('SRCC', 'PLCC'):
            assert measured[phase][number] >= measured[f'linear_probe_{phase}'][number]
