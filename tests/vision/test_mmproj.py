"""The generated projector is the same file each time, and the one that was asked for."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from tests.vision.mmproj import Tower, write_mmproj


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write_mmproj(tmp_path / name).read_bytes() for name in ("one.gguf", "two.gguf"))
    assert one == two
    assert len(one) < 4 << 20
    assert write_mmproj(tmp_path / "three.gguf", seed=8).read_bytes() != one


@pytest.mark.parametrize("projection", [576, 896])
def test_the_projection_has_the_width_of_the_language_model(tmp_path: Path, projection: int) -> None:
    reader = gguf.GGUFReader(write_mmproj(tmp_path / "it.gguf", Tower(projection=projection)))
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    assert shapes["mm.0.weight"] == [64, projection]
    assert shapes["mm.2.weight"] == [projection, projection]
    assert shapes["v.patch_embd.weight"] == [16, 16, 3, 64]
