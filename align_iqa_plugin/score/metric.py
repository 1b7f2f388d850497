"""Align-IQA as `align-iqa score` runs it: the metric that pyiqa builds, with the packaged weights or those of the user."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from align_iqa_plugin.runtime.devices import usable_device
from align_iqa_plugin.runtime.errors import reason_of


class PyiqaMetric:
    """``metric(images (n, 3, h, w) in [0, 1], n prompts or None)`` gives n scores."""

    def __init__(self, device: torch.device, weights: Path | None):
        import pyiqa

        options: dict[str, Any] = {} if weights is None else {'pretrained_model_path': str(weights)}
        self.device = device
        self._model = pyiqa.create_metric('align_iqa', device=device, **options)

    def __call__(self, images: torch.Tensor, prompts: list[str] | None) -> list[float]:
        return self._model(images, caption_list=prompts).flatten().tolist()

    @cached_property
    def origin(self) -> str:
        """What the scores depend on: the version of this package, and a hash of the weights."""
        from align_iqa_plugin import __version__
        from align_iqa_plugin.runtime.hashes import weights_digest

        return f'align-iqa-plugin {__version__}, weights {weights_digest(self._model.net)}'


def load_metric(device: str | None, weights: Path | None) -> PyiqaMetric:
    """The metric on the device of this name, by default the GPU if there is one.

    Raises:
        ValueError: the device cannot be used, or the network not be loaded; the message is a sentence that says why.
    """
    chosen = usable_device(device)
    try:
        return PyiqaMetric(chosen, weights)
    # missing or foreign weights, no memory: pyiqa and torch raise many kinds
    except Exception as error:
        raise ValueError(f'the network cannot be loaded: {reason_of(error)}') from error
