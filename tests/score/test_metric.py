"""The network as `score` and `explain` run it: the map of weights of one's own is fitted once, and found again."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from align_iqa_plugin.models import map_fit
from align_iqa_plugin.score.metric import load_metric


@pytest.fixture
def pictures(folder, monkeypatch):
    monkeypatch.setattr(map_fit, 'LEAST', 3)
    for number in range(3):
        noise = np.random.default_rng(number).integers(256, size=(6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 48), Image.Resampling.NEAREST).save(folder / f'{number}.png')
    return sorted(folder.glob('*.png'))


@pytest.fixture
def weights(small_weights, folder):
    """Small weights whose score rises with the contrast of an image, so that copies lose some of it."""
    tensors, path = load_file(small_weights), folder / 'mine.safetensors'
    with safe_open(small_weights, 'pt') as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata)
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).round()
    metric = load_metric('cpu', path)
    if metric(noise, None) < metric(noise / 4 + 0.4, None):
        save_file(tensors | {'head.weight': -tensors['head.weight']}, path, metadata)
    return path


def test_a_map_is_fitted_once_and_then_found_beside_the_weights(pictures, weights):
    with pytest.raises(ValueError, match='no map was fitted for these weights'):
        load_metric('cpu', weights).load_map()
    seen = []
    path = load_metric('cpu', weights).fit_map(pictures, lambda: seen.append(1))
    assert path == weights.with_name('mine.map.safetensors') and len(seen) == 3
    metric = load_metric('cpu', weights)
    metric.load_map()
    quality = metric.quality_map(torch.rand(1, 3, 64, 48), None)
    assert quality.dtype == np.float32 and quality.ndim == 2 and quality.std() > 0
