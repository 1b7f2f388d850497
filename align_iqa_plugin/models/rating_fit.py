"""A head fitted to ratings of one's own, with the score of a network as the prior (`archs/gaussian_process.py`)."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.gaussian_process import Posterior, posterior
from align_iqa_plugin.data.feature_cache import FeatureCache
from align_iqa_plugin.data.images import read_image
from align_iqa_plugin.data.ratings import Ratings
from align_iqa_plugin.data.uris import is_uri

MOST_RATINGS = 3000  # matrices of so many rows are inverted some thousand times


@torch.no_grad()
def features_of_files(
    network: AlignIQA,
    paths: Sequence[str],
    prompts: Sequence[str],
    *,
    device: torch.device,
    cache: FeatureCache | None,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """What the head reads of images, (n, f), on the CPU.

    Args:
        network: in evaluation mode, on the device.
        cache: is read and filled.
        advance: is called after each image.

    Raises:
        ValueError: an image cannot be read, or is too small.
    """
    rows = []
    for path, prompt in zip(paths, prompts, strict=True):
        row = cache.read(path) if cache and not is_uri(path) else None
        if row is None:
            image = to_tensor(read_image(path))[None].to(device)
            try:
                row = network.forward_features(image, [prompt] if prompt else None)[0].cpu()
            except ValueError as error:
                raise ValueError(f"'{path}': {error}") from error
            if cache and not is_uri(path):
                cache.write(path, row)
        rows.append(row)
        advance()
    return torch.stack(rows)


class RatingProblem:
    """Ratings of images that a network has seen.

    Args:
        network: whose score is the prior, on the CPU.
        features: of the images, (p, f).
        ratings: of the images.

    Attributes:
        prior: the network's score of each image, (p,).
        groups: of each rating, (m,): ratings of one prompt, or image, share one.
        image_groups: of each image, (p,).
        values: of each rating, (m,).

    Raises:
        ValueError: there are too few ratings, or too many, or all are the same.
    """

    def __init__(self, network: AlignIQA, features: Tensor, ratings: Ratings):
        self.head, self.features, self.ratings = network.head, features, ratings
        self.values = torch.tensor(ratings.values, dtype=torch.float64)
        self.first = torch.tensor(ratings.first)
        self.second = None if ratings.second is None else torch.tensor(ratings.second)
        if len(self.values) < 5 or self.values.std() == 0:
            what = 'are all the same' if len(self.values) >= 5 else f'are {len(self.values)}, and at least 5 are needed'
            raise ValueError(f"the ratings in '{ratings.source}' {what}: nothing can be learned from them.")
        if len(self.values) > MOST_RATINGS:
            raise ValueError(
                f"'{ratings.source}' has {len(self.values):,} ratings, more than {MOST_RATINGS:,}: train with align-iqa train."
            )
        with torch.no_grad():
            self.prior = network.head(features)[:, 0].double()
        self.image_groups = self._groups()
        self.groups = self.image_groups[self.first]
        if len(self.groups.unique()) < 3:
            raise ValueError(f"the ratings in '{ratings.source}' are of fewer than 3 prompts or images: rate more of them.")

    @cached_property
    def gram(self) -> Tensor:
        return self.head.kernel(self.features, self.features)

    @cached_property
    def design(self) -> Tensor:
        """(m, p): what each rating is of."""
        rows = torch.arange(len(self.values))
        design = torch.zeros(len(rows), len(self.prior), dtype=torch.float64)
        design[rows, self.first] = 1
        if self.second is not None:
            design[rows, self.second] = -1
        return design

    @cached_property
    def raters(self) -> Tensor | None:
        names = self.ratings.raters
        if names is None or self.second is not None:
            return None
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return torch.tensor([numbers[name] for name in names])

    def fit(self, rows: Tensor | None = None) -> Posterior:
        """What some ratings, (r,), or all of them, say; its coefficients are of all images, (p,)."""
        rows = torch.arange(len(self.values)) if rows is None else rows
        design, raters = self.design[rows], self.raters
        seen = design.any(0)
        found = posterior(
            self.gram[seen][:, seen],
            self.prior[seen],
            design[:, seen],
            self.values[rows],
            self.groups[rows],
            None if raters is None else raters[rows],
        )
        coefficients = torch.zeros_like(self.prior)
        coefficients[seen] = found.coefficients
        return found._replace(coefficients=coefficients)

    def scores(self, found: Posterior) -> Tensor:
        """Of all images, (p,), in the unit of the ratings; those of pairs have none, and are counted from 0."""
        return found.offset + found.slope * self.prior + self.gram @ found.coefficients

    def apply(self, found: Posterior) -> None:
        """Have the head give the scores, with errors as of the ratings that were left out.

        After pairs, which have no unit, mean and deviation of the scores are those of the prior, and so are their errors.
        """
        slope, offset, factor = found.slope, found.offset, 1.0
        if self.second is not None:
            scores = self.scores(found)
            factor = float(self.prior.std() / scores.std())
            offset = self.prior.mean() / factor - scores.mean()
        seen = found.coefficients != 0
        self.head.correct(
            self.features[seen],
            factor * found.coefficients[seen],
            slope=float(factor * slope),
            offset=float(factor * offset),
        )
        if self.second is None:
            self.head.calibrate(self.features[self.first], found.left_out - self.values)

    def _groups(self) -> Tensor:
        """Of each image: its prompt where there are some; images that were compared with each other share one."""
        prompts = self.ratings.prompts
        names = [prompt or path for prompt, path in zip(prompts, self.ratings.paths, strict=True)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        groups = torch.tensor([numbers[name] for name in names])
        if self.second is None:
            return groups
        links = (torch.ones(len(self.first)), (groups[self.first], groups[self.second]))
        count, components = connected_components(coo_array(links, shape=(len(numbers), len(numbers))), directed=False)
        # where nearly all are components, pairs are left out by their first image
        return torch.from_numpy(components).long()[groups] if count >= 5 else groups
