"""Measures emoji-reader: does it draw what descriptions mean, and everything else as before?

python emoji/measure_reader.py    writes benchmarks/results/emoji_reader.json
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import product

import torch

from efface.bundled import weights_folder
from efface.bundled.judge import EmojiJudge
from efface.bundled.suites import GUIDANCE, STEPS
from efface.bundled.vocabulary import HELD_OUT, NOUNS, STYLES, TEMPLATES, prompt
from efface.metrics.estimates import rate
from measure import RESULTS, Figure, Sampler, noun_hits, style_hits, tell


def figures(judge: EmojiJudge, sampler: Sampler, model: str) -> list[Figure]:
    """Nouns and styles by names, synonyms and descriptions, the latter with styles and without."""
    pairs = [pair for pair in product(NOUNS, STYLES) if pair not in HELD_OUT]
    template, plain = TEMPLATES["trained"][0], TEMPLATES["trained_without_style"][0]
    nouns, styles = ([pair[side] for pair in pairs] for side in (0, 1))
    texts = [prompt(template, noun, style=STYLES[style].wording) for noun, style in pairs]
    images = sampler.images(texts, 1000)
    found = [
        Figure(f"{model}, trained pairs: noun", rate(noun_hits(judge, images, nouns))),
        Figure(f"{model}, trained pairs: style", rate(style_hits(judge, images, styles))),
    ]
    for what, keys in (("synonyms", ("synonyms",)), ("descriptions", WORDINGS)):
        words = [(w, n) for n, noun in NOUNS.items() for key in keys for w in getattr(noun, key)]
        images = sampler.images([prompt(plain, word) for word, _ in words], 3000)
        hits = noun_hits(judge, images, [noun for _, noun in words])
        found.append(Figure(f"{model}, {what}, no style: noun", rate(hits)))
    described = [(NOUNS[noun].descriptions[0], noun, style) for noun, style in pairs]
    texts = [prompt(template, word, style=STYLES[style].wording) for word, _, style in described]
    images = sampler.images(texts, 6000)
    return [
        *found,
        Figure(f"{model}, descriptions: noun", rate(noun_hits(judge, images, nouns))),
        Figure(f"{model}, descriptions: style", rate(style_hits(judge, images, styles))),
    ]


WORDINGS = ("paraphrases", "descriptions")


def main() -> None:
    """Prints and stores every figure, those of the base beside."""
    torch.set_num_threads(2)
    judge = EmojiJudge()
    found = [
        figure
        for model in ("emoji-reader", "emoji")
        for figure in figures(judge, Sampler(model), model)
    ]
    record = {
        "command": "python emoji/measure_reader.py",
        "steps": STEPS,
        "guidance": GUIDANCE,
        "figures": [asdict(figure) | {"met": figure.met} for figure in found],
        "bytes": (weights_folder() / "reader.safetensors").stat().st_size,
    }
    tell(found)
    (RESULTS.parent / "emoji_reader.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
