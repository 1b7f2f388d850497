"""The closed-form start of a training: the head is fitted to the features of the training images."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from torch import Tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.data.feature_cache import FeatureCache
from align_iqa_plugin.models.predict import features_of, labels_of
from align_iqa_plugin.models.process_group import broadcast, gather, rank, shard

FOLDS = 5


class Fit(NamedTuple):
    """What a fit found.

    Attributes:
        images: how many it was fitted to.
        rmse: root mean squared error on these images, in the unit of the MOS.
        rmse_left_out: the same when each image's prompt is left out of the fit.
        target_offsets: for each image, by `image_keys`, what the head gains from having seen it, (k,). Training adds it to the
            targets: the head errs less on the images that it was fitted to, so that their own residuals would teach little;
            with the offset, the network learns the residuals that the head has on prompts that it was not fitted to.
    """

    images: int
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
) -> Fit:
    """Fit the head of a network to a dataset, `LinearHead.fit`; all processes of a training take part.

    Args:
        dataset: the training images, without augmentation.
        alpha: penalty of the ridge regression.
        device: that the network is on.

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
    left_out = network.head.fit(
        features,
        targets,
        alpha=alpha,
        folds=numbers[:, 0].tolist(),
        columns=slice(network.msfa.pooled_width),
        mask=mask.bool(),
    )
    gain = network.head(features) - left_out
    broadcast([*network.buffers(), gain])
    network.is_trained = True
    rmse, rmse_left_out = (
        float((scores - targets).square()[mask.bool()].mean().sqrt()) for scores in (left_out + gain, left_out)
    )
    return Fit(count, rmse, rmse_left_out, dict(zip(numbers[:, 1].tolist(), gain.cpu(), strict=True)))


def image_keys(paths: Sequence[str], prompts: Sequence[str] | None) -> list[int]:
    """A number of 60 bits for each image and its prompt, the same in every process."""
    return [_number(path, prompt) for path, prompt in zip(paths, prompts or [''] * len(paths), strict=True)]


def _number(*texts: str) -> int:
    return int(hashlib.sha256('\n'.join(texts).encode()).hexdigest()[:15], 16)
