"""Correlations: equal to pyiqa's and scipy's, the same for every command, and defined or None."""

import json
import warnings

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiqa.metrics.correlation_coefficient import calculate_krcc, calculate_plcc, calculate_rmse, calculate_srcc
from scipy import stats
from torch.utils.data import Dataset
from typer.testing import CliRunner

from align_iqa_plugin.cli import app
from align_iqa_plugin.compare.significance import draw_prompts
from align_iqa_plugin.compare.statistics import summarise
from align_iqa_plugin.evaluation import protocol
from align_iqa_plugin.evaluation.correlation import correlations, krcc, logistic_fit, plcc, rmse, srcc

QUICK = settings(deadline=None, max_examples=40)  # a loaded machine is no problem
CORRELATIONS = {srcc: calculate_srcc, krcc: calculate_krcc, plcc: calculate_plcc}
# few values, so that ties are frequent
IMAGES = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 4)), min_size=3, max_size=30)


def columns(images):
    scores, mos, prompts = map(np.array, zip(*images, strict=True))
    return scores.astype(float), mos.astype(float), prompts


def noisy(seed=0):
    """Scores and MOS of 40 groups of 6 images that are alike."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(40), 6)
    mos = generator.normal(size=40)[group] + 0.5 * generator.normal(size=240)
    return mos + 0.7 * generator.normal(size=40)[group] + 0.2 * generator.normal(size=240), mos


def without_a_first_fit(seed=27):
    """Scores and MOS for which scipy finds an optimum from standardised scores only."""
    generator = np.random.default_rng(seed)
    scores = 7 - generator.exponential(size=60)
    return scores, 2 + 0.3 * (scores - 7) + generator.normal(size=60)


# values


@QUICK
@given(IMAGES)
def test_correlations_are_those_of_pyiqa_and_scipy_with_any_ties(images):
    scores, mos, _ = columns(images)
    of_scipy = {srcc: stats.spearmanr, krcc: stats.kendalltau, plcc: stats.pearsonr}
    for ours, theirs in CORRELATIONS.items():
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # scipy warns of constant scores and gives NaN
            expected = theirs(scores, mos), of_scipy[ours](scores, mos)[0]
        np.testing.assert_allclose(np.repeat(ours(scores, mos), 2), expected, atol=1e-12)


@pytest.mark.parametrize('seed', range(5))
def test_all_numbers_of_one_set_of_images_are_those_of_pyiqa(seed):
    scores, mos = noisy(seed)
    scores = np.arctanh(np.clip(scores / 4, -0.99, 0.99))  # so that the curve matters
    fitted = calculate_plcc(scores, mos, fit_scale='logistic_4params')
    assert fitted > calculate_plcc(scores, mos)
    expected = {name: theirs(scores, mos) for name, theirs in zip(('SRCC', 'KRCC', 'PLCC'), CORRELATIONS.values(), strict=True)}
    expected |= {'PLCC_fitted': fitted, 'RMSE': calculate_rmse(scores, mos), 'n': 240}
    assert correlations(scores.tolist(), mos.tolist()) == pytest.approx(expected, abs=1e-12)
    curve = logistic_fit(scores, mos)
    assert rmse(curve, mos)[0] == pytest.approx(calculate_rmse(scores, mos, fit_scale='logistic_4params'))


def test_correlations_keep_their_sign():
    _, mos = noisy()
    numbers = correlations([5 - m - m**3 for m in mos], mos)
    assert numbers['SRCC'] == pytest.approx(-1) and numbers['KRCC'] == pytest.approx(-1)
    assert numbers['PLCC'] < -0.7


@pytest.mark.parametrize('values', [([], []), ([1.0, 2.0], [1.0, 2.0]), ([1.0] * 5, [1.0, 2, 3, 4, 5])])
def test_too_few_or_equal_scores_have_no_correlation(values):
    numbers = correlations(*values)
    assert all(np.isnan(numbers[name]) for name in ('SRCC', 'PLCC', 'KRCC')) and numbers['PLCC_fitted'] is None


# the fit


@pytest.mark.parametrize('seed', [27, 34, 42])
def test_where_the_fit_of_pyiqa_finds_no_optimum_it_starts_again_from_standardised_scores(seed):
    scores, mos = without_a_first_fit(seed)
    with pytest.raises(RuntimeError, match='Optimal parameters not found'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        calculate_plcc(scores, mos, fit_scale='logistic_4params')
    assert plcc(logistic_fit(scores, mos), mos)[0] > plcc(scores, mos)[0] - 1e-5  # a curve is no worse than a line


def test_a_fit_without_an_optimum_is_none_and_warns_of_nothing():
    scores, mos = noisy()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert correlations(np.exp(2 * scores), mos)['PLCC_fitted'] is None


# resamples


@QUICK
@given(IMAGES, st.integers(0, 99))
def test_every_resample_gives_what_the_images_written_out_give(images, seed):
    scores, mos, prompts = columns(images)
    draws = draw_prompts(5, seed=seed, resamples=4)
    results = {ours: ours(scores, mos, prompts, draws) for ours in CORRELATIONS}
    error = rmse(scores, mos, prompts, draws)
    for sample, counts in enumerate(draws.T.astype(int)):
        # each copy of a prompt is a prompt of its own
        copies = [np.flatnonzero(prompts == prompt) for prompt in range(5) for _ in range(counts[prompt])]
        chosen = np.concatenate([np.empty(0, int), *copies])
        for ours, theirs in CORRELATIONS.items():
            if len({*scores[chosen]}) > 1 and len({*mos[chosen]}) > 1:
                assert results[ours][sample] == pytest.approx(theirs(scores[chosen], mos[chosen]), abs=1e-9)
            else:
                assert np.isnan(results[ours][sample])
        if len(chosen):
            assert error[sample] == pytest.approx(calculate_rmse(scores[chosen], mos[chosen]))


@QUICK
@given(IMAGES)
def test_rank_correlations_do_not_depend_on_the_scale_of_scores_and_turn_round_with_them(images):
    scores, mos, prompts = columns(images)
    draws = draw_prompts(5, seed=0, resamples=3)
    for of in (srcc, krcc):
        for stretched in (np.exp(3 * scores), scores**3 / 7 + 100):
            np.testing.assert_array_equal(of(scores, mos, prompts, draws), of(stretched, mos, prompts, draws))
    for of in CORRELATIONS:
        np.testing.assert_allclose(of(-scores, mos, prompts, draws), -of(scores, mos, prompts, draws), atol=1e-12)


# the same numbers everywhere


class Rated(Dataset):
    """Stands in for `AIGCIQADataset`: the image is its own score."""

    scores, mos, paths = [], [], []
    shares_batches = True

    def __init__(self, options):
        self.opt = options

    def __len__(self):
        return len(self.scores)

    def __getitem__(self, index):
        return {'img': torch.full((3, 1, 1), self.scores[index], dtype=torch.float64), **self.labels(index)}

    def labels(self, index):
        return {'targets': torch.tensor([self.mos[index]]), 'prompt': '', 'img_path': f'{index}.png'}


class Network:
    """Stands in for `AlignIQA`: gives the score that an image is."""

    def __init__(self, **keywords):
        pass

    def to(self, device):
        return self

    def eval(self):
        return self

    def parameters(self):
        return []

    def __call__(self, image, caption_list=None):
        return image[:, :1, 0, 0]


@pytest.mark.parametrize('case', ['plain', 'a second start', 'exp(2x), which has no fit'])
def test_evaluate_protocol_and_compare_give_equal_numbers(case, tmp_path, monkeypatch):
    scores, mos = without_a_first_fit() if case == 'a second start' else noisy()
    scores = np.exp(2 * scores) if case.startswith('exp') else scores
    monkeypatch.setattr(Rated, 'scores', scores)
    monkeypatch.setattr(Rated, 'mos', mos)

    monkeypatch.setattr('align_iqa_plugin.data.aigc_dataset.AIGCIQADataset', Rated)
    monkeypatch.setattr('align_iqa_plugin.archs.pretrained.create_align_iqa', Network)
    (tmp_path / 'data.csv').touch()
    result = CliRunner().invoke(app, ['evaluate', str(tmp_path), '--device', 'cpu', '--output', str(tmp_path / 'out.json')])
    assert result.exit_code == 0, result.output
    of_evaluate = json.loads((tmp_path / 'out.json').read_text())
    assert [(row['score'], row['mos']) for row in of_evaluate.pop('images')] == list(zip(scores, mos, strict=True))
    assert (of_evaluate.pop('split'), of_evaluate.pop('phase')) == ('1', 'test')

    of_protocol = from_the_protocol(tmp_path, monkeypatch)

    table = {
        'dataset': 'd',
        'metric': 'm',
        'image': [f'{number:03}' for number in range(len(mos))],
        'mos': mos,
        'score': scores,
    }
    table |= dict.fromkeys(('prompt', 'prompt_id', 'generator', 'style', 'reason'), '')
    table |= dict.fromkeys(('mos_std', 'mos_align', 'shuffled_score'), np.nan) | {'lower_better': False, 'uses_prompt': False}
    of_compare = summarise(pandas.DataFrame(table), resamples=2)['datasets']['d']['metrics']['m']

    assert of_evaluate == of_protocol == correlations(scores, mos)
    assert (of_protocol['PLCC_fitted'] is None) == case.startswith('exp')
    for name in ('SRCC', 'PLCC', 'PLCC_fitted', 'KRCC'):
        # sums over one sample and over several are rounded in other orders
        value = of_protocol[name]
        assert of_compare[name.lower()]['value'] == (value if value is None else pytest.approx(value, rel=1e-12))


def from_the_protocol(root, monkeypatch):
    """What the protocol writes of a fold whose network and images are the stand-ins, trained in no time."""
    from types import SimpleNamespace

    labels = SimpleNamespace(rows=[SimpleNamespace(path='0.png', score=0.0, prompt='')], header=['name'])
    for name, value in {
        'AIGCIQADataset': Rated,
        'create_align_iqa': Network,
        'train': lambda *arguments, **keywords: {},
        '_labels': lambda section: labels,
        'split_by_name': lambda *arguments: ['test'],
        'content_hashes': lambda paths: [''],
    }.items():
        monkeypatch.setattr(protocol, name, value)
    models = root / 'experiments' / 'x_prompt_1' / 'models'
    models.mkdir(parents=True)
    (models / 'net_latest.pth').touch()
    options = {'name': 'x', 'num_gpu': 0, 'network': {}, 'train': {'total_iter': 0}, 'datasets': {'train': {}}}
    results = protocol.run_protocol(
        options, kind='prompt', folds=['1'], root=root, output=root / 'results.json', report=lambda line: None
    )
    return results['folds']['1']['test']
