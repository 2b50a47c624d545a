"""The networks of the Oobleck autoencoder: strided convolutions with Snake activations.

Evans, Carr, Taylor, Hawley and Pons, "Fast timing-conditioned latent audio diffusion", 2024, section 3.1; the blocks
are those of Kumar et al., "High-fidelity audio compression with improved RVQGAN", 2023, section 3.1. Names of
parameters are those of diffusers' ``AutoencoderOobleck``.

Shape letters: B items, C channels, S samples at a layer's own rate, K kernel width. Time is the last dimension here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_KERNEL, _LATENT_KERNEL = 7, 3
_DILATIONS = (1, 3, 9)
_EPSILON = 1e-9  # beta is never less; part of the published activation


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero beyond an item's end, where a convolution alone would see its zero padding; ``mask (B, 1, S)``."""
    if mask is None:
        return x
    return x * mask if torch.is_grad_enabled() else x.mul_(mask)


# -- Snake ------------------------------------------------------------------------------------------------------------


def _snake(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    rising = (x * alpha.exp()).sin_().square_()
    return rising.mul_((beta.exp() + _EPSILON).reciprocal()).add_(x)


class _SnakeFunction(Function):
    """Keeps the input alone for the backward pass; autograd would keep four tensors of its size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha, beta)
        wide = torch.promote_types(x.dtype, torch.float32)
        return _snake(x.to(wide), alpha.to(wide), beta.to(wide)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, alpha, beta = ctx.saved_tensors
        wide = torch.promote_types(x.dtype, torch.float32)
        y, x_wide = gradient.to(wide), x.to(wide)
        frequency, divisor = alpha.to(wide).exp(), beta.to(wide).exp() + _EPSILON
        slope = torch.sin(2 * frequency * x_wide).mul_(frequency / divisor)  # of sin(ax)^2 / b
        along_x = torch.addcmul(y, y, slope)
        along_alpha = (y * slope).mul_(x_wide).sum((0, 2), keepdim=True)
        rising = torch.sin(frequency * x_wide).square_()
        along_beta = -(y * rising).sum((0, 2), keepdim=True) * (divisor - _EPSILON) / divisor**2
        return along_x.to(x.dtype), along_alpha.to(alpha.dtype), along_beta.to(beta.dtype)


class Snake(nn.Module):
    """``x + sin(a x)^2 / b`` with ``a = exp(alpha)``, ``b = exp(beta)`` per channel.

    Ziyin, Hartwig and Ueda 2020, equation 3, with the frequency and the amplitude apart (Lee et al. 2023, BigVGAN).
    Computed in float32, for a phase in bfloat16 is off by a whole turn from 256 on.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return _SnakeFunction.apply(x, self.alpha, self.beta)


# -- convolutions -----------------------------------------------------------------------------------------------------


class WeightNormConv(nn.Module):
    """A convolution whose weight is ``g * v / |v|`` (Salimans and Kingma 2016, equation 2), until it is fused.

    ``weight_g`` has one number per index of the weight's first dimension: per output channel, and per input channel
    where the convolution is transposed, as in torch's own weight normalisation. Parameters are left empty.
    """

    weight_g: nn.Parameter | None
    weight_v: nn.Parameter | None
    weight: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.dilation, self.padding = stride, dilation, padding
        shape = self._weight_shape(in_channels, out_channels, kernel)
        self.weight_g = nn.Parameter(torch.empty(shape[0], 1, 1))
        self.weight_v = nn.Parameter(torch.empty(shape))
        self.register_parameter("weight", None)
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None

    def _weight_shape(self, in_channels: int, out_channels: int, kernel: int) -> tuple[int, int, int]:
        return out_channels, in_channels, kernel

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def reset_parameters(self) -> None:
        """Uniform within the inverse root of the inputs of an output (LeCun 1998), torch's own for convolutions."""
        assert self.weight_g is not None and self.weight_v is not None, "a fused convolution is not trained"
        bound = 1 / math.sqrt(math.prod(self.weight_v.shape[1:]))
        with torch.no_grad():
            self.weight_v.uniform_(-bound, bound)
            self.weight_g.copy_(_norm(self.weight_v))
            if self.bias is not None:
                self.bias.uniform_(-bound, bound)

    def normalised(self) -> Tensor:
        """The weight that the convolution uses."""
        if self.weight is not None:
            return self.weight
        assert self.weight_g is not None and self.weight_v is not None
        return self.weight_v * (self.weight_g / _norm(self.weight_v))

    @torch.no_grad()
    def fuse(self) -> None:
        """Keep the normalised weight alone: half the memory, and no norm to compute in each call."""
        if self.weight is None:
            weight = nn.Parameter(self.normalised(), requires_grad=False)
            self.weight, self.weight_g, self.weight_v = weight, None, None

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.normalised(), self.bias, self.stride, self.padding, self.dilation)


def _norm(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)


class WeightNormConvTranspose(WeightNormConv):
    """``(B, C, S)`` to ``(B, C', stride * S)``.

    The published layer loses a sample where its stride is odd; here the last one is kept, and all others are the same.
    """

    def _weight_shape(self, in_channels: int, out_channels: int, kernel: int) -> tuple[int, int, int]:
        return in_channels, out_channels, kernel

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose1d(
            x, self.normalised(), self.bias, self.stride, self.padding, output_padding=self.stride % 2
        )


# -- blocks -----------------------------------------------------------------------------------------------------------


class ResidualUnit(nn.Module):
    """Snake, dilated convolution, Snake, convolution of width 1; added to the input."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.snake1 = Snake(channels)
        padding = (_KERNEL - 1) * dilation // 2
        self.conv1 = WeightNormConv(channels, channels, _KERNEL, dilation=dilation, padding=padding)
        self.snake2 = Snake(channels)
        self.conv2 = WeightNormConv(channels, channels, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return _masked(x + self.conv2(self.snake2(self.conv1(self.snake1(x)))), mask)


class EncoderBlock(nn.Module):
    """Three residual units, then ``stride`` times fewer samples."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.res_unit1, self.res_unit2, self.res_unit3 = (ResidualUnit(in_channels, d) for d in _DILATIONS)
        self.snake1 = Snake(in_channels)
        padding = math.ceil(stride / 2)
        self.conv1 = WeightNormConv(in_channels, out_channels, 2 * stride, stride=stride, padding=padding)

    def forward(self, x: Tensor, mask: Tensor | None, mask_after: Tensor | None) -> Tensor:
        for unit in (self.res_unit1, self.res_unit2, self.res_unit3):
            x = unit(x, mask)
        return _masked(self.conv1(self.snake1(x)), mask_after)


class DecoderBlock(nn.Module):
    """``stride`` times more samples, then three residual units."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.snake1 = Snake(in_channels)
        padding = math.ceil(stride / 2)
        self.conv_t1 = WeightNormConvTranspose(in_channels, out_channels, 2 * stride, stride=stride, padding=padding)
        self.res_unit1, self.res_unit2, self.res_unit3 = (ResidualUnit(out_channels, d) for d in _DILATIONS)

    def forward(self, x: Tensor, mask_after: Tensor | None) -> Tensor:
        x = _masked(self.conv_t1(self.snake1(x)), mask_after)
        for unit in (self.res_unit1, self.res_unit2, self.res_unit3):
            x = unit(x, mask_after)
        return x


Masks = Sequence[Tensor | None]
"""One per rate, from that of the waveform to that of the latent; None where items fill the tensor."""


class OobleckEncoder(nn.Module):
    """Waveforms ``(B, audio_channels, S)`` to ``(B, out_channels, T)``; S is a multiple of the strides' product."""

    def __init__(
        self, audio_channels: int, channels: int, out_channels: int, strides: Sequence[int], multiples: Sequence[int]
    ) -> None:
        super().__init__()
        widths = [channels, *(channels * multiple for multiple in multiples)]
        self.conv1 = WeightNormConv(audio_channels, channels, _KERNEL, padding=_KERNEL // 2)
        self.block = nn.ModuleList(
            EncoderBlock(before, after, stride)
            for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.snake1 = Snake(widths[-1])
        self.conv2 = WeightNormConv(widths[-1], out_channels, _LATENT_KERNEL, padding=_LATENT_KERNEL // 2)

    def forward(self, waveform: Tensor, masks: Masks) -> Tensor:
        with torch.autocast(waveform.device.type, enabled=False):  # what is quiet would drown in bfloat16
            x = _masked(self.conv1(waveform.to(self.conv1.dtype)), masks[0])
        for block, mask, mask_after in zip(self.block, masks[:-1], masks[1:], strict=True):
            x = block(x, mask, mask_after)
        return self.conv2(self.snake1(x)).float()


class OobleckDecoder(nn.Module):
    """Latents ``(B, C, T)`` to waveforms ``(B, audio_channels, S)``; strides and masks as the encoder has them."""

    def __init__(
        self, audio_channels: int, channels: int, in_channels: int, strides: Sequence[int], multiples: Sequence[int]
    ) -> None:
        super().__init__()
        widths = [channels, *(channels * multiple for multiple in multiples)][::-1]
        self.conv1 = WeightNormConv(in_channels, widths[0], _KERNEL, padding=_KERNEL // 2)
        self.block = nn.ModuleList(
            DecoderBlock(before, after, stride)
            for before, after, stride in zip(widths[:-1], widths[1:], reversed(strides), strict=True)
        )
        self.snake1 = Snake(channels)
        self.conv2 = WeightNormConv(channels, audio_channels, _KERNEL, padding=_KERNEL // 2, bias=False)

    def forward(self, latent: Tensor, masks: Masks) -> Tensor:
        x = _masked(self.conv1(latent), masks[-1])
        for block, mask_after in zip(self.block, reversed(masks[:-1]), strict=True):
            x = block(x, mask_after)
        x = self.snake1(x)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 has noise at -48 dB
            return self.conv2(x.to(self.conv2.dtype)).float()


# -- how far a layer looks --------------------------------------------------------------------------------------------


def encoder_reach_samples(strides: Sequence[int]) -> tuple[int, int]:
    """Samples before the first and after the last sample of its own that a latent frame depends on, at most."""
    before = after = _KERNEL // 2
    jump = 1  # samples of the waveform from one sample of a layer to the next
    for stride in strides:
        units = sum((_KERNEL - 1) * dilation // 2 for dilation in _DILATIONS)
        padding = math.ceil(stride / 2)
        before += jump * (units + padding)
        after += jump * (units + max(0, stride - padding))
        jump *= stride
    return before + jump * (_LATENT_KERNEL // 2), after + jump * (_LATENT_KERNEL // 2)


def decoder_reach_frames(strides: Sequence[int]) -> int:
    """Latent frames before or after its own that a sample depends on, at most."""
    reach, length = float(_KERNEL // 2), 1.0  # in frames; of one sample of the layer
    for stride in reversed(strides):
        reach += length  # the transposed convolution spreads a sample over two strides
        length /= stride
        reach += length * sum((_KERNEL - 1) * dilation // 2 for dilation in _DILATIONS)
    return math.ceil(reach + length * (_KERNEL // 2))
