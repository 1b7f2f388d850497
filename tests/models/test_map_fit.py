"""The map of a network: fitted to pictures, in a file that belongs to the network's trunk, and serves every head on it."""

import numpy as np
import pytest
import torch
from PIL import Image

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.pretrained import create_align_iqa
from align_iqa_plugin.data.degradations import LEVELS
from align_iqa_plugin.models import map_fit
from align_iqa_plugin.models.map_fit import fit_map, map_file, read_map, save_map


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    net = AlignIQA(
        backbone='test_vit',
        backbone_weights='random',
        input_size=32,
        guide_options={'scales': (32,)},
        injection_options={'blocks': [5], 'bottleneck': 8},
        aggregation='stage_pool',
        head_options={'components': 8},
    )
    net.is_trained = True
    return net.eval()


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    for number in range(3):
        noise = np.random.default_rng(number).integers(256, size=(6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 48), Image.Resampling.NEAREST).save(folder / f'{number}.png')
    return sorted(folder.iterdir())


@pytest.fixture
def three_are_enough(monkeypatch):
    monkeypatch.setattr(map_fit, 'LEAST', 3)


@pytest.fixture
def better_than_copies(network, monkeypatch):
    """The network's score becomes the contrast of the image, which copies lose."""
    monkeypatch.setattr(network, 'forward', lambda image: image.std((1, 2, 3))[:, None])


CPU = torch.device('cpu')


def test_a_map_is_fitted_to_five_copies_of_each_picture_and_is_the_same_every_time(
    network, pictures, better_than_copies, three_are_enough
):
    seen = []
    direction = fit_map(network, pictures, device=CPU, advance=lambda: seen.append(1))
    assert len(seen) == 3 and len(LEVELS) == 5
    assert direction.shape == (4 * network.backbone.width,) and direction.isfinite().all()
    assert torch.equal(fit_map(network, pictures, device=CPU), direction)


def test_too_few_pictures_are_refused(network, pictures):
    with pytest.raises(ValueError, match='at least 20 pictures, but there are 3'):
        fit_map(network, pictures, device=CPU)


def test_a_picture_that_is_too_small_is_named(network, pictures, tmp_path, three_are_enough):
    Image.new('RGB', (20, 20)).save(tmp_path / 'small.png')
    with pytest.raises(ValueError, match=r'small\.png.*too small'):
        fit_map(network, [tmp_path / 'small.png', *pictures], device=CPU)


def test_a_file_gives_the_direction_back_in_the_unit_of_any_head(network, tmp_path, monkeypatch):
    direction = torch.randn(4 * network.backbone.width)
    weights = tmp_path / 'mine.safetensors'
    monkeypatch.setattr(network, 'score_range', (1.0, 9.0))
    save_map(map_file(weights), network, direction)
    assert read_map(network, weights) == pytest.approx(direction)
    monkeypatch.setattr(network, 'score_range', (0.0, 100.0))
    assert read_map(network, weights) == pytest.approx(direction * 12.5)


def test_a_network_of_another_trunk_has_no_map_and_the_error_says_how_to_fit_one(network, tmp_path):
    weights = tmp_path / 'mine.safetensors'
    with pytest.raises(ValueError, match='no map.*--learn-from FOLDER.*20 good pictures'):
        read_map(network, weights)
    save_map(map_file(weights), network, torch.ones(3))
    with torch.no_grad():
        network.injection['5'].gate += 1
    with pytest.raises(ValueError, match='no map'):
        read_map(network, weights)
    with torch.no_grad():
        network.injection['5'].gate -= 1
    assert len(read_map(network, weights)) == 3


def test_a_damaged_map_of_the_package_is_installed_again(network, tmp_path, monkeypatch):
    packaged = tmp_path / 'packaged.map.safetensors'
    packaged.write_bytes(b'no tensors')
    monkeypatch.setattr(map_fit, 'PACKAGED_MAPS', [packaged])
    with pytest.raises(ValueError, match=r'packaged\.map\.safetensors cannot be read: reinstall align-iqa-plugin'):
        read_map(network, None)


def test_a_damaged_file_is_named(network, tmp_path):
    weights = tmp_path / 'mine.safetensors'
    map_file(weights).write_bytes(b'no tensors')
    with pytest.raises(ValueError, match=r'mine\.map\.safetensors cannot be read.*--learn-from'):
        read_map(network, weights)


def test_a_map_that_was_fitted_for_weights_goes_before_that_of_the_package(network, tmp_path, monkeypatch):
    monkeypatch.setattr(map_fit, 'PACKAGED_MAPS', [tmp_path / 'packaged.safetensors'])
    save_map(tmp_path / 'packaged.safetensors', network, torch.ones(3))
    weights = tmp_path / 'mine.safetensors'
    assert read_map(network, weights).tolist() == [1, 1, 1]
    save_map(map_file(weights), network, torch.full((3,), 2.0))
    assert read_map(network, weights).tolist() == [2, 2, 2]


@pytest.mark.parametrize('name', ['packaged', 'packaged-fast'])
def test_the_package_has_maps_of_its_models(name):
    network = create_align_iqa(pretrained_model_path=name)
    assert read_map(network, None).shape == (len(network.backbone.stage_ends) * network.backbone.width,)
    assert all(file.stat().st_size < 20_000 for file in map_fit.PACKAGED_MAPS)
