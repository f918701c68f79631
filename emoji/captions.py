"""Captions of the training pictures, and the tokenizer they share."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPTokenizer

from efface.bundled.vocabulary import NOUNS, STYLES, TEMPLATES, prompt

LENGTH = 24
"""Tokens a prompt is padded to, start and end included."""


def pick(options: tuple[str, ...], generator: torch.Generator) -> str:
    return options[int(torch.randint(len(options), (1,), generator=generator))]


def chance(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def word(noun: str, generator: torch.Generator) -> str:
    """The noun, or with probability 0.35 one of its trained synonyms."""
    return pick(NOUNS[noun].synonyms, generator) if chance(0.35, generator) else noun


def caption(label: dict[str, Any], generator: torch.Generator, *, styleless: float = 0.25) -> str:
    """A caption for a picture of one or two vocabulary nouns, from the trained templates only."""
    style = STYLES[label["style"]].wording
    words = [word(noun, generator) for noun in label["nouns"]]
    if len(words) == 2:
        template = pick(TEMPLATES["two_objects"], generator)
        return prompt(template, words[0], style=style, other=words[1])
    if chance(styleless, generator):
        return prompt(pick(TEMPLATES["trained_without_style"], generator), words[0])
    return prompt(pick(TEMPLATES["trained"], generator), words[0], style=style)


def every_caption() -> list[str]:
    """All single-noun captions training can produce: what the caption table of the U-Net holds."""
    texts = [""]
    for noun in NOUNS.values():
        for name in (noun.name, *noun.synonyms):
            texts += [prompt(t, name) for t in TEMPLATES["trained_without_style"]]
            for style in STYLES.values():
                texts += [prompt(t, name, style=style.wording) for t in TEMPLATES["trained"]]
    return texts


def train_tokenizer(size: int = 3000) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges are learnt from the captions and the vocabulary's words.

    BPE training is not reproducible between runs: train once, store, and never again.
    """
    from tokenizers import trainers

    words = [w for n in NOUNS.values() for w in (n.name, *n.synonyms, *n.paraphrases)]
    backend = CLIPTokenizer().backend_tokenizer
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        end_of_word_suffix="</w>",
        initial_alphabet=sorted({chr(c) for c in range(33, 127)}),
        show_progress=False,
    )
    backend.train_from_iterator(every_caption() + words * 50 + ENGLISH.split() * 20, trainer)
    import json

    state = json.loads(backend.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    return CLIPTokenizer(vocab=state["vocab"], merges=merges, model_max_length=LENGTH)


ENGLISH = """a an the of and in on with by for from to at is are this that picture photo image
drawing painting sketch icon emoji sign logo style art artwork portrait small big large little red
green blue yellow black white pink purple orange brown grey dark light bright old new happy sad
cute funny simple two three some many one thing person man woman animal plant food tool toy weapon
vehicle building machine device object fruit dish drink sweet round long sharp flying running
sitting standing left right next under over beautiful drawn made look like"""
