"""The images that the packaged models were fitted to, so that numbers on them are not taken for those of a test."""

from collections.abc import Iterable, Mapping
from functools import cache

from align_iqa_plugin.archs.weights import PACKAGED_TRAINING_IMAGES
from align_iqa_plugin.runtime.files import PACKAGED_NAMES

_DIGITS = 16  # of a SHA-256: enough to tell images apart


def fitted_to(digests: Iterable[str]) -> int:
    """How many of some images the heads of the packaged models were fitted to.

    Args:
        digests: SHA-256 of the files, in hexadecimal digits.
    """
    known = _known()
    return sum(digest[:_DIGITS] in known for digest in digests)


def keeps_packaged_head(options: Mapping) -> bool:
    """Whether a training starts from the head of a packaged model, and not from one that it fits itself."""
    network = options['network']
    start = options.get('path', {}).get('pretrain_network') or network.get('pretrained_model_path')
    packaged = start in PACKAGED_NAMES or (start is None and network.get('pretrained') is True)
    return packaged and options['train'].get('ridge_alpha') is None


def check_unseen(digests: Iterable[str], name: str) -> None:
    """ValueError where the heads of the packaged models were fitted to images that are to validate or test a training.

    Args:
        digests: as of `fitted_to`.
        name: of the images, for the error.
    """
    if seen := fitted_to(digests):
        raise ValueError(
            f'the packaged head was fitted to {seen:,} of the images of {name}, so a training that starts from it would get '
            'numbers that are too high: set train.ridge_alpha, which fits the head anew.'
        )


@cache
def _known() -> frozenset[str]:
    return frozenset(PACKAGED_TRAINING_IMAGES.read_text(encoding='ascii').split())
