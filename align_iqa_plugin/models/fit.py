"""The closed-form start of a training: the head is fitted to the features of the training images."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from torch import Tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.ridge import OrderedPairs
from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
from align_iqa_plugin.data.feature_cache import FeatureCache
from align_iqa_plugin.data.training_copies import Copies
from align_iqa_plugin.models.fold_heads import FOLDS
from align_iqa_plugin.models.predict import Forward, features_of, labels_of
from align_iqa_plugin.models.process_group import broadcast, gather, rank, shard

FIT_OPTIONS = ('order_share', 'order_weight', 'invariance', 'invariance_share', 'pyramid_weight')
"""The keys of `train:` that `fit_head` takes under the same names."""

ASKED = 0.7
"""The share of what a copy should lose that a fit asks of it: more is no error. Ours (docs/experiments.md)."""


class Fit(NamedTuple):
    """What a fit found.

    Attributes:
        images: how many it was fitted to.
        copies: how many copies of them it made use of.
        rmse: root mean squared error on these images, in the unit of the MOS.
        rmse_left_out: the same when each image's prompt is left out of the fit.
        target_offsets: for each image, by `image_keys`, what the head gains from having seen it, (k,). Training adds it to the
            targets: the head errs less on the images that it was fitted to, so that their own residuals would teach little;
            with the offset, the network learns the residuals that the head has on prompts that it was not fitted to.
    """

    images: int
    copies: int
    rmse: float
    rmse_left_out: float
    target_offsets: dict[int, Tensor]


class Rated(NamedTuple):
    """The images that a head is fitted to, in the order of their places, the same in every process.

    Attributes:
        features: (n, f).
        targets: (n, k).
        mask: (n, k), False where a score is missing.
        folds: (n,), 0 to FOLDS - 1; the images of a prompt share one.
        keys: (n,), of `image_keys`.
    """

    features: Tensor
    targets: Tensor
    mask: Tensor
    folds: Tensor
    keys: Tensor


@torch.no_grad()
def rated_features(
    network: AlignIQA,
    dataset: BaseIQADataset,
    *,
    device: torch.device,
    cache: FeatureCache | None = None,
    forward: Forward | None = None,
    description: str = 'features of the training images',
) -> Rated:
    """Features and labels of a dataset; all processes of a training take part. Arguments as of `features_of`."""
    count, places = len(dataset), list(shard(len(dataset)))
    labels = [labels_of(dataset, place) for place in places]
    network.eval()
    shown = {'device': device, 'description': description, 'show': rank() == 0}
    features = features_of(network, dataset, places, cache, forward, **shown)
    targets, mask = (torch.stack([label[name] for label in labels]).to(device) for name in ('targets', 'target_mask'))
    paths, prompts = [label['img_path'] for label in labels], [label['prompt'] for label in labels]
    table = gather(torch.cat([targets, mask, features], 1), count)
    numbers = gather(torch.tensor([folds_of(paths, prompts), image_keys(paths, prompts)], device=device).T.contiguous(), count)
    targets, mask, features = table.split([targets.shape[1], mask.shape[1], features.shape[1]], 1)
    return Rated(features, targets, mask.bool(), numbers[:, 0], numbers[:, 1])


@torch.no_grad()
def fit_head(
    network: AlignIQA,
    dataset: BaseIQADataset,
    *,
    alpha: float,
    device: torch.device,
    cache: FeatureCache | None = None,
    forward: Forward | None = None,
    order_share: float = 0.0,
    order_weight: float = 1.0,
    invariance: float = 0.0,
    invariance_share: float = 0.0,
    pyramid_weight: float = 1.0,
    columns: slice | list[int] = slice(None),
) -> Fit:
    """Fit the head of a network to a dataset, `LinearHead.fit`; all processes of a training take part.

    The network then has the `score_range` of the dataset: that of its options or of its release, or where neither states one,
    from the lowest to the highest main score.

    Args:
        dataset: the training images, without augmentation.
        alpha: penalty of the ridge regression.
        device: that the network is on.
        cache: as of `features_of`.
        forward: as of `features_of`.
        order_share: the share of the images whose degraded `Copies` are fitted too: how far below its image each should score
            at least.
        order_weight: of the squared error of a copy that falls too little, relative to that of a score.
        invariance: as of `LinearHead.fit`, with the copies of `UNMOVED`.
        invariance_share: the share of the images that have those copies.
        pyramid_weight: how much the features of the pyramid count for the head, relative to those of the pooled stages.
        columns: as of `LinearHead.fit`.

    Raises:
        ValueError: too few scores.
    """
    rated = rated_features(network, dataset, device=device, cache=cache, forward=forward)
    copies = _copies(dataset, order_share, invariance_share)
    pairs = harmless = None
    if copies:
        places = list(shard(len(copies)))
        shown = {'device': device, 'description': 'features of the copies', 'show': rank() == 0}
        vectors = gather(features_of(network, copies, places, cache, forward, **shown), len(copies))
        rows = torch.tensor([copy.image for copy in copies.copies], device=device)
        ordered, others = slice(copies.ordered), slice(copies.ordered, None)
        harmless = rated.features[rows[others]] - vectors[others]
        if copies.ordered:
            lost = torch.tensor([copy.lost for copy in copies.copies[ordered]], device=device)
            margins = _margins(dataset.opt, rated, rows[ordered], lost)
            pairs = OrderedPairs(rows[ordered].tolist(), vectors[ordered], margins, order_weight)
    left_out = network.head.fit(
        rated.features,
        rated.targets,
        alpha=alpha,
        folds=rated.folds.tolist(),
        columns=columns,
        weights=network.column_weights(pyramid=pyramid_weight),
        mask=rated.mask,
        pairs=pairs,
        harmless=harmless,
        invariance=invariance,
    )
    gain = network.head(rated.features) - left_out
    broadcast([*network.buffers(), gain])
    network.is_trained = True
    low, high = _score_range(dataset.opt, rated)
    network.score_range = (low, high) if low < high else None
    rmse, rmse_left_out = (
        float((scores - rated.targets).square()[rated.mask].mean().sqrt()) for scores in (left_out + gain, left_out)
    )
    offsets = dict(zip(rated.keys.tolist(), gain.cpu(), strict=True))
    return Fit(len(rated.targets), len(copies or ()), rmse, rmse_left_out, offsets)


@torch.no_grad()
def calibrate_head(network: AlignIQA, dataset: BaseIQADataset, **where: Any) -> None:
    """Scale the deviation of the main score to its errors on a dataset that the network has not seen; see `rated_features`."""
    rated = rated_features(network, dataset, description='features of the validation images', **where)
    rows = rated.mask[:, 0]
    if rows.any():
        features = rated.features[rows]
        network.head.calibrate(features, network.head(features)[:, 0] - rated.targets[rows, 0])


def _copies(dataset: BaseIQADataset, order_share: float, invariance_share: float) -> Copies | None:
    if not order_share and not invariance_share:
        return None
    if not isinstance(dataset, AIGCIQADataset):
        key = 'order_share' if order_share else 'invariance_share'
        raise ValueError(f'train.{key} needs type: AIGCIQADataset, not {type(dataset).__name__}.')
    return Copies(dataset, order_share, invariance_share)


def _score_range(opt: Mapping, rated: Rated) -> tuple[float, float]:
    """Lowest and highest possible main score where the options of a dataset state them, else those that are there."""
    if opt.get('mos_normalize'):
        return 0.0, 1.0
    scores = rated.targets[rated.mask[:, 0], 0]
    low, high = opt.get('mos_range') or (scores.min(), scores.max())
    return float(low), float(high)


def _margins(opt: Mapping, rated: Rated, rows: Tensor, lost: Tensor) -> Tensor:
    """How far at least each copy should score below its image, (p, k); nothing is known of scores other than the main one.

    A picture of nothing should get the worst score. A degraded copy should lose its share of the distance to one standard
    deviation of the scores below that, so that a degraded copy of a bad picture is still seen to be worse.
    """
    scores, present = rated.targets[:, 0], rated.mask[:, 0]
    # normalised scores are 0 to 1, higher is better
    lower_better = opt.get('lower_better') and not opt.get('mos_normalize')
    worst = _score_range(opt, rated)[1 if lower_better else 0]
    deviation = float(scores[present].std()) * (-1 if lower_better else 1)
    shares = ASKED * lost * (scores[rows] - worst + torch.where(lost < 1, deviation, 0.0))
    margins = rated.targets.new_full((len(rows), rated.targets.shape[1]), torch.nan)
    margins[:, 0] = torch.where(present[rows], shares, torch.nan)
    return margins


def folds_of(paths: Sequence[str], prompts: Sequence[str] | None) -> list[int]:
    """The fold of each image, 0 to FOLDS - 1: that of its prompt, or of its file where it has none."""
    return [_number(prompt or path) % FOLDS for path, prompt in zip(paths, prompts or [''] * len(paths), strict=True)]


def image_keys(paths: Sequence[str], prompts: Sequence[str] | None) -> list[int]:
    """A number of 60 bits for each image and its prompt, the same in every process."""
    return [_number(path, prompt) for path, prompt in zip(paths, prompts or [''] * len(paths), strict=True)]


def _number(*texts: str) -> int:
    return int(hashlib.sha256('\n'.join(texts).encode()).hexdigest()[:15], 16)
