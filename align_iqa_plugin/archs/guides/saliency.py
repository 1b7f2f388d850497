"""Visual saliency as guidance: no prompt, no download, differentiable.

The paper guides natural images by visual-saliency features; which, its appendix does not say. Ours is the spectral residual
(Hou and Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007): what remains of an image's log amplitude
spectrum after its local mean is taken off, seen at several scales.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

GRID = 14  # guidance tokens a side: the patches of a 224 x 224 view with patches of 16


class SaliencyGuide(nn.Module):
    """Guidance tokens from the saliency of each patch.

    Args:
        dim: width of the guidance tokens.
        scales: side in pixels of the square gray images that saliency is computed on; Hou and Zhang use 64 and note that
            the scale decides which objects stand out, hence several.
    """

    reads_prompts = False

    def __init__(self, *, dim: int = 64, scales: Sequence[int] = (56, 112, 224)):
        super().__init__()
        self.dim = dim
        self.scales = tuple(scales)
        self.embed = nn.Linear(2 * len(scales), dim)
        self.position = nn.Parameter(torch.randn(1, GRID * GRID, dim) * 0.02)  # 0.02: timm's for position embeddings

    def forward(self, image: Float[Tensor, 'b 3 h w'], prompts: Sequence[str | None] | None) -> Float[Tensor, 'b g e']:
        """RGB in [0, 1] of any size to 14 x 14 guidance tokens; `prompts` are not used."""
        return self.embed(self.features(image)) + self.position

    def features(self, image: Float[Tensor, 'b 3 h w']) -> Float[Tensor, 'b g f']:
        """Mean and maximum of the saliency inside each of 14 x 14 patches, for every scale; zero-mean, unit-variance maps."""
        maps = []
        for scale in self.scales:
            saliency = spectral_residual(image, scale)
            maps += [F.adaptive_avg_pool2d(saliency, GRID), F.adaptive_max_pool2d(saliency, GRID)]
        return rearrange(torch.cat(maps, 1), 'b f h w -> b (h w) f')


def spectral_residual(image: Float[Tensor, 'b 3 h w'], scale: int) -> Float[Tensor, 'b 1 s s']:
    """Spectral-residual saliency map at `scale` x `scale` pixels, standardised per image (a flat image gives zeros)."""
    with torch.autocast(image.device.type, enabled=False):  # the FFT has no half precision
        gray = F.interpolate(image.float().mean(1, keepdim=True), size=(scale, scale), mode='bilinear', antialias=True)
        # without its mean and with a floor a flat image has no spectrum, and the logarithm a finite gradient
        spectrum = torch.fft.fft2(gray - gray.mean((-2, -1), keepdim=True))
        log_amplitude = 0.5 * torch.log(spectrum.real**2 + spectrum.imag**2 + 1e-4)
        local_mean = F.avg_pool2d(F.pad(log_amplitude, (1, 1, 1, 1), mode='circular'), 3, 1)
        phase = spectrum / torch.exp(log_amplitude)
        saliency = torch.fft.ifft2(torch.exp(log_amplitude - local_mean) * phase).abs() ** 2
        saliency = _gaussian(saliency, sigma=scale / 25)  # 2.5 pixels at the 64 of the paper
        centred = saliency - saliency.mean((-2, -1), keepdim=True)
        return centred / (centred.std((-2, -1), keepdim=True) + 1e-6)


def _gaussian(image: Float[Tensor, 'b 1 s s'], sigma: float) -> Float[Tensor, 'b 1 s s']:
    radius = int(2 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.softmax(-0.5 * (offsets / sigma) ** 2, 0)
    image = F.conv2d(F.pad(image, (radius, radius, 0, 0), mode='reflect'), kernel.view(1, 1, 1, -1))
    return F.conv2d(F.pad(image, (0, 0, radius, radius), mode='reflect'), kernel.view(1, 1, -1, 1))
