import pytest
import torch

from align_iqa_plugin import training
from align_iqa_plugin.run_state import latest_run_state
from align_iqa_plugin.training import train


def final(root):
    return latest_run_state(root / 'experiments' / 'tiny' / 'training_states')['model']


def differences(one, other, path=''):
    """Where two run states differ, as paths of keys."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return [place for key in one for place in differences(one[key], other[key], f'{path}/{key}')]
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        return [place for i, pair in enumerate(zip(one, other, strict=True)) for place in differences(*pair, f'{path}/{i}')]
    return [] if one == other else [path]


class Cut(BaseException):
    """As sudden as kill -9, but inside of the process."""


@pytest.fixture
def cut(monkeypatch):
    """Makes the step of a given iteration end the training."""

    def at(iteration):
        step = training.AlignIQAModel.optimize_parameters

        def optimize_parameters(model, current):
            step(model, current)
            if current == iteration:
                monkeypatch.undo()
                raise Cut

        monkeypatch.setattr(training.AlignIQAModel, 'optimize_parameters', optimize_parameters)

    return at


def test_a_run_that_is_cut_off_again_and_again_ends_as_one_that_is_not(tiny_options, tmp_path, cut):
    best = train(tiny_options, root=tmp_path / 'whole')
    tiny_options['logger']['save_checkpoint_freq'] = 3
    for iteration in (2, 5, 6, 10, 14):
        cut(iteration)
        with pytest.raises(Cut):
            train(tiny_options, root=tmp_path / 'cut', resume=True)
    assert train(tiny_options, root=tmp_path / 'cut', resume=True) == best
    assert differences(final(tmp_path / 'cut'), final(tmp_path / 'whole')) == []
    for name in ('net_best', 'net_latest', 'net_probe'):
        files = [tmp_path / folder / 'experiments' / 'tiny' / 'models' / f'{name}.pth' for folder in ('cut', 'whole')]
        one, other = (torch.load(file, weights_only=True) for file in files)
        assert differences(one, other) == []
