"""How well a head fitted to ratings predicts ratings that it has not seen, and how that grows with their number."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from align_iqa_plugin.evaluation.correlation import plcc, srcc
from align_iqa_plugin.models.rating_fit import RatingProblem
from align_iqa_plugin.runtime.atomic import atomic_file

FOLDS = 10
RESAMPLES = 1000
SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class Interval(NamedTuple):
    """A value and its 95 % interval: the bootstrap's over prompts, or over images where there are no prompts."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.value:.3f} ({self.low:.3f} to {self.high:.3f})'


class BeforeAndAfter(NamedTuple):
    """Of scores with ratings, before and after the fit, and of the difference."""

    before: Interval
    after: Interval
    difference: Interval


def cross_validated(problem: RatingProblem, advance: Callable[[], None] = lambda: None) -> Tensor:
    """Each rating as predicted by a fit without its fold, (m,): the groups of the ratings are dealt to ten folds.

    How far to trust the prior is chosen in each fold anew, from the ratings of the others.
    """
    groups = problem.groups.unique()
    dealt = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(0))]
    predicted = torch.empty_like(problem.values)
    for fold in range(min(FOLDS, len(groups))):
        out = torch.isin(problem.groups, dealt[fold::FOLDS])
        scores = problem.scores(problem.fit((~out).nonzero()[:, 0]))
        predicted[out] = problem.design[out] @ scores
        advance()
    return predicted


def correlations_of(problem: RatingProblem, predicted: Tensor) -> dict[str, BeforeAndAfter]:
    """SRCC and PLCC with the mean rating of each image; of pairs, the share that is put in the right order."""
    before = problem.design @ problem.prior
    if problem.second is not None:
        decided = problem.values != 0
        values, groups = problem.values[decided].numpy(), problem.groups[decided].numpy()
        right = [((scores[decided].numpy() > 0) == (values > 0)).astype(float) for scores in (before, predicted)]
        return {'pairs in order': _resampled(_mean, right, groups)}
    images = [_by_image(problem, each).numpy() for each in (before, predicted, problem.values)]
    groups = problem.image_groups.numpy()
    found = {}
    for name, correlation in (('SRCC', srcc), ('PLCC', plcc)):
        found[name] = _resampled(
            lambda scores, prompts, draws, correlation=correlation: correlation(scores, images[2], prompts, draws),
            images[:2],
            groups,
        )
    return found


def learning_curve(
    problem: RatingProblem, *, draws: int = 10, advance: Callable[[], None] = lambda: None
) -> dict[int, list[float]]:
    """By number of ratings: how well fits to so many, drawn by groups, order the images of the other groups.

    SRCC, or of pairs the share in the right order; with 0 ratings, those of the prior. A quarter of the ratings is left out of
    each draw; the largest number is what remains, or a little less, where a prompt would be on both sides. A draw does not
    count where the ratings left out are too few or all the same, so that they have no order; where none counts, there is no
    curve.
    """
    curve: dict[int, list[float]] = {}
    groups = problem.groups.unique()
    most = len(problem.values) * 3 // 4
    for draw in range(draws):
        shuffled = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(draw))]
        order = torch.cat([(problem.groups == group).nonzero()[:, 0] for group in shuffled])
        out = torch.isin(problem.groups, problem.groups[order[most:]].unique())
        order = order[~out[order]]
        drawn: dict[int, float] = {}
        for size in (0, *(size for size in SIZES if size < most), most):
            rows = order[:size]
            if size and len(problem.groups[rows].unique()) < 2:
                continue
            scores = problem.scores(problem.fit(rows)) if size else problem.prior
            drawn[size] = _order(problem, scores, out)
        if np.isfinite([*drawn.values()]).all():
            for size, value in drawn.items():
                curve.setdefault(size, []).append(value)
        advance()
    return {size: values for size, values in curve.items() if len(values) == len(curve[0])}


def reliability(problem: RatingProblem) -> tuple[str, float] | None:
    """What was rated more than once, and how well those ratings agree, 0 to 1; None where nothing was."""
    if problem.second is not None:
        decided = [
            (min(a, b), max(a, b), value if a < b else -value)
            for a, b, value in zip(problem.first.tolist(), problem.second.tolist(), problem.values.tolist(), strict=True)
            if value
        ]
        by_pair: dict[tuple[int, int], list[float]] = {}
        for a, b, value in decided:
            by_pair.setdefault((a, b), []).append(value)
        repeated = [values for values in by_pair.values() if len(values) > 1]
        # the share of votes for the side that has most of them, from half to all
        shares = [abs(np.mean(values)) for values in repeated]
        return ('repeated pairs', float(np.mean(shares))) if shares else None
    counts = torch.bincount(problem.first, minlength=len(problem.prior))
    if not (counts > 1).any():
        return None
    means = _by_image(problem, problem.values)
    within = float((problem.values - means[problem.first]).square().sum() / (len(problem.values) - len(means)))
    between = float((counts * (means - problem.values.mean()).square()).sum() / max(1, len(means) - 1))
    several = float(counts.float().mean())
    # ICC(1): Shrout and Fleiss, Intraclass correlations, Psychological Bulletin 1979
    return 'images rated several times', max(0.0, (between - within) / (between + (several - 1) * within))


def draw_report(path: Path, problem: RatingProblem, predicted: Tensor, curve: dict[int, list[float]]) -> None:
    """The learning curve, and each image's rating beside its cross-validated score, into a .png file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout='constrained')
    left, right = figure.subplots(1, 2)
    if curve:
        sizes = list(curve)
        means = [np.mean(values) for values in curve.values()]
        changes = [np.subtract(values, curve[0]) for values in curve.values()]  # the images differ between draws: paired
        spread = [1.96 * np.std(change) / len(change) ** 0.5 for change in changes]
        left.errorbar(sizes, means, yerr=spread, marker='o', capsize=3, color='C0')
        left.axhline(means[0], color='0.6', linestyle='--', label='before the fit')
        left.set(xscale='symlog', xlim=(-0.5, 1.3 * sizes[-1]), xlabel='ratings')
        left.set_ylabel('SRCC' if problem.second is None else 'pairs in order')
        left.set_xticks(sizes, [str(size) for size in sizes])
        left.legend(frameon=False)
    else:
        left.set_axis_off()
        left.text(0.5, 0.5, 'too few ratings,\nor too few different ones', ha='center', va='center')
    left.set_title('Ratings that were left out')
    if problem.second is None:
        scores, ratings = _by_image(problem, predicted), _by_image(problem, problem.values)
        right.scatter(scores, ratings, s=12, alpha=0.6, color='C0')
        ends = [float(min(scores.min(), ratings.min())), float(max(scores.max(), ratings.max()))]
        right.plot(ends, ends, color='0.6', linestyle='--')
        right.set(xlabel='score, cross-validated', ylabel='rating')
        right.set_title('Each image')
    else:
        margins = (predicted * problem.values)[problem.values != 0]
        right.hist(margins.numpy(), bins=30, color='C0')
        right.axvline(0, color='0.6', linestyle='--')
        right.set(xlabel='margin of the better image, cross-validated', ylabel='pairs')
        right.set_title('Each pair')
    with atomic_file(path) as part:
        figure.savefig(part, format='png', dpi=150)


def _by_image(problem: RatingProblem, values: Tensor) -> Tensor:
    sums = torch.zeros_like(problem.prior).index_add_(0, problem.first, values)
    return sums / torch.bincount(problem.first, minlength=len(sums))


def _order(problem: RatingProblem, scores: Tensor, out: Tensor) -> float:
    """SRCC, or the share of pairs in order, over some ratings, (m,) booleans."""
    if problem.second is not None:
        out = out & (problem.values != 0)
        return float((((problem.design @ scores)[out] > 0) == (problem.values[out] > 0)).double().mean())
    images = problem.first[out].unique()
    return float(srcc(scores[images].numpy(), _by_image(problem, problem.values)[images].numpy())[0])


def _mean(values: np.ndarray, prompts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    weights = draws[prompts]
    return (weights * values[:, None]).sum(0) / np.maximum(weights.sum(0), 1)


def _resampled(statistic, pair: list[np.ndarray], groups: np.ndarray) -> BeforeAndAfter:
    _, prompts = np.unique(groups, return_inverse=True)
    count = prompts.max() + 1
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).T
    draws = np.concatenate([np.ones((count, 1)), drawn], 1)
    before, after = (statistic(scores, prompts, draws) for scores in pair)

    def interval(values: np.ndarray) -> Interval:
        low, high = np.nanquantile(values[1:], [0.025, 0.975])
        return Interval(float(values[0]), float(low), float(high))

    return BeforeAndAfter(interval(before), interval(after), interval(after - before))
