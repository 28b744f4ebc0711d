"""A model for real runs in tests: over 3 MB of weights, work enough to be worth splitting, small tensors between."""

from __future__ import annotations

import torch

INPUT = (1, 3, 32, 32)


class TinyNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 128, 5, stride=4, padding=2)
        self.body = torch.nn.ModuleList(torch.nn.Conv2d(128, 128, 3, padding=1) for _ in range(6))
        self.head = torch.nn.Linear(128, 100)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        for layer in self.body:
            x = torch.relu(layer(x) + x)
        return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def tiny_net() -> torch.nn.Module:
    """For specifications: ``module: "tests.runner.tiny_model:tiny_net"``; torch's generator is seeded before."""
    return TinyNet()


class Wide(torch.nn.Module):
    """What goes from its first half to its second is a megabyte; both are as much work."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = torch.nn.Conv2d(3, 256, 3, padding=1)
        self.narrow = torch.nn.Conv2d(256, 16, 3, stride=2, padding=1)
        self.head = torch.nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.narrow(torch.relu(self.widen(image))))
        return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def wide() -> torch.nn.Module:
    """For specifications, as :func:`tiny_net`."""
    return Wide()


class Narrowing(torch.nn.Module):
    """Two halves of equal work; between them a sixth of what its input has, within them more."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 64, 5, stride=4, padding=2)
        self.front = torch.nn.ModuleList(torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(2))
        self.narrow = torch.nn.Conv2d(64, 8, 1)
        self.widen = torch.nn.Conv2d(8, 64, 1)
        self.back = torch.nn.ModuleList(torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(2))
        self.head = torch.nn.Linear(64, 100)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        for layer in self.front:
            x = torch.relu(layer(x))
        x = self.widen(torch.relu(self.narrow(x)))
        for layer in self.back:
            x = torch.relu(layer(x))
        return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def narrowing() -> torch.nn.Module:
    """For specifications, as :func:`tiny_net`."""
    return Narrowing()


class Wavering(torch.nn.Module):
    """Its control flow depends on what is in a tensor, which no fixed graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(32, 8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.layer(image)
        if x.sum() > 0:
            x = torch.relu(x)
        return x


def wavering() -> torch.nn.Module:
    return Wavering()


class Pair(torch.nn.Module):
    """Two inputs, the second of integers, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(40, 16)
        self.body = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16))

    def forward(self, scale: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.words(words)
        return x.mean(1), self.body(x) * scale


def pair() -> torch.nn.Module:
    return Pair()


class Denoiser(torch.nn.Module):
    """An image in, an image out; between them much work on half a tensor's size, so both ends want a fast link."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = torch.nn.Conv2d(3, 24, 5, stride=4, padding=2)
        self.widen = torch.nn.Conv2d(24, 96, 3, padding=1)
        self.body = torch.nn.ModuleList(torch.nn.Conv2d(96, 96, 3, padding=1) for _ in range(4))
        self.narrow = torch.nn.Conv2d(96, 24, 3, padding=1)
        self.decode = torch.nn.ConvTranspose2d(24, 3, 4, stride=4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.widen(torch.relu(self.encode(image)))
        for layer in self.body:
            x = torch.relu(layer(x) + x)
        return self.decode(torch.relu(self.narrow(x)))


def denoiser() -> torch.nn.Module:
    """For specifications, as :func:`tiny_net`."""
    return Denoiser()


class Residual(torch.nn.Module):
    """Six blocks of four megabytes that only add to what crosses them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Linear(256, 1024)
        self.body = torch.nn.ModuleList(torch.nn.Linear(1024, 1024) for _ in range(6))
        self.head = torch.nn.Linear(1024, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.body:
            x = x + torch.relu(layer(x))
        return self.head(x)


def residual() -> torch.nn.Module:
    return Residual()
