"""A model that a slow guest computes in milliseconds, with weight enough that its way over a link shows."""

from __future__ import annotations

import itertools

from torch import nn


def build() -> nn.Module:
    """Eight convolutions of an image of 3 × 32 × 32: 0.8 MB of weights, ten classes."""
    channels = (3, 32, 64, 64, 64, 64, 64, 32, 32)
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(itertools.pairwise(channels)):
        layers += [nn.Conv2d(before, after, 3, stride=2 if place < 2 else 1, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 10))
