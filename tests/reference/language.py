"""What layers read of language models, as the pipelines' own code embeds and norms it."""

import copy
import inspect


def _lumina2(pipe, prompt):
    """The system prompt, the prompt, and no end; then the norm before the layer."""
    rows, mask, _, _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
    norm = copy.deepcopy(pipe.transformer.time_caption_embed.caption_embedder[0]).double()
    read = norm(rows[0, mask[0].bool()].double())
    return read, len(read) - 1


def _sana(pipe, prompt):
    """The begin token, the instruction's last and the prompt; then projection and norm."""
    told = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    rows, mask, _, _ = pipe.encode_prompt(prompt, False, complex_human_instruction=told)
    projection, norm = (
        copy.deepcopy(each).double()
        for each in (pipe.transformer.caption_projection, pipe.transformer.caption_norm)
    )
    read = norm(projection(rows[0, mask[0].bool()].double()))
    return read, len(read) - 1


def _sanasprint(pipe, prompt):
    """The same without anything to guide away from."""
    told = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    rows, mask = pipe.encode_prompt(prompt, complex_human_instruction=told)
    projection, norm = (
        copy.deepcopy(each).double()
        for each in (pipe.transformer.caption_projection, pipe.transformer.caption_norm)
    )
    read = norm(projection(rows[0, mask[0].bool()].double()))
    return read, len(read) - 1


def _qwenimage(pipe, prompt):
    """The prompt and five tokens after it, past the norm."""
    rows, mask = pipe.encode_prompt(prompt)
    assert mask is None
    return copy.deepcopy(pipe.transformer.txt_norm).double()(rows[0].double()), rows.shape[1] - 6


def _cogview4(pipe, prompt):
    """Padding, two begin tokens and the prompt, as they are."""
    rows, _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
    return rows[0].double(), rows.shape[1] - 1


def _zimage(pipe, prompt):
    """A conversation, with five tokens after the prompt, past the norm."""
    (rows,), _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
    norm = copy.deepcopy(pipe.transformer.cap_embedder[0]).double()
    return norm(rows.double()), len(rows) - 6


def _flux2klein(pipe, prompt):
    """A conversation with five tokens after the prompt, and padding."""
    rows, _ = pipe.encode_prompt(prompt)
    question = [{"role": "user", "content": prompt}]
    told = pipe.tokenizer.apply_chat_template(
        question, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return rows[0].double(), len(pipe.tokenizer(told)["input_ids"]) - 6


def _flux2dev(pipe, prompt):
    """A conversation after padding, with one token after the prompt."""
    rows, _ = pipe.encode_prompt(prompt)
    return rows[0].double(), rows.shape[1] - 2


def _chroma(pipe, prompt):
    """Rows of T5 without a begin token, and of padding that T5 does not see."""
    rows, *_ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
    return rows[0].double(), len(pipe.tokenizer(prompt)["input_ids"]) - 2


def _wan(pipe, prompt):
    """Rows of UMT5, zeros in place of padding; then the projection, which reads those, too."""
    rows, _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
    projection = copy.deepcopy(pipe.transformer.condition_embedder.text_embedder).double()
    return projection(rows[0].double()), len(pipe.tokenizer(prompt)["input_ids"]) - 2


LANGUAGE = {
    "lumina2": (("time_caption_embed.caption_embedder.1",), _lumina2),
    "sana": (("transformer_blocks.0.attn2.to_k", "transformer_blocks.0.attn2.to_v"), _sana),
    "sanasprint": (
        ("transformer_blocks.0.attn2.to_k", "transformer_blocks.0.attn2.to_v"),
        _sanasprint,
    ),
    "qwenimage": (("txt_in",), _qwenimage),
    "cogview4": (("patch_embed.text_proj",), _cogview4),
    "zimage": (("cap_embedder.1",), _zimage),
    "flux2klein": (("context_embedder",), _flux2klein),
    "flux2dev": (("context_embedder",), _flux2dev),
}
"""By family: the layers, and a function of pipeline and prompt that gives the rows which they read
and the place of the last row of the prompt."""

_WAN = tuple(f"blocks.{block}.attn2.to_{each}" for block in (0, 1) for each in "kv")

ROWS = {**LANGUAGE, "chroma": (("context_embedder",), _chroma), "wan": (_WAN, _wan)}
"""The same with families whose encoder is none, and whose pipelines give all rows themselves."""
