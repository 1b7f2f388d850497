"""The one loop that runs a network over a dataset: for scores, and for the features that a head is fitted to."""

from collections.abc import Callable, Iterator, Sequence

import torch
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.data.feature_cache import FeatureCache, depends_on_image_alone
from align_iqa_plugin.models.sampler import build_loader

Forward = Callable[[dict], Tensor]
"""A batch, its `img` on the device, to one row for each image, (b, k)."""


@torch.no_grad()
def run_over(
    forward: Forward,
    dataset: BaseIQADataset,
    places: Sequence[int],
    *,
    device: torch.device,
    description: str = '',
    show: bool = True,
) -> Iterator[tuple[list[int], Tensor]]:
    """Call a function on images of a dataset, batch by batch, in the order of their places.

    Args:
        dataset: its options say how large a batch is, and how many processes read images.
        places: the images to take, by their index.
        show: draw a progress bar on standard error, if that is a terminal.

    Yields:
        The places of a batch, and what the function gave for it, (b, k).
    """
    loader = build_loader(Subset(dataset, places), dataset.opt, sampler=range(len(places)))
    start = 0
    for batch in tqdm(loader, desc=description, unit='batch', leave=False, disable=None if show else True):
        rows = forward(batch | {'img': batch['img'].to(device)})
        yield list(places[start : start + len(rows)]), rows
        start += len(rows)


def features_of(
    network: AlignIQA,
    dataset: BaseIQADataset,
    places: Sequence[int],
    cache: FeatureCache | None = None,
    forward: Forward | None = None,
    **shown,
) -> Tensor:
    """What the head reads of images, (n, f), in float32; only images that the cache lacks are decoded.

    Args:
        network: in evaluation mode.
        dataset: an `AIGCIQADataset`, if there is a cache.
        places: the images, by their index.
        cache: is read and filled, if the features are the network's own and do not depend on prompts.
        forward: gives the features of a batch in place of `forward_features`, for example from the outputs of the first blocks.
        shown: device, description and show, as of `run_over`.
    """
    # what comes from a trunk in half precision must not get into what others read
    cache = cache if forward is None and depends_on_image_alone(network) else None
    rows: dict[int, Tensor] = {}
    if cache is not None:
        cache.follow(network)
        paths = dataset.paths
        found = {place: cache.read(paths[place], dataset.view(place)) for place in places}
        rows = {place: features.to(shown['device']) for place, features in found.items() if features is not None}
    missing = [place for place in places if place not in rows]
    if missing and cache is not None:
        dataset.check_images(missing)

    def features(batch: dict) -> Tensor:
        # the precision of a training must not get into what later trainings read
        with torch.autocast(batch['img'].device.type, enabled=False):
            vectors = forward(batch) if forward else network.forward_features(batch['img'], batch.get('prompt'))
            return vectors.float()

    for batch, vectors in run_over(features, dataset, missing, **shown):
        for place, row in zip(batch, vectors, strict=True):
            rows[place] = row
            if cache is not None:
                cache.write(paths[place], row, dataset.view(place))
    return torch.stack([rows[place] for place in places])


@torch.no_grad()
def scores_of(
    network: AlignIQA,
    dataset: BaseIQADataset,
    places: Sequence[int],
    cache: FeatureCache | None = None,
    forward: Forward | None = None,
    **shown,
) -> Tensor:
    """The scores of images, (n, k); arguments as of `features_of`.

    Args:
        cache: of a network that is not being trained; the scores come from its features.
        forward: gives the scores of a batch in place of the network itself, for example in another precision.
    """
    if cache is not None and depends_on_image_alone(network):
        return network.head(features_of(network, dataset, places, cache, **shown))

    def scores(batch: dict) -> Tensor:
        return forward(batch) if forward else network(batch['img'], caption_list=batch.get('prompt'))

    rows = [vectors for _, vectors in run_over(scores, dataset, places, **shown)]
    return torch.cat(rows) if rows else torch.zeros(0, network.config['targets'], device=shown['device'])


def labels_of(dataset: BaseIQADataset, place: int) -> dict:
    """targets (k,), target_mask (k,), prompt and img_path of an image, which is not decoded."""
    if hasattr(dataset, 'labels'):
        return dataset.labels(place)
    path, mos = dataset.paths_mos[place][:2]  # as all datasets of pyiqa without reference images
    targets = torch.tensor([mos], dtype=torch.float32)
    return {'targets': targets, 'target_mask': torch.ones(1, dtype=torch.bool), 'prompt': '', 'img_path': path}
