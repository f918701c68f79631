"""Sana: a transformer of flows whose cross-attention reads Gemma 2 past a projection and a norm."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from efface.hosts.captions import PROJECTION, Captions, written_small
from efface.hosts.conditions import Conditions
from efface.hosts.host import WidthRead
from efface.hosts.language import BARE, Frame, FramedRows
from efface.hosts.language_host import LanguageHost
from efface.hosts.language_toys import LANGUAGE_WIDTH, gemma_encoder, tiny_gemma_tokenizer
from efface.hosts.readers import TextReader, key_values
from efface.hosts.toys import built, with_drawn_biases

__all__ = ["Sana", "instruction", "tiny_parts"]

LENGTH = 300
"""Rows that the pipeline reads of a prompt."""


class Sana(LanguageHost):
    """Sana; keys and values after the projected captions are edited."""

    key: ClassVar[str] = "sana"
    title: ClassVar[str] = "Sana"
    trains: ClassVar[bool] = True
    transformer: ClassVar[str] = "SanaTransformer2DModel"
    pipeline: ClassVar[str] = "SanaPipeline"
    """The pipeline's class, which has the instruction as a default."""
    sprints: ClassVar[bool] = False
    """Whether guidance is embedded, which tells Sana-Sprint."""

    @classmethod
    def recognises(cls, model: Any) -> bool:
        """Goes by the transformer's class; Sprint, which steps otherwise, embeds its guidance."""
        config = getattr(getattr(model, "transformer", None), "config", None)
        sprints = bool(getattr(config, "guidance_embeds", False))
        return super().recognises(model) and sprints == cls.sprints

    @classmethod
    def widths_read(
        cls, tokens: Mapping[str, int], _pooled: Mapping[str, int]
    ) -> Iterator[WidthRead]:
        """The projection of captions reads Gemma."""
        yield WidthRead(rf"^{PROJECTION}\.linear_1\.weight$", tokens.get("text_encoder", 0))

    @cached_property
    def rows(self) -> FramedRows:
        """Gemma's begin token, the last token of a long instruction, and the prompt.

        The pipeline reads the first row and the last ones; all but one of the instruction's own
        are left out.
        """
        text = instruction(self.pipeline)
        count = len(self.model.tokenizer(text)["input_ids"])
        frame = Frame(text, dropped=(1, count - 1))
        return FramedRows(self.model, frame, length=count + LENGTH - 2)

    @cached_property
    def unconditional(self) -> FramedRows:
        """The begin token alone, which is every prompt's first row."""
        return FramedRows(self.model, BARE, length=LENGTH)

    @cached_property
    def readers(self) -> tuple[TextReader, ...]:
        """Keys and values."""
        captions = Captions(self.rows, self.model, norm="caption_norm.weight")
        return (key_values(self.model, captions, part=self.part),)

    def written(self, prompt: str) -> str:
        """Writes prompts in small letters."""
        return written_small(prompt)

    def set_steps(self, scheduler: Any, steps: int, **options: Any) -> None:
        """Leaves the spacing to the scheduler."""
        scheduler.set_timesteps(steps, **options)

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Runs the transformer."""
        network: Any = self.network
        prediction: Tensor = network(
            latents,
            encoder_hidden_states=conditions.rows,
            encoder_attention_mask=conditions.read,
            timestep=(times * network.config.timestep_scale).to(latents.dtype),
        )[0]
        return prediction

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``SanaPipeline``; captions pass biases before they are read."""
        pipeline = built(_pipeline, seed=seed, dtype=dtype)
        with_drawn_biases(pipeline.transformer, torch.Generator().manual_seed(0))
        return pipeline


def instruction(pipeline: str) -> str:
    """Gives what an installed pipeline writes before prompts, unless it is told otherwise."""
    import diffusers

    call = inspect.signature(getattr(diffusers, pipeline).__call__).parameters
    return "\n".join(call["complex_human_instruction"].default)


def _pipeline() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline

    return SanaPipeline(**tiny_parts(Sana.pipeline), scheduler=FlowMatchEulerDiscreteScheduler())


def tiny_parts(pipeline: str, **options: Any) -> dict[str, Any]:
    """Builds what pipelines of the family have but their schedulers.

    Args:
        pipeline: its class.
        options: of the transformer.
    """
    from diffusers import SanaTransformer2DModel

    tokenizer = tiny_gemma_tokenizer(instruction(pipeline))
    denoiser = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=LANGUAGE_WIDTH,
        sample_size=16,
        **options,
    )
    return {
        "tokenizer": tokenizer,
        "text_encoder": gemma_encoder(tokenizer),
        "vae": _autoencoder(),
        "transformer": denoiser,
    }


def _autoencoder() -> nn.Module:
    from diffusers import AutoencoderDC

    kinds: Any = ("ResBlock", "EfficientViTBlock")
    made: nn.Module = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=kinds,
        decoder_block_types=kinds,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )
    return made
