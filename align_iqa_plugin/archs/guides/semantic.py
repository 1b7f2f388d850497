"""Semantic guide: tokens that say how an image relates to its prompt, read from a frozen vision-language model (VLM).

Align-IQA (ACM MM 2024, DOI 10.1145/3664647.3681511). Its appendix says only that for AI-generated images the guidance
is an embedding of the visual-semantic relation from a VLM such as CLIP. Every equation below is our own design:

- v: feature of the image, v_i: feature of patch i, t: feature of the prompt; all in the VLM's joint space, of length 1.
  v_i is the VLM's last patch token, put through the same norm and projection as its class token.
- one token a patch: projections of v_i * t and of cos(v_i, t), all_reduce;
- three tokens for the whole image: projections of v * t, of |v - t|, and of level probabilities. The levels are a
  softmax over five texts that say how well the photo matches the prompt, an idea of IPCE (github.com/pf0607/IPCE).
- An image without prompt has a learned feature in the place of t, and its levels come from five texts about quality and
  from the antonyms "Good photo." / "Bad photo.", an idea of CLIP-IQA (AAAI 2023, arXiv:2207.12396).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.factory import load_state_dict
from torch import Tensor, nn

from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.names import suggest

# Worst to best.
MATCH_WORDS = ('badly', 'poorly', 'fairly', 'well', 'perfectly')
QUALITY_WORDS = ('bad', 'poor', 'fair', 'good', 'perfect')
QUALITY_ANTONYMS = ('Bad photo.', 'Good photo.')

# One prompt of a VLM with 512 features takes 12 KB: at most 50 MB.
CACHED_PROMPTS = 4096
# Texts encoded at once, so that a batch of new prompts cannot exhaust the memory.
TEXTS_AT_ONCE = 256


class SemanticGuide(nn.Module):
    """Guidance tokens from the relation between an image and its prompt in the joint space of a frozen open_clip model.

    Args:
        vlm: a name of ``open_clip.list_models()`` whose image tower is open_clip's own vision transformer.
        vlm_pretrained: name of the weights in ``open_clip.list_pretrained_tags_by_model(vlm)``. They are downloaded
            unless `vlm_weights` is given; the mean, the deviation and the activation that they were trained with are
            used in both cases. None, with `vlm_weights`: those that open_clip takes where nothing is said.
        vlm_weights: a local file with these weights, both towers, as open_clip's state dict: .safetensors, or
            .pt / .pth that holds plain tensors. 'random': none yet, as for a checkpoint that holds them itself.
        prompt_dropout: share of the prompts, 0 to 1, that are left out at random (torch's generator) in training mode.
        dim: width of the guidance tokens.

    Raises:
        ValueError: an unknown name, a tower of another kind, or a file that does not hold the weights of `vlm`.
        FileNotFoundError: no such file, or the weights cannot be downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        vlm: str = 'ViT-B-16-quickgelu',
        vlm_pretrained: str | None = 'openai',
        vlm_weights: str | None = None,
        prompt_dropout: float = 0.1,
        dim: int = 64,
    ):
        super().__init__()
        if not 0 <= prompt_dropout <= 1:
            raise ValueError(f'prompt_dropout is a share from 0 to 1, not {prompt_dropout}.')
        self.prompt_dropout = prompt_dropout
        self.dim = dim

        self.vlm: Any = _load_vlm(vlm, vlm_pretrained, vlm_weights).requires_grad_(False).eval()
        self.tokenizer = _load_tokenizer(vlm)
        mean, std = (torch.tensor(self.vlm.visual.preprocess_cfg[key]).view(3, 1, 1) for key in ('mean', 'std'))
        self.register_buffer('mean', mean, persistent=False)
        self.register_buffer('std', std, persistent=False)

        width = self.vlm.visual.output_dim
        self.null_text = nn.Parameter(torch.randn(width))
        self.patch_product = nn.Linear(width, dim)
        self.patch_cosine = nn.Linear(1, dim)
        self.image_product = nn.Linear(width, dim)
        self.image_difference = nn.Linear(width, dim)
        self.match_levels = nn.Linear(len(MATCH_WORDS), dim)
        self.quality_levels = nn.Linear(len(QUALITY_WORDS) + len(QUALITY_ANTONYMS), dim)

        # Text features by prompt, the longest unused first. They are dropped with other weights, device or dtype.
        self._text_cache: dict[str | None, Tensor] = {}
        self.vlm.register_load_state_dict_post_hook(self._forget_texts)

    def forward(self, image: Float[Tensor, 'b 3 h w'], prompts: Sequence[str | None] | None) -> Float[Tensor, 'b g dim']:
        """Guidance tokens: those of the VLM's patches, row by row, then v * t, |v - t| and the levels.

        Args:
            image: RGB in [0, 1], any size; it is resized to the VLM's input, without keeping its aspect. Gradients
                reach it.
            prompts: one prompt an image. None, an empty or a blank prompt means that there is none; None for the whole
                list that there is none at all. What goes beyond the VLM's context (CLIP: 77 tokens) is cut off.

        Returns:
            Tokens (b, number of patches + 3, dim), as many with a prompt as without; unbounded, no direction of better.

        Raises:
            ValueError: not one prompt an image.
            TypeError: a prompt that is neither a text nor None.
        """
        prompts = self._drop_prompts(_clean_prompts(prompts, len(image)))
        image_feature, patch_features = self._encode_image(image)
        *texts, quality_texts = self._encode_prompts([*prompts, None])
        has_prompt = torch.tensor([prompt is not None for prompt in prompts], device=image.device)[:, None]

        text_feature = torch.stack([features[0] for features in texts])
        text_feature = torch.where(has_prompt, text_feature, F.normalize(self.null_text, dim=0))

        # Entries of a random vector of length 1 are of the order 1 / scale, and so is the cosine of two such vectors:
        # with these factors all kinds enter their projections at the order of 1.
        scale = text_feature.shape[-1] ** 0.5
        patch_product = patch_features * text_feature[:, None]
        patch_cosine = patch_product.sum(-1, keepdim=True)
        image_product = image_feature * text_feature
        image_difference = (image_feature - text_feature).abs()

        level_texts = torch.stack([features[-len(MATCH_WORDS) :] for features in texts])
        levels = self._probabilities(image_feature, level_texts)
        antonyms = self._probabilities(image_feature, quality_texts[: len(QUALITY_ANTONYMS)])
        level_token = torch.where(
            has_prompt, self.match_levels(levels), self.quality_levels(torch.cat([levels, antonyms], dim=-1))
        )
        return torch.cat(
            [
                self.patch_product(patch_product * scale**2) + self.patch_cosine(patch_cosine * scale),
                self.image_product(image_product * scale**2)[:, None],
                self.image_difference(image_difference * scale)[:, None],
                level_token[:, None],
            ],
            dim=1,
        )

    def train(self, mode: bool = True) -> 'SemanticGuide':
        """Training mode for the projections and the prompts; the VLM stays in evaluation mode."""
        super().train(mode)
        self.vlm.eval()
        return self

    def _drop_prompts(self, prompts: list[str | None]) -> list[str | None]:
        if not self.training:
            return prompts
        dropped = (torch.rand(len(prompts)) < self.prompt_dropout).tolist()
        return [None if drop else prompt for prompt, drop in zip(prompts, dropped, strict=True)]

    def _encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features of length 1 in the joint space: of the image (b, c) and of its patches (b, n, c)."""
        visual = self.vlm.visual
        image = F.interpolate(
            image.to(self.mean.dtype), size=visual.image_size, mode='bicubic', align_corners=False, antialias=True
        )
        output = visual.forward_intermediates(
            (image - self.mean) / self.std, indices=1, normalize_intermediates=True, output_fmt='NLC'
        )
        # The tower's own last step, which open_clip applies to the pooled token alone.
        patch_features = output['image_intermediates'][-1] @ visual.proj
        # Autocast would leave too few digits for the softmax over levels, whose cosines differ in the third one.
        dtype = self.null_text.dtype
        return F.normalize(output['image_features'].to(dtype), dim=-1), F.normalize(patch_features.to(dtype), dim=-1)

    def _encode_prompts(self, prompts: list[str | None]) -> list[Tensor]:
        """For each prompt the features (k, c) of what `_texts` gives for it: of length 1, without gradient."""
        features = {prompt: self._text_cache.pop(prompt) for prompt in dict.fromkeys(prompts) if prompt in self._text_cache}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in features]
        if missing:
            features.update(zip(missing, self._encode_texts([_texts(prompt) for prompt in missing]), strict=True))
        self._text_cache.update((prompt, features[prompt]) for prompt in dict.fromkeys(prompts))
        while len(self._text_cache) > CACHED_PROMPTS:
            del self._text_cache[next(iter(self._text_cache))]
        return [features[prompt] for prompt in prompts]

    def _encode_texts(self, groups: list[list[str]]) -> list[Tensor]:
        device = self.null_text.device
        tokens = self.tokenizer([text for texts in groups for text in texts]).to(device)
        # The cache outlives this call: what it holds must depend neither on autocast nor on inference mode.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            encoded = torch.cat([self.vlm.encode_text(part, normalize=True) for part in tokens.split(TEXTS_AT_ONCE)])
            # A view would keep the features of the whole batch alive for as long as one of its prompts is cached.
            return [features.clone() for features in encoded.split([len(texts) for texts in groups])]

    def _probabilities(self, image_feature: Tensor, text_features: Tensor) -> Tensor:
        """Softmax (b, k) over k texts (k, c) or (b, k, c) with the VLM's own temperature."""
        return (self.vlm.logit_scale.exp() * (image_feature[:, None] * text_features).sum(-1)).softmax(-1)

    def _forget_texts(self, *_: Any) -> None:
        self._text_cache.clear()

    def _apply(self, fn: Any, recurse: bool = True) -> 'SemanticGuide':
        self._forget_texts()
        return super()._apply(fn, recurse)


def _clean_prompts(prompts: Sequence[str | None] | None, count: int) -> list[str | None]:
    if prompts is None:
        return [None] * count
    if isinstance(prompts, str) or len(prompts) != count:
        given = 'a single text' if isinstance(prompts, str) else f'{len(prompts)} of them'
        raise ValueError(f'prompts is a list of {counted(count, "prompt")} (or None), one for each image, not {given}.')
    for index, prompt in enumerate(prompts):
        if prompt is not None and not isinstance(prompt, str):
            raise TypeError(f'prompts[{index}] is {prompt!r}, which is neither a text nor None.')
    return [(prompt or '').strip() or None for prompt in prompts]


def _texts(prompt: str | None) -> list[str]:
    """What the VLM reads for a prompt: the last five texts are levels, worst to best."""
    if prompt is None:
        return [*QUALITY_ANTONYMS, *(f'a {word} photo' for word in QUALITY_WORDS)]
    return [prompt, *(f"a photo that {word} matches '{prompt}'" for word in MATCH_WORDS)]


def _load_vlm(vlm: str, vlm_pretrained: str | None, vlm_weights: str | None) -> Any:
    config = open_clip.get_model_config(vlm) if vlm in open_clip.list_models() else None
    if config is None:
        raise ValueError(f"unknown vlm '{vlm}'{suggest(vlm, open_clip.list_models())}")
    vision = config['vision_cfg']
    if vision.get('timm_model_name') or isinstance(vision.get('layers'), list) or vision.get('attentional_pool'):
        raise ValueError(
            f"The image tower of {vlm!r} gives no patch tokens in the joint space: set vlm to a model with open_clip's "
            'own vision transformer and no attentional pooling, for example ViT-B-16-quickgelu, ViT-B-32 or ViT-L-14.'
        )
    tags = open_clip.list_pretrained_tags_by_model(vlm)
    published = open_clip.get_pretrained_cfg(vlm, vlm_pretrained or '')
    # A file needs no published name, but a wrong one would bring a wrong mean, deviation or activation.
    if not published and not (vlm_weights and (vlm_pretrained is None or not tags)):
        choice = f'vlm_pretrained to one of {", ".join(tags)}, or vlm_pretrained to None and ' if tags else ''
        raise ValueError(
            f'open_clip has no weights named {vlm_pretrained!r} for {vlm!r}: '
            f'set {choice}vlm_weights to a local file with the weights.'
        )
    facts = {
        # of the published weights, which open_clip cannot know when it is given a file
        'force_preprocess_cfg': {key: published.get(key) for key in ('mean', 'std')},
        'force_quick_gelu': published.get('quick_gelu', False),
    }
    if vlm_weights == 'random':
        return open_clip.create_model(vlm, **facts)
    if vlm_weights and not Path(vlm_weights).is_file():
        raise FileNotFoundError(
            f'There is no file {str(vlm_weights)!r}: set vlm_weights to a file with the weights of {vlm!r}.'
        )
    try:
        return open_clip.create_model(
            vlm,
            # A whole path, since a bare file name may also be the name of published weights.
            pretrained=str(Path(vlm_weights).resolve()) if vlm_weights else vlm_pretrained,
            require_pretrained=True,
            **facts,
        )
    # open_clip, safetensors, torch and the hub share no class of errors, and each has many.
    except Exception as error:
        if vlm_weights:
            raise ValueError(_what_is_wrong(vlm_weights, vlm, vlm_pretrained)) from error
        raise FileNotFoundError(
            f'open_clip could not download and read the weights {vlm_pretrained!r} of {vlm!r}: without a network '
            f'set vlm_weights to a local file; {_recipe(vlm, vlm_pretrained)}.'
        ) from error


def _load_tokenizer(vlm: str) -> Any:
    try:
        return open_clip.get_tokenizer(vlm)
    except Exception as error:
        name = open_clip.get_model_config(vlm)['text_cfg'].get('hf_tokenizer_name')
        raise FileNotFoundError(
            f'{vlm!r} needs the tokenizer {name!r}, which could not be loaded: install transformers and download it '
            "once, or set vlm to a model with CLIP's own tokenizer, for example ViT-B-16-quickgelu."
        ) from error


def _what_is_wrong(vlm_weights: str, vlm: str, vlm_pretrained: str | None) -> str:
    """One sentence on a file that open_clip could not load."""
    try:
        names = list(load_state_dict(str(vlm_weights), weights_only=True))
    except Exception:
        return (
            f'{str(vlm_weights)!r} cannot be read: set vlm_weights to a .safetensors file, or a .pt / .pth file of '
            f'plain tensors, with the weights of {vlm!r}; {_recipe(vlm, vlm_pretrained)}.'
        )
    has_text_tower = any(name.startswith(('token_embedding.', 'text.', 'text_model.')) for name in names)
    if not has_text_tower and any(name in ('conv1.weight', 'visual.conv1.weight') for name in names):
        return (
            f'{str(vlm_weights)!r} holds an image tower alone, the text tower is missing: set vlm_weights to a file '
            f'with both; {_recipe(vlm, vlm_pretrained)}.'
        )
    return (
        f"{str(vlm_weights)!r} does not hold open_clip's state dict of {vlm!r}: set vlm to the model of that file, or "
        f'vlm_weights to another file; {_recipe(vlm, vlm_pretrained)}.'
    )


def _recipe(vlm: str, vlm_pretrained: str | None) -> str:
    return (
        'where there is a network such a file is made by '
        f"torch.save(open_clip.create_model('{vlm}', pretrained='{vlm_pretrained or 'NAME'}').state_dict(), 'vlm.pt')"
    )
