"""What a network sees of images: RGB in [0, 1], the whole or the centre, resized. The sizes and the centre are our choices."""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.prompted_tensor import split_prompts

MINIMUM_SIDE = 32  # pixels
ROUNDING = 0.5 / 255  # half a level of 8 bits: what pixels may lie outside [0, 1] without a warning


def check_images(image: Tensor, caption_list: Sequence[str | None] | None) -> tuple[Tensor, Sequence[str | None] | None]:
    """RGB images as a plain tensor, and their prompts.

    Raises:
        ValueError: an image is too small, or the number of prompts is not that of the images.
    """
    image, carried = split_prompts(image)
    caption_list = carried if caption_list is None else caption_list
    if min(image.shape[-2:]) < MINIMUM_SIDE:
        height, width = image.shape[-2:]
        raise ValueError(f'an image of {height} x {width} pixels is too small: each side needs at least {MINIMUM_SIDE}.')
    if isinstance(caption_list, str):
        raise ValueError('caption_list is a single text: give a list with one prompt for each image.')
    if caption_list is not None and len(caption_list) != len(image):
        raise ValueError(
            f'caption_list has {counted(len(caption_list), "prompt")} for {counted(len(image), "image")}: give one for each.'
        )
    return image.expand(-1, 3, -1, -1), caption_list


def view_size(height: int, width: int, input_size: int, patch_size: int) -> tuple[int, int]:
    """Height and width in pixels that an image is resized to: the area of input_size x input_size, in whole patches.

    As near to the image's aspect ratio as whole patches allow. An image that has such a size already keeps it.
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


def centre(image: Float[Tensor, 'b 3 h w']) -> Float[Tensor, 'b 3 h2 w2']:
    """The central 7/16 of either side: of an image of 512 pixels a side the 224 that a ViT sees as they are.

    A share, and not a number of pixels, so that an image scores alike at every resolution.
    """
    for axis in (2, 3):
        side = image.shape[axis]
        length = (7 * side + 8) // 16  # rounded
        # not a slice: torch cannot export one whose ends depend on the size
        image = image.index_select(axis, torch.arange(length, device=image.device) + (side - length) // 2)
    return image


def resize(image: Float[Tensor, 'b 3 h w'], size: tuple[int, int]) -> Float[Tensor, 'b 3 h2 w2']:
    """An image in [0, 1] at another height and width, bicubic and antialiased; the same image where it has them."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return limit(F.interpolate(image, size=tuple(size), mode='bicubic', antialias=True, align_corners=False))


def to_unit_range(image: Shaped[Tensor, 'b c h w'], dtype: torch.dtype) -> Float[Tensor, 'b c h w']:
    """Images in [0, 1] and of this type, from floating-point ones, whose values outside are limited (`limit`).

    A warning says so where values lie outside by more than rounding: images in [-1, 1] or [0, 255] would get scores that mean
    nothing. A compiled network (torch.compile) cannot look at values, and warns of none.

    Raises:
        ValueError: the images are not of a floating-point type.
    """
    if not image.is_floating_point():
        raise ValueError(f'images are {image.dtype}, but have to be floating-point RGB in [0, 1]: divide uint8 images by 255.')
    image = image.to(dtype)
    if torch.compiler.is_compiling():
        return limit(image)
    low, high = image.detach().aminmax() if image.numel() else (0, 1)
    if low < -ROUNDING or high > 1 + ROUNDING:
        warnings.warn('images have values outside [0, 1], which are limited to it: check their range.', stacklevel=2)
    return limit(image) if low < 0 or high > 1 else image


def limit(image: Float[Tensor, 'b c h w']) -> Float[Tensor, 'b c h w']:
    """Values limited to [0, 1]; the gradient passes as if they were not, so that a loss can still move them.

    A clamp has no gradient outside, and resizing puts the pixels of a black image there by rounding.
    """
    return image + (image.clamp(0, 1) - image).detach()
