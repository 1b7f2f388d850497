r"""Align-IQA: a plain pre-trained ViT that guidance makes see quality, for natural and for AI-generated images.

Title: Align-IQA: Aligning Image Quality Assessment Models with Diverse Human Preferences via Customizable Guidance
Venue: ACM Multimedia 2024
Link: https://doi.org/10.1145/3664647.3681511

The figure of the paper, one module a box::

    image, prompt -> guide -> backbone with an injection before its blocks -> msfa -> head -> scores

From the paper: the plain ViT, guidance tokens injected into it (CGI), the aggregation of its stages (MSFA), the alternatives
of the appendix' tables 1 to 4. Ours, where the appendix is silent: the equations of the parts (see their modules), the frozen
backbone, the head, the size of the view. Ours too: nothing is injected unless it is asked for, since guidance was not found to
help (README, results).
"""

import functools
import inspect
import json
from difflib import get_close_matches
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from align_iqa_plugin.archs.backbone import GuidedViT
from align_iqa_plugin.archs.guides import GUIDES, guide_class
from align_iqa_plugin.archs.head import HEADS
from align_iqa_plugin.archs.injection import INJECTIONS, NoInjection
from align_iqa_plugin.archs.msfa import AGGREGATIONS
from align_iqa_plugin.archs.pretrained import (
    PACKAGED_BACKBONE,
    PACKAGED_BACKBONE_FILE,
    PACKAGED_MODEL_FILE,
    read_extra_state,
    read_network,
    read_weights,
)
from align_iqa_plugin.runtime.hashes import state_digest
from align_iqa_plugin.runtime.prompted_tensor import split_prompts

MINIMUM_SIDE = 32  # pixels


def _completed_from_file(init):
    """Keywords that are not given come from the file of `pretrained_model_path`; weights that it holds go before given ones."""

    @functools.wraps(init)
    def completed(self, **given):
        if (path := given.get('pretrained_model_path')) is not None:
            saved = read_network(path, 'pretrained_model_path')
            # of several targets the main one, as pyiqa's tools want it, unless more are asked for
            possible = inspect.signature(init).parameters.keys() - {'targets'}
            saved = {key: value for key, value in saved.items() if key in possible}
            given = saved | given
            if saved.get('backbone_weights') == 'random':
                given['backbone_weights'] = 'random'
            if (saved.get('guide_options') or {}).get('vlm_weights') == 'random':
                given['guide_options'] = (given['guide_options'] or {}) | {'vlm_weights': 'random'}
        init(self, **given)

    return completed


class AlignIQA(nn.Module):
    """Quality of an image, higher is better, in the unit of the opinion scores that it was trained on.

    The defaults are the model that the package carries: `AlignIQA(pretrained=True)`, in pyiqa `create_metric('align_iqa')`.
    pyiqa hands on whatever the network returns, and its tools want (N, 1). That is what one target gives, also from a
    checkpoint of several, whose first target is taken; `create_metric('align_iqa', targets=3, ...)` gives (N, 3).
    Each keyword is a key of `network:` in a training file. A name in `guide`, `injection`, `aggregation` or `head` is looked up
    in the part's table (`GUIDES`, `INJECTIONS`, `AGGREGATIONS`, `HEADS`), to which other parts can be added.

    Args:
        backbone: a plain ViT by timm's name.
        backbone_weights: 'packaged' (CLIP ViT-B/16's image tower in int8, carried by the package), 'hub' (timm's own, by name),
            'random', or a local file.
        freeze_backbone: train the other parts only; then checkpoints do not hold the backbone but its hash.
        input_size: side in pixels of the square whose area every image is resized to, aspect ratio kept.
        stages: number of stages of equal depth that the backbone is cut into.
        guide: 'saliency', 'semantic' or 'none'.
        guide_options: keywords of the guide, such as ``{vlm_weights: FILE}`` of the semantic one.
        injection: 'cgi', 'vpt_add', 'vpt_concat' or 'none'.
        injection_options: keywords of the injection, such as ``{first_block: 6}``.
        aggregation: 'msfa', 'msfa_pyramid', 'last_map' or 'none'.
        aggregation_options: keywords of the aggregation, such as ``{channels: 96}`` of the pyramids.
        head: 'kernel', 'linear' or 'mlp'.
        targets: number of scores for an image, such as quality, alignment, authenticity; the first one is the main score.
        head_options: keywords of the head, such as ``{components: 64}``.
        pretrained: load the model that the package carries.
        pretrained_model_path: load a file of one's own training instead. Keywords that are not given are taken from it, except
            `targets`.
            - a file of `align-iqa export` holds all weights;
            - a checkpoint of the training holds the trained part: the frozen parts have to be those that it was trained on;
            - a file of tensors alone, without a word on its network, has to hold all of them, and counts as trained;
            - frozen weights that any of them holds go before those that other keywords name.

    Raises:
        ValueError: a name or a pair that is not possible, or weights that do not belong to the network.
    """

    @_completed_from_file
    def __init__(
        self,
        *,
        backbone: str = PACKAGED_BACKBONE,
        backbone_weights: str = 'packaged',
        freeze_backbone: bool = True,
        input_size: int = 224,
        stages: int = 4,
        guide: str = 'none',
        guide_options: dict | None = None,
        injection: str = 'none',
        injection_options: dict | None = None,
        aggregation: str = 'msfa',
        aggregation_options: dict | None = None,
        head: str = 'kernel',
        head_options: dict | None = None,
        targets: int = 1,
        pretrained: bool = False,
        pretrained_model_path: str | None = None,
    ):
        super().__init__()
        _check_names(guide=guide, injection=injection, aggregation=aggregation, head=head)
        if guide == 'none' and (guide_options or injection_options):
            raise ValueError("guide_options and injection_options are for a guide that is injected, but guide is 'none'.")
        if type(targets) is not int or targets < 1:
            raise ValueError(f'targets is {targets!r}, not a whole number from 1.')
        self.config = {
            'backbone': backbone.split('.')[0],
            'freeze_backbone': freeze_backbone,
            'input_size': input_size,
            'stages': stages,
            'guide': guide,
            'injection': injection,
            'aggregation': aggregation,
            'head': head,
            'targets': targets,
        }
        self.backbone = GuidedViT(
            name=backbone,
            stages=stages,
            input_size=input_size,
            frozen=freeze_backbone,
            pretrained=backbone_weights == 'hub',
            state=_backbone_state(backbone, backbone_weights),
        )
        width, depth = self.backbone.width, len(self.backbone.vit.blocks)
        self.guide, self.injection = None, NoInjection(depth=depth)
        if guide != 'none':
            self.guide = self._build('guide', guide_class(guide), guide_options)
            self.injection = self._build(
                'injection',
                INJECTIONS[injection],
                injection_options,
                width=width,
                guidance_width=self.guide.dim,
                depth=depth,
            )
        self.msfa = self._build('aggregation', AGGREGATIONS[aggregation], aggregation_options, width=width, stages=stages)
        self.head = self._build('head', HEADS[head], head_options, width=self.msfa.width, targets=targets)
        self.is_trained = False
        self.frozen_parts = {name: state_digest(module.state_dict()) for name, module in _frozen_modules(self)}
        self.register_state_dict_post_hook(_drop_frozen)
        self.register_load_state_dict_pre_hook(_take_first_targets)
        self.register_load_state_dict_pre_hook(_take_frozen)
        self.register_load_state_dict_post_hook(_allow_frozen)
        if pretrained_model_path is not None:
            self._load(pretrained_model_path, 'pretrained_model_path')
        elif pretrained:
            self._load(PACKAGED_MODEL_FILE, 'pretrained')

    def forward(
        self,
        image: Float[Tensor, 'b c h w'],
        caption_list: list[str | None] | None = None,
        plain: tuple[list[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, 'b k']:
        """Score a batch.

        Args:
            image: RGB or gray in [0, 1], at least 32 x 32 pixels.
            caption_list: a prompt for each image, None or '' where there is none; only the semantic guide reads them. By
                default those that the images carry (`PromptedTensor`).
            plain: what `plain_blocks` gave for these images before, to save the work.

        Returns:
            `targets` scores for each image, the main one first, higher is better. They do not depend on the rest of the batch.

        Raises:
            ValueError: an image too small, or another number of prompts than of images.
            RuntimeError: the network has neither trained weights nor been trained.
        """
        image, carried = split_prompts(image)
        caption_list = carried if caption_list is None else caption_list
        image = self._check(image, caption_list)
        return self.head(self.features(image, caption_list, *(plain or self.plain_blocks(image))))

    @property
    def reads_prompts(self) -> bool:
        """Whether scores depend on `caption_list`; a guide that does not say that it reads none counts as one that does."""
        return self.guide is not None and getattr(self.guide, 'reads_prompts', True)

    def plain_blocks(self, image: Float[Tensor, 'b 3 h w']) -> tuple[list[Tensor], Tensor]:
        """The blocks before the first injection: outputs of the stages that end there, and the tokens that leave them.

        With a frozen backbone they depend on the image alone, so that training can keep them.
        """
        tokens = self.backbone.embed(self.backbone.view(image))
        return self.backbone(tokens, lambda block, tokens: tokens, stop=self.injection.first_block)

    def features(
        self, image: Tensor, caption_list: list[str | None] | None, stage_outputs: list[Tensor], tokens: Tensor
    ) -> Float[Tensor, 'b d']:
        """The vector that the head reads, from the images, their prompts and what `plain_blocks` gave for them."""
        guidance = None if self.guide is None else self.guide(image, caption_list)
        injected, _ = self.backbone(
            tokens, lambda block, tokens: self.injection(block, tokens, guidance), start=self.injection.first_block
        )
        grid = self.backbone.grid(image)
        summaries, stage_maps = zip(
            *(self.backbone.to_map(output, grid) for output in [*stage_outputs, *injected]), strict=True
        )
        return self.msfa(list(summaries), list(stage_maps))

    def _build(self, part: str, cls: type[nn.Module], options: dict | None, **given) -> nn.Module:
        """One part from its options, which are noted in the configuration with the defaults filled in."""
        options = options or {}
        possible = {name: p.default for name, p in inspect.signature(cls).parameters.items() if name not in given}
        for key in options:
            if key not in possible:
                near = get_close_matches(key, possible, 1)
                hint = f'; did you mean {near[0]}?' if near else f'; possible are: {", ".join(possible) or "none"}.'
                raise ValueError(f"{part}_options: {cls.__name__} has no option '{key}'{hint}")
        if part != 'guide':  # a guide's options name files too; its weights are checked by their shapes and hashes
            self.config[f'{part}_options'] = possible | options
        return cls(**given, **options)

    def whole_state(self) -> dict[str, Tensor]:
        """The tensors of `state_dict`, and those of the frozen parts, which it leaves out."""
        state = dict(self.state_dict())
        for part in self.frozen_parts:
            state |= {f'{part}.{name}': tensor for name, tensor in self.get_submodule(part).state_dict().items()}
        return state

    def _load(self, path: str | Path, key: str) -> None:
        state = read_weights(path, key)
        told = '_extra_state' in state
        if not told:
            self._check_complete(state, f'{key}: {path}')
        try:
            self.load_state_dict(state, strict=told)
        except RuntimeError as error:  # torch's word for names and shapes that do not fit, a line each after the first
            problem = ' '.join(str(error).split('\n')[1].split())
            shown = problem if len(problem) < 200 else f'{problem[:200]} ...'
            raise ValueError(f'{key}: {path} does not fit this network: {shown}') from error
        except ValueError as error:
            raise ValueError(f'{key}: {path}: {error}') from error
        if not told:
            self.is_trained = True

    def _check_complete(self, state: dict[str, Tensor], name: str) -> None:
        own = self.whole_state().keys() - {'_extra_state'}
        if own != state.keys():
            foreign, lacking = sorted(state.keys() - own), sorted(own - state.keys())
            raise ValueError(
                f'{name} is not a checkpoint of Align-IQA, nor all the tensors of this network: it lacks {len(lacking)} of them'
                + (f', such as {lacking[0]}' if lacking else '')
                + (f', and has {len(foreign)} others, such as {foreign[0]}.' if foreign else '.')
            )

    def _check(self, image: Tensor, caption_list: list[str | None] | None) -> Tensor:
        if not self.is_trained and not self.training:
            raise RuntimeError(
                'this Align-IQA has no trained weights, so its scores would mean nothing: use pretrained=True for the model in '
                'the package, pretrained_model_path=FILE for one of your own, or train it.'
            )
        if self.training and torch.is_grad_enabled():
            self.is_trained = True
        if min(image.shape[-2:]) < MINIMUM_SIDE:
            raise ValueError(
                f'an image of {image.shape[-2]} x {image.shape[-1]} pixels is too small: {MINIMUM_SIDE} a side at least.'
            )
        if caption_list is not None and len(caption_list) != len(image):
            raise ValueError(f'caption_list has {len(caption_list)} prompts for {len(image)} images: give one for each.')
        return image.expand(-1, 3, -1, -1)

    def get_extra_state(self) -> Tensor:
        """What a checkpoint has to tell beside its tensors, as JSON in bytes (pyiqa takes every entry for a tensor)."""
        state = {
            'trained': self.is_trained,
            'network': self.config,
            'normalisation': self._normalisation(),
            'frozen': self.frozen_parts,
        }
        return torch.tensor(list(json.dumps(state, sort_keys=True).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        saved = read_extra_state(state)
        targets = saved['network'].pop('targets', 1)  # checkpoints of one target may not say so
        if targets < self.config['targets']:
            raise ValueError(f'the checkpoint is of a network with targets: {targets}, this one has {self.config["targets"]}.')
        saved['network']['targets'] = self.config['targets']  # `_take_first_targets` has left the others out
        for key in sorted(saved['network'].keys() | self.config.keys()):
            theirs, ours = saved['network'].get(key), self.config.get(key)
            if theirs != ours:
                raise ValueError(f'the checkpoint is of a network with {key}: {theirs}, this one has {ours}.')
        for part, digest in saved['frozen'].items():
            if self.frozen_parts.get(part) != digest:
                raise ValueError(
                    f'the checkpoint was trained on other frozen weights in {part} (sha256 {digest[:12]}, here '
                    f'{self.frozen_parts.get(part, "none")[:12]}): give the same weights that it was trained with.'
                )
        if saved.get('normalisation', self._normalisation()) != self._normalisation():
            raise ValueError(
                f'the checkpoint is of a network that normalises images by {saved["normalisation"]}, this one by '
                f"{self._normalisation()}: give the backbone's whole name, with its tag."
            )
        self.is_trained = saved['trained']

    def _normalisation(self) -> list[list[float]]:
        return [self.backbone.mean.flatten().tolist(), self.backbone.std.flatten().tolist()]


def _check_names(**choices: str) -> None:
    tables = {
        'guide': ['none', *GUIDES],
        'injection': ['none', *INJECTIONS],
        'aggregation': list(AGGREGATIONS),
        'head': list(HEADS),
    }
    for key, possible in tables.items():
        if choices[key] not in possible:
            raise ValueError(f"{key} '{choices[key]}' is not possible; possible are: {', '.join(possible)}.")
    if (choices['guide'] == 'none') != (choices['injection'] == 'none'):
        raise ValueError(
            f"guide '{choices['guide']}' with injection '{choices['injection']}' is not possible: either both are 'none', or "
            f'a guide ({", ".join(GUIDES)}) goes with an injection ({", ".join(INJECTIONS)}).'
        )


def _backbone_state(backbone: str, weights: str) -> dict[str, Tensor] | None:
    if weights in ('hub', 'random'):
        return None
    if weights != 'packaged':
        return read_weights(weights, 'backbone_weights')
    if backbone.split('.')[0] != PACKAGED_BACKBONE:
        raise ValueError(
            f"backbone_weights 'packaged' are those of {PACKAGED_BACKBONE}, not of {backbone}: give 'hub', 'random' or a file."
        )
    return read_weights(PACKAGED_BACKBONE_FILE, 'backbone_weights')


def _frozen_modules(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The largest submodules that hold parameters of which none is trained."""
    found = []
    for name, module in network.named_modules():
        parameters = list(module.parameters())
        inside = any(name.startswith(f'{outer}.') for outer, _ in found)
        if name and parameters and not inside and not any(p.requires_grad for p in parameters):
            found.append((name, module))
    return found


def _is_frozen(network: AlignIQA, key: str, prefix: str = '') -> bool:
    return any(key.startswith(f'{prefix}{part}.') for part in network.frozen_parts)


def _take_first_targets(network: AlignIQA, state: dict, prefix: str, *_) -> None:
    """A checkpoint of more targets than the network has gives the first ones: so one of several gives the main score."""
    extra_state = state.get(f'{prefix}_extra_state')
    saved = 0 if extra_state is None else read_extra_state(extra_state)['network'].get('targets', 1)
    ours = network.config['targets']
    if saved > ours:
        for name, own in network.head.state_dict(prefix=f'{prefix}head.').items():
            if name in state and state[name].ndim == own.ndim:
                pairs = zip(state[name].shape, own.shape, strict=True)
                state[name] = state[name][tuple(slice(ours if pair == (saved, ours) else None) for pair in pairs)]


def _drop_frozen(network: AlignIQA, state: dict, prefix: str, local_metadata: dict) -> None:
    """A checkpoint holds what was trained; the frozen parts are named by their hash."""
    for key in [key for key in state if _is_frozen(network, key, prefix)]:
        del state[key]


def _take_frozen(network: AlignIQA, state: dict, prefix: str, *_) -> None:
    """A frozen part that the state holds, which is loaded now, counts by its own hash from here on."""
    for part in network.frozen_parts:
        own = network.get_submodule(part).state_dict()
        held = {name: state[f'{prefix}{part}.{name}'] for name in own if f'{prefix}{part}.{name}' in state}
        if held and held.keys() != own.keys():
            raise ValueError(f'the checkpoint holds {len(held)} of the {len(own)} tensors of {part}: all or none are needed.')
        if held:
            network.frozen_parts[part] = state_digest({name: tensor.to(own[name].dtype) for name, tensor in held.items()})


def _allow_frozen(network: AlignIQA, incompatible) -> None:
    missing = [key for key in incompatible.missing_keys if not _is_frozen(network, key)]
    incompatible.missing_keys[:] = missing
