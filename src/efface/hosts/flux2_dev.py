"""FLUX.2 dev: the transformer of klein with a guidance embedding, which reads Mistral 3."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from efface.hosts.flux2 import LENGTH, Flux2Klein, tiny_autoencoder, tiny_transformer
from efface.hosts.host import GuidanceKind
from efface.hosts.language import FramedRows
from efface.hosts.language_host import conversation
from efface.hosts.language_toys import deep_mistral_encoder, tiny_mistral_tokenizer
from efface.hosts.toys import built

__all__ = ["Flux2Dev"]


class Flux2Dev(Flux2Klein):
    """FLUX.2 dev, whose guidance is told to the transformer, as FLUX.1's is."""

    key: ClassVar[str] = "flux2dev"
    title: ClassVar[str] = "FLUX.2 dev"
    encoder: ClassVar[str] = "mistral3"
    layers: ClassVar[tuple[int, ...]] = (10, 20, 30)

    @property
    def guidance_kind(self) -> GuidanceKind:
        """The network is told the scale."""
        return "distilled"

    @cached_property
    def rows(self) -> FramedRows:
        """Mistral's rows of a system message and a question, and of padding on either side."""
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input
        from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

        system = getattr(self.model, "system_message", SYSTEM_MESSAGE)
        processor: Any = self.model.tokenizer
        # A processor, which also takes pictures, has the tokenizer inside.
        tokenizer = getattr(processor, "tokenizer", processor)

        def asked(prompt: str) -> Any:
            return format_input([prompt], system_message=system)[0]

        frame = conversation(processor, asked, add_generation_prompt=False)
        begins = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        before = frame.before.removeprefix(tokenizer.bos_token if begins else "")
        text = SimpleNamespace(
            tokenizer=tokenizer,
            text_encoder=self.model.text_encoder,
            embedded_prompts=getattr(self.model, "embedded_prompts", {}),
        )
        frame = replace(frame, before=before, whole=True)
        return FramedRows(text, frame, length=LENGTH, layers=self.layers)

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``Flux2Pipeline`` with a tokenizer in place of the processor for pictures."""
        return built(_pipeline, seed=seed, dtype=dtype)


def _pipeline() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline

    tokenizer = tiny_mistral_tokenizer()
    pipeline = Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_autoencoder(),
        text_encoder=deep_mistral_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=tiny_transformer(guided=True),
    )
    pipeline.default_sample_size = 8
    return pipeline
