"""Adapting guide, injection and aggregation to rated images: what `AlignIQAModel` does where `train.adapt_alpha` is set.

Heads that are fitted before the training, each without a fold of the images, say what the network should learn: to move the
features of an image to where the head that never saw it errs less (`fold_heads.py`), and to keep the order of an image and its
degraded copy (`losses.order_loss`). The blocks before the first injection are frozen, so their outputs may come from a cache.
"""

import torch
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from torch import Tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.data.feature_cache import TrunkCache
from align_iqa_plugin.models.fit import folds_of, rated_features
from align_iqa_plugin.models.fold_heads import FoldHeads
from align_iqa_plugin.models.process_group import broadcast


class Adaptation:
    """The heads of a training, and the features that they read.

    Args:
        network: on its device; of its scores the main one is adapted to.
        alpha: penalty of the heads' ridge regression.
        trunk_cache: a folder for the outputs of the first blocks, or None.

    Raises:
        ValueError: the trunk cannot be cached.
    """

    def __init__(self, network: AlignIQA, *, alpha: float, trunk_cache: str | None):
        self.network, self.alpha = network, alpha
        self.device = network.trained.device
        self.heads = FoldHeads(pooled_width=network.msfa.pooled_width, width=network.msfa.width).to(self.device)
        self.trunk = TrunkCache(trunk_cache, network) if trunk_cache else None

    def start(self, dataset: BaseIQADataset) -> float:
        """Fit the heads; gives their root mean squared error on the folds that they were not fitted to.

        Raises:
            ValueError: too few images have a main score.
        """
        rated = rated_features(self.network, dataset, device=self.device, forward=self.features)
        rows = rated.mask[:, 0]
        mos = rated.targets[rows, 0]
        left_out = self.heads.fit(rated.features[rows], mos, alpha=self.alpha, folds=rated.folds[rows])
        broadcast([*self.heads.buffers()])
        return float((left_out - mos).square().mean().sqrt())

    def features(self, batch: dict, prefix: str = '') -> Tensor:
        """The vectors of a batch, (b, f).

        Args:
            batch: as the data set gives it, `img` on the device.
            prefix: 'copy' for the copies of the images.
        """
        images, views = (batch['copy'], batch['copy_view']) if prefix else (batch['img'], batch['view'])
        network, prompts = self.network, batch.get('prompt')
        if self.trunk is None:
            return network.forward_features(images, prompts, views=1)
        guidance = network.guide(images, prompts) if network.guide else None
        outputs = self.trunk.outputs(network, images, batch['img_path'], views)
        return network.msfa(*network.backbone.forward_from(outputs, images.shape[-2:], network.injection, guidance))

    def scores(self, batch: dict) -> Tensor:
        """Scores of images that no head was fitted to, (b, 1), in the unit of the MOS."""
        return self.heads(self.features(batch))[:, None] * self.heads.scale[1] + self.heads.scale[0]

    def training_scores(self, batch: dict) -> tuple[Tensor, Tensor | None]:
        """Scores of training images, (b, 1), and how far they are above their copies, (b,), in deviations of the MOS."""
        folds = torch.tensor(folds_of(batch['img_path'], batch.get('prompt')), device=self.device)
        scores = self.heads(self.features(batch), folds)
        if 'copy' not in batch:
            return scores[:, None], None
        return scores[:, None], scores - self.heads(self.features(batch, 'copy'), folds)
