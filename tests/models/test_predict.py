import pytest
import torch

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
from align_iqa_plugin.data.feature_cache import FeatureCache
from align_iqa_plugin.data.labels import LabelError
from align_iqa_plugin.models.fit import fit_head, image_keys
from align_iqa_plugin.models.predict import features_of, run_over, scores_of

CPU = torch.device('cpu')
TINY = {'backbone': 'test_vit', 'backbone_weights': 'random', 'input_size': 32}
TINY |= {'guide': 'none', 'injection': 'none', 'aggregation': 'stage_pool'}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return AlignIQA(**TINY).eval()


def dataset(root, **options):
    return AIGCIQADataset(
        {'name': 'tiny', 'phase': 'train', 'dataroot_target': str(root), 'batch_size_per_gpu': 4, 'score_column': 'mos_quality'}
        | options
    )


@pytest.fixture
def images(tiny_images):
    return dataset(tiny_images)


def calls(network):
    """A list that grows with every image that goes through the backbone."""
    found = []
    network.backbone.register_forward_hook(lambda module, inputs, output: found.append(len(inputs[0])))
    return found


def test_every_image_is_given_once_in_the_order_of_its_place(images):
    places = [7, 3, 11, 5, 0, 2]
    batches = list(run_over(lambda batch: batch['img'].mean((1, 2, 3))[:, None], images, places, device=CPU))
    assert [place for batch, _ in batches for place in batch] == places
    expected = torch.stack([images[place]['img'].mean() for place in places])
    torch.testing.assert_close(torch.cat([rows for _, rows in batches])[:, 0], expected)


def test_the_function_gets_the_prompts(images):
    seen = []
    list(run_over(lambda batch: seen.extend(batch['prompt']) or batch['img'][:, 0, 0, :1], images, [1, 0], device=CPU))
    assert seen == [images[1]['prompt'], images[0]['prompt']]


def test_with_a_cache_the_features_are_the_same_and_the_network_runs_once(network, images, tmp_path):
    plain = features_of(network, images, range(10), device=CPU)
    counted, cache = calls(network), FeatureCache(tmp_path, network)
    for _ in range(2):
        assert torch.equal(features_of(network, images, range(10), cache, device=CPU), plain)
    assert sum(counted) == 10


def test_with_a_cache_hit_no_picture_is_decoded(network, tiny_images, tmp_path, monkeypatch):
    images, cache = dataset(tiny_images, check_images=False), FeatureCache(tmp_path, network)
    first = features_of(network, images, range(10), cache, device=CPU)
    monkeypatch.setattr('align_iqa_plugin.data.aigc_dataset.read_resized', None)
    assert torch.equal(features_of(network, images, range(10), cache, device=CPU), first)


def test_images_that_the_cache_lacks_are_checked_before_the_network_runs(network, tiny_images, tmp_path):
    folder = tmp_path / 'data'
    (folder / 'images').mkdir(parents=True)
    (folder / 'data.csv').write_bytes((tiny_images / 'data.csv').read_bytes())
    for path in (tiny_images / 'images').iterdir():
        (folder / 'images' / path.name).write_bytes(path.read_bytes())
    for name in ('003.png', '005.png'):
        (folder / 'images' / name).write_bytes(b'no picture')
    counted = calls(network)
    with pytest.raises(LabelError, match=r'(?s)003\.png.*005\.png'):
        features_of(network, dataset(folder, check_images=False), range(10), FeatureCache(tmp_path / 'c', network), device=CPU)
    assert counted == []


def test_scores_from_cached_features_are_those_of_the_network(network, images, tmp_path):
    fit_head(network, images, alpha=1.0, device=CPU)
    network.eval()
    scores = scores_of(network, images, range(10), device=CPU)
    cached = scores_of(network, images, range(10), FeatureCache(tmp_path, network), device=CPU)
    torch.testing.assert_close(cached, scores, atol=1e-5, rtol=1e-5)
    assert scores.shape == (10, 1)


def test_a_fit_gives_each_image_what_the_head_gains_from_having_seen_it(network, images):
    fit = fit_head(network, images, alpha=1.0, device=CPU)
    assert network.is_trained
    assert fit.images == len(images) and fit.rmse < fit.rmse_left_out
    keys = image_keys(images.paths, [images.labels(place)['prompt'] for place in range(len(images))])
    gain = torch.stack([fit.target_offsets[key] for key in keys])
    scores = scores_of(network.eval(), images, range(len(images)), device=CPU)
    targets = torch.stack([images.labels(place)['targets'] for place in range(len(images))])
    left_out = scores - gain
    assert float((left_out - targets).square().mean().sqrt()) == pytest.approx(fit.rmse_left_out, rel=1e-3)


def test_a_fit_with_a_cache_is_the_same_fit(images, tmp_path):
    heads = []
    for folder in (None, tmp_path, tmp_path):
        torch.manual_seed(0)
        net = AlignIQA(**TINY)
        fit_head(net, images, alpha=1.0, device=CPU, cache=folder and FeatureCache(folder, net))
        heads.append(net.head.state_dict())
    for head in heads[1:]:
        assert all(torch.equal(tensor, heads[0][name]) for name, tensor in head.items())


def test_features_that_another_function_gives_are_not_kept(network, images, tmp_path):
    cache = FeatureCache(tmp_path, network)
    rows = features_of(network, images, range(4), cache, lambda batch: batch['img'][:, :2, 0, 0], device=CPU)
    assert rows.shape == (4, 2) and not [*tmp_path.iterdir()]
