"""The one loop that runs a network over a data set: for `evaluate` and `protocol`."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm


class Predictions(NamedTuple):
    """What a network predicts for each image of a data set, in its order."""

    scores: list[float]
    mos: list[float]
    paths: list[str]


@torch.no_grad()
def predict(
    network: torch.nn.Module,
    dataset: Dataset,
    *,
    batch_size: int,
    device: str | torch.device,
    description: str = '',
    forward: Callable[[Mapping], Tensor] | None = None,
) -> Predictions:
    """The main score of every image, beside its MOS; the network is moved to the device and set to evaluation.

    Args:
        dataset: gives img (3, h, w), prompt, mos_label (k,) and img_path, as `AIGCIQADataset` does.
        description: of the progress bar, which is on a terminal only.
        forward: computes the scores (b, k) of a batch in place of the network itself, for example from cached features;
            `img` of the batch is on the device.
    """
    network = network.to(device).eval()
    forward = forward or (lambda batch: network(batch['img'], caption_list=batch['prompt']))
    predictions = Predictions([], [], [])
    loader = DataLoader(dataset, batch_size=batch_size)
    for batch in tqdm(loader, desc=description, unit='batch', leave=False, disable=None):
        batch['img'] = batch['img'].to(device)
        predictions.scores.extend(forward(batch)[:, 0].tolist())
        predictions.mos.extend(batch['mos_label'][:, 0].tolist())
        predictions.paths.extend(batch['img_path'])
    return predictions
