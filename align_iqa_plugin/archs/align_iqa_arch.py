"""Align-IQA: a plain pre-trained ViT, guided to see quality, for natural and for AI-generated images.

Title: Align-IQA: Aligning Image Quality Assessment Models with Diverse Human Preferences via Customizable Guidance
Venue: ACM Multimedia 2024
Link: https://doi.org/10.1145/3664647.3681511

The figure of the paper, one module a box::

    image, prompt -> guide: guidance tokens
    image -> backbone, with injection layers before some of its blocks: class tokens and maps of the stages
          -> msfa: one vector -> head: scores

A network of two views does this for the whole image and for its centre, each with a head of its own, and gives the weighted
mean of their scores. With ``guided_views: 1`` the centre goes through the plain ViT alone.

From the paper: the plain ViT, guidance tokens injected into it (CGI), the aggregation of its stages (MSFA), the alternatives in
the appendix' tables 1 to 4. Ours, where the appendix is silent: the equations of the parts (see their modules), the frozen
backbone, the head, the input size, the second view.

Weights come from and go to files in `pretrained.py`; pyiqa builds networks by `pretrained.create_align_iqa`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from align_iqa_plugin.archs.backbone import GuidedViT
from align_iqa_plugin.archs.head import LinearHead
from align_iqa_plugin.archs.injection import Injection
from align_iqa_plugin.archs.msfa import StagePool, pool_stages
from align_iqa_plugin.archs.parts import build_part
from align_iqa_plugin.archs.score_range import is_optimised, limit_scores
from align_iqa_plugin.archs.view_heads import ViewHeads
from align_iqa_plugin.archs.views import centre, check_images, to_unit_range
from align_iqa_plugin.archs.weights import PACKAGED_BACKBONE, backbone_state


class Prediction(NamedTuple):
    """Scores, and how far they may be off.

    Attributes:
        scores: (b, k), as `AlignIQA.forward` gives them.
        std: (b, k), standard deviation of the error of each score, in its unit: 90 % of MOS lie within 1.645 of them. It grows
            on images unlike those that the head was fitted to. None where the weights do not state it: those of a linear head,
            and those of earlier versions.
    """

    scores: Tensor
    std: Tensor | None


class AlignIQA(nn.Module):
    """Quality of an image, higher is better, in the unit of the MOS that it was trained on.

    Each keyword is a key of `network:` in an option file. A name in `guide`, `injection`, `aggregation` or `head` is looked up
    in the part's table (`parts.py`), to which you can add parts of your own.

    Args:
        backbone: a plain ViT by timm's name.
        backbone_weights: 'packaged' (CLIP ViT-B/16's image tower in int8, carried by the package), 'hub' (timm's own, by name),
            'random', or a local file.
        freeze_backbone: train the other parts only; checkpoints then hold the hash of the backbone in place of its weights.
        input_size: side in pixels of the square whose area every view is resized to, aspect ratio kept.
        views: 1 for the whole image, 2 for its centre too (`backbone.centre`), which shows detail, at twice the cost.
        guided_views: how many of them guidance and aggregation reach, by default all. With 1 of 2 the head of the centre reads
            the pooled stage features of the plain ViT: it errs differently, so that both together err less.
        view_weights: of the scores of two views, relative to each other; by default .7 for the whole and .3 for the centre.
        stages: number of stages of equal depth that the backbone is cut into; 1 reads the last map alone.
        guide: 'saliency', 'semantic' or 'none'.
        guide_options: keywords of the guide, such as ``{vlm_weights: FILE}`` of the semantic one.
        injection: 'cgi', 'vpt_add', 'vpt_concat' or 'none'.
        injection_options: keywords of the injection, such as ``{blocks: [9, 10, 11]}``.
        aggregation: 'msfa' or 'stage_pool'.
        aggregation_options: keywords of the aggregation, such as ``{channels: 96}`` of 'msfa'.
        head: 'kernel', 'linear' or 'mlp'; each view has one.
        head_options: keywords of the head, such as ``{components: 64}``.
        targets: number of scores for an image, such as quality, alignment, authenticity; the first one is the main score.

    Attributes:
        config: the keywords that decide about shapes, defaults filled in; a checkpoint fits a network of the same ones.
        score_range: lowest and highest possible rating on the scale of the main score, or where the scale is not known those
            that the head was fitted to; None where neither is known. It is saved with the weights.
        is_trained: set it when you have trained or fitted the network: it scores only then. It is part of `state_dict()`.

    Raises:
        ValueError: an unknown name or option, a guide without an injection, or weights that do not fit the backbone.
    """

    guide: nn.Module | None
    injection: Injection | None
    msfa: StagePool
    head: LinearHead | ViewHeads
    trained: Tensor

    def __init__(
        self,
        *,
        backbone: str = PACKAGED_BACKBONE,
        backbone_weights: str = 'packaged',
        freeze_backbone: bool = True,
        input_size: int = 224,
        views: int = 1,
        guided_views: int | None = None,
        view_weights: Sequence[float] | None = None,
        stages: int = 4,
        guide: str = 'saliency',
        guide_options: dict[str, Any] | None = None,
        injection: str = 'cgi',
        injection_options: dict[str, Any] | None = None,
        aggregation: str = 'msfa',
        aggregation_options: dict[str, Any] | None = None,
        head: str = 'kernel',
        head_options: dict[str, Any] | None = None,
        targets: int = 1,
    ):
        super().__init__()
        if (guide == 'none') != (injection == 'none'):
            raise ValueError(f"guide '{guide}' does not go with injection '{injection}': name both, or 'none' for both.")
        if guide == 'none' and (guide_options or injection_options):
            raise ValueError("guide_options and injection_options need a guide that is injected, but guide is 'none'.")
        if type(targets) is not int or targets < 1:
            raise ValueError(f'targets is {targets!r}, not a whole number of at least 1.')
        if type(views) is not int or views not in (1, 2):
            raise ValueError(f'views is {views!r}, not 1 (the whole image) or 2 (its centre too).')
        guided = views if guided_views is None else guided_views
        if type(guided) is not int or not 1 <= guided <= views:
            raise ValueError(f'guided_views is {guided_views!r}, not a whole number from 1 to views, {views}.')
        if guided < views and guide == 'none':
            raise ValueError(f'guided_views is {guided} of {views} views, but guide is none: name a guide, or remove it.')
        weights = [0.7, 0.3] if view_weights is None and views == 2 else view_weights
        numbers = weights if isinstance(weights, Sequence) else []
        positive = [weight for weight in numbers if isinstance(weight, int | float) and 0 < weight < math.inf]
        if weights is not None and not len(positive) == len(numbers) == views == 2:
            raise ValueError(f'view_weights is {view_weights!r}, not two positive numbers for a network of two views.')
        self.views, self.guided_views = views, guided
        self.backbone = GuidedViT(
            name=backbone,
            stages=stages,
            input_size=input_size,
            frozen=freeze_backbone,
            pretrained=backbone_weights == 'hub',
            state=backbone_state(backbone, backbone_weights),
        )
        width, depth = self.backbone.width, len(self.backbone.vit.blocks)
        self.config: dict[str, Any] = {
            'backbone': backbone.split('.')[0],
            'freeze_backbone': freeze_backbone,
            'input_size': input_size,
            'views': views,
            'guided_views': guided,
            'view_weights': None if weights is None else [float(weight) for weight in weights],
            'stages': stages,
            'guide': guide,
            'injection': injection,
            'aggregation': aggregation,
            'head': head,
            'targets': targets,
        }
        self.guide = self.injection = None
        if guide != 'none':
            self.guide, _ = build_part('guide', guide, guide_options)
            given = {'width': width, 'guidance_width': self.guide.dim, 'depth': depth}
            self.injection, options = build_part('injection', injection, injection_options, **given)
            self.config['injection_options'] = options | {'blocks': self.injection.blocks}
        self.msfa, options = build_part('aggregation', aggregation, aggregation_options, width=width, stages=stages)
        self.config['aggregation_options'] = options
        self.plain_width = 2 * width * stages  # of a view without guidance
        heads = []
        for vector_width in [self.msfa.width] * guided + [self.plain_width] * (views - guided):
            part, self.config['head_options'] = build_part('head', head, head_options, width=vector_width, targets=targets)
            heads.append(part)
        self.head = heads[0] if weights is None else ViewHeads(heads, weights)
        self.score_range: tuple[float, float] | None = None
        self.register_buffer('trained', torch.tensor(False))
        self._is_trained = False  # the same, where a GPU need not be waited for, and torch.compile can look
        self.register_load_state_dict_post_hook(_note_trained)

    def forward(
        self, image: Float[Tensor, 'b c h w'], caption_list: Sequence[str | None] | None = None
    ) -> Float[Tensor, 'b k']:
        """Score a batch.

        Args:
            image: RGB or gray in [0, 1], at least 32 x 32 pixels. Values outside are limited, with a warning (`to_unit_range`).
            caption_list: a prompt for each image, None or '' where there is none; only a guide that reads prompts uses them.
                By default those that the images carry (`PromptedTensor`).

        Returns:
            `targets` scores for each image, the main one first, higher is better. They do not depend on the rest of the batch.
            Where gradients flow to the images, so that the score is a loss, the main one stays in `score_range`
            (`limit_scores`); it can leave the range where none do.

        Raises:
            ValueError: an image is too small, the images are not floating-point, or the number of prompts is not theirs.
            RuntimeError: the network is neither trained nor in training mode.
        """
        self._check_trained()
        return self._scores(self.forward_features(image, caption_list), image)

    def predict(self, image: Float[Tensor, 'b c h w'], caption_list: Sequence[str | None] | None = None) -> Prediction:
        """Scores of a batch, as of `forward`, and their deviations; arguments and errors as of `forward`.

        Both have gradients if the images require them; if not, nothing is kept for gradients of parameters.

        With pyiqa: ``scores, std = metric.net.predict(images)``.
        """
        self._check_trained()
        # as pyiqa sets it: a score does not depend on which algorithm was the fastest
        deterministic = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        with torch.set_grad_enabled(is_optimised(image)), deterministic:
            vectors = self.forward_features(image, caption_list)
            return Prediction(self._scores(vectors, image), self.head.deviation(vectors))

    def _scores(self, vectors: Float[Tensor, 'b f'], image: Tensor) -> Float[Tensor, 'b k']:
        scores: Tensor = self.head(vectors)
        return limit_scores(scores, self.score_range) if is_optimised(image) else scores

    def _check_trained(self) -> None:
        if not (self.training or self.is_trained):
            raise RuntimeError(
                'this Align-IQA has no trained weights, so its scores would mean nothing: create it with '
                'pretrained=True (the packaged model) or pretrained_model_path=FILE (your own), or train it.'
            )

    def forward_features(
        self, image: Float[Tensor, 'b c h w'], caption_list: Sequence[str | None] | None = None, views: int | None = None
    ) -> Float[Tensor, 'b f']:
        """The vector that the head reads; arguments as of `forward`.

        Args:
            views: the part of the vector that belongs to the first views, by default all of it.
        """
        image, caption_list = check_images(image, caption_list)
        image = to_unit_range(image, torch.promote_types(self.backbone.mean.dtype, torch.float32))
        seen = [image, centre(image)][: self.views if views is None else views]
        guided, plain = seen[: self.guided_views], seen[self.guided_views :]
        vectors = [self.msfa(*self.stages(view, caption_list)) for view in guided]
        return torch.cat(vectors + [pool_stages(*self.backbone(view)) for view in plain], 1)

    def stages(
        self, view: Float[Tensor, 'b 3 h w'], caption_list: Sequence[str | None] | None
    ) -> tuple[list[Float[Tensor, 'b d']], list[Float[Tensor, 'b d h2 w2']]]:
        """Class token and map of every stage of the guided backbone, shallow to deep, for a view in [0, 1]."""
        guidance = self.guide(view, caption_list) if self.guide else None  # (b, g, e)
        return self.backbone(view, self.injection, guidance)

    def column_weights(self, *, pyramid: float = 1.0) -> Float[Tensor, ' f']:
        """How much each entry of the vector should count for its head: 1 for those of the pooled stages."""
        guided = torch.ones(self.msfa.width, device=self.trained.device)
        guided[self.msfa.pooled_width :] = pyramid
        plain = guided.new_ones(self.plain_width)
        return torch.cat([guided] * self.guided_views + [plain] * (self.views - self.guided_views))

    @property
    def pooled_columns(self) -> list[int]:
        """The entries of the vector that no trained parameter of the aggregation moves."""
        columns: list[int] = self.column_weights(pyramid=0).nonzero().flatten().tolist()
        return columns

    @property
    def is_trained(self) -> bool:
        return self._is_trained

    @is_trained.setter
    def is_trained(self, value: bool) -> None:
        self.trained.fill_(value)
        self._is_trained = value

    @property
    def reads_prompts(self) -> bool:
        """Whether scores depend on `caption_list`; a guide that does not say that it reads none counts as one that does."""
        return self.guide is not None and getattr(self.guide, 'reads_prompts', True)


def _note_trained(network: AlignIQA, _: object) -> None:
    network.is_trained = bool(network.trained)
