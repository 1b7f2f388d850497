"""The one loop that runs a network over a dataset: for scores, and for the features that a head is fitted to."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.data.feature_cache import FeatureCache, has_frozen_features


@torch.no_grad()
def run_over(
    function: Callable[[Tensor, list[str] | None], Tensor],
    dataset: Dataset,
    places: Sequence[int],
    *,
    device: torch.device,
    batch_size: int,
    workers: int = 0,
    description: str = '',
    show: bool = True,
) -> Iterator[tuple[list[int], list[str], Tensor]]:
    """Call a function on the images of a dataset, batch by batch, in their order.

    Args:
        function: called with images (b, 3, h, w) on the device and their prompts.
        places: the images to take, by their index.
        show: draw a progress bar on standard error, if that is a terminal.

    Yields:
        The places of a batch, the paths of its images, and what the function gave for it (b, k).
    """
    # a loader draws a number when it starts: its own generator leaves the random numbers of a training alone
    loader = DataLoader(Subset(dataset, places), batch_size, num_workers=workers, generator=torch.Generator())
    start = 0
    for batch in tqdm(loader, desc=description, unit='batch', leave=False, disable=None if show else True):
        paths = batch['img_path']
        yield list(places[start : start + len(paths)]), paths, function(batch['img'].to(device), batch.get('prompt'))
        start += len(paths)


def features_of(
    network: AlignIQA, dataset: Dataset, places: Sequence[int], cache: FeatureCache | None = None, **loading
) -> Tensor:
    """What the head reads of images, (n, f), in float32; only the images that the cache lacks are decoded.

    Args:
        network: in evaluation mode.
        dataset: an `AIGCIQADataset`, if there is a cache.
        places: the images, by their index.
        cache: is read and filled where the features are frozen.
        loading: as of `run_over`.
    """
    cache = cache if has_frozen_features(network) else None
    rows: dict[int, Tensor] = {}
    if cache is not None:
        found = {place: cache.read(dataset.paths[place]) for place in places}
        rows = {place: features for place, features in found.items() if features is not None}
    missing = [place for place in places if place not in rows]

    def forward(images: Tensor, prompts: list[str] | None) -> Tensor:
        # the precision of a training must not get into what later trainings read
        with torch.autocast(images.device.type, enabled=False):
            return network.forward_features(images, prompts).float()

    for batch, paths, features in run_over(forward, dataset, missing, **loading):
        for place, path, row in zip(batch, paths, features, strict=True):
            rows[place] = row
            if cache is not None:
                cache.write(path, row)
    return torch.stack([rows[place].to(loading['device']) for place in places])
