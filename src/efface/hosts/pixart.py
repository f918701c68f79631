"""PixArt: a transformer whose cross-attention reads T5 past the denoiser's own projection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.errors import BadModel
from efface.hosts.captions import PROJECTION, Captions
from efface.hosts.conditions import Conditions
from efface.hosts.embedding import Embedder
from efface.hosts.host import PROBE_EDGE, Host, ModelNames, WidthRead, class_names, probe_noise
from efface.hosts.original_names import OriginalNames
from efface.hosts.readers import TextReader, key_values
from efface.hosts.toys import (
    T5_WIDTH,
    autoencoder,
    built,
    t5_encoder,
    tiny_t5_tokenizer,
    with_drawn_biases,
)
from efface.randomness import evaluating

__all__ = ["PixArt"]

CAPTION_LENGTH, ALPHA_LENGTH = 300, 120
"""Tokens that PixArt-sigma reads, and PixArt-alpha. Hidden padding changes no row."""

_BLOCK, _TIME = "transformer_blocks.{}", "adaln_single.emb"


class PixArt(Host):
    """PixArt-alpha and -sigma; closed forms edit it, its denoiser is not run here."""

    key: ClassVar[str] = "pixart"
    title: ClassVar[str] = "PixArt"
    tokens_read: ClassVar[Mapping[str, int]] = {"text_encoder": CAPTION_LENGTH}
    names: ClassVar[ModelNames] = ModelNames("pixart", "pixart")
    comfy_encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "t5xxl"}
    original_layers: ClassVar[OriginalNames | None] = OriginalNames(
        layers={
            "scale_shift_table": "final_layer.scale_shift_table",
            "pos_embed.proj": "x_embedder.proj",
            "proj_out": "final_layer.linear",
            "caption_projection.linear_1": "y_embedder.y_proj.fc1",
            "caption_projection.linear_2": "y_embedder.y_proj.fc2",
            "adaln_single.linear": "t_block.1",
            f"{_TIME}.timestep_embedder.linear_1": "t_embedder.mlp.0",
            f"{_TIME}.timestep_embedder.linear_2": "t_embedder.mlp.2",
            f"{_TIME}.resolution_embedder.linear_1": "csize_embedder.mlp.0",
            f"{_TIME}.resolution_embedder.linear_2": "csize_embedder.mlp.2",
            f"{_TIME}.aspect_ratio_embedder.linear_1": "ar_embedder.mlp.0",
            f"{_TIME}.aspect_ratio_embedder.linear_2": "ar_embedder.mlp.2",
            f"{_BLOCK}.scale_shift_table": "blocks.{}.scale_shift_table",
            f"{_BLOCK}.attn1.to_out.0": "blocks.{}.attn.proj",
            f"{_BLOCK}.attn2.to_q": "blocks.{}.cross_attn.q_linear",
            f"{_BLOCK}.attn2.to_out.0": "blocks.{}.cross_attn.proj",
            f"{_BLOCK}.ff.net.0.proj": "blocks.{}.mlp.fc1",
            f"{_BLOCK}.ff.net.2": "blocks.{}.mlp.fc2",
        },
        fused={
            "blocks.{}.attn.qkv": tuple(f"{_BLOCK}.attn1.to_{each}" for each in "qkv"),
            "blocks.{}.cross_attn.kv_linear": tuple(f"{_BLOCK}.attn2.to_{each}" for each in "kv"),
        },
    )
    part: ClassVar[str] = "transformer"
    predicts: ClassVar[bool] = False

    @classmethod
    def recognises(cls, model: Any) -> bool:
        """Goes by the transformer's class, which old files write otherwise."""
        return "PixArtTransformer2DModel" in class_names(getattr(model, "transformer", None))

    @classmethod
    def widths_read(
        cls, tokens: Mapping[str, int], _pooled: Mapping[str, int]
    ) -> Iterator[WidthRead]:
        """The projection of captions reads T5."""
        yield WidthRead(rf"^{PROJECTION}\.linear_1\.weight$", tokens.get("text_encoder", 0))

    @cached_property
    def readers(self) -> tuple[TextReader, ...]:
        """Keys and values."""
        # A streamed folder does not say which of the two draws with it.
        alpha = type(self.model).__name__ == "PixArtAlphaPipeline"
        most = ALPHA_LENGTH if alpha else CAPTION_LENGTH
        longest = min(most, int(self.model.tokenizer.model_max_length))
        t5 = Embedder(self.model, length=longest, masked=True)
        return (key_values(self.model, Captions(t5, self.model), part=self.part),)

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:  # noqa: ARG002
        """Refuses: what it reads beside the captions is not built."""
        raise BadModel(f"no denoiser of {self.title} is run by efface; see docs/families.md")

    def probe(self, prompt: str) -> Tensor:
        """Runs the transformer once on what the pipeline's own encoding gives."""
        network: Any = self.network
        edge = min(PROBE_EDGE, int(network.config.sample_size))
        with evaluating(network), torch.no_grad():
            noise = self._placed(probe_noise(int(network.config.in_channels), edge))
            rows, mask, *_ = self.model.encode_prompt(
                prompt, do_classifier_free_guidance=False, device=noise.device
            )
            sizes = {"resolution": noise.new_zeros(1, 2), "aspect_ratio": noise.new_zeros(1, 1)}
            prediction: Tensor = network(
                noise,
                encoder_hidden_states=rows.to(noise),
                encoder_attention_mask=mask,
                timestep=torch.tensor([500], device=noise.device),
                added_cond_kwargs=sizes,
            )[0]
        return prediction

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``PixArtAlphaPipeline``; captions pass biases before they are read."""
        pipeline = built(_pipeline, seed=seed, dtype=dtype)
        with_drawn_biases(pipeline.transformer, torch.Generator().manual_seed(0))
        return pipeline


def _pipeline() -> Any:
    from diffusers import DDIMScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    tokenizer = tiny_t5_tokenizer()
    denoiser = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=32,
        sample_size=8,
        caption_channels=T5_WIDTH,
    )
    return PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer),
        vae=autoencoder(),
        transformer=denoiser,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
    )
