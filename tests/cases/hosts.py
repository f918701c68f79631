"""Cases of families of models: what their toys must agree on with their own pipelines."""

import inspect

import torch

from tests.cases.kinds import HostCase


def rows_alone(pipe, prompt):
    """Of pipelines that read one encoder's rows."""
    return pipe.encode_prompt(prompt, "cpu", 1, False)[0], None


def rows_alone_of_a_transformer(pipe, prompt):
    """Of AuraFlow."""
    return pipe.encode_prompt(prompt, do_classifier_free_guidance=False, device="cpu")[0], None


def rows_and_pooled(pipe, prompt):
    """Of Stable Diffusion XL, where no prompt is what guidance starts from, which may be zeros."""
    if not prompt:
        return pipe.encode_prompt("cat", device="cpu")[1::2]
    return pipe.encode_prompt(prompt, device="cpu", **_PLAIN)[0::2]


def rows_and_pooled_of_three(pipe, prompt):
    """The same with a third encoder."""
    rows, _, pooled, _ = pipe.encode_prompt(prompt, None, None, device="cpu", **_PLAIN)
    return rows, pooled


def rows_and_pooled_of_flux(pipe, prompt):
    """Without guidance, which FLUX is told."""
    rows, pooled, _ = pipe.encode_prompt(prompt, None, device="cpu")
    return rows, pooled


def projected_captions(pipe, prompt):
    """PixArt's transformer projects captions before its layers read them; padding is masked."""
    rows, mask, _, _ = pipe.encode_prompt(prompt, False, device="cpu", max_sequence_length=24)
    return pipe.transformer.caption_projection(rows)[:, : int(mask.sum())], None


def drawn_packed(pipe, start, guidance, *, height, width, **options):
    """Of FLUX and Qwen-Image, whose latents are packed and whose guidance is another word's."""
    packed = pipe._pack_latents(start, 1, *start.shape[1:])
    negative = {"negative_prompt": "", "true_cfg_scale": guidance}
    sizes = {"height": height, "width": width}
    ended = pipe("a cat", latents=packed, **options, **sizes, **negative).images
    return pipe._unpack_latents(ended, height, width, pipe.vae_scale_factor).reshape(start.shape)


def rows_of_a_language_model(pipe, prompt):
    """Of Lumina 2, where no prompt is what guidance starts from."""
    words, mask, bare, bare_mask = pipe.encode_prompt(prompt or "cat", device="cpu")
    rows, read = (words, mask) if prompt else (bare, bare_mask)
    return rows[:, read[0].bool()], None


def rows_after_an_instruction(pipe, prompt):
    """Of Sana, alike."""
    told = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    words, mask, bare, bare_mask = pipe.encode_prompt(
        prompt or "cat", device="cpu", complex_human_instruction=told
    )
    rows, read = (words, mask) if prompt else (bare, bare_mask)
    return rows[:, read[0].bool()], None


def rows_of_sprint(pipe, prompt):
    """Of Sana-Sprint, which asks nothing without a prompt."""
    told = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    rows, mask = pipe.encode_prompt(prompt, device="cpu", complex_human_instruction=told)
    return rows[:, mask[0].bool()], None


def rows_of_a_conversation(pipe, prompt):
    """Of Qwen-Image."""
    return pipe.encode_prompt(prompt, device="cpu")[0], None


def rows_in_a_list(pipe, prompt):
    """Of Z-Image."""
    return pipe.encode_prompt(prompt, device="cpu")[0][0][None], None


def drawn_of_klein(pipe, start, guidance, *, height, width, **options):
    """Of FLUX.2 klein, which norms latents at the end and makes four of each."""
    sizes = {"height": 2 * height, "width": 2 * width, "guidance_scale": guidance}
    ended = pipe._patchify_latents(pipe(prompt="a cat", latents=start, **sizes, **options).images)
    mean, variance = (
        each.view(1, -1, 1, 1) for each in (pipe.vae.bn.running_mean, pipe.vae.bn.running_var)
    )
    return (ended - mean) / (variance + pipe.vae.config.batch_norm_eps).sqrt()


def drawn_of_dev(pipe, start, guidance, **options):
    """Of FLUX.2 dev, whose guidance is what the transformer is told, and is no second prompt."""
    assert guidance == 1.0
    options = {
        key: 2 * value if key in ("height", "width") else value for key, value in options.items()
    }
    ended = pipe(prompt="a cat", latents=start, guidance_scale=4.0, **options).images
    return ended.mT.reshape(start.shape)


def drawn_packed_with_guidance(pipe, start, guidance, *, height, width, **options):
    """Of Chroma, whose latents are packed."""
    packed = pipe._pack_latents(start, 1, *start.shape[1:])
    sizes = {"height": height, "width": width, "guidance_scale": guidance}
    ended = pipe("a cat", latents=packed, **sizes, **options).images
    return pipe._unpack_latents(ended, height, width, pipe.vae_scale_factor)


def drawn_as_asked(pipe, start, guidance, **options):
    """Of Sana, which would round sizes to those of its training."""
    plain = {"guidance_scale": guidance, "use_resolution_binning": False}
    return pipe("a cat", latents=start, **plain, **options).images


def rows_of_wan(pipe, prompt):
    """As many as its transformer reads."""
    return pipe.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)[
        0
    ], None


def drawn_in_frames(pipe, start, guidance, *, frames=1, **options):
    """Of Wan, whose frames stand one below the other here."""
    latents = start.unflatten(2, (frames, -1))
    sizes = {"height": 16, "width": 16, "num_frames": 2 * frames - 1}
    return pipe(
        "a cat", latents=latents, guidance_scale=guidance, **sizes, **options
    ).frames.flatten(2, 3)


def drawn_on_a_circle(pipe, start, guidance, **options):
    """Of Sana-Sprint, whose steps draw noise; latents have the spread of its data within."""
    assert guidance == 1.0
    steps = options["num_inference_steps"]
    plain = {"use_resolution_binning": False, "guidance_scale": 4.5}
    plain |= {} if steps == 2 else {"intermediate_timesteps": None}
    generator = torch.Generator().manual_seed(7)
    pipe.scheduler = type(pipe.scheduler)(sigma_data=0.5)  # ours has latents of unit spread
    return pipe("a cat", latents=start, generator=generator, **plain, **options).images


_PLAIN = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}

KEYS_AND_VALUES = ("unet/key_value",)
TOKENS = ("transformer/text_tokens",)
TRANSFORMER = ("transformer/text_tokens", "transformer/pooled_text")

CASES = (
    HostCase(host="tiny_sd1", branches=KEYS_AND_VALUES, encoded=rows_alone),
    HostCase(host="tiny_sd2", branches=KEYS_AND_VALUES, encoded=rows_alone),
    HostCase(host="tiny_sd2_v", branches=KEYS_AND_VALUES, encoded=rows_alone),
    HostCase(
        host="tiny_sdxl",
        branches=(*KEYS_AND_VALUES, "unet/pooled_text"),
        encoded=rows_and_pooled,
        sized=True,
    ),
    HostCase(host="tiny_sd3", branches=TRANSFORMER, encoded=rows_and_pooled_of_three, sized=True),
    *(
        HostCase(
            host=name,
            branches=TRANSFORMER,
            encoded=rows_and_pooled_of_flux,
            sized=True,
            drawn=drawn_packed,
        )
        for name in ("tiny_flux", "tiny_flux_shifted")
    ),
    HostCase(host="tiny_pixart", branches=("transformer/key_value",), encoded=projected_captions),
    HostCase(
        host="tiny_auraflow",
        branches=TOKENS,
        encoded=rows_alone_of_a_transformer,
        sized=True,
        slow=True,
    ),
    HostCase(
        host="tiny_lumina2",
        branches=TOKENS,
        encoded=rows_of_a_language_model,
        sized=True,
        slow=True,
    ),
    HostCase(
        host="tiny_sana",
        branches=("transformer/key_value",),
        encoded=rows_after_an_instruction,
        sized=True,
        drawn=drawn_as_asked,
        slow=True,
    ),
    HostCase(
        host="tiny_sanasprint",
        branches=("transformer/key_value",),
        encoded=rows_of_sprint,
        sized=True,
        drawn=drawn_on_a_circle,
        guidance=1.0,
        slow=True,
    ),
    HostCase(
        host="tiny_qwenimage",
        branches=TOKENS,
        encoded=rows_of_a_conversation,
        sized=True,
        drawn=drawn_packed,
        slow=True,
    ),
    HostCase(
        host="tiny_cogview4",
        branches=TOKENS,
        encoded=rows_alone_of_a_transformer,
        sized=True,
        slow=True,
    ),
    HostCase(host="tiny_zimage", branches=TOKENS, encoded=rows_in_a_list, sized=True, slow=True),
    HostCase(
        host="tiny_chroma",
        branches=TOKENS,
        encoded=rows_alone_of_a_transformer,
        sized=True,
        drawn=drawn_packed_with_guidance,
        slow=True,
    ),
    HostCase(
        host="tiny_flux2klein",
        branches=TOKENS,
        encoded=rows_of_a_conversation,
        sized=True,
        drawn=drawn_of_klein,
        slow=True,
    ),
    HostCase(
        host="tiny_flux2dev",
        branches=TOKENS,
        encoded=rows_of_a_conversation,
        sized=True,
        drawn=drawn_of_dev,
        guidance=1.0,
        slow=True,
    ),
    HostCase(
        host="tiny_wan",
        branches=("transformer/key_value",),
        encoded=rows_of_wan,
        drawn=drawn_in_frames,
        slow=True,
    ),
)
