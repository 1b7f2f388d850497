"""The closed-form start of a training: the head is fitted to the features of the training images."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from torch import Tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.ridge import OrderedPairs
from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
from align_iqa_plugin.data.feature_cache import FeatureCache
from align_iqa_plugin.data.training_copies import Copies
from align_iqa_plugin.models.predict import features_of, labels_of
from align_iqa_plugin.models.process_group import broadcast, gather, rank, shard

FOLDS = 5


class Fit(NamedTuple):
    """What a fit found.

    Attributes:
        images: how many it was fitted to.
        copies: how many copies of them it was fitted to.
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


@torch.no_grad()
def fit_head(
    network: AlignIQA,
    dataset: BaseIQADataset,
    *,
    alpha: float,
    device: torch.device,
    cache: FeatureCache | None = None,
    order_share: float = 0.0,
    order_weight: float = 1.0,
) -> Fit:
    """Fit the head of a network to a dataset, `LinearHead.fit`; all processes of a training take part.

    Args:
        dataset: the training images, without augmentation.
        alpha: penalty of the ridge regression.
        device: that the network is on.
        order_share: the share of the images whose `Copies` are fitted too: how far below its image each should score.
        order_weight: of a copy's squared error, relative to that of a score.

    Raises:
        ValueError: too few scores.
    """
    count, places = len(dataset), list(shard(len(dataset)))
    labels = [labels_of(dataset, place) for place in places]
    network.eval()
    features = features_of(
        network,
        dataset,
        places,
        cache,
        device=device,
        description='features of the training images',
        show=rank() == 0,
    )
    targets, mask = (torch.stack([label[name] for label in labels]).to(device) for name in ('targets', 'target_mask'))
    keys = image_keys([label['img_path'] for label in labels], [label['prompt'] for label in labels])
    folds = [_number(label['prompt'] or label['img_path']) % FOLDS for label in labels]
    table = gather(torch.cat([targets, mask, features], 1), count)
    numbers = gather(torch.tensor([folds, keys], device=device).T.contiguous(), count)
    targets, mask, features = table.split([targets.shape[1], mask.shape[1], features.shape[1]], 1)
    pairs = None
    if order_share:
        pairs = _ordered_pairs(
            network, dataset, targets, mask, share=order_share, weight=order_weight, device=device, cache=cache
        )
    left_out = network.head.fit(
        features,
        targets,
        alpha=alpha,
        folds=numbers[:, 0].tolist(),
        columns=slice(network.msfa.pooled_width),
        mask=mask.bool(),
        pairs=pairs,
    )
    gain = network.head(features) - left_out
    broadcast([*network.buffers(), gain])
    network.is_trained = True
    rmse, rmse_left_out = (
        float((scores - targets).square()[mask.bool()].mean().sqrt()) for scores in (left_out + gain, left_out)
    )
    return Fit(
        count, len(pairs.rows) if pairs else 0, rmse, rmse_left_out, dict(zip(numbers[:, 1].tolist(), gain.cpu(), strict=True))
    )


def _ordered_pairs(
    network: AlignIQA,
    dataset: BaseIQADataset,
    targets: Tensor,
    mask: Tensor,
    *,
    share: float,
    weight: float,
    device: torch.device,
    cache: FeatureCache | None,
) -> OrderedPairs | None:
    """Images and their copies, in the same order in every process; None where the share is too small for one image.

    A copy says how much of the main score is lost, and nothing of the others.
    """
    if not isinstance(dataset, AIGCIQADataset):
        raise ValueError(f'train.order_share needs type: AIGCIQADataset, not {type(dataset).__name__}.')
    copies = Copies(dataset, share)
    if not len(copies):
        return None
    places = list(shard(len(copies)))
    features = features_of(
        network,
        copies,
        places,
        cache,
        device=device,
        description='features of the copies',
        show=rank() == 0,
    )
    features = gather(features, len(copies))
    rows = [copy.image for copy in copies.copies]
    lost = torch.tensor([copy.lost for copy in copies.copies], device=device)
    scores, present = targets[:, 0], mask[:, 0].bool()
    lower_better, limits = bool(dataset.opt.get('lower_better')), dataset.opt.get('mos_range')
    if dataset.opt.get('mos_normalize'):  # then scores are 0 to 1, higher is better
        worst = 0.0
    elif limits:
        worst = float(limits[1] if lower_better else limits[0])
    else:
        worst = float(scores[present].max() if lower_better else scores[present].min())
    margins = torch.full((len(rows), targets.shape[1]), torch.nan, device=device)
    margins[:, 0] = torch.where(present[rows], lost * (scores[rows] - worst), torch.nan)
    return OrderedPairs(rows, features, margins, weight)


def image_keys(paths: Sequence[str], prompts: Sequence[str] | None) -> list[int]:
    """A number of 60 bits for each image and its prompt, the same in every process."""
    return [_number(path, prompt) for path, prompt in zip(paths, prompts or [''] * len(paths), strict=True)]


def _number(*texts: str) -> int:
    return int(hashlib.sha256('\n'.join(texts).encode()).hexdigest()[:15], 16)
