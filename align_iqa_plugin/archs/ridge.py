"""Ridge regression in its dual form, from scores and from ordered pairs at once."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align_iqa_plugin.runtime.counts import counted

ROUNDS = 30  # of solving for the pairs that fall short; it took 5 to 8 on AGIQA-3K


class OrderedPairs(NamedTuple):
    """By how much at least the score of a fitted row should differ from that of a copy of it.

    Attributes:
        rows: of the image of each pair, among the fitted rows.
        copies: vectors of the copies, (p, d).
        margins: (p, k), in the unit of the scores: by how much at least the image should score above the copy, or below it
            where negative; 0 asks for nothing. NaN where the pair takes no part in the regression of a target.
        weight: of the square of what a pair falls short by, relative to the squared error of a score.
    """

    rows: list[int]
    copies: Tensor
    margins: Tensor
    weight: float = 1.0


def dual_ridge(
    gram: Float[Tensor, 'm m'],
    scores: Float[Tensor, 'n k'],
    *,
    alpha: float,
    folds: list[int],
    mask: Bool[Tensor, 'n k'] | None = None,
    pairs: OrderedPairs | None = None,
) -> tuple[Float[Tensor, 'm k'], Float[Tensor, ' k'], Float[Tensor, 'n k']]:
    """The function with the smallest squared errors of scores and of differences, plus a penalty on its size.

    A difference beyond its margin is no error. So this is solved for the pairs that fall short, until these stay the same:
    Newton's method for a squared hinge loss, as in Chapelle, "Training a support vector machine in the primal", Neural
    Computation 19 (2007). Which pairs these are is found with all rows, and kept where a fold is left out.

    Args:
        gram: the kernel between all points: the n rated rows, then the copies of `pairs`.
        scores: of the rated rows.
        alpha: the penalty, for all rated rows; a fit to fewer has a smaller one, so that all are equally smooth.
        folds: a number for each rated row; a pair belongs to the fold of its row.
        mask: False where a score is missing.
        pairs: differences to fit beside the scores.

    Returns:
        Coefficients of the points, constant, and what is predicted for each rated row without its fold.

    Raises:
        ValueError: the scores of a target are all missing, or in one fold.
    """
    count = len(scores)
    kind: dict[str, Any] = {'dtype': gram.dtype, 'device': gram.device}
    fold_of = torch.tensor(folds, device=gram.device)
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    for target, present in enumerate(mask.T):
        if len(fold_of[present].unique()) < 2:
            raise ValueError(
                f'target {target + 1} has {counted(int(present.sum()), "score")}, in fewer than two folds: too few to fit.'
            )
    # an equation a row: the values of f that it adds up, and what they should give
    equations, values, present = torch.eye(count, len(gram), **kind), scores.to(gram.dtype), mask
    if pairs is not None:
        rows = torch.tensor(pairs.rows, device=gram.device)
        differences = torch.zeros(len(rows), len(gram), **kind)
        places = torch.arange(len(rows), device=gram.device)
        differences[places, rows] = 1
        differences[places, count + places] = -1
        size, margins = pairs.weight**0.5, pairs.margins.to(gram.dtype)
        equations = torch.cat([equations, size * differences])
        values = torch.cat([values, size * margins.nan_to_num()])
        present = torch.cat([present, ~margins.isnan()])
        fold_of = torch.cat([fold_of, fold_of[rows]])
    products = equations @ gram @ equations.T if pairs is not None else gram
    reads_constant = torch.arange(len(values), device=gram.device) < count  # a difference does not

    def solve(chosen: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        rated = chosen & reads_constant
        constant = y[rated].mean(0)
        penalty = alpha * rated.sum() / count
        matrix = products[chosen][:, chosen] + penalty * torch.eye(int(chosen.sum()), **kind)
        wanted = y[chosen] - constant * reads_constant[chosen, None]
        return torch.linalg.solve(matrix, wanted), constant

    def that_count(present: Tensor, y: Tensor) -> Tensor:
        """The equations of a target that are no pair, or one that falls short of its margin."""
        always = present & reads_constant
        chosen = always
        for _ in range(ROUNDS):
            short = (products[:, chosen] @ solve(chosen, y)[0] - y) * y.sign() < 0
            before, chosen = chosen, always | present & short[:, 0]
            if torch.equal(before, chosen):
                break
        return chosen

    if pairs is not None:
        present = torch.stack([that_count(each, values[:, [target]]) for target, each in enumerate(present.T)], 1)
    weights = torch.zeros(len(values), scores.shape[1], **kind)
    bias, left_out = torch.zeros_like(scores[0]), torch.empty_like(scores, dtype=gram.dtype)
    for together in present.T.unique(dim=0):  # targets with the same equations are solved together
        targets = (present.T == together).all(1)
        y = values[:, targets]
        solution, constant = solve(together, y)
        weights[together.nonzero(), targets] = solution
        bias[targets] = constant.to(bias.dtype)
        for fold in fold_of.unique():
            unseen = (fold_of == fold) & reads_constant
            seen = together & (fold_of != fold)
            solution, constant = solve(seen, y)
            left_out[unseen[:count].nonzero(), targets] = products[unseen][:, seen] @ solution + constant
    coefficients = weights if pairs is None else equations.T @ weights
    return coefficients.to(scores.dtype), bias, left_out.to(scores.dtype)
