import numpy as np
import pytest
import torch

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.data.feature_cache import FrozenCache
from align_iqa_plugin.data.images import read_image


@pytest.fixture
def network(tiny_options):
    torch.manual_seed(0)
    return AlignIQA(**{key: value for key, value in tiny_options['network'].items() if key != 'type'})


def another(tiny_options, seed=0, **changes):
    torch.manual_seed(seed)
    return AlignIQA(**{key: value for key, value in (tiny_options['network'] | changes).items() if key != 'type'})


@pytest.fixture
def files(tiny_images):
    return [str(path) for path in sorted((tiny_images / 'images').iterdir())[:6]]


@pytest.fixture
def images(files):
    from torchvision.transforms.functional import to_tensor

    return torch.stack([to_tensor(read_image(path)) for path in files])


def counted(network):
    """A list that grows with every image that goes through the first and the last block."""
    calls = []
    for block in (network.backbone.vit.blocks[0], network.backbone.vit.blocks[-1]):
        block.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    return calls


@pytest.mark.parametrize('first_block', [0, 2, 3, 4, 5])
def test_it_gives_what_the_blocks_give_wherever_the_injection_begins(first_block, tiny_options, files, images, tmp_path):
    network = another(tiny_options, injection_options={'first_block': first_block, 'bottleneck': 8})
    outputs, tokens = network.plain_blocks(images)
    for _ in range(2):
        cached, cached_tokens = FrozenCache(tmp_path, network)(images, files)
        assert len(cached) == len(outputs)
        for one, other in zip([*cached, cached_tokens], [*outputs, tokens], strict=True):
            torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-3)


def test_the_blocks_run_once_an_image(network, files, images, tmp_path):
    cache = FrozenCache(tmp_path, network)
    calls = counted(network)
    for start in (0, 0, 2):
        cache(images[start : start + 4], files[start : start + 4])
    assert calls == [4, 4]


def test_what_leaves_a_stage_and_enters_the_injection_is_stored_once(tiny_options, files, images, tmp_path):
    shapes = []
    for first_block in (4, 5):  # block 3 ends a stage, block 4 does not
        network = another(tiny_options, injection_options={'first_block': first_block, 'bottleneck': 8})
        cache = FrozenCache(tmp_path / str(first_block), network)
        cache(images, files)
        shapes.append({np.load(file).shape[0] for file in (tmp_path / str(first_block)).iterdir()})
    assert network.backbone.stage_ends == [1, 2, 3, 5]
    assert shapes == [{3}, {4}]


def test_it_knows_another_network_and_a_changed_image(network, tiny_options, files, tmp_path):
    cache = FrozenCache(tmp_path, network)
    copy = tmp_path / 'copy.png'
    copy.write_bytes(open(files[0], 'rb').read())
    before = cache._files(torch.zeros(1, 3, 8, 8), [str(copy)], cache.key)
    copy.write_bytes(copy.read_bytes() + b' ')
    after = cache._files(torch.zeros(1, 3, 8, 8), [str(copy)], cache.key)
    assert after != before
    assert cache._files(torch.zeros(1, 3, 8, 9), [str(copy)], cache.key) not in (before, after)
    assert FrozenCache(tmp_path, another(tiny_options, seed=1)).key != cache.key
    assert FrozenCache(tmp_path, another(tiny_options)).key == cache.key


def test_the_vectors_of_the_start_are_those_of_the_network_and_cost_no_block_the_second_time(network, files, images, tmp_path):
    cache = FrozenCache(tmp_path, network)
    with torch.no_grad():
        expected = network.features(images, None, *cache(images, files))
        first = cache.start_vectors(images, None, files)
        calls = counted(network)
        second = cache.start_vectors(images, None, files)
    assert calls == []
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)


@pytest.mark.parametrize('change', ['seed of the aggregation', 'aggregation'])
def test_the_vectors_of_another_aggregation_are_others(change, network, tiny_options, files, images, tmp_path):
    other = another(tiny_options, **({'aggregation': 'last_map'} if change == 'aggregation' else {}))
    if change != 'aggregation':
        torch.nn.init.normal_(other.msfa.reduce[0].weight)
    with torch.no_grad():
        FrozenCache(tmp_path, network).start_vectors(images, None, files)
        vectors = FrozenCache(tmp_path, other).start_vectors(images, None, files)
        torch.testing.assert_close(vectors, other.features(images, None, *other.plain_blocks(images)), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize('change', [{'injection': 'vpt_add', 'injection_options': {'first_block': 4}}, 'open gate'])
def test_the_vectors_are_not_kept_where_guidance_enters_already(change, tiny_options, files, images, tmp_path):
    network = another(tiny_options, **({} if change == 'open gate' else change))
    if change == 'open gate':
        torch.nn.init.ones_(network.injection.blocks[0].gate)
    cache = FrozenCache(tmp_path, network)
    with torch.no_grad():
        cache.start_vectors(images, None, files)
        calls = counted(network)
        torch.nn.init.normal_(network.guide.embed.weight)
        vectors = cache.start_vectors(images, None, files)
        torch.testing.assert_close(vectors, network.features(images, None, *cache(images, files)))
    assert calls == [6, 6]


def test_an_empty_and_a_torn_file_are_written_again(network, files, images, tmp_path):
    cache = FrozenCache(tmp_path, network)
    expected = cache(images, files)
    empty, torn, *_ = tmp_path.iterdir()
    empty.write_bytes(b'')
    torn.write_bytes(torn.read_bytes()[:-5])
    for _ in range(2):
        torch.testing.assert_close(cache(images, files), expected, atol=0, rtol=0)
    assert len({file.stat().st_size for file in tmp_path.iterdir()}) == 1
