"""Writes the models that real engines are tried with: ``python make_models.py GGUF FOLDER``.

Run by the engines' own environment, which has torch and transformers; nothing is fetched from anywhere. FOLDER gets

* ``text/``: the default model as safetensors, with a chat template that tells of tools;
* ``seeing/``: the same behind a CLIP tower and a projector of random weights, as a LLaVA. What it says of an image is
  noise; that it says something, and that the prompt grows by the image's tokens, is what tests rely on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

IMAGE: Final = "<image>"
SIDE: Final = 56
PATCH: Final = 14
TEMPLATE: Final = Path(__file__).with_name("template.jinja").read_text()


def main(gguf: Path, folder: Path) -> None:
    """Both models."""
    torch.manual_seed(7)
    source: dict[str, Any] = {"gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **source)
    text = AutoModelForCausalLM.from_config(_unpacked(read.config), dtype=torch.bfloat16)
    text.load_state_dict(read.state_dict())
    text.generation_config.do_sample = True  # as published models have it; else transformers ignores the temperature
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **source)
    tokenizer.chat_template = TEMPLATE
    text.save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    seeing(text, tokenizer, folder / "seeing")


def _unpacked(config: Any) -> Any:
    """The configuration without the word that the weights are still as the file has them, which can't be saved."""
    plain = config.to_dict()
    plain.pop("quantization_config", None)
    return type(config).from_dict(plain)


def seeing(text: Any, tokenizer: Any, folder: Path) -> None:
    """A LLaVA around the text model."""
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    text.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    tower = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=64,
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=tower,
            text_config=text.config,
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            image_seq_length=(SIDE // PATCH) ** 2,
            tie_word_embeddings=True,
        )
    ).to(torch.bfloat16)
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.tie_weights()
    model.generation_config = text.generation_config
    model.save_pretrained(folder)
    _name_as_published(folder / "model.safetensors")
    LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_convert_rgb=True
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


def _name_as_published(path: Path) -> None:
    """Give the tower's tensors the names that they have in published checkpoints; vLLM knows no other."""
    named = {
        name.replace("vision_tower.", "vision_tower.vision_model.", 1): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(named, path, metadata={"format": "pt"})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
