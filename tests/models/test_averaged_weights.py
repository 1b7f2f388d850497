import pytest
import torch

from align_iqa_plugin.models.averaged_weights import AveragedWeights


@pytest.fixture
def trained():
    torch.manual_seed(0)
    return {'head.weight': torch.nn.Parameter(torch.randn(3, 2)), 'head.bias': torch.nn.Parameter(torch.randn(3))}


@torch.no_grad()
def step(trained):
    for parameter in trained.values():
        parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize('decay', [0.5, 0.999])
def test_the_average_is_exponential_with_a_decay_that_grows_from_the_start(decay, trained):
    average = AveragedWeights(trained, decay)
    expected = {name: p.detach().clone() for name, p in trained.items()}
    for n in range(1, 30):
        step(trained)
        average.update()
        for name, parameter in trained.items():
            expected[name].lerp_(parameter.detach(), 1 - min(decay, n / (n + 10)))
            assert torch.equal(average.tensors()[name], expected[name])


def test_the_network_has_its_averaged_weights_inside_of_the_block_only(trained):
    average = AveragedWeights(trained, 0.9)
    step(trained)
    average.update()
    before = {name: p.detach().clone() for name, p in trained.items()}
    with pytest.raises(KeyError), average.applied():
        assert all(torch.equal(p, average.tensors()[name]) for name, p in trained.items())
        assert not torch.equal(trained['head.bias'], before['head.bias'])
        raise KeyError
    assert all(torch.equal(p, before[name]) for name, p in trained.items())


def test_an_average_goes_on_from_its_state(trained):
    one = AveragedWeights(trained, 0.9)
    for _ in range(5):
        step(trained)
        one.update()
    other = AveragedWeights(trained, 0.9)
    other.load_state_dict(one.state_dict())
    for _ in range(5):
        step(trained)
        one.update()
        other.update()
    assert all(torch.equal(value, other.tensors()[name]) for name, value in one.tensors().items())


def test_only_the_trained_weights_are_copied(trained):
    size = sum(p.numel() for p in trained.values())
    assert sum(value.numel() for value in AveragedWeights(trained, 0.9).state_dict().values()) == size + 1
