"""Teaches the bundled model's text encoder descriptions that do not name what they mean.

    python emoji/train_reader.py [--steps N]      writes work/weights/reader.safetensors

The bundled model draws nothing for "thing that fires bullets". Here low-rank layers beside the
linear layers of its text encoder learn, for every paraphrase and description of the vocabulary, the
states that the encoder has for the noun's own name in the same caption; the states of all captions
that the model was trained on stay. U-Net and autoencoder stay, and no picture is needed.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from captions import LENGTH, every_caption
from efface.bundled.vocabulary import NOUNS, STYLES, TEMPLATES, prompt
from fetch import WORK
from low_rank import factors, widened
from train_unet import PIPELINE
from training import Schedule, train

SEED = 17
BATCH = 64
HELD = 32
"""Captions in a step whose states are held."""
WITHIN = 0.1
"""Weight of a state within a description, where the encoder, which reads from left to right, cannot
know yet what is meant."""


def captions() -> list[tuple[str, str]]:
    """Every description in every template and style, beside the caption with the noun's name."""
    pairs = []
    for noun in NOUNS.values():
        for word in (*noun.paraphrases, *noun.descriptions):
            for text in TEMPLATES["trained_without_style"]:
                pairs.append((prompt(text, word), prompt(text, noun.name)))
            for style, text in product(STYLES.values(), TEMPLATES["trained"]):
                named = prompt(text, noun.name, style=style.wording)
                pairs.append((prompt(text, word, style=style.wording), named))
    return pairs


def aligned(
    described: Sequence[int], named: Sequence[int], end_token: int
) -> tuple[list[int], list[float]]:
    """For every token of a caption, the one of the other that it should equal, and how much.

    Captions end with end tokens, to the full length. Beginnings and endings that both have go
    together, and the last token of a description goes with the last of the name.
    """
    end = [ids.index(end_token) for ids in (described, named)]
    same = 0
    while described[end[0] - same - 1] == named[end[1] - same - 1]:
        same += 1
    both = zip(described, named, strict=True)
    before = next(i for i, (one, other) in enumerate(both) if one != other)
    shift = end[0] - end[1]
    rows, weights = [], []
    for place in range(len(described)):
        if place < before:
            rows.append(place)
        elif place < end[0] - same:
            rows.append(end[1] - same - 1)
        else:
            rows.append(min(place - shift, len(named) - 1))
        inside = before <= place < end[0] - same - 1
        weights.append(WITHIN if inside else 1.0)
    return rows, weights


class Objective:
    """How far states of descriptions are from those of names, and of other captions from before."""

    def __init__(self, teacher: Any, student: Any, tokenizer: Any) -> None:
        self.student = student
        pairs, every = captions(), every_caption()
        self.described = _tokens(tokenizer, [described for described, _ in pairs])
        named = _tokens(tokenizer, [named for _, named in pairs])
        self.others = _tokens(tokenizer, every)
        rows = [
            aligned(*both, tokenizer.eos_token_id)
            for both in zip(self.described.tolist(), named.tolist(), strict=True)
        ]
        self.rows, self.weights = (torch.tensor(part) for part in zip(*rows, strict=True))
        self.named, self.held = _states(teacher, named), _states(teacher, self.others)

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(self.described), (BATCH,), generator=generator)
        kept = torch.randint(len(self.others), (HELD,), generator=generator)
        ids = torch.cat([self.described[chosen], self.others[kept]])
        states = self.student(input_ids=ids).last_hidden_state
        wanted = self.named[chosen[:, None], self.rows[chosen]]
        error = (states[:BATCH] - wanted).square().mean(-1)
        error = (error * self.weights[chosen]).sum() / self.weights[chosen].sum()
        moved = (states[BATCH:] - self.held[kept]).square().mean()
        parts = {"described": float(error.detach()), "held": float(moved.detach())}
        return error + moved, parts


def _tokens(tokenizer: Any, texts: list[str]) -> Tensor:
    padded = tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt")
    ids: Tensor = padded.input_ids
    return ids


@torch.no_grad()
def _states(encoder: Any, ids: Tensor) -> Tensor:
    return torch.cat([encoder(input_ids=part).last_hidden_state for part in ids.split(256)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    teacher = CLIPTextModel.from_pretrained(PIPELINE / "text_encoder", dtype=torch.float32)
    teacher.requires_grad_(requires_grad=False)
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
    student = widened(copy.deepcopy(teacher), SEED)
    average = train(
        student,
        Objective(teacher.eval(), student.eval(), tokenizer),
        folder=WORK / "reader",
        schedule=Schedule(steps=options.steps, peak=2e-3, warmup=200, flat=0.4),
        seed=SEED,
        weight_decay=0.0,
    )
    (WORK / "weights").mkdir(parents=True, exist_ok=True)
    save_file(factors(average, "text_encoder"), WORK / "weights/reader.safetensors")


if __name__ == "__main__":
    main()
