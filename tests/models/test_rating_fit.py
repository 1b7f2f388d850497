import pytest
import torch
from PIL import Image

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.data.ratings import Ratings
from align_iqa_plugin.models.rating_fit import RatingProblem, features_of_files


@pytest.fixture(scope='module')
def network():
    """A head that was fitted to the first feature."""
    torch.manual_seed(0)
    net = AlignIQA(backbone='test_vit', backbone_weights='random', input_size=32, stages=2).eval()
    vectors = torch.randn(60, net.msfa.width)
    net.head.fit(vectors, vectors[:, :1], alpha=1.0, folds=[row % 5 for row in range(60)])
    net.is_trained = True
    return net


def ratings(values, first, second=None, prompts=None, raters=None):
    count = max([*first, *(second or [])]) + 1
    paths = [f'{number}.png' for number in range(count)]
    return Ratings('table.csv', paths, prompts or [''] * count, first, second, values, raters)


@pytest.mark.parametrize('head', ['linear', 'kernel', 'mlp'])
def test_the_head_gives_the_scores_of_the_fit(head):
    torch.manual_seed(1)
    net = AlignIQA(backbone='test_vit', backbone_weights='random', input_size=32, stages=2, head=head)
    vectors = torch.randn(60, net.msfa.width)
    net.head.fit(vectors, vectors[:, :1], alpha=1.0, folds=[row % 5 for row in range(60)])
    if head == 'mlp':
        torch.nn.init.normal_(net.head.mlp[-1].weight)
    net.eval()
    features = torch.randn(20, net.msfa.width)
    problem = RatingProblem(net, features, ratings((features[:, 0] * 3 + features[:, 1]).tolist(), list(range(20))))
    found = problem.fit()
    wanted = problem.scores(found)
    problem.apply(found)
    torch.testing.assert_close(net.head(features)[:, 0].double(), wanted, atol=1e-4, rtol=1e-4)
    assert net.head(torch.randn(3, net.msfa.width)).shape == (3, 1)


def test_scores_after_pairs_have_the_mean_and_deviation_of_before(network):
    features = torch.randn(12, network.msfa.width)
    first, second = list(range(12)), [(number + 1) % 12 for number in range(12)]
    values = [1.0 if features[a, 1] > features[b, 1] else -1.0 for a, b in zip(first, second, strict=True)]
    problem = RatingProblem(network, features, ratings(values, first, second))
    before, weight = problem.prior.clone(), network.head.weight.clone()
    problem.apply(problem.fit())
    after = network.head(features)[:, 0].double()
    assert float(after.mean()) == pytest.approx(float(before.mean()), abs=1e-4)
    assert float(after.std()) == pytest.approx(float(before.std()), rel=1e-3)
    assert not torch.equal(weight, network.head.weight)


@pytest.mark.parametrize('unit', [1.0, 20.0])
def test_the_deviation_after_a_fit_holds_on_the_ratings_that_were_left_out(unit):
    torch.manual_seed(2)
    net = AlignIQA(backbone='test_vit', backbone_weights='random', input_size=32, stages=2).eval()
    vectors, features = torch.randn(60, net.msfa.width), torch.randn(40, net.msfa.width)
    net.head.fit(vectors, vectors[:, :1], alpha=1.0, folds=[row % 5 for row in range(60)])
    noisy = unit * (features[:, 0] + torch.randn(40))
    problem = RatingProblem(net, features, ratings(noisy.tolist(), list(range(40))))
    found = problem.fit()
    problem.apply(found)
    errors = (found.left_out - problem.values).abs()
    assert float((errors <= 1.6449 * net.head.deviation(features)[:, 0]).double().mean()) == pytest.approx(0.9, abs=0.03)


def test_ratings_of_a_prompt_share_a_group_and_images_without_one_stand_alone(network):
    features = torch.randn(4, network.msfa.width)
    given = ratings([1.0, 2.0, 3.0, 4.0, 2.0], [0, 1, 2, 3, 0], prompts=['a cat', 'a cat', '', ''])
    groups = RatingProblem(network, features, given).groups.tolist()
    assert groups[0] == groups[1] == groups[4] and len(set(groups)) == 3


def test_pairs_that_share_images_are_left_out_together(network):
    features = torch.randn(12, network.msfa.width)
    first, second = [0, 1, 3, 5, 7, 9, 10], [1, 2, 4, 6, 8, 10, 11]
    problem = RatingProblem(network, features, ratings([1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0], first, second))
    groups = problem.groups.tolist()
    assert groups[0] == groups[1] and groups[5] == groups[6] and len(set(groups)) == 5


def test_features_are_those_of_the_network_and_a_bad_image_is_named(network, tmp_path):
    Image.effect_noise((40, 40), 80).convert('RGB').save(tmp_path / 'a.png')
    Image.new('RGB', (8, 8)).save(tmp_path / 'small.png')
    given = {'device': torch.device('cpu'), 'cache': None}
    from torchvision.transforms.functional import to_tensor

    from align_iqa_plugin.data.images import read_image

    (row,) = features_of_files(network, [str(tmp_path / 'a.png')], [''], **given)
    with torch.no_grad():
        torch.testing.assert_close(row, network.forward_features(to_tensor(read_image(tmp_path / 'a.png'))[None])[0])
    with pytest.raises(ValueError, match='small.png.*too small'):
        features_of_files(network, [str(tmp_path / 'small.png')], [''], **given)
