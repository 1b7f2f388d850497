"""Image tensors that carry their prompts, for callers that pass on nothing but the images.

pyiqa's `benchmark_results.py` calls ``metric(batch['img'])``: a prompt reaches the network only inside of that tensor, through
the loader's workers, collation, pinned memory and the copy to the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from align_iqa_plugin.runtime.counts import counted

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
"""Operations that return the same images in the same order, on another device or in another type."""


class PromptedTensor(Tensor):
    """An image (c, h, w) with its prompt, or a batch of images (b, c, h, w) with a prompt for each.

    The prompts survive `KEEP_IMAGES`, pickling, and `torch.stack` of single images in the first dimension. Any other operation
    returns a plain tensor, and images that are changed in place, here or through a view, lose their prompts: no image ever
    gets the prompt of another. Writes to the memory that torch does not count are not noticed (`.data[...] =`,
    `.numpy()[...] =`, a `copy.copy` of a view).

    Args:
        images: (c, h, w) or (b, c, h, w), of any type; the new tensor shares its memory.
        prompts: one for each image, '' where there is none.

    Raises:
        ValueError: the numbers of prompts and images differ, or the tensor has another shape.
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
            raise ValueError(f'prompts must be a list of {counted(count, "prompt")}, one for each image, not {given}.')
        if images.is_inference():  # torch does not count changes of such a tensor
            with torch.inference_mode(False), torch.no_grad():
                images = images.clone()
        carrier = images.as_subclass(cls)
        carrier._prompts, carrier._state = tuple(prompts), _state(carrier)
        return carrier

    @property
    def prompts(self) -> list[str] | None:
        """One prompt for each image, None if the images have been changed since."""
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
        # a plain tensor is passed between processes in shared memory
        return _restore, (self.as_subclass(Tensor), self.prompts)


def split_prompts(images: Tensor) -> tuple[Tensor, list[str] | None]:
    """The images as a plain tensor, and one prompt for each, or None if they carry none."""
    if not isinstance(images, PromptedTensor):
        return images, None
    return images.as_subclass(Tensor), images.prompts


def _prompts_of_stack(tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor | None = None) -> list[str] | None:
    """The prompts of the batch that `torch.stack` makes, None unless all are single images with prompts."""
    if dim != 0:
        return None
    prompts = []
    for image in tensors:
        carried = image.prompts if isinstance(image, PromptedTensor) and image.ndim == IMAGE_DIMENSIONS else None
        if carried is None:
            return None
        prompts += carried
    return prompts


def _restore(images: Tensor, prompts: list[str] | None) -> Tensor:
    return images if prompts is None else PromptedTensor(images, prompts)


def _state(images: Tensor) -> tuple:
    """What differs after any change in place that torch notices: the count of changes, the memory, and its layout."""
    with torch._C.DisableTorchFunctionSubclass():
        return images._version, images.data_ptr(), tuple(images.shape), images.stride(), images.dtype
