"""The images that the packaged models were fitted to, so that numbers on them are not taken for those of a test."""

from collections.abc import Iterable, Mapping
from functools import cache

from align_iqa_plugin.archs.weights import PACKAGED_TRAINING_IMAGES
from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
from align_iqa_plugin.data.splits import content_hashes

_DIGITS = 16  # of a SHA-256: enough to tell images apart


def fitted_to(digests: Iterable[str]) -> int:
    """How many of some images the heads of the packaged models were fitted to; CGI and MSFA of the best one learned from them.

    Args:
        digests: SHA-256 of the files, in hexadecimal digits.
    """
    known = _known()
    return sum(digest[:_DIGITS] in known for digest in digests)


def starts_from_them(options: Mapping) -> bool:
    """Whether a training starts from weights that learned from these images.

    These are the parts of the packaged model, and the head of either packaged model where no head is fitted anew: CGI and MSFA
    of the fast one learned from photographs.
    """
    network = options['network']
    start = options.get('path', {}).get('pretrain_network') or network.get('pretrained_model_path')
    if start is None and network.get('pretrained') is True:
        start = 'packaged'
    return start == 'packaged' or (start == 'packaged-fast' and options['train'].get('ridge_alpha') is None)


def check_validation_sets(options: Mapping) -> None:
    """ValueError where weights that a training starts from learned from images of its validation sets (`AIGCIQADataset`)."""
    if starts_from_them(options):
        for phase, section in options['datasets'].items():
            if phase != 'train' and section['type'] == 'AIGCIQADataset':
                dataset = AIGCIQADataset(section | {'phase': 'val', 'check_images': False})
                check_unseen(content_hashes(dataset.paths), section['name'])


def check_unseen(digests: Iterable[str], name: str) -> None:
    """ValueError where weights that a training starts from learned from images that are to validate or test it.

    Args:
        digests: as of `fitted_to`.
        name: of the images, for the error.
    """
    if seen := fitted_to(digests):
        raise ValueError(
            f'the packaged model learned from {seen:,} of the images of {name}, so a training that starts from it would get '
            "numbers that are too high: start from 'packaged-fast' and fit the head (train.ridge_alpha), or from no weights."
        )


@cache
def _known() -> frozenset[str]:
    return frozenset(PACKAGED_TRAINING_IMAGES.read_text(encoding='ascii').split())
