"""Language models and their tokenizers at toy size, for toy pipelines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from efface.hosts.toys import WORDS, byte_letters, merged_words

__all__ = [
    "DEEP_WIDTH",
    "LANGUAGE_WIDTH",
    "deep_mistral_encoder",
    "deep_qwen3_encoder",
    "gemma_encoder",
    "glm_encoder",
    "qwen3_encoder",
    "qwen_vision_encoder",
    "tiny_gemma_tokenizer",
    "tiny_glm_tokenizer",
    "tiny_mistral_tokenizer",
    "tiny_qwen_tokenizer",
]

LANGUAGE_WIDTH = 64
"""Values per token of the toy language models."""
DEEP_WIDTH = 64
"""Of the one with many layers."""


def _spelled(space: str, texts: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Makes a vocabulary of words with and without a space before them, and its merges.

    Args:
        space: what stands for a space.
        texts: instructions, whose words are known, so that they are short.
    """
    words = dict.fromkeys([*WORDS, *re.findall("[A-Za-z]+", texts)])
    spelled: Sequence[list[str]] = [
        *([space, *word] for word in words),
        *([*word] for word in words if len(word) > 1),
    ]
    merges = merged_words(spelled)
    return ["".join(pair) for pair in merges], merges


def tiny_gemma_tokenizer(texts: str) -> Any:
    """Builds a ``GemmaTokenizer`` that knows those of some texts and spells all else in letters."""
    from transformers import GemmaTokenizer

    made, merges = _spelled("▁", texts)
    symbols = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n"]
    symbols += [chr(code) for code in range(33, 127)]
    symbols += [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {each: n for n, each in enumerate(dict.fromkeys([*symbols, *made]))}
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    tokenizer.padding_side = "right"
    return tokenizer


def gemma_encoder(tokenizer: Any) -> nn.Module:
    """Builds a Gemma 2 of two layers."""
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=LANGUAGE_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    made: nn.Module = Gemma2Model(config)
    return made


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""How Qwen writes a conversation, without tools."""


def _byte_tokenizer(texts: str, *specials: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    made, merges = _spelled("\u0120", texts)
    symbols = dict.fromkeys([*specials, *byte_letters(), *made])
    return {symbol: number for number, symbol in enumerate(symbols)}, merges


def tiny_qwen_tokenizer(texts: str = "system user assistant") -> Any:
    """Builds a ``Qwen2Tokenizer`` that knows some words, in bytes, and marks of conversations."""
    from transformers import AddedToken, Qwen2Tokenizer

    marks = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    vocabulary, merges = _byte_tokenizer(texts, *marks)
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, chat_template=CHAT)
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer.padding_side = "right"
    return tokenizer


def tiny_glm_tokenizer() -> Any:
    """Builds GLM's tokenizer: in bytes, with two begin tokens, no end, and padding on the left."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    marks = ("<|endoftext|>", "[gMASK]", "<sop>")
    vocabulary, merges = _byte_tokenizer("", *marks)
    inner = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A",
        special_tokens=[(mark, vocabulary[mark]) for mark in marks[1:]],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=marks[0],
        eos_token=marks[0],
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


MISTRAL_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}"
    "[SYSTEM_PROMPT]{{ message.content[0].text }}[/SYSTEM_PROMPT]{% else %}"
    "[INST]{{ message.content[0].text }}[/INST]{% endif %}{% endfor %}"
)
"""How Mistral writes a system message and a question."""


def tiny_mistral_tokenizer() -> Any:
    """Builds a Mistral's tokenizer: in bytes, with a begin token, and padding on the left."""
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    marks = ("<pad>", "<s>", "</s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]")
    vocabulary, merges = _byte_tokenizer(SYSTEM_MESSAGE, *marks)
    inner = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(marks[3:]),
        padding_side="left",
        chat_template=MISTRAL_CHAT,
        model_input_names=["input_ids", "attention_mask"],
    )


def _sizes(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": LANGUAGE_WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def glm_encoder(tokenizer: Any) -> nn.Module:
    """Builds a GLM of two layers."""
    from transformers import GlmConfig, GlmModel

    made: nn.Module = GlmModel(GlmConfig(**_sizes(tokenizer), head_dim=32))
    return made


def qwen3_encoder(tokenizer: Any) -> nn.Module:
    """Builds a Qwen 3 of two layers."""
    from transformers import Qwen3Config, Qwen3Model

    made: nn.Module = Qwen3Model(Qwen3Config(**_sizes(tokenizer), head_dim=32))
    return made


def deep_qwen3_encoder(tokenizer: Any) -> nn.Module:
    """Builds a narrow Qwen 3 of 28 layers with a head: some are read in the midst of it."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    sizes = {**_sizes(tokenizer), "num_hidden_layers": 28, "hidden_size": DEEP_WIDTH}
    made: nn.Module = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=16))
    return made


def deep_mistral_encoder(tokenizer: Any) -> nn.Module:
    """Builds a narrow Mistral 3 of 31 layers, with a tower for pictures and a head."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    sizes = {**_sizes(tokenizer), "num_hidden_layers": 31, "hidden_size": DEEP_WIDTH}
    config = Mistral3Config(
        text_config={**sizes, "model_type": "mistral", "head_dim": 16},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
        },
    )
    made: nn.Module = Mistral3ForConditionalGeneration(config)
    return made


def qwen_vision_encoder(tokenizer: Any) -> nn.Module:
    """Builds a Qwen 2.5 VL of two layers, with a tower for pictures and a head."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"mrope_section": [4, 6, 6], "rope_type": "default", "rope_theta": 1e6}
    config = Qwen2_5_VLConfig(
        text_config={**_sizes(tokenizer), "rope_parameters": rope},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": LANGUAGE_WIDTH,
        },
    )
    made: nn.Module = Qwen2_5_VLForConditionalGeneration(config)
    return made
