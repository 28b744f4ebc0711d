"""A small residual network: 1.7 MB of weights in blocks that may be cut between, work enough to be worth splitting.

Activations come before the convolutions (He et al., Identity Mappings in Deep Residual Networks, ECCV 2016), so blocks
only add to what passes them, and a stage of them may be left out.
"""

from __future__ import annotations

import torch

CHANNELS = 96
BLOCKS = 5


class Residual(torch.nn.Module):
    """Convolutions with a shortcut around each; input ``[1, 3, 32, 32]``, output ``[1, 100]``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, CHANNELS, 5, stride=4, padding=2)
        self.body = torch.nn.ModuleList(torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(BLOCKS))
        self.head = torch.nn.Linear(CHANNELS, 100)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores of 100 classes."""
        x = self.stem(image)
        for layer in self.body:
            x = layer(torch.relu(x)) + x
        scores: torch.Tensor = self.head(torch.nn.functional.adaptive_avg_pool2d(torch.relu(x), 1).flatten(1))
        return scores


def residual() -> torch.nn.Module:
    """For specifications: ``module: "benchmarks.faults.model:residual"``; torch's generator is seeded before."""
    return Residual()
