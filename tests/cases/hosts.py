"""Cases of families of models: what their toys must agree on with their own pipelines."""

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


_PLAIN = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}

KEYS_AND_VALUES = ("unet/key_value",)
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
    HostCase(host="tiny_flux", branches=TRANSFORMER, encoded=rows_and_pooled_of_flux, sized=True),
    HostCase(
        host="tiny_flux_shifted", branches=TRANSFORMER, encoded=rows_and_pooled_of_flux, sized=True
    ),
    HostCase(host="tiny_pixart", branches=("transformer/key_value",), encoded=projected_captions),
    HostCase(
        host="tiny_auraflow",
        branches=("transformer/text_tokens",),
        encoded=rows_alone_of_a_transformer,
        sized=True,
        slow=True,
    ),
)
