"""Vector in, scores out. The paper's head is unknown; ours is fitted in closed form, as kernel ridge regression.

A *linear* ridge regression on the stages of a frozen CLIP matches what the paper reports, and one with the sum of an RBF and a
linear kernel is better (docs/experiments.md). So the head is that regression, fitted to the features of the frozen trunk and
then left alone; training, if there is any, learns to move the features where the head errs. Fitting first also keeps the
features from being distorted while a head is still random (Kumar et al., "Fine-Tuning can Distort Pretrained Features and
Underperform Out-of-Distribution", ICLR 2022).
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from align_iqa_plugin.archs.deviation import chosen_points, explained_factor, scale_of
from align_iqa_plugin.archs.invariance import Invariance
from align_iqa_plugin.archs.ridge import OrderedPairs, dual_ridge

SINCE_0_5 = ('inducing_points', 'explained', 'noise', 'error_scale')
"""Buffers that files of earlier versions lack: there is then no deviation."""


class LinearHead(nn.Module):
    """`head: linear`: a linear map of standardised features, set by `fit` and never trained: all of it is buffers."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, *, width: int, targets: int = 1):
        super().__init__()
        self.register_buffer('mean', torch.zeros(width))
        self.register_buffer('std', torch.ones(width))
        self.register_buffer('weight', torch.zeros(width, targets))
        self.register_buffer('bias', torch.zeros(targets))

    def standardise(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b d']:
        return (vector - self.mean) / self.std

    def forward(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b k']:
        """A score for each target, in the unit of the MOS that it was fitted to, higher is better."""
        return self.standardise(vector) @ self.weight + self.bias

    @torch.no_grad()
    def fit(
        self,
        vectors: Float[Tensor, 'n d'],
        scores: Float[Tensor, 'n k'],
        *,
        alpha: float,
        folds: list[int],
        columns: slice | list[int] = slice(None),
        weights: Float[Tensor, ' d'] | None = None,
        mask: Bool[Tensor, 'n k'] | None = None,
        pairs: OrderedPairs | None = None,
        harmless: Float[Tensor, 'r d'] | None = None,
        invariance: float = 0.0,
    ) -> Float[Tensor, 'n k']:
        """Become the ridge regression of each column of `scores`, and of the differences of `pairs`, on `vectors`.

        Args:
            vectors: they are standardised first.
            alpha: the penalty: what is added to the diagonal of the gram matrix of the kernel.
            folds: a number for each row; rows that have to be predicted without each other, such as those of one prompt,
                share it.
            columns: the entries of the vector that take part; the others get weight zero.
            weights: how much each entry of the vector counts, relative to the others; by default all alike.
            mask: False where a score is missing: the row takes no part in the regression of that target.
            pairs: rows and copies of them that should score lower by a margin at least.
            harmless: how much the vectors of images differ from those of copies that show the same in another form.
            invariance: a direction in which `harmless` has a mean square of v, in variances of the entries, counts
                1 / (1 + invariance * v) of what it would.

        Returns:
            What the regression predicts for each row when the rows of its fold are left out, also where a score is missing.
            Unlike what the fitted one predicts for the rows that it has seen, it errs as on unseen images.

        Raises:
            ValueError: all scores of a target are missing, or are in one fold.
        """
        self.mean.copy_(vectors.mean(0))
        self.std.copy_(vectors.std(0).clamp_min(1e-6))
        if weights is not None:  # the squared norm of a standardised vector stays about d
            self.std.div_(weights * (len(weights) / weights.square().sum()).sqrt())
        x = self.standardise(vectors if pairs is None else torch.cat([vectors, pairs.copies]))
        points = torch.zeros_like(x)
        points[:, columns] = x[:, columns]
        seen = self._invariance(harmless, columns, invariance)
        points = seen(points)
        gram, linear = self._gram(points, len(vectors))
        coefficients, bias, left_out = dual_ridge(gram, scores, alpha=alpha, folds=folds, mask=mask, pairs=pairs)
        self._keep(coefficients, seen)
        self.weight.copy_(seen(linear * (coefficients.T.double() @ points.double())).T)
        self.bias.copy_(bias)
        self._fit_deviation(vectors, left_out - scores, alpha=alpha, folds=folds, mask=mask)
        return left_out

    def _invariance(self, harmless: Tensor | None, columns: slice | list[int], strength: float) -> Invariance:
        if harmless is None:
            return Invariance.of(self.std.new_zeros(0, len(self.std)), strength)
        differences = torch.zeros_like(harmless)
        differences[:, columns] = (harmless / self.std)[:, columns]
        return Invariance.of(differences, strength)

    def deviation(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b k'] | None:
        """Standard deviation of the error of each score, in its unit; None where it is not known, as of a linear head."""
        return None

    def calibrate(self, vectors: Float[Tensor, 'n d'], errors: Float[Tensor, ' n']) -> None:
        """Scale the deviation of the first target to errors on images that the head was not fitted to."""

    def kernel(self, vectors: Float[Tensor, 'b d'], others: Float[Tensor, 'c d']) -> Float[Tensor, 'b c']:
        """How alike the head finds images, from their vectors; an image and itself about 1."""
        return self.standardise(vectors.double()) @ self.standardise(others.double()).T / len(self.mean)

    @torch.no_grad()
    def correct(self, vectors: Float[Tensor, 'n d'], coefficients: Float[Tensor, ' n'], *, slope: float, offset: float) -> None:
        """Score as before times a slope plus an offset, plus the sum of coefficients times the kernel to some vectors."""
        self.weight.mul_(slope).add_((self.standardise(vectors.double()).T @ coefficients / len(self.mean))[:, None])
        self.bias.mul_(slope).add_(offset)

    def _gram(self, points: Tensor, rated: int) -> tuple[Tensor, Tensor | float]:
        """The kernel between points, and the weight of its linear part.

        Args:
            points: (m, d), standardised vectors; the first `rated` ones set the kernel's scale.
        """
        points = points.double()
        return points @ points.T, 1.0

    def _keep(self, coefficients: Tensor, seen: Invariance) -> None:
        """Keep what the kernel needs beside its linear part, for vectors that `seen` has not changed."""

    def _fit_deviation(self, vectors: Tensor, errors: Tensor, *, alpha: float, folds: list[int], mask: Tensor | None) -> None:
        """Keep what `deviation` needs; the errors are of the rows as they are predicted without their folds."""


class KernelHead(LinearHead):
    """`head: kernel`: the same with the sum of an RBF kernel and a linear one.

    The RBF kernel sees the first principal components of the standardised features, the linear one all features.

    Args:
        width: of the vectors.
        targets: number of scores.
        components: number of principal components.
        gamma: of the RBF kernel, exp(-gamma * squared distance / half the mean squared distance of the fitted rows).
        linear: weight of the linear kernel, which is scaled so that the fitted rows' mean squared norm is 1.
    """

    projection: Tensor
    scale: Tensor
    support_vectors: Tensor
    coefficients: Tensor
    inducing_points: Tensor
    explained: Tensor
    noise: Tensor
    error_scale: Tensor

    def __init__(self, *, width: int, targets: int = 1, components: int = 128, gamma: float = 0.3, linear: float = 0.1):
        super().__init__(width=width, targets=targets)
        self.gamma, self.linear = gamma, linear
        self.register_buffer('projection', torch.zeros(width, components))
        self.register_buffer('scale', torch.ones(()))
        # one row for each image of the fit, and for each copy
        self.register_buffer('support_vectors', torch.zeros(0, components))
        self.register_buffer('coefficients', torch.zeros(0, targets))
        # of `deviation`; no points: it is not known
        self.register_buffer('inducing_points', torch.zeros(0, components))
        self.register_buffer('explained', torch.zeros(0, 0))
        self.register_buffer('noise', torch.zeros(()))
        self.register_buffer('error_scale', torch.ones(targets))

    def forward(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b k']:
        """A score for each target, in the unit of the MOS that it was fitted to, higher is better."""
        # large terms cancel in the distances and in their sum: in float32, the last digits of the features, which a batch
        # changes, would move the score a hundred times as much
        exact = torch.float32 if vector.device.type == 'mps' else torch.float64  # Apple's GPUs have no float64
        with torch.autocast(vector.device.type, enabled=False):
            x = self.standardise(vector.to(exact))
            support_vectors = self.support_vectors.to(exact)
            rbf_term = self._rbf(x @ self.projection.to(exact), support_vectors) @ self.coefficients.to(exact)
            return (rbf_term + x @ self.weight.to(exact) + self.bias).float()

    def _gram(self, points: Tensor, rated: int) -> tuple[Tensor, Tensor | float]:
        """`alpha` is added to the diagonal of the kernels' sum, which is 1 + `linear` on average."""
        gram = (points @ points.T).double()
        # the dual form: fewer images than features
        variances, directions = torch.linalg.eigh(gram[:rated, :rated])
        kept = min(self.projection.shape[1], int((variances > variances[-1] * 1e-6).sum()))
        directions = points[:rated].T @ (directions[:, -kept:] / variances[-kept:].sqrt()).to(points.dtype)
        self.projection.zero_()
        self.projection[:, :kept] = directions
        self.support_vectors = points @ nn.functional.pad(directions, (0, self.projection.shape[1] - kept))
        fitted = self.support_vectors[:rated]
        self.scale.copy_(2 * self.gamma / torch.cdist(fitted, fitted).square().mean())
        linear = self.linear / gram.diagonal()[:rated].mean()
        components = self.support_vectors.double()
        return self._rbf(components, components) + linear * gram, linear

    def _keep(self, coefficients: Tensor, seen: Invariance) -> None:
        self.coefficients = coefficients
        self.projection.copy_(seen(self.projection.T).T)

    def deviation(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b k'] | None:
        """Standard deviation of the error of each score, in its unit: 90 % of MOS should lie within 1.645 of them.

        It grows as an image is less like those of the fit, and its gradient says how. None for files of earlier versions, which
        do not say.
        """
        if not len(self.inducing_points):
            return None
        exact = torch.float32 if vector.device.type == 'mps' else torch.float64
        with torch.autocast(vector.device.type, enabled=False):
            kernel, own = self._to_points(vector.to(exact))
            variance = self.noise + (own - (kernel @ self.explained.to(exact)).square().sum(1)).clamp_min(0)
            variance = variance.clamp_min(torch.finfo(torch.float32).tiny)  # the gradient of a root is not finite at 0
            return (variance.sqrt()[:, None] * self.error_scale).float()

    @torch.no_grad()
    def calibrate(self, vectors: Float[Tensor, 'n d'], errors: Float[Tensor, ' n']) -> None:
        """Scale the deviation of the first target to errors on images that the head was not fitted to."""
        self.error_scale[0] = 1
        deviation = self.deviation(vectors)
        if deviation is not None:
            self.error_scale[0] = scale_of(errors, deviation[:, 0].square().to(errors.dtype))

    def _fit_deviation(self, vectors: Tensor, errors: Tensor, *, alpha: float, folds: list[int], mask: Tensor | None) -> None:
        present = torch.ones_like(errors, dtype=torch.bool) if mask is None else mask
        rated = present.any(1)
        points = chosen_points(int(rated.sum())).to(vectors.device)
        self.inducing_points = (self.standardise(vectors[rated][points]) @ self.projection).to(self.projection.dtype)
        kernel, own = self._to_points(vectors[rated].double())
        noise = alpha * float(rated.float().mean())
        fold_of = torch.tensor(folds, device=vectors.device)[rated]
        explained, variance = explained_factor(kernel[points], kernel, own, noise, fold_of)
        self.explained = explained.to(self.projection.dtype).contiguous()  # safetensors takes no other
        self.noise.fill_(noise)
        for target, (known, wrong) in enumerate(zip(present[rated].T, errors[rated].double().T, strict=True)):
            self.error_scale[target] = scale_of(wrong[known], variance[known])

    def _to_points(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The kernel of images to the inducing points, (b, m), and to themselves, (b,).

        The linear kernel to the points sees the components alone: what an image has beside them counts as unexplained.
        """
        x = self.standardise(vectors)
        components, points = x @ self.projection.to(x.dtype), self.inducing_points.to(x.dtype)
        linear = self.linear / len(self.mean)
        return self._rbf(components, points) + linear * components @ points.T, 1 + linear * x.square().sum(1)

    def kernel(self, vectors: Float[Tensor, 'b d'], others: Float[Tensor, 'c d']) -> Float[Tensor, 'b c']:
        """As of `LinearHead`: the sum of the RBF kernel and the linear one; an image and itself about 1 + `linear`."""
        components = (self.standardise(each.double()) @ self.projection.double() for each in (vectors, others))
        return self._rbf(*components) + self.linear * super().kernel(vectors, others)

    @torch.no_grad()
    def correct(self, vectors: Float[Tensor, 'n d'], coefficients: Float[Tensor, ' n'], *, slope: float, offset: float) -> None:
        """As of `LinearHead`; the vectors become support vectors."""
        super().correct(vectors, self.linear * coefficients, slope=slope, offset=offset)
        added = self.standardise(vectors) @ self.projection
        self.support_vectors = torch.cat([self.support_vectors, added.to(self.support_vectors.dtype)])
        weights = [slope * self.coefficients, coefficients[:, None].to(self.coefficients.dtype)]
        self.coefficients = torch.cat(weights)

    def _rbf(self, components: Float[Tensor, 'b c'], others: Float[Tensor, 'n c']) -> Float[Tensor, 'b n']:
        squares = components.square().sum(1, keepdim=True) + others.square().sum(1) - 2 * components @ others.T
        return torch.exp(-self.scale * squares.clamp_min(0))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        empty = {'inducing_points': self.inducing_points[:0], 'explained': self.explained[:0, :0]}
        for name, value in (empty | {'noise': self.noise, 'error_scale': self.error_scale}).items():
            state_dict.setdefault(f'{prefix}{name}', value)
        # the number of support vectors is data: take that of the state, also where the network is part of another module
        for name in ('support_vectors', 'coefficients', *empty):
            if f'{prefix}{name}' in state_dict:
                shape = state_dict[f'{prefix}{name}'].shape  # a file may hold them in half precision
                setattr(self, name, torch.empty(shape, dtype=self.bias.dtype, device=self.bias.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class MLPHead(KernelHead):
    """`head: mlp`: the kernel's score, plus that of a perceptron of one hidden layer that starts at zero.

    For `msfa`, whose trained features a regression fitted before the training cannot read. With `stage_pool`, which has none,
    it added nothing. The deviation is that of the kernel's score, whatever the perceptron has learned.

    Args:
        width: of the vectors.
        targets: number of scores.
        hidden: width of the hidden layer, which all targets share.
        dropout: rate, 0 to 1, at which a training step drops standardised features and hidden units.
    """

    def __init__(self, *, width: int, targets: int = 1, hidden: int = 128, dropout: float = 0.5):
        super().__init__(width=width, targets=targets)
        last = nn.Linear(hidden, targets)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), last)

    def forward(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b k']:
        """A score for each target, in the unit of its MOS, higher is better."""
        return super().forward(vector) + self.mlp(self.standardise(vector))

    @torch.no_grad()
    def correct(self, vectors: Float[Tensor, 'n d'], coefficients: Float[Tensor, ' n'], *, slope: float, offset: float) -> None:
        """As of `KernelHead`."""
        super().correct(vectors, coefficients, slope=slope, offset=offset)
        for parameter in self.mlp[-1].parameters():
            parameter.mul_(slope)


HEADS: dict[str, type[LinearHead]] = {'kernel': KernelHead, 'linear': LinearHead, 'mlp': MLPHead}
