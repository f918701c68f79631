"""Stable Diffusion XL, 3, FLUX and PixArt at toy size: the real classes, without any file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from efface.hosts.tiny import LENGTH, WORDS, autoencoder, filled, tiny_tokenizer

__all__ = ["LargeFamily", "tiny_pipeline", "tiny_t5_tokenizer"]

LargeFamily: TypeAlias = Literal["sdxl", "sd3", "flux", "pixart"]
_WIDTH = 32
"""Values per token of each toy CLIP encoder."""
_T5_WIDTH = 72
"""Of the toy T5: more than two CLIP encoders side by side, as in the real ones."""


def tiny_pipeline(family: LargeFamily, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Builds a pipeline with random weights in the layout of a family.

    Args:
        family: which one.
        seed: decides every weight; the global random state is not touched.
        dtype: of all networks.
    """
    with torch.random.fork_rng(devices=[]):
        pipeline = _BUILDERS[family]()
    generator = torch.Generator().manual_seed(seed)
    networks = (part for _, part in sorted(pipeline.components.items()))
    for network in (part for part in networks if isinstance(part, nn.Module)):
        filled(network, generator)
        network.eval()
        if dtype != torch.float32:
            network.to(dtype)
    if family == "pixart":
        _drawn_biases(pipeline.transformer, torch.Generator().manual_seed(0))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_t5_tokenizer() -> Any:
    """Builds a ``T5Tokenizer`` that knows `WORDS` and spells everything else in letters."""
    from transformers import T5Tokenizer

    pieces: list[tuple[str, float]] = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -1.0) for word in WORDS if len(word) > 1 or word == "a"]
    pieces += [(chr(code), -5.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)


def _clip(tokenizer: Any, *, projected: bool) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=64,
        projection_dim=_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    made: nn.Module = CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)
    return made


def _t5(tokenizer: Any) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    made: nn.Module = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=_T5_WIDTH,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    return made


def _sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    first, second = tiny_tokenizer(), tiny_tokenizer(pad="!")
    denoiser = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=2 * _WIDTH,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=_WIDTH + 6 * 8,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=_clip(first, projected=False),
        text_encoder_2=_clip(second, projected=True),
        tokenizer=first,
        tokenizer_2=second,
        unet=denoiser,
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )


def _sd3() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    first, second, third = tiny_tokenizer(), tiny_tokenizer(), tiny_t5_tokenizer()
    denoiser = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=_T5_WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * _WIDTH,
        out_channels=4,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=denoiser,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_shifted(autoencoder()),
        text_encoder=_clip(first, projected=True),
        tokenizer=first,
        text_encoder_2=_clip(second, projected=True),
        tokenizer_2=second,
        text_encoder_3=_t5(third),
        tokenizer_3=third,
    )


def _flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    first, second = tiny_tokenizer(), tiny_t5_tokenizer()
    denoiser = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=_T5_WIDTH,
        pooled_projection_dim=_WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_shifted(autoencoder()),
        text_encoder=_clip(first, projected=False),
        tokenizer=first,
        text_encoder_2=_t5(second),
        tokenizer_2=second,
        transformer=denoiser,
    )
    pipeline.default_sample_size = 8
    return pipeline


def _pixart() -> Any:
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
        caption_channels=_T5_WIDTH,
    )
    return PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5(tokenizer),
        vae=autoencoder(),
        transformer=denoiser,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
    )


def _drawn_biases(network: nn.Module, generator: torch.Generator) -> None:
    """Fills biases with a tenth of normal values: captions pass some before they are read."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def _shifted(vae: Any) -> Any:
    """Gives an autoencoder the shift of its latents, which these families expect."""
    vae.register_to_config(shift_factor=0.1)
    return vae


_BUILDERS: dict[str, Callable[[], Any]] = {
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": _flux,
    "pixart": _pixart,
}
