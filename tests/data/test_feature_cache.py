import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import to_tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.data.feature_cache import FeatureCache, TrunkCache, injects_nothing
from align_iqa_plugin.data.images import read_image

TINY = {'backbone': 'test_vit', 'backbone_weights': 'random', 'input_size': 32}
TINY |= {'guide': 'none', 'injection': 'none', 'aggregation': 'stage_pool'}
GUIDED = {'guide': 'saliency', 'guide_options': {'scales': (32,)}, 'injection': 'cgi'}


def network(seed=0, **options):
    torch.manual_seed(seed)
    return AlignIQA(**TINY | options).eval()


@pytest.fixture
def path(tiny_images, tmp_path):
    copy = tmp_path / 'image.png'
    copy.write_bytes(next((tiny_images / 'images').iterdir()).read_bytes())
    return str(copy)


def features(net, path):
    with torch.no_grad():
        return net.forward_features(to_tensor(read_image(path))[None])[0]


def test_what_is_written_is_read_bit_for_bit(path, tmp_path):
    net, cache = network(), FeatureCache(tmp_path / 'cache', network())
    assert cache.read(path) is None
    cache.write(path, features(net, path))
    assert torch.equal(FeatureCache(tmp_path / 'cache', network()).read(path), features(net, path))


@pytest.mark.parametrize(
    'changes',
    [
        {'seed': 1},
        {'stages': 3},
        {'input_size': 64},
        {'views': 2},
        {'aggregation': 'msfa', 'aggregation_options': {'channels': 4}},
    ],
)
def test_another_network_has_other_features(changes, path, tmp_path):
    FeatureCache(tmp_path, network()).write(path, torch.zeros(3))
    assert FeatureCache(tmp_path, network(**changes)).read(path) is None


def test_an_aggregation_of_other_weights_has_other_features(path, tmp_path):
    net = network(aggregation='msfa', aggregation_options={'channels': 4})
    FeatureCache(tmp_path, net).write(path, torch.zeros(3))
    torch.nn.init.ones_(net.msfa.reduce[0].weight)
    assert FeatureCache(tmp_path, net).read(path) is None


def test_features_of_two_views_depend_on_how_many_are_guided(path, tmp_path):
    one, two = (network(**GUIDED, views=2, guided_views=guided) for guided in (1, 2))
    FeatureCache(tmp_path, one).write(path, torch.zeros(3))
    assert FeatureCache(tmp_path, two).read(path) is None
    assert FeatureCache(tmp_path, one).read(path) is not None


def test_guidance_and_head_do_not_matter(path, tmp_path):
    FeatureCache(tmp_path, network()).write(path, torch.zeros(3))
    assert FeatureCache(tmp_path, network(**GUIDED, head='linear')).read(path) is not None


def test_another_view_and_a_changed_image_have_other_features(path, tmp_path):
    cache = FeatureCache(tmp_path, network())
    cache.write(path, torch.zeros(3), '224')
    assert cache.read(path, '224') is not None
    assert cache.read(path) is None
    moved = tmp_path / 'moved.png'
    moved.write_bytes(Path(path).read_bytes())
    assert cache.read(str(moved), '224') is not None
    moved.write_bytes(Path(path).read_bytes() + b'changed')
    assert FeatureCache(tmp_path, network()).read(str(moved), '224') is None


@pytest.mark.parametrize('content', [b'', b'\x93NUMPY', b'hello'])
def test_a_damaged_file_counts_as_missing(content, path, tmp_path):
    cache = FeatureCache(tmp_path / 'cache', network())
    cache.write(path, torch.zeros(3))
    (file,) = (tmp_path / 'cache').iterdir()
    file.write_bytes(content)
    assert cache.read(path) is None
    cache.write(path, torch.ones(3))
    assert torch.equal(cache.read(path), torch.ones(3))


def test_code_in_a_file_is_never_run(path, tmp_path):
    cache = FeatureCache(tmp_path / 'cache', network())
    cache.write(path, torch.zeros(3))
    (file,) = (tmp_path / 'cache').iterdir()
    np.save(file, np.array([os.getcwd], dtype=object), allow_pickle=True)
    assert cache.read(path) is None


def test_features_of_a_trained_backbone_are_not_kept(tmp_path):
    with pytest.raises(ValueError, match='freeze_backbone'):
        FeatureCache(tmp_path, network(freeze_backbone=False))


def test_features_are_frozen_where_nothing_is_injected_or_all_gates_are_zero():
    assert injects_nothing(network())
    guided = network(**GUIDED)
    assert injects_nothing(guided)
    torch.nn.init.ones_(guided.injection['5'].gate)
    assert not injects_nothing(guided)
    assert not injects_nothing(network(**{**GUIDED, 'injection': 'vpt_add'}))


def test_a_network_that_injects_something_has_features_of_its_own(path, tmp_path):
    plain, guided = network(**GUIDED), network(**GUIDED)
    cache = FeatureCache(tmp_path, plain)
    cache.write(path, torch.zeros(3))
    torch.nn.init.ones_(guided.injection['5'].gate)
    cache.follow(guided)
    assert cache.read(path) is None
    cache.write(path, torch.ones(3))
    torch.nn.init.zeros_(guided.guide.position)
    cache.follow(guided)
    assert cache.read(path) is None
    cache.follow(plain)
    assert torch.equal(cache.read(path), torch.zeros(3))


def test_the_trunk_is_kept_in_half_precision_and_read_as_it_was_computed(path, tmp_path):
    net = network(**GUIDED, injection_options={'blocks': [3, 5]})
    cache, image = TrunkCache(tmp_path / 'trunk', net), to_tensor(read_image(path))[None]
    first, again = (cache.outputs(net, image, [path], ['']) for _ in range(2))
    assert list(first) == [1, 2] == cache.blocks  # ends of stages, and the block before the first injection
    for block in first:
        assert torch.equal(first[block], again[block])
        torch.testing.assert_close(first[block], net.backbone.trunk(image, [block])[block], atol=0.01, rtol=0.01)
