"""Writes a vision projector of random weights: small enough to make in a test, real enough for the engine.

The projector is of llama.cpp's kind "phi4": a SigLIP tower that takes images at their own proportions,
and two linear layers. It needs no special token in the language model's vocabulary ("idefics3", SmolVLM's
own kind, does), so it fits any text model of the same width. What the model then says about an image is
noise; that it says something, and that the prompt grows by the image's tokens, is what tests can rely on.
The same arguments give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Tower:
    """Sizes of the vision tower. ``projection`` must be the embedding width of the language model."""

    projection: int = 576
    width: int = 64
    hidden: int = 128
    heads: int = 2
    layers: int = 1
    image: int = 64
    patch: int = 16
    min_pixels: int = 32 * 32
    max_pixels: int = 128 * 128

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2


def write_mmproj(path: Path, tower: Tower | None = None, *, seed: int = 7) -> Path:
    """Write the GGUF file that ``params.mmproj.path`` takes, and give its path back."""
    sizes = tower or Tower()
    writer = gguf.GGUFWriter(path, "clip")
    _describe(writer, sizes)
    for name, weights in _tensors(sizes, np.random.default_rng(seed)).items():
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: gguf.GGUFWriter, tower: Tower) -> None:
    writer.add_name("random vision tower for tests")
    writer.add_file_type(0)
    writer.add_string("clip.projector_type", "phi4")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    numbers = {
        "image_size": tower.image,
        "patch_size": tower.patch,
        "embedding_length": tower.width,
        "feed_forward_length": tower.hidden,
        "block_count": tower.layers,
        "attention.head_count": tower.heads,
        "projection_dim": tower.projection,
        "image_min_pixels": tower.min_pixels,
        "image_max_pixels": tower.max_pixels,
    }
    for key, number in numbers.items():
        writer.add_uint32(f"clip.vision.{key}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])


def _tensors(tower: Tower, rng: np.random.Generator) -> dict[str, Weights]:
    def noise(*shape: int) -> Weights:
        scale = np.float32(np.prod(shape[1:]) ** -0.5)
        return rng.standard_normal(shape, dtype=np.float32) * scale

    width = tower.width
    found = {
        "v.patch_embd.weight": noise(width, 3, tower.patch, tower.patch),
        "v.patch_embd.bias": _zeros(width),
        "v.position_embd.weight": noise(tower.patches, width),
        "v.post_ln.weight": _ones(width),
        "v.post_ln.bias": _zeros(width),
        "mm.0.weight": noise(tower.projection, width),
        "mm.0.bias": _zeros(tower.projection),
        "mm.2.weight": noise(tower.projection, tower.projection),
        "mm.2.bias": _zeros(tower.projection),
    }
    for layer in range(tower.layers):
        block = f"v.blk.{layer}"
        matrices = {f"attn_{part}": noise(width, width) for part in ("q", "k", "v", "out")}
        matrices |= {"ffn_up": noise(tower.hidden, width), "ffn_down": noise(width, tower.hidden)}
        for name, matrix in matrices.items():
            found |= {f"{block}.{name}.weight": matrix, f"{block}.{name}.bias": _zeros(len(matrix))}
        for norm in ("ln1", "ln2"):
            found |= {f"{block}.{norm}.weight": _ones(width), f"{block}.{norm}.bias": _zeros(width)}
    return found


def _zeros(size: int) -> Weights:
    return np.zeros(size, dtype=np.float32)


def _ones(size: int) -> Weights:
    return np.ones(size, dtype=np.float32)
