"""Images that carry their prompts, for callers that hand on nothing but the images.

pyiqa's `benchmark_results.py` calls ``metric(batch['img'])``: what a network should know of an image has to travel inside that
tensor, through the loader's workers, its collation, pinned memory and the way to the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

IMAGE_DIMENSIONS, BATCH_DIMENSIONS = 3, 4

KEEP_IMAGES = {
    Tensor.clone,
    Tensor.contiguous,
    Tensor.cpu,
    Tensor.cuda,
    Tensor.detach,
    Tensor.float,
    Tensor.half,
    Tensor.pin_memory,
    Tensor.to,
}
"""What gives the same images in the same order, elsewhere or in another type."""


class PromptedTensor(Tensor):
    """An image (c, h, w) with its prompt, or a batch of images (b, c, h, w) with a prompt for each.

    The prompts stay with it through `KEEP_IMAGES`, pickling, and `torch.stack` of such images in the first dimension. The
    result of any other operation is a plain tensor; and when the images themselves are changed in place, whether here or
    through a view, they have no prompts any more: there is no operation after which an image has another's. Writing to the
    same memory that torch does not count (`.data[...] =`, `.numpy()[...] =`, a `copy.copy` of a view) is not noticed.

    Args:
        images: (c, h, w) or (b, c, h, w), of any type; it shares its memory.
        prompts: one for each image, '' where there is none.

    Raises:
        ValueError: another number of prompts than of images, or a tensor of another shape.
    """

    _prompts: tuple[str, ...] = ()
    _state: tuple | None = None

    @staticmethod
    def __new__(cls, images: Tensor, prompts: Sequence[str]):
        if images.ndim not in (IMAGE_DIMENSIONS, BATCH_DIMENSIONS):
            raise ValueError(f'images are (c, h, w) or (b, c, h, w), not {tuple(images.shape)}.')
        count = 1 if images.ndim == IMAGE_DIMENSIONS else len(images)
        if isinstance(prompts, str) or len(prompts) != count:
            given = 'a single text' if isinstance(prompts, str) else f'{len(prompts)} of them'
            raise ValueError(f'prompts is a list with one prompt for each of the {count} images, not {given}.')
        if images.is_inference():  # torch does not count its changes
            with torch.inference_mode(False), torch.no_grad():
                images = images.clone()
        carrier = images.as_subclass(cls)
        carrier._prompts, carrier._state = tuple(prompts), _state(carrier)
        return carrier

    @property
    def prompts(self) -> list[str] | None:
        """One for each image, or None where the images have been changed since they got them."""
        return list(self._prompts) if self._state is not None and self._state == _state(self) else None

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **(kwargs or {}))
            prompts = None
            if function in KEEP_IMAGES and isinstance(args[0], cls) and result is not args[0]:
                prompts = args[0].prompts
            elif function is torch.stack:
                prompts = _prompts_of_stack(*args, **(kwargs or {}))
            return result if prompts is None else cls(result, prompts)

    def __deepcopy__(self, memo):
        return self.clone()

    def __reduce_ex__(self, protocol):
        # the plain tensor takes the way of its own, which between processes is shared memory
        return _restored, (self.as_subclass(Tensor), self.prompts)


def split_prompts(images: Tensor) -> tuple[Tensor, list[str] | None]:
    """The images as a plain tensor, and the prompts that they carry, one for each, or None."""
    if not isinstance(images, PromptedTensor):
        return images, None
    return images.as_subclass(Tensor), images.prompts


def _prompts_of_stack(tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor | None = None) -> list[str] | None:
    """Those of a batch that `torch.stack`, with the same arguments, makes of single images."""
    carried = [image.prompts if isinstance(image, PromptedTensor) else None for image in tensors]
    if dim != 0 or None in carried or tensors[0].ndim != IMAGE_DIMENSIONS:
        return None
    return [prompt for prompts in carried if prompts for prompt in prompts]


def _restored(images: Tensor, prompts: list[str] | None) -> Tensor:
    return images if prompts is None else PromptedTensor(images, prompts)


def _state(images: Tensor) -> tuple:
    """What any change in place that torch sees makes another: the count of changes, the memory, and how it is laid out."""
    with torch._C.DisableTorchFunctionSubclass():
        return images._version, images.data_ptr(), tuple(images.shape), images.stride(), images.dtype
