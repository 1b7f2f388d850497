"""The plain pre-trained ViT, run block by block so that guidance can enter before any block. The only file that knows timm.

Align-IQA keeps a general-purpose plain ViT (paper, appendix 1.2) and cuts it into stages of equal depth (appendix, figure 2 b).
That the ViT is frozen, and how an image of any size becomes its input, is our choice: see `GuidedViT.view`.
"""

from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn


class GuidedViT(nn.Module):
    """A ViT of timm that yields the output of every stage.

    Args:
        name: any plain ViT that `timm.list_models` names.
        stages: number of stages of equal depth, 1 to the number of blocks.
        input_size: side in pixels of the square whose area every image is resized to.
        frozen: no gradient for its parameters; it stays in eval mode in training, whatever `train()` is told.
        pretrained: take the weights from timm's hub.
        state: weights instead, in any form that timm's own converter for ViTs reads.

    Raises:
        ValueError: no such model, not a plain ViT, or weights that do not fit it.
        RuntimeError: timm's hub cannot be reached.
    """

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
        self.vit = _create_vit(name, input_size, pretrained)
        if state is not None:
            _load_vit(self.vit, name, state)
        self.width: int = self.vit.embed_dim
        depth = len(self.vit.blocks)
        if not 1 <= stages <= depth:
            raise ValueError(f'stages={stages} is not possible: {name} has {depth} blocks, so 1 to {depth} stages.')
        self.stage_ends = [round(depth * (i + 1) / stages) - 1 for i in range(stages)]
        self.input_size = input_size
        self.patch_size: int = self.vit.patch_embed.patch_size[0]
        self.frozen = frozen
        self.register_buffer('mean', torch.tensor(self.vit.pretrained_cfg['mean']).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(self.vit.pretrained_cfg['std']).view(1, 3, 1, 1), persistent=False)
        if frozen:
            self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> 'GuidedViT':
        """A frozen ViT stays in eval mode: no dropout, no moving statistics."""
        return super().train(mode and not self.frozen)

    def view(self, image: Float[Tensor, 'b 3 h w']) -> Float[Tensor, 'b 3 h2 w2']:
        """What the ViT sees of an image in [0, 1]: the whole image, resized (bicubic, antialiased) to the area of
        input_size x input_size with its aspect ratio kept to the nearest whole patch, and normalised as in pre-training.
        A square image becomes input_size x input_size; other shapes take resampled position embeddings.
        """
        return (resize(image, view_size(*image.shape[-2:], self.input_size, self.patch_size)) - self.mean) / self.std

    def grid(self, image: Float[Tensor, 'b 3 h w']) -> tuple[int, int]:
        """Rows and columns of patches that `view` cuts the image into."""
        height, width = view_size(*image.shape[-2:], self.input_size, self.patch_size)
        return height // self.patch_size, width // self.patch_size

    def embed(self, view: Float[Tensor, 'b 3 h w']) -> Float[Tensor, 'b n d']:
        """Prefix tokens (class, registers) and patch tokens as they enter the first block."""
        vit = self.vit
        return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(view))))

    def forward(
        self,
        tokens: Float[Tensor, 'b n d'],
        inject: Callable[[int, Tensor], Tensor],
        *,
        start: int = 0,
        stop: int | None = None,
    ) -> tuple[list[Float[Tensor, 'b m d']], Float[Tensor, 'b m d']]:
        """Run blocks `start` to `stop` (not included).

        Args:
            tokens: what enters block `start`.
            inject: called as ``inject(block, tokens)`` before each block; returns the tokens that enter it.

        Returns:
            the outputs of the stages that end in that range, and what leaves the last block.
        """
        outputs = []
        for index in range(start, len(self.vit.blocks) if stop is None else stop):
            tokens = self.vit.blocks[index](inject(index, tokens))
            if index in self.stage_ends:
                outputs.append(tokens)
        return outputs, tokens

    def to_map(
        self, tokens: Float[Tensor, 'b n d'], grid: tuple[int, int]
    ) -> tuple[Float[Tensor, 'b d'], Float[Tensor, 'b d h2 w2']]:
        """Split a stage's output into its class token (the mean patch token where a ViT has none) and its map.

        Tokens that an injection appended after the patches are left out. The one place between tokens and maps.
        """
        rows, columns = grid
        prefix = self.vit.num_prefix_tokens
        patches = tokens[:, prefix : prefix + rows * columns]
        summary = tokens[:, 0] if self.vit.has_class_token else patches.mean(1)
        return summary, rearrange(patches, 'b (h w) d -> b d h w', h=rows, w=columns)


def view_size(height: int, width: int, input_size: int, patch_size: int) -> tuple[int, int]:
    """Height and width in pixels of the view of an image: the area of input_size x input_size, in whole patches.

    As near to the image's aspect ratio as whole patches allow. What is a view already stays as it is.
    """
    side = input_size / patch_size
    rows, columns = height / patch_size, width / patch_size
    # the sizes that the rounding below can give: without this, a view of 15 x 14 patches would get one of 14 x 14
    if rows % 1 == columns % 1 == 0 and (rows - 0.5) * (columns - 0.5) <= side**2 <= (rows + 0.5) * (columns + 0.5):
        return height, width
    aspect = (height / width) ** 0.5
    most = int(side) ** 2  # a ribbon of an image keeps one row of patches, and no more patches than a square
    rows, columns = (min(max(round(sides), 1), most) for sides in (side * aspect, side / aspect))
    return rows * patch_size, columns * patch_size


def resize(image: Float[Tensor, 'b 3 h w'], size: tuple[int, int]) -> Float[Tensor, 'b 3 h2 w2']:
    """An image in [0, 1] at another height and width, bicubic and antialiased; the same image where it has them."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, size=tuple(size), mode='bicubic', antialias=True, align_corners=False).clamp(0, 1)


def _create_vit(name: str, input_size: int, pretrained: bool) -> VisionTransformer:
    if not timm.is_model(name.split('.')[0]):
        near = timm.list_models(f'*{name.split(".")[0]}*')[:5] or ['vit_tiny_patch16_224', 'vit_base_patch16_224']
        raise ValueError(f"timm knows no backbone '{name}'; possible are plain ViTs such as {', '.join(near)}.")
    try:
        vit = timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=input_size, dynamic_img_size=True)
    except TypeError:  # another family, whose constructor has no img_size or dynamic_img_size
        vit = None
    except (OSError, RuntimeError) as error:  # huggingface_hub and timm raise both, with and without a network
        if not pretrained:
            raise
        raise RuntimeError(
            f"the weights of backbone '{name}' cannot be had from timm's hub ({type(error).__name__}): give a local file "
            'as backbone_weights: FILE, or connect to the hub once so that they are cached.'
        ) from error
    if type(vit) is not VisionTransformer:
        raise ValueError(f"backbone '{name}' is not a plain ViT of timm; possible are its vit_*, deit_* and similar.")
    return vit


def _load_vit(vit: VisionTransformer, name: str, state: dict[str, Tensor]) -> None:
    state = checkpoint_filter_fn(dict(state), vit)
    state = {key: value for key, value in state.items() if not key.startswith(('head.', 'fc_norm.'))}
    own = vit.state_dict()
    lacking = sorted(own.keys() - state.keys())
    wrong = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    unknown = sorted(state.keys() - own.keys())
    for problem, keys in (('lack', lacking), ('have another shape for', wrong), ('have beyond it', unknown)):
        if keys:
            raise ValueError(
                f"the weights given for backbone '{name}' {problem} {len(keys)} of its tensors, for example {keys[0]}: "
                'are they of another model?'
            )
    vit.load_state_dict(state)
