"""A CLIP model from a local folder: unit vectors for pictures and for texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from efface.content import content_hash
from efface.errors import BadModel
from efface.hosts.libraries import check_configs, library_errors
from efface.hosts.preprocessing import Preprocessing, folder_config
from efface.hosts.shards import weight_set

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["FolderClip"]


class FolderClip:
    """Wraps a saved ``transformers.CLIPModel`` with its tokenizer and preprocessor.

    Its ``identity`` is a hash of weights, tokenizer and preprocessing, wherever the folder lies.

    Raises:
        MissingInput: no such folder.
        BadModel: files are missing, broken or not a CLIP model.
    """

    def __init__(self, folder: Path | str, *, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPModel

        self.folder = Path(folder)
        kind = folder_config(self.folder, "config.json").get("model_type")
        if kind != "clip":
            raise BadModel(f"{self.folder} holds a model of type {kind!r}; a 'clip' was expected")
        self._prepare = Preprocessing.from_folder(self.folder)
        check_configs(self.folder)
        weight_set(self.folder)
        with library_errors(self.folder, "load as CLIP"):
            model = CLIPModel.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True
            )
            self._tokenizer = AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )
        self._model = model.eval().requires_grad_(requires_grad=False).to(device)
        self.identity = content_hash(
            type(self).__qualname__, self._model, self._prepare.identity, self._tokenizer
        )
        self.name = f"clip ({self.folder.name})"

    @property
    def temperature(self) -> float:
        """What cosines are multiplied with before a softmax over texts."""
        return float(self._model.logit_scale.exp())

    def image_features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Encodes pixels of 0 to 1 as unit vectors."""
        pixels = self._prepare(images.to(self._model.device))
        return _unit(self._model.get_image_features(pixel_values=pixels))

    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "n dim"]:
        """Encodes texts as unit vectors; longer ones are cut at the model's context."""
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(self._model.device)
        return _unit(self._model.get_text_features(**tokens))


def _unit(output: Any) -> Float[Tensor, "n dim"]:
    """Takes the projected vectors: a tensor up to transformers 4, an output object from 5 on."""
    vectors = output if isinstance(output, torch.Tensor) else output.pooler_output
    return functional.normalize(vectors.float(), dim=-1).cpu()
