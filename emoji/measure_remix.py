"""Measures emoji-remix: does it draw the same nouns in the other domain?

    python emoji/measure_remix.py    writes benchmarks/results/emoji_remix.json

Needs the rendered pictures (``make emoji`` makes them).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import product

import torch
from torch import Tensor

from efface.bundled import weights_folder
from efface.bundled.judge import EmojiJudge
from efface.bundled.remix import turned
from efface.bundled.suites import GUIDANCE, STEPS
from efface.bundled.vocabulary import HELD_OUT, NOUNS, STYLES, TEMPLATES, prompt
from efface.metrics.estimates import rate
from measure import RESULTS, Figure, Sampler, noun_hits, style_hits, tell
from pictures import Pictures
from train_vae import psnr


def back(images: Tensor) -> Tensor:
    """Pictures of this domain as the judge knows them."""
    return turned(images.clamp(0, 1))


def figures(judge: EmojiJudge, sampler: Sampler) -> list[Figure]:
    """Nouns and styles of generated pictures."""
    wanted = [pair for pair in product(NOUNS, STYLES) if pair not in HELD_OUT]
    nouns, styles = ([pair[side] for pair in wanted] for side in (0, 1))
    template = TEMPLATES["trained"][0]
    texts = [prompt(template, noun, style=STYLES[style].wording) for noun, style in wanted]
    images = sampler.images(texts, 1000)
    seen, as_they_are = back(images), noun_hits(judge, images, nouns)
    corners = images[:, :, :4, :4].mean(dim=(1, 2, 3)) < 0.5
    light = [style for style in STYLES if style != "neon"]
    on_light = torch.tensor([style in light for style in styles])
    plain = TEMPLATES["trained_without_style"][0]
    words = [(word, name) for name, noun in NOUNS.items() for word in noun.synonyms]
    again = back(sampler.images([prompt(plain, word) for word, _ in words], 3000))
    return [
        Figure("emoji-remix, trained pairs: noun", rate(noun_hits(judge, seen, nouns))),
        Figure("emoji-remix, trained pairs: style", rate(style_hits(judge, seen, styles))),
        Figure("emoji-remix, synonyms: noun", rate(noun_hits(judge, again, [n for _, n in words]))),
        Figure("emoji-remix, not turned back: noun", rate(as_they_are)),
        Figure("emoji-remix, all styles but neon: dark corner", rate(corners[on_light])),
    ]


def main() -> None:
    """Prints and stores every figure."""
    torch.set_num_threads(2)
    pictures, sampler = Pictures.read(), Sampler("emoji-remix")
    found = figures(EmojiJudge(), sampler)
    held_out = pictures.pixels[pictures.where(kind="noun", held_out=True)].float() / 255
    record = {
        "command": "python emoji/measure_remix.py",
        "steps": STEPS,
        "guidance": GUIDANCE,
        "figures": [asdict(figure) | {"met": figure.met} for figure in found],
        "autoencoder_psnr_db": psnr(sampler.pipe.vae, turned(held_out) * 2 - 1),
        "bytes": (weights_folder() / "remix.safetensors").stat().st_size,
    }
    tell(found)
    print({key: record[key] for key in ("autoencoder_psnr_db", "bytes")})
    (RESULTS.parent / "emoji_remix.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
