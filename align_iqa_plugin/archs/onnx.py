"""A network as an ONNX model that takes images of any size, as many as wanted."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.msfa import pool_stages
from align_iqa_plugin.archs.views import MINIMUM_SIDE, centre
from align_iqa_plugin.runtime.quiet import without_line

# onnxscript's optimizer on each Split of constants, which stays as it is
SPLIT_STAYS = 'onnxscript.optimizer._constant_folding', 'Skipping constant folding for op Split'
EXAMPLE = (2, 3, 200, 256)  # any images: the model is not bound to their size


def onnx_model(network: AlignIQA, metadata: Mapping[str, str]) -> bytes:
    """The content of an .onnx file: `image` (b, 3, h, w), RGB in [0, 1], to `score` (b, k), higher is better.

    Height and width are free, and at least `MINIMUM_SIDE`. The model resizes and normalises as the network does. Values outside
    [0, 1] are limited, without a warning.

    Args:
        network: trained, of a guide that reads no prompts, if any.
        metadata: what the file says about itself, by key.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    import onnxscript

    operators: Any = onnxscript.opset18

    def rounded(value: Any, digits: None = None) -> Any:
        return operators.Cast(operators.Round(value), to=7)  # 64-bit integers

    dimension = torch.export.Dim
    free = {0: dimension('batch'), 2: dimension('height', min=MINIMUM_SIDE), 3: dimension('width', min=MINIMUM_SIDE)}
    with warnings.catch_warnings(), without_line(*SPLIT_STAYS):
        warnings.simplefilter('ignore')  # of torch, about its own
        program = torch.export.export(
            _AnySize(network).eval(), (torch.zeros(EXAMPLE),), dynamic_shapes={'image': free}, strict=False
        )
        # sizes of the windows that are pooled are rounded, which torch does not translate itself
        onnx_program: Any = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            input_names=['image'],
            output_names=['score'],
            custom_translation_table={round: rounded},
        )
    model = onnx_program.model_proto
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


class _AnySize(nn.Module):
    """A network whose resizing depends on the size of the images by operations on tensors, so that it can be traced."""

    def __init__(self, network: AlignIQA):
        super().__init__()
        self.network = network

    def forward(self, image: Float[Tensor, 'b 3 h w']) -> Float[Tensor, 'b k']:
        image = image.clamp(0, 1)
        views = [image, centre(image)][: self.network.views]
        guided, plain = views[: self.network.guided_views], views[self.network.guided_views :]
        vectors = [self.network.msfa(*self._stages(view, self.network.guide, self.network.injection)) for view in guided]
        return self.network.head(torch.cat(vectors + [pool_stages(*self._stages(view)) for view in plain], 1))

    def _stages(self, image: Tensor, guide: nn.Module | None = None, injection: nn.ModuleDict | None = None) -> Any:
        backbone, guidance = self.network.backbone, guide(image, None) if guide else None
        rows, columns = self._patches(image)
        size = [rows * backbone.patch_size, columns * backbone.patch_size]
        view = F.interpolate(image, size=size, mode='bicubic', antialias=True, align_corners=False).clamp(0, 1)
        tokens = backbone.embed((view - backbone.mean) / backbone.std)
        return backbone.stages_from({-1: tokens}, (rows, columns), injection, guidance)

    def _patches(self, image: Tensor) -> tuple[int, int]:
        """Rows and columns of patches that `backbone.view_size` gives."""
        backbone = self.network.backbone
        side = backbone.input_size / backbone.patch_size
        height, width = (torch.scalar_tensor(length, dtype=torch.float64) for length in image.shape[-2:])
        rows, columns = height / backbone.patch_size, width / backbone.patch_size
        kept = (rows % 1 == 0) & (columns % 1 == 0)
        kept = kept & ((rows - 0.5) * (columns - 0.5) <= side**2) & (side**2 <= (rows + 0.5) * (columns + 0.5))
        aspect, most = (height / width).sqrt(), int(side) ** 2
        counts = []
        for given, wanted in ((rows, side * aspect), (columns, side / aspect)):
            count: Any = torch.where(kept, given, wanted.round().clamp(1, most)).long().item()  # symbolic, so no int()
            torch._check(count >= 1)
            torch._check(count <= 2 * most)
            counts.append(count)
        return counts[0], counts[1]
