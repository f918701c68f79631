"""The bundled CLIP: the model's own text tower and a convolutional image tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from efface.bundled import pipeline_folder, weights_folder
from efface.bundled.vision import load_network
from efface.content import content_hash

__all__ = ["EmojiClip"]


class EmojiClip:
    """Pictures and prompts as unit vectors of one space; the text tower is the unedited one."""

    name = "emoji-clip@1"

    def __init__(self) -> None:
        folder = pipeline_folder()
        text = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
        self._text = text.eval().requires_grad_(requires_grad=False)
        self._tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self._vision = load_network(weights_folder() / "clip_image.safetensors")
        rest = load_file(weights_folder() / "clip_text_projection.safetensors")
        self._projection = rest["text_projection"].float()
        self.identity = content_hash(
            type(self).__qualname__, self._text, self._tokenizer, self._vision, self._projection
        )
        """A hash of all that decides its answers."""

    @torch.no_grad()
    def image_features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embeds pictures with pixels in 0..1; other sizes than 64 x 64 are resized."""
        if images.shape[-2:] != (64, 64):
            images = F.interpolate(images, size=(64, 64), mode="bilinear", antialias=True)
        parts = [self._vision(part.float()) for part in images.split(128)]
        return F.normalize(torch.cat(parts), dim=1)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Embeds prompts."""
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, return_tensors="pt"
        ).input_ids
        pooled = self._text(input_ids=tokens).pooler_output
        return F.normalize(pooled @ self._projection.T, dim=1)
