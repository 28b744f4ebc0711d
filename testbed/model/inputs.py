"""What the model is asked: image files of a folder, or seeded synthetic inputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from testbed.errors import ModelError
from testbed.model.signature import Input, InputShape, inputs_of, told

# Mean and deviation of ImageNet's channels, and the share of an image's shorter side that the centre crop keeps:
# the preprocessing that torchvision's classification weights were evaluated with (resize 256, crop 224).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESIZE_OVER_CROP = 256 / 224

MAX_IMAGE_PIXELS = 64_000_000
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def load_inputs(
    input_shape: InputShape, seed: int, images: Path | None = None, distinct: int = 8
) -> list[tuple[torch.Tensor, ...]]:
    """Requests to cycle through, each a contiguous tensor for each input of the model.

    Args:
        input_shape: What the model takes; for images one input ``(batch, 3, height, width)``.
        seed: Of the synthetic inputs; the same seed gives the same bits.
        images: A folder of image files, taken in the order of their names; the files that are hidden or whose suffix
            isn't an image format's are skipped. Without it the inputs are synthetic.
        distinct: How many synthetic requests.

    Raises:
        ModelError: If the folder is missing or holds no image, a file is no image or too large, or images can't feed
            the shape.
    """
    inputs = inputs_of(input_shape)
    if images is not None:
        if len(inputs) != 1 or inputs[0].dtype != "float32":
            raise ModelError(
                f"images can't feed {told(inputs)}",
                remedy="Images feed one float32 input; leave `images` out for synthetic inputs.",
            )
        return [(image,) for image in _image_inputs(inputs[0].shape, images)]
    if distinct < 1:
        raise ModelError(f"{distinct} distinct inputs are too few", remedy="Ask for at least one.")
    return [synthetic_request(inputs, np.random.default_rng([seed, index])) for index in range(distinct)]


def synthetic_request(inputs: Sequence[Input], generator: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """A tensor for each input: floats as of `synthetic_input`, integers and booleans drawn evenly."""
    found = []
    for item in inputs:
        if item.torch_dtype.is_floating_point:
            found.append(synthetic_input(item.shape, generator).to(item.torch_dtype))
        else:
            least_above = 2 if item.dtype == "bool" else item.below
            drawn = torch.from_numpy(generator.integers(0, least_above, item.shape, dtype=np.int64))
            found.append(drawn.to(item.torch_dtype))
    return tuple(found)


def synthetic_input(shape: Sequence[int], generator: np.random.Generator) -> torch.Tensor:
    """A float32 tensor of ``shape`` with mean 0 and deviation 1 in each plane.

    Its last two dimensions hold 1/f noise, whose spectrum is that of natural images (Field 1987, "Relations between the
    statistics of natural images and the response properties of cortical cells"); the planes of an image share most of
    it, as colour channels do. Shapes with fewer than two dimensions hold white noise.
    """
    shape = tuple(shape)
    if len(shape) < 2 or min(shape[-2:]) < 2:
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
    common = _pink((*shape[:-3], 1, *shape[-2:]) if len(shape) > 2 else shape, generator)
    planes = common * 0.9 + _pink(shape, generator) * 0.1**0.5
    planes -= planes.mean(axis=(-2, -1), keepdims=True)
    planes /= planes.std(axis=(-2, -1), keepdims=True)
    return torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32))


def _pink(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    height, width = shape[-2:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.standard_normal(shape)) / frequency
    planes = np.fft.irfft2(spectrum, s=(height, width))
    return np.asarray(planes / planes.std(axis=(-2, -1), keepdims=True))


def _image_inputs(shape: tuple[int, ...], folder: Path) -> list[torch.Tensor]:
    if len(shape) != 4 or shape[1] != 3:
        raise ModelError(
            f"images can't feed an input of shape {list(shape)}",
            remedy="Images need an input of [batch, 3, height, width]; leave `images` out for synthetic inputs.",
        )
    if not folder.is_dir():
        raise ModelError(f"no folder of images at {folder}", remedy="Name an existing folder that holds image files.")
    files = sorted(
        (item for item in folder.iterdir() if item.is_file() and item.suffix.lower() in SUFFIXES), key=lambda f: f.name
    )
    files = [item for item in files if not item.name.startswith(".")]
    if not files:
        raise ModelError(
            f"no image in {folder}",
            remedy=f"Put image files there, with one of the suffixes {', '.join(sorted(SUFFIXES))}.",
        )
    batch, _, height, width = shape
    return [_read_image(item, height, width).expand(batch, -1, -1, -1).contiguous() for item in files]


def _read_image(file: Path, height: int, width: int) -> torch.Tensor:
    """An image as ``(1, 3, height, width)``: resized, cropped in the middle, scaled to 0..1 and normalised."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of an image of suspicious size; here the size decides below, before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                pixels = opened.width * opened.height
                if pixels > MAX_IMAGE_PIXELS:
                    raise ModelError(
                        f"{file} has {pixels} pixels; the limit is {MAX_IMAGE_PIXELS}", remedy="Scale it down."
                    )
                picture = opened.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ModelError(
            f"{file} is no readable image: {error}", remedy="Remove the file, or replace it by an image."
        ) from error
    scale = max(height / picture.height, width / picture.width) * RESIZE_OVER_CROP
    resized = picture.resize(
        (max(width, round(picture.width * scale)), max(height, round(picture.height * scale))),
        Image.Resampling.BILINEAR,
    )
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    cropped = resized.crop((left, top, left + width, top + height))
    planes = np.asarray(cropped, dtype=np.float32) / 255
    planes = (planes - np.asarray(IMAGENET_MEAN, np.float32)) / np.asarray(IMAGENET_STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1)))[None]
