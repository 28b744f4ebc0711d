"""Inputs: seeded images that look natural, and image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from testbed.errors import ModelError
from testbed.model import inputs
from testbed.model.inputs import IMAGENET_MEAN, IMAGENET_STD, load_inputs
from testbed.model.signature import Input


def only(requests: Sequence[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
    """The inputs of requests that have one."""
    return [tensor for (tensor,) in requests]


def test_synthetic_inputs_are_seeded_distinct_and_normalised() -> None:
    first = only(load_inputs((2, 3, 32, 48), seed=1, distinct=3))
    again = only(load_inputs((2, 3, 32, 48), seed=1, distinct=5))
    other = only(load_inputs((2, 3, 32, 48), seed=2, distinct=1))
    assert len(first) == 3
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    for tensor in first:
        assert tensor.shape == (2, 3, 32, 48)
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert tensor.mean((2, 3)).abs().max() < 1e-5
        assert (tensor.std((2, 3)) - 1).abs().max() < 0.01


def test_synthetic_inputs_look_natural() -> None:
    ((image,),) = load_inputs((1, 3, 128, 128), seed=3, distinct=1)
    neighbours = torch.corrcoef(torch.stack([image[0, 0, :, 1:].flatten(), image[0, 0, :, :-1].flatten()]))[0, 1]
    channels = torch.corrcoef(image[0].flatten(1))
    assert neighbours > 0.6
    assert 0.7 < channels[0, 1] < 0.99
    power = np.abs(np.fft.fft2(image[0, 0].numpy())) ** 2
    low, high = power[0, 2:4].mean() + power[2:4, 0].mean(), power[0, 32:64].mean() + power[32:64, 0].mean()
    assert low > 50 * high


def test_inputs_of_other_shapes() -> None:
    assert [tuple(t.shape) for t in only(load_inputs((4,), seed=0, distinct=2))] == [(4,), (4,)]
    assert load_inputs((1, 1), seed=0, distinct=1)[0][0].isfinite().all()


def test_several_inputs_each_of_its_type() -> None:
    wanted = (
        Input((1, 2000), "int64", "ids", below=7),
        Input((1, 64), "uint8", "mask"),
        Input((2, 64), "bool", "flags"),
        Input((1, 3, 8, 8), "float16", "image"),
    )
    first, second = load_inputs(wanted, seed=4, distinct=2)
    for request in (first, second):
        assert [tensor.dtype for tensor in request] == [torch.int64, torch.uint8, torch.bool, torch.float16]
        assert [tuple(tensor.shape) for tensor in request] == [item.shape for item in wanted]
    ids, mask, flags, _ = first
    assert set(ids.flatten().tolist()) == set(range(7))
    assert set(mask.flatten().tolist()) == {0, 1}
    assert set(flags.flatten().tolist()) == {False, True}
    assert not any(map(torch.equal, first, second))


def test_images_feed_one_input_only(tmp_path: Path) -> None:
    save(tmp_path, "a.png", (8, 8), (0, 0, 0))
    for wanted in ([(1, 3, 8, 8), (1, 3, 8, 8)], [Input((1, 3, 8, 8), "int64")]):
        with pytest.raises(ModelError, match="images can't feed"):
            load_inputs(wanted, seed=0, images=tmp_path)


def save(folder: Path, name: str, size: tuple[int, int], colour: tuple[int, int, int]) -> None:
    Image.new("RGB", size, colour).save(folder / name)


def test_images_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    save(tmp_path, "b.png", (50, 80), (255, 0, 0))
    save(tmp_path, "a.JPG", (300, 200), (0, 0, 255))
    Image.new("L", (64, 64), 128).save(tmp_path / "c.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    found = only(load_inputs((2, 3, 64, 32), seed=0, images=tmp_path))
    assert [tuple(tensor.shape) for tensor in found] == [(2, 3, 64, 32)] * 3
    assert all(tensor.is_contiguous() for tensor in found)
    red = [(1 - IMAGENET_MEAN[0]) / IMAGENET_STD[0], *(-IMAGENET_MEAN[c] / IMAGENET_STD[c] for c in (1, 2))]
    assert torch.allclose(found[1].mean((0, 2, 3)), torch.tensor(red), atol=1e-4)
    assert found[0][0, 2].mean() > 2
    assert torch.equal(found[0][0], found[0][1])


def test_the_middle_of_the_image_is_taken(tmp_path: Path) -> None:
    picture = Image.new("RGB", (512, 256), (0, 0, 0))
    picture.paste((255, 255, 255), (160, 32, 352, 224))
    picture.save(tmp_path / "a.png")
    ((image,),) = load_inputs((1, 3, 224, 224), seed=0, images=tmp_path)
    # The shorter side becomes 256; the crop leaves 16 pixels around the white square of 192.
    white = image[0, 0] > 1
    assert white[20:204, 20:204].all()
    assert not white[:12].any()
    assert not white[:, :12].any()


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_files_that_are_no_images_are_named(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, "a.png", (8, 8), (0, 0, 0))
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.png is no readable image") as caught:
        load_inputs((1, 3, 8, 8), seed=0, images=tmp_path)
    assert caught.value.remedy


def test_truncated_images_are_named(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"a\.png is no readable image"):
        load_inputs((1, 3, 8, 8), seed=0, images=tmp_path)


def test_images_of_absurd_size_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, "bomb.png", (200, 200), (0, 0, 0))
    monkeypatch.setattr(inputs, "MAX_IMAGE_PIXELS", 39_999)
    with pytest.raises(ModelError, match=r"bomb\.png has 40000 pixels; the limit is 39999"):
        load_inputs((1, 3, 8, 8), seed=0, images=tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(ModelError, match=r"bomb\.png is no readable image"):
        load_inputs((1, 3, 8, 8), seed=0, images=tmp_path)


def test_folders_and_shapes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder of images at"):
        load_inputs((1, 3, 8, 8), seed=0, images=tmp_path / "missing")
    with pytest.raises(ModelError, match="no image in"):
        load_inputs((1, 3, 8, 8), seed=0, images=tmp_path)
    with pytest.raises(ModelError, match=r"can't feed an input of shape \[1, 1, 8, 8\]"):
        load_inputs((1, 1, 8, 8), seed=0, images=tmp_path)
    with pytest.raises(ModelError, match="too few"):
        load_inputs((1, 3, 8, 8), seed=0, distinct=0)
