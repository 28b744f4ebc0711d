"""Random weights with which different inputs give clearly different answers.

Fresh weights do not: torchvision's initial MobileNetV2 answers with values around 1e-9, its vision transformer with
exact zeros, its InceptionV3 with nearly the same values whatever the image. Comparing such answers shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from testbed.model.inputs import synthetic_request
from testbed.model.signature import Input, call

_BATCH = 4
_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_HEAD_STD = 0.02
_LAYER_SCALE = 0.1


def make_answers_differ(model: nn.Module, inputs: Sequence[Input], seed: int) -> None:
    """Adjust the weights of a freshly made model in place.

    Linear layers whose weights are all zero are drawn anew, layer scales near zero are raised, and one forward pass of
    synthetic inputs sets the statistics of batch normalisation to what it sees there. In a model without batch
    normalisation the pass scales and shifts each convolution and linear layer instead, so that its outputs have mean 0
    and deviation 1 in each channel (layer-sequential unit variance, Mishkin and Matas 2016, "All you need is a good
    init", with the mean removed as well).

    Args:
        model: In evaluation mode; stays in it.
        inputs: What it takes.
        seed: Of the synthetic inputs.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("layer_scale") and float(parameter.abs().max()) < _LAYER_SCALE:
            nn.init.constant_(parameter, _LAYER_SCALE)
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and not bool(layer.weight.any()):
            nn.init.normal_(layer.weight, std=_HEAD_STD)
    request = synthetic_request([item.batched(_BATCH) for item in inputs], np.random.default_rng([seed, 0x1A7]))
    norms = [layer for layer in model.modules() if isinstance(layer, _NORMALISATIONS)]
    if norms:
        _recalibrate(norms, lambda: call(model, inputs, request))
    else:
        _unit_variance(model, lambda: call(model, inputs, request))


def _recalibrate(norms: Sequence[nn.Module], run: Callable[[], object]) -> None:
    momenta = []
    for layer in norms:
        momenta.append(layer.momentum)
        layer.momentum = None  # type: ignore[assignment]
        layer.reset_running_stats()  # type: ignore[operator]
        layer.train()
    with torch.no_grad():
        run()
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def _unit_variance(model: nn.Module, run: Callable[[], object]) -> None:
    def adjust(layer: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        channels = 1 if isinstance(layer, nn.Conv2d) else output.dim() - 1
        rest = [dim for dim in range(output.dim()) if dim != channels]
        mean = output.mean(rest)
        centred = output - mean.view([-1 if dim == channels else 1 for dim in range(output.dim())])
        scale = 1 / centred.std().clamp_min(1e-6)
        layer.weight.mul_(scale)  # type: ignore[operator]
        if isinstance(layer.bias, torch.Tensor):
            layer.bias.sub_(mean).mul_(scale)
            return centred * scale
        return output * scale

    handles = [
        layer.register_forward_hook(adjust)
        for layer in model.modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and type(layer).__name__ != "NonDynamicallyQuantizableLinear"
    ]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
