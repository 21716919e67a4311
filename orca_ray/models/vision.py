"""Bodies for images: Hugging Face ViT, DeiT, DINOv2 (with or without registers) and Swin."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.errors import UserError
from orca_ray.models.body import Layout, Stem

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class ImageStem(Stem):
    """Patch embedding, the norm after it, prefix tokens (CLS, registers) and the grid of positions."""

    def __init__(
        self,
        projection: nn.Conv2d,
        norm: nn.Module,
        prefix: Tensor,
        places: Tensor | None,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        antialias: bool = False,
    ) -> None:
        """Take the patch convolution, the norm, ``prefix`` [P, D] with its positions added, ``places`` [gh, gw, D].

        ``statistics`` are mean and standard deviation per colour of the pixels the body was pretrained on;
        ``antialias`` says whether the body's own code smooths positions when it shrinks their grid.
        """
        super().__init__()
        kernel_height, kernel_width = (int(size) for size in projection.kernel_size)
        if kernel_height != kernel_width or projection.stride != projection.kernel_size:
            raise UserError(f"patches must be square and not overlap, this body's are {projection}")
        self.kernel = nn.Parameter(projection.weight.detach(), requires_grad=False)
        bias = projection.bias
        zeros = torch.zeros(projection.out_channels)
        self.bias = nn.Parameter(zeros if bias is None else bias.detach(), requires_grad=False)
        self.norm = norm.requires_grad_(False)
        self.prefix = nn.Parameter(prefix.detach(), requires_grad=False)
        self.places = None if places is None else nn.Parameter(places.detach(), requires_grad=False)
        self.patch_size = kernel_height
        self.width = projection.out_channels
        self.image_mean, self.image_std = statistics
        self._antialias = antialias

    def positions(self, layout: Layout) -> Tensor | None:
        """Positions of a grid ``(gh, gw)``, [gh * gw, D], bicubically interpolated as the body's own library does."""
        if self.places is None:
            return None
        if tuple(layout) == tuple(self.places.shape[:2]):
            return self.places.flatten(0, 1)
        table = self.places.permute(2, 0, 1)[None]
        resized = F.interpolate(table, size=tuple(layout), mode="bicubic", antialias=self._antialias)
        return resized[0].flatten(1).T

    def embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        """Embed normalised RGB images [B, 3, H, W] as the pretrained body does, [B, T, D]; T counts the prefix."""
        patches = F.conv2d(pixels_BCHW, self.kernel, self.bias, stride=self.patch_size)
        tokens = self.norm(patches.flatten(2).transpose(1, 2))
        places = self.positions((patches.shape[2], patches.shape[3]))
        tokens = tokens if places is None else tokens + places
        return torch.cat((self.prefix.expand(tokens.shape[0], -1, -1), tokens), dim=1)

    def token_rms(self) -> float:
        """Root mean square of patch tokens, before norm and positions, over grey images with a natural spectrum.

        Pretrained kernels answer white noise twice as strongly as photographs (vit-s14: 0.28 against 0.14; here 0.15).
        """
        patches = F.conv2d(
            natural_noise(8, 8 * self.patch_size).expand(-1, 3, -1, -1), self.kernel, self.bias, self.patch_size
        )
        return float(patches.square().mean().sqrt())


def natural_noise(num_images: int, size: int) -> Tensor:
    """Grey random images [N, 1, size, size] of mean 0 and variance 1 with a natural spectrum; always the same ones.

    The amplitude falls as f^-1.2, the average over natural scenes (Tolhurst, Tadmor and Chao 1992).
    """
    generator = torch.Generator().manual_seed(0)
    white = torch.fft.fft2(torch.randn(num_images, 1, size, size, generator=generator))
    rows = torch.fft.fftfreq(size)[:, None]
    frequency = (rows.square() + torch.fft.fftfreq(size)[None].square()).sqrt()
    images: Tensor = torch.fft.ifft2(white / frequency.clamp_min(1 / size) ** 1.2).real
    standardised: Tensor = (images - images.mean()) / images.std()
    return standardised
