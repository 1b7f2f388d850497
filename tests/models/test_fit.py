import pytest
import torch
from pyiqa.data import build_dataset

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.data.feature_cache import FeatureCache
from align_iqa_plugin.data.training_copies import Copies
from align_iqa_plugin.models import fit
from align_iqa_plugin.models.predict import features_of

CPU = torch.device('cpu')
SMALL = {
    'backbone': 'test_vit',
    'backbone_weights': 'random',
    'input_size': 32,
    'guide_options': {'scales': (32,)},
    'aggregation_options': {'channels': 8},
    'head_options': {'components': 16},
}


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return AlignIQA(**SMALL).eval()


@pytest.fixture
def dataset(tiny_options):
    return build_dataset(tiny_options['datasets']['train'] | {'phase': 'train', 'batch_size_per_gpu': 16})


def scores(network, dataset, **options):
    """Of the images, how far each copy is below its image, and how far it should be at least."""
    found = fit.fit_head(network, dataset, alpha=0.1, device=CPU, **options)
    copies = Copies(dataset, 0.4, 0.4)
    of_images = network.head(features_of(network, dataset, range(len(dataset)), device=CPU))[:, 0]
    of_copies = network.head(features_of(network, copies, range(len(copies)), device=CPU))[:, 0]
    mos = torch.cat([dataset[i]['mos_label'] for i in range(len(dataset))])
    rows = [copy.image for copy in copies.copies]
    lost = torch.tensor([copy.lost for copy in copies.copies])
    wanted = 0.7 * lost * (mos[rows] - mos.min() + mos.std() * (lost < 1))
    return found, of_images, of_images[rows] - of_copies, wanted


def shortfall(falls, wanted):
    """How much less degraded copies fall than they should."""
    return torch.relu(wanted - falls)[wanted > 0].square().mean()


def test_copies_fall_as_far_below_their_images_as_they_should(network, dataset):
    plain, _, before, wanted = scores(network, dataset)
    ordered, of_images, after, _ = scores(network, dataset, order_share=0.4)
    assert plain.copies == 0 and ordered.copies == len(Copies(dataset, 0.4, 0.0))
    assert shortfall(after, wanted) < 0.5 * shortfall(before, wanted)
    assert ordered.rmse < 0.9 * of_images.std()


def test_lower_is_better_turns_the_order_around(network, dataset):
    dataset.opt['lower_better'] = True
    _, _, found, _ = scores(network, dataset, order_share=0.4, order_weight=100.0)
    fully_lost = [copy.lost == 1 for copy in Copies(dataset, 0.4, 0.4).copies]
    assert found[fully_lost].mean() < -0.5


def test_a_weight_makes_the_order_count_more(network, dataset):
    _, _, light, wanted = scores(network, dataset, order_share=0.4, order_weight=0.01)
    _, _, heavy, _ = scores(network, dataset, order_share=0.4, order_weight=100.0)
    assert shortfall(heavy, wanted) < shortfall(light, wanted)


def moved(network, dataset, **options):
    """By how much harmless copies differ from their images in score, on average."""
    found, _, falls, _ = scores(network, dataset, **options)
    return found, falls[[not copy.lost for copy in Copies(dataset, 0.4, 0.4).copies]].abs().mean()


def test_an_invariance_makes_harmless_copies_score_more_as_their_images_do(network, dataset):
    _, before = moved(network, dataset, order_share=0.4)
    _, after = moved(network, dataset, order_share=0.4, invariance=10.0, invariance_share=0.4)
    assert after < 0.5 * before


def test_harmless_copies_of_more_images_serve_the_invariance(network, dataset):
    few, before = moved(network, dataset, invariance=10.0, invariance_share=0.1)
    many, after = moved(network, dataset, invariance=10.0, invariance_share=0.4)
    assert many.copies > few.copies and after < 0.5 * before


def test_an_invariance_needs_no_order(network, dataset):
    _, before = moved(network, dataset)
    found, after = moved(network, dataset, invariance=10.0, invariance_share=0.4)
    assert found.copies == len(Copies(dataset, 0.0, 0.4))
    assert after < 0.5 * before


def test_a_further_score_is_fitted_without_the_copies(tiny_options, tiny_images, tmp_path):
    torch.manual_seed(0)
    rows = (tiny_images / 'data.csv').read_text().splitlines()
    rows = [f'{row},{"other" if number == 0 else number % 7}' for number, row in enumerate(rows)]
    (tmp_path / 'two.csv').write_text('\n'.join(rows))
    section = tiny_options['datasets']['train'] | {'phase': 'train', 'further_score_columns': ['other']}
    section['meta_info_file'] = str(tmp_path / 'two.csv')
    network, dataset = AlignIQA(**SMALL, targets=2).eval(), build_dataset(section)
    features = features_of(network, dataset, range(len(dataset)), device=CPU)
    fit.fit_head(network, dataset, alpha=0.1, device=CPU)
    plain = network.head(features)
    fit.fit_head(network, dataset, alpha=0.1, device=CPU, order_share=0.4)
    ordered = network.head(features)
    torch.testing.assert_close(ordered[:, 1], plain[:, 1])
    assert not torch.allclose(ordered[:, 0], plain[:, 0])


def test_a_cache_keeps_the_copies_too(network, dataset, tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path, network)
    found, of_images, *_ = scores(network, dataset, order_share=0.4, cache=cache)
    assert len([*tmp_path.iterdir()]) == len(dataset) + found.copies
    monkeypatch.setattr('align_iqa_plugin.data.aigc_dataset.read_resized', None)  # nothing is decoded any more
    again = fit.fit_head(network, dataset, alpha=0.1, device=CPU, order_share=0.4, cache=cache)
    assert again.rmse == found.rmse and again.rmse_left_out == found.rmse_left_out


def test_a_share_too_small_for_one_image_fits_no_copies(network, dataset):
    assert fit.fit_head(network, dataset, alpha=0.1, device=CPU, order_share=1e-9).copies == 0


def test_a_dataset_of_pyiqa_has_no_copies(network, tiny_options, tiny_images):
    section = {'name': 'x', 'type': 'GeneralNRDataset', 'dataroot_target': str(tiny_images / 'images')}
    rows = [line.split(',') for line in (tiny_images / 'data.csv').read_text().splitlines()]
    table = tiny_images.parent / 'plain.csv'
    table.write_text('\n'.join(f'{name},{mos}' for name, _, mos in rows))
    section |= {'meta_info_file': str(table), 'augment': {'totensor': None}, 'phase': 'train', 'batch_size_per_gpu': 4}
    for key in ('order_share', 'invariance_share'):
        with pytest.raises(ValueError, match=f'train.{key} needs type: AIGCIQADataset, not GeneralNRDataset'):
            fit.fit_head(network, build_dataset(section), alpha=0.1, device=CPU, **{key: 0.5})


def test_the_network_has_the_range_that_the_data_set_states_or_else_that_of_its_scores(network, tiny_options):
    section = tiny_options['datasets']['train'] | {'phase': 'train'}
    found = []
    for options in ({}, {'mos_range': [0, 6]}, {'mos_range': [0, 6], 'lower_better': True, 'mos_normalize': True}):
        fit.fit_head(network, build_dataset(section | options), alpha=0.1, device=CPU)
        found.append(network.score_range)
    dataset = build_dataset(section)
    mos = [dataset[i]['mos_label'].item() for i in range(len(dataset))]
    assert found == [(min(mos), max(mos)), (0, 6), (0, 1)]


def test_scores_that_are_all_the_same_have_no_range(network, dataset):
    dataset.paths_mos = [[path, 3.0, *rest] for path, _, *rest in dataset.paths_mos]
    fit.fit_head(network, dataset, alpha=0.1, device=CPU)
    assert network.score_range is None
