import pytest
import torch

from align_iqa_plugin.archs.score_range import limit_scores


@pytest.mark.parametrize('bounds', [(0.0, 5.0), (0.33, 4.71), (1.0, 9.0), (-2.5, 100.0)], ids=str)
def test_a_limited_score_is_itself_inside_and_bends_smoothly_towards_the_ends_without_passing_them(bounds):
    low, high = torch.tensor(bounds)
    width = high - low
    scores = (low + width * torch.linspace(-0.5, 1.5, 2001))[:, None].requires_grad_()
    limited = limit_scores(scores, bounds)
    slope = torch.autograd.grad(limited.sum(), scores)[0]
    inside = (scores >= low + 0.11 * width) & (scores <= high - 0.11 * width)
    assert torch.equal(limited[inside], scores[inside]) and (slope[inside] == 1).all()
    assert (limited >= low).all() and (limited <= high).all()
    assert (slope > 0).all() and (slope <= 1).all()
    assert slope.diff(dim=0).abs().max() < 0.02  # no kink: a step of these is a hundredth of a tail
    assert (limited.diff(dim=0) >= 0).all()


def test_a_limited_score_far_outside_is_at_the_end():
    limited = limit_scores(torch.tensor([[-1e6], [1e6]]), (0.0, 5.0))
    assert limited.flatten().tolist() == [0, 5]


def test_without_a_range_and_of_further_scores_nothing_is_limited():
    scores = torch.tensor([[7.0, 7.0], [-3.0, -3.0]])
    assert torch.equal(limit_scores(scores, None), scores)
    limited = limit_scores(scores, (0.0, 5.0))
    assert torch.equal(limited[:, 1], scores[:, 1]) and (limited[:, 0] != scores[:, 0]).all()
