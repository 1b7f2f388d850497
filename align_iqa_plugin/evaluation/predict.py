"""What a network predicts for a data set, beside the MOS: for `evaluate` and `protocol`."""

from typing import NamedTuple

import torch
from pyiqa.data.base_iqa_dataset import BaseIQADataset

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.data.feature_cache import FeatureCache
from align_iqa_plugin.models.predict import labels_of, scores_of


class Predictions(NamedTuple):
    """What a network predicts for each image of a data set, in its order."""

    scores: list[float]
    mos: list[float]
    paths: list[str]


def predict(
    network: AlignIQA,
    dataset: BaseIQADataset,
    *,
    device: str | torch.device,
    cache: FeatureCache | None = None,
    description: str = '',
) -> Predictions:
    """The main score of every image, beside its MOS; the network is moved to the device and set to evaluation.

    Args:
        dataset: an `AIGCIQADataset`, or one of pyiqa's without reference images.
        cache: of features; images whose features it has are not decoded.
        description: of the progress bar, which is on a terminal only.
    """
    network, device, places = network.to(device).eval(), torch.device(device), range(len(dataset))
    scores = scores_of(network, dataset, places, cache, device=device, description=description)
    labels = [labels_of(dataset, place) for place in places]
    return Predictions(
        scores=scores[:, 0].tolist(),
        mos=[label['targets'][0].item() for label in labels],
        paths=[label['img_path'] for label in labels],
    )
