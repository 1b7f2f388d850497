"""The images that the packaged models were fitted to, so that numbers on them are not taken for those of a test."""

from collections.abc import Iterable
from functools import cache

from align_iqa_plugin.archs.weights import PACKAGED_TRAINING_IMAGES

_DIGITS = 16  # of a SHA-256: enough to tell images apart


def fitted_to(digests: Iterable[str]) -> int:
    """How many of some images the heads of the packaged models were fitted to.

    Args:
        digests: SHA-256 of the files, in hexadecimal digits.
    """
    known = _known()
    return sum(digest[:_DIGITS] in known for digest in digests)


@cache
def _known() -> frozenset[str]:
    return frozenset(PACKAGED_TRAINING_IMAGES.read_text(encoding='ascii').split())
