"""The plain pre-trained ViT, cut into stages, with guidance injected before its blocks. The only file that knows timm.

Align-IQA keeps a general-purpose plain ViT (paper, appendix 1.2) and cuts it into stages of equal depth (appendix, figure 2 b).
Freezing the ViT, and turning an image of any size into its input, are our choices: see `GuidedViT.preprocess`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import timm
import torch
from einops import rearrange
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from align_iqa_plugin.archs.views import resize, view_size
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.names import suggest

Count = int | torch.SymInt  # of patches; symbolic while torch exports a network

_unfilled: ContextVar[bool] = ContextVar('unfilled', default=False)


class GuidedViT(nn.Module):
    """A plain ViT of timm that gives the output of every stage.

    Args:
        name: a plain ViT by timm's name.
        stages: number of stages of equal depth, 1 to the number of blocks.
        input_size: side in pixels of the square whose area every image is resized to.
        frozen: no gradient for its parameters; it stays in eval mode, also in training.
        pretrained: take the weights from timm's hub.
        state: weights instead, in any form that timm's own converter for ViTs reads.

    Raises:
        ValueError: no such model, not a plain ViT, or weights that do not fit it.
        RuntimeError: timm's hub cannot be reached.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        name: str,
        stages: int,
        input_size: int,
        frozen: bool,
        pretrained: bool = False,
        state: dict[str, Tensor] | None = None,
    ):
        super().__init__()
        unfilled = _unfilled.get() and not pretrained
        self.vit = _create_unfilled_vit(name, input_size) if unfilled else _create_vit(name, input_size, pretrained)
        if state is not None:
            _load_vit(self.vit, name, state)
        self.width: int = self.vit.embed_dim
        depth = len(self.vit.blocks)
        if not 1 <= stages <= depth:
            raise ValueError(f'stages is {stages}, but {name} has {counted(depth, "block")}: choose from 1 to {depth}.')
        self.stage_ends = [round(depth * (i + 1) / stages) - 1 for i in range(stages)]
        self.input_size = input_size
        self.patch_size: int = self.vit.patch_embed.patch_size[0]
        self.frozen = frozen
        config: Any = self.vit.pretrained_cfg
        self.register_buffer('mean', torch.tensor(config['mean']).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(config['std']).view(1, 3, 1, 1), persistent=False)
        if frozen:
            self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> 'GuidedViT':
        """A frozen ViT stays in eval mode: no dropout, no moving statistics."""
        return super().train(mode and not self.frozen)

    def forward(
        self,
        image: Float[Tensor, 'b 3 h w'],
        injection: nn.ModuleDict | None = None,
        guidance: Float[Tensor, 'b g e'] | None = None,
    ) -> tuple[list[Float[Tensor, 'b d']], list[Float[Tensor, 'b d h2 w2']]]:
        """Class token and map of every stage, shallow to deep.

        Args:
            image: RGB in [0, 1].
            injection: layers by the number of the block that each enters before, called as ``layer(tokens, guidance)``.
            guidance: what the layers inject.
        """
        pixels = self.preprocess(image)
        if not injection:
            outputs: list[Any] = self.vit.forward_intermediates(  # type: ignore[assignment]  # its form depends on the arguments
                pixels, indices=self.stage_ends, return_prefix_tokens=True, intermediates_only=True
            )
            if not self.vit.num_prefix_tokens:  # then timm returns the maps alone
                return [stage_map.mean((-2, -1)) for stage_map in outputs], outputs
            return [self._class_token(prefix, stage_map) for stage_map, prefix in outputs], [output[0] for output in outputs]
        return self.forward_from({-1: self.embed(pixels)}, image.shape[-2:], injection, guidance)

    def forward_from(
        self,
        outputs: Mapping[int, Float[Tensor, 'b n d']],
        size: Sequence[int],
        injection: nn.ModuleDict | None,
        guidance: Float[Tensor, 'b g e'] | None,
    ) -> tuple[list[Float[Tensor, 'b d']], list[Float[Tensor, 'b d h2 w2']]]:
        """As `forward`, from the outputs of the first blocks, which no guidance has reached.

        Args:
            outputs: by the number of the block, -1 for the embedding: those at the ends of stages, and the last one.
            size: height and width of the images, in pixels.
        """
        height, width = size
        rows, columns = (side // self.patch_size for side in view_size(height, width, self.input_size, self.patch_size))
        return self.stages_from(outputs, (rows, columns), injection, guidance)

    def stages_from(
        self,
        outputs: Mapping[int, Float[Tensor, 'b n d']],
        grid: tuple[Count, Count],
        injection: nn.ModuleDict | None,
        guidance: Float[Tensor, 'b g e'] | None,
    ) -> tuple[list[Float[Tensor, 'b d']], list[Float[Tensor, 'b d h2 w2']]]:
        """As `forward_from`, where the rows and columns of patches are known."""
        last = max(outputs)
        stages = [self.split_tokens(outputs[end], grid) for end in self.stage_ends if end <= last]
        tokens = outputs[last]
        for index, block in enumerate(self.vit.blocks):
            if index <= last:
                continue
            if injection and str(index) in injection:
                tokens = injection[str(index)](tokens, guidance)
            tokens = block(tokens)
            if index in self.stage_ends:
                stages.append(self.split_tokens(tokens, grid))
        return [class_token for class_token, _ in stages], [stage_map for _, stage_map in stages]

    def trunk_blocks(self, injection: nn.ModuleDict | None) -> list[int]:
        """The blocks before the first injection, or all where there is none, whose outputs `forward_from` needs."""
        first = min((int(block) for block in injection or ()), default=len(self.vit.blocks))
        return sorted({end for end in self.stage_ends if end < first} | {first - 1})

    def trunk(self, image: Float[Tensor, 'b 3 h w'], blocks: Sequence[int]) -> dict[int, Float[Tensor, 'b n d']]:
        """The outputs of blocks, -1 for the embedding, without any guidance."""
        tokens, outputs = self.embed(self.preprocess(image)), {}
        for index in range(-1, max(blocks) + 1):
            tokens = self.vit.blocks[index](tokens) if index >= 0 else tokens
            if index in blocks:
                outputs[index] = tokens
        return outputs

    def preprocess(self, image: Float[Tensor, 'b 3 h w']) -> Float[Tensor, 'b 3 h2 w2']:
        """The input of the ViT from an image in [0, 1]: the whole image, resized and normalised as in pre-training.

        It is resized (bicubic, antialiased) to the area of input_size x input_size, its aspect ratio kept to the nearest whole
        patch. A square image becomes input_size x input_size; for other shapes position embeddings are resampled.
        """
        size = view_size(image.shape[-2], image.shape[-1], self.input_size, self.patch_size)
        return ((resize(image, size) - self.mean) / self.std).to(self.mean.dtype)

    def embed(self, pixels: Float[Tensor, 'b 3 h w']) -> Float[Tensor, 'b n d']:
        """Prefix tokens (class, registers) and patch tokens as they enter the first block."""
        vit = self.vit
        return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(pixels))))

    def split_tokens(
        self, tokens: Float[Tensor, 'b n d'], grid: tuple[Count, Count]
    ) -> tuple[Float[Tensor, 'b d'], Float[Tensor, 'b d h2 w2']]:
        """Class token and map of rows x columns patches of a block's output; tokens appended after the patches are dropped."""
        rows, columns = grid
        count = self.vit.num_prefix_tokens
        patches = tokens[:, count : count + rows * columns]
        stage_map = rearrange(patches, 'b (h w) d -> b d h w', h=rows, w=columns).contiguous()  # as timm's
        return self._class_token(tokens[:, :count], stage_map), stage_map

    def _class_token(self, prefix: Float[Tensor, 'b p d'], stage_map: Float[Tensor, 'b d h w']) -> Float[Tensor, 'b d']:
        """The class token, or the mean patch token of a ViT that has none."""
        return prefix[:, 0] if self.vit.has_class_token else stage_map.mean((-2, -1))


@contextmanager
def unfilled_backbone() -> Iterator[None]:
    """Inside, a ViT is built without random weights, which take most of the time; its weights have to be loaded then.

    The random generator does not move, so that parts which are initialised after the ViT get other numbers for a seed: use it
    where those are loaded too.
    """
    token = _unfilled.set(True)
    try:
        yield
    finally:
        _unfilled.reset(token)


def _create_vit(name: str, input_size: int, pretrained: bool) -> VisionTransformer:
    if not timm.is_model(name.split('.')[0]):
        raise ValueError(f"unknown backbone '{name}'{suggest(name, timm.list_models('vit_*patch*'), limit=5)}")
    try:
        vit = timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=input_size, dynamic_img_size=True)
    except TypeError:  # another family, whose constructor has no img_size or dynamic_img_size
        vit = None
    except (OSError, RuntimeError) as error:  # huggingface_hub and timm raise both, with and without a network
        if not pretrained:
            raise
        raise RuntimeError(
            f"the weights of backbone '{name}' cannot be downloaded from timm's hub ({type(error).__name__}): give a local "
            'file as backbone_weights: FILE, or connect to the hub once so that they are cached.'
        ) from error
    if type(vit) is not VisionTransformer:
        raise ValueError(f"backbone '{name}' is not a plain ViT of timm: choose one of its vit_*, deit_* and similar models.")
    return vit


def _create_unfilled_vit(name: str, input_size: int) -> VisionTransformer:
    with torch.device('meta'):
        vit = _create_vit(name, input_size, pretrained=False)
    if any(True for _ in vit.buffers()):  # some may not be part of any weights
        return _create_vit(name, input_size, pretrained=False)
    return vit.to_empty(device='cpu')


def _load_vit(vit: VisionTransformer, name: str, state: dict[str, Tensor]) -> None:
    state = checkpoint_filter_fn(dict(state), vit)
    state = {key: value for key, value in state.items() if not key.startswith(('head.', 'fc_norm.'))}
    own = vit.state_dict()
    lacking = sorted(own.keys() - state.keys())
    wrong = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    unknown = sorted(state.keys() - own.keys())
    for problem, keys in (('missing', lacking), ('of another shape', wrong), ('unknown to it', unknown)):
        if keys:
            raise ValueError(
                f"the weights given for backbone '{name}' do not fit it: {counted(len(keys), 'tensor')} {problem}, for example "
                f'{keys[0]}. Are they of another model?'
            )
    vit.load_state_dict(state)
