"""Wan: a transformer of videos whose cross-attention reads UMT5 past the denoiser's projection."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.errors import BadModel
from efface.hosts.captions import Captions
from efface.hosts.conditions import Conditions, Encoding
from efface.hosts.embedding import Embedder
from efface.hosts.host import FIRST_FRAMES, Host, WidthRead, class_names
from efface.hosts.original_names import OriginalNames
from efface.hosts.readers import TextReader, key_values
from efface.hosts.streams import Emptied, TextStream, Unhidden
from efface.hosts.toys import T5_WIDTH, built, t5_encoder, tiny_t5_tokenizer, with_drawn_biases

__all__ = ["Wan"]

PROJECTION = "condition_embedder.text_embedder"
"""Two layers with a nonlinearity between them, which text passes before cross-attention."""
LENGTH = 512
"""Rows that the transformer reads of a prompt; those after its end are zeros."""
SIZE = 480, 832
"""Height and width in pixels that the pipeline draws unasked."""

_BLOCK, _TEXT = "blocks.{}", "condition_embedder"
_PARTS = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"}
_PARTS |= {f"norm_{each}": f"norm_{each}" for each in "qk"}


class Wan(Host):
    """Wan 2.1, and 2.2 with one transformer; closed forms edit it, pictures are single frames.

    Latents of several frames stand one below the other, so that a sample has three dimensions.
    """

    key: ClassVar[str] = "wan"
    title: ClassVar[str] = "Wan"
    trains: ClassVar[bool] = True
    guides_in_pairs: ClassVar[bool] = False
    pictured: ClassVar[str] = FIRST_FRAMES
    part: ClassVar[str] = "transformer"
    comfy_encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "umt5xxl"}
    comfy_own: ClassVar[tuple[str, ...]] = ("",)
    original_layers: ClassVar[OriginalNames | None] = OriginalNames(
        layers={
            "scale_shift_table": "head.modulation",
            "proj_out": "head.head",
            "patch_embedding": "patch_embedding",
            f"{_TEXT}.time_embedder.linear_1": "time_embedding.0",
            f"{_TEXT}.time_embedder.linear_2": "time_embedding.2",
            f"{_TEXT}.time_proj": "time_projection.1",
            f"{PROJECTION}.linear_1": "text_embedding.0",
            f"{PROJECTION}.linear_2": "text_embedding.2",
            f"{_BLOCK}.scale_shift_table": "blocks.{}.modulation",
            f"{_BLOCK}.norm2": "blocks.{}.norm3",
            f"{_BLOCK}.ffn.net.0.proj": "blocks.{}.ffn.0",
            f"{_BLOCK}.ffn.net.2": "blocks.{}.ffn.2",
            **{
                f"{_BLOCK}.{ours}.{layer}": f"blocks.{{}}.{theirs}.{short}"
                for ours, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
                for layer, short in _PARTS.items()
            },
        },
        fused={},
    )

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.frames = 1
        """Latents of so many frames are in a sample."""
        kind = type(model).__name__
        held = [name for name in ("transformer_2",) if getattr(model, name, None) is not None]
        self.check_pipeline(kind if kind.endswith("Pipeline") else "WanPipeline", held)

    @classmethod
    def recognises(cls, model: Any) -> bool:
        """Goes by the transformer's class."""
        return "WanTransformer3DModel" in class_names(getattr(model, "transformer", None))

    @classmethod
    def check_pipeline(cls, kind: str, parts: Collection[str]) -> None:
        """Refuses pipelines with a second transformer, and those that are given pictures.

        Raises:
            BadModel: with what to do.
        """
        if "transformer_2" in parts:
            raise BadModel(
                "this Wan has two transformers, and transformer_2 draws the later steps, so that "
                "an edit of one would leave the concept in the other; save a pipeline for each "
                "(transformer_2=None, boundary_ratio=None, and the second one's transformer in "
                "place of the first), erase from both with the same settings, and put the two "
                "edited transformers together"
            )
        if kind != "WanPipeline":
            raise BadModel(
                f"a {kind} is given pictures or videos beside the text; efface edits the "
                "WanPipeline, which draws from text alone: load the text-to-video model"
            )

    @classmethod
    def widths_read(
        cls, tokens: Mapping[str, int], _pooled: Mapping[str, int]
    ) -> Iterator[WidthRead]:
        """The projection of text reads UMT5."""
        pattern = rf"^{PROJECTION}\.linear_1\.weight$"
        yield WidthRead(pattern, tokens.get("text_encoder", 0))

    @cached_property
    def rows(self) -> TextStream:
        """UMT5's rows; those of padding are zeros, which the transformer projects and reads."""
        return Unhidden(Emptied(Embedder(self.model, length=LENGTH, masked=True)))

    @cached_property
    def readers(self) -> tuple[TextReader, ...]:
        """Keys and values."""
        captions = Captions(self.rows, self.model, path=PROJECTION, written=_cleaned)
        return (key_values(self.model, captions, part=self.part),)

    def encode(
        self,
        prompts: Sequence[str],
        *,
        gradients: bool = False,
        prefix: Mapping[str, Float[Tensor, "prefix dim"]] | None = None,
        embeddings: Mapping[str, Float[Tensor, "batch tokens dim"]] | None = None,
    ) -> Conditions:
        """Encodes prompts in one batch, up to where the transformer projects them.

        Raises:
            BadRequest: a prompt is too long, or embeddings do not fit it.
            BadModel: gradients or embeddings are asked of an encoder that runs from files.
        """
        encoding = Encoding(gradients, prefix or {}, embeddings or {})
        texts = [_cleaned(prompt) for prompt in prompts]
        return Conditions(self._placed(self.rows.encoded(texts, encoding)))

    @property
    def picture_side(self) -> int | None:
        """What the table of places holds, where that is less than the pipeline's usual size."""
        config: Any = self.network.config
        places = int(config.rope_max_seq_len) * int(config.patch_size[1])
        side = places * int(self.model.vae_scale_factor_spatial)
        return side if side < max(SIZE) else None

    def drawing(self, steps: int) -> dict[str, Any]:
        """Asks for one frame."""
        return {**super().drawing(steps), "num_frames": 1}

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Frames stand one below the other."""
        factor, side = int(self.model.vae_scale_factor_spatial), self.picture_side
        high, wide = SIZE if side is None else (side, side)
        config: Any = self.network.config
        return int(config.in_channels), self.frames * (high // factor), wide // factor

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Takes frames apart, runs the transformer, and puts them below one another again."""
        network: Any = self.network
        prediction: Tensor = network(
            hidden_states=latents.unflatten(2, (self.frames, -1)),
            timestep=times,
            encoder_hidden_states=conditions.rows,
            return_dict=False,
        )[0]
        return prediction.flatten(2, 3)

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``WanPipeline``; text passes biases before it is read."""
        pipeline = built(_pipeline, seed=seed, dtype=dtype)
        with_drawn_biases(pipeline.transformer, torch.Generator().manual_seed(0))
        return pipeline


def _cleaned(prompt: str) -> str:
    """Writes a prompt as the pipeline does: without entities of HTML and repeated spaces."""
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    return str(prompt_clean(prompt))


def _pipeline() -> Any:
    from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    tokenizer = tiny_t5_tokenizer()
    denoiser = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=T5_WIDTH,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=4,
    )
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer, kind="UMT5"),
        vae=_autoencoder(),
        transformer=denoiser,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def _autoencoder() -> nn.Module:
    from diffusers import AutoencoderKLWan

    made: nn.Module = AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        scale_factor_temporal=2,
        scale_factor_spatial=2,
    )
    return made
