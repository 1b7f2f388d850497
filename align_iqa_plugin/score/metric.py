"""Align-IQA as `align-iqa score` runs it: the network, with the packaged weights or those of the user, as pyiqa runs it."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from align_iqa_plugin.runtime.devices import usable_device
from align_iqa_plugin.runtime.errors import reason_of
from align_iqa_plugin.runtime.files import PACKAGED_NAMES


class NetworkMetric:
    """A `Metric` of `score/run.py`, with deviations where the weights state them.

    It builds the network itself, because the import of pyiqa would take longer than a score.
    """

    def __init__(self, device: torch.device, weights: Path | None):
        from align_iqa_plugin.archs.pretrained import load_align_iqa

        self.device, self._weights = device, None if str(weights) in PACKAGED_NAMES else weights
        self._network = load_align_iqa(weights or 'packaged', '--weights').to(device).eval()

    def __call__(self, images: torch.Tensor, prompts: list[str] | None) -> list[float]:
        return self.predict(images, prompts)[0]

    def predict(self, images: torch.Tensor, prompts: list[str] | None) -> tuple[list[float], list[float] | None]:
        scores, std = self._network.predict(images, prompts)
        return scores.flatten().tolist(), None if std is None else std.flatten().tolist()

    def fit_map(self, paths: Sequence[str | Path], advance: Callable[[], None]) -> Path:
        """Fit the map to pictures, and keep it beside the weights; gives its file.

        Raises:
            ValueError: as `models/map_fit.py`.
            OSError: it cannot be written.
        """
        from align_iqa_plugin.models.map_fit import fit_map, map_file, save_map

        assert self._weights, 'the maps of the package are fitted'
        direction = fit_map(self._network, paths, device=self.device, advance=advance)
        save_map(map_file(self._weights), self._network, direction)
        return map_file(self._weights)

    def load_map(self) -> None:
        """Read what `quality_map` needs.

        Raises:
            ValueError: there is no map for these weights, or its file is damaged.
        """
        from align_iqa_plugin.models.map_fit import read_map

        self._direction = read_map(self._network, self._weights).to(self.device)

    def quality_map(self, image: torch.Tensor, prompt: str | None) -> np.ndarray:
        """How good each cell of an image (1, 3, h, w) in [0, 1] is: `archs/quality_map.py`, 32-bit floats. First `load_map`."""
        from align_iqa_plugin.archs.quality_map import quality_map

        return quality_map(self._network, self._direction, image.to(self.device), prompt).float().cpu().numpy()

    @property
    def reads_prompts(self) -> bool:
        """Whether a score depends on the prompt."""
        return self._network.reads_prompts

    @property
    def score_range(self) -> tuple[float, float]:
        """Lowest and highest rating that the head was fitted to; where it is not known, that of AGIQA-3K."""
        from align_iqa_plugin.archs.score_range import known_range

        return known_range(self._network.score_range)

    @cached_property
    def origin(self) -> str:
        """What the scores depend on: the version of this package, and a hash of the weights."""
        from align_iqa_plugin import __version__
        from align_iqa_plugin.runtime.hashes import weights_digest

        return f'align-iqa-plugin {__version__}, weights {weights_digest(self._network)}'


def load_metric(device: str | None, weights: Path | None) -> NetworkMetric:
    """The metric on the device of this name, by default the GPU if there is one.

    Raises:
        ValueError: the device cannot be used, or the network not be loaded; the message is a sentence that says why.
    """
    chosen = usable_device(device)
    try:
        return NetworkMetric(chosen, weights)
    except (ValueError, FileNotFoundError) as error:  # a sentence that names the option
        raise ValueError(f'the network cannot be loaded: {" ".join(str(error).split())}') from error
    # foreign weights, no memory: the libraries raise many kinds
    except Exception as error:
        raise ValueError(f'the network cannot be loaded: {reason_of(error)}') from error
