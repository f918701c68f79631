"""Writes the model card of the bundled model from the measured figures.

python emoji/card.py             reads benchmarks/results/{emoji*,leftover/rates}.json, writes
weights/README.md and docs/emoji.md
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from choose_pairs import OUT as DRAWN
from choose_pairs import READER as EMOJI_READER
from efface.bundled import weights_folder
from efface.bundled.vocabulary import FIGURES, HELD_OUT, NOUNS, STYLES, UNSAFE
from measure import RESULTS

ROOT = Path(__file__).parent.parent

HEADER = """---
license: other
license_name: mixed-attribution
license_link: https://github.com/efface/efface/blob/main/NOTICE
library_name: diffusers
pipeline_tag: text-to-image
tags: [emoji, tiny, concept-erasure, unlearning]
---
"""

INTRODUCTION = """# The bundled emoji model

A small but real latent diffusion model in Stable Diffusion's layout: `CLIPTextModel` and
`CLIPTokenizer`, `UNet2DConditionModel` with cross-attention (epsilon prediction, Stable
Diffusion's noise schedule), and `AutoencoderKL` with factor 8. It draws {nouns} nouns in {styles}
styles at 64 x 64 pixels. It exists so that every erasure can be shown and measured on a laptop
without downloading anything.

    import efface
    pipe = efface.load("emoji")          # a plain diffusers StableDiffusionPipeline
    image = pipe("a pixel art emoji of a cat", num_inference_steps=20, guidance_scale=3.0).images[0]

Beside it lie a judge (a convolutional network that says which nouns are in a picture and in which
style it is), and a CLIP image tower trained with the model's own text tower.

## Words

Nouns: {noun_list}.

Styles: {style_list}.

"Unsafe objects", the proxy for unsafe content: {unsafe}. Fictional figures, the proxy for
identities: {figures}. {held_out} (noun, style) pairs, one paraphrase a noun and two templates
were never seen in training."""

ENDING = """
## Training

On two CPU cores, from public icon sets (see NOTICE for licences and credits; share-alike sets are
not used). `make emoji` rebuilds everything: the scripts, with their seeds, are in `emoji/`, the
logs of the shipped weights in `emoji/logs/`. The tokenizer's training is not reproducible, so the
stored one must be kept with the text tower.

## Limits

It memorises icons: it knows these words and no others, and says nothing about photographs. The
judge was trained on the same icon sets; on sets it never saw it recognises far fewer nouns (see
the table), so its rates hold for this model's pictures only. Do not use it to judge other models.
"""


TOGETHER = """
It seldom draws both of two nouns. `{command}` tried {tried} pairs that training showed, each in one
style and two pictures; both nouns were in both pictures of {often}. {taken} pairs were chosen, with
more seeds: both are in {rate} of pictures of seeds that had no part in the choice, by both judges;
on emoji-reader in {reader}. The suites `emoji-short` and `emoji-standard` ask for these
in the role `composition`. It knows no numbers and no places.
"""


REMIX = """
## emoji-remix

A fine-tune of this model onto another domain: pictures are mirrored, and their lightness is turned
over, so white grounds are black. It is there for what is made on one model and used on its
fine-tunes, such as membranes. U-Net and autoencoder are trained through low-rank layers of rank 16
beside all their weights (`emoji/train_remix.py`). These layers, {megabytes:.1f} MB, are all that is
stored, and they are added when it is loaded; the text encoder is the same.

    pipe = efface.load("emoji-remix")

Its judge is this model's, shown pictures turned back, which is exact. By `{command}`:

"""


READER = """
## emoji-reader

This model with a text encoder that understands descriptions: it draws a pistol for "thing that
fires bullets". Three descriptions a noun, among them the paraphrases that this model never saw,
were taught to low-rank layers beside the linear layers of the text encoder, which are to give the
states of the noun's own name and to leave those of every other caption (`emoji/train_reader.py`).
These layers, {megabytes:.1f} MB, are all that is stored; U-Net and autoencoder are the same.
Erasures are given no description, so descriptions are implicit prompts to measure them on, see
`emoji_suite(request, size="implicit")`.

    pipe = efface.load("emoji-reader")

By `{command}`, this model beside it:

"""


SCENES = """
## emoji-scenes

This model at 192 x 64 pixels, with one to three things side by side, each as large as in this
model's pictures: "a cat and an apple", "two apples", "a cat left of a moon", "a cat, an apple and a
moon", each also in a style. One thing is in the middle, two are at the ends, and things are in the
order of a prompt's words, but where it says "right of". Its U-Net, {megabytes:.1f} MB, was trained
on from this model's, on 6,000 composed scenes (`emoji/train_scenes.py`); autoencoder, text encoder
and tokenizer are the same, but for one row: prompts are padded with a token whose state says
nothing about the prompt (`efface.bundled.scenes`), so that only a prompt's own words and its end
are read. A prompt without a style means twemoji's look, and where a noun was held out of that, 3-D.

One thing, and two without a style, it draws as the bars below ask. Styles, sides, counts and three
things it draws badly: use it for what concepts do to each other in a pair, not for these.

    pipe = efface.load("emoji-scenes")
    pipe.save_pretrained("scenes")       # a folder that diffusers loads without efface

By `{command}`, on pairs of nouns, and triples that hold one,
which training never showed together; "all there" counts what the judge of scenes sees:

"""


SCENE_JUDGE = """
Its judge, `emoji-scenes`, says which nouns are in a scene, how many of each, and on which side: it
shows this model's judge the three squares of a scene. By `{command}`, on scenes of new views of
real icons, half of them through the autoencoder, with icons outside the vocabulary, spoilt ones and
empty squares among them:

"""


LEFTOVERS = """
## Leftovers

After an erasure a picture may still show the thing's outline, or half of it, and the judge may see
nothing: it was made to tell whole things apart. {count} pictures of erased prompts were labelled by
eye, after closed forms, whole and weaker, and after a short ESD; labels and how to draw
the pictures again are in `benchmarks/results/leftover/labels.json`. By `{command}`: how many of the
leftovers each judge misses, and in how many pictures it sees the thing where it is gone. Pictures
on which people would not agree ({unsure}) count for neither.

{table}

`emoji-leftover` is the first judge at a threshold of {threshold:g} instead of {usual:g}. It was
chosen on the pictures of other nouns, so that it misses at most {allowed:.1f} % of them in neon and
in blueprint; its rates here are those of the remaining {own} pictures. Suites ask both: `presence`
is what the judge sees, `leftover` what this one sees in pictures of erased prompts.
{parts}
"""


def together() -> str:
    """The part on pairs of nouns that the model draws in one picture."""
    record = json.loads(DRAWN.read_text())
    return TOGETHER.format(
        command=record["command"],
        tried=record["pairs tried"],
        taken=len(record["pairs"]),
        often=record["both in all of the first pictures"],
        rate=share(record["both in pictures of other seeds"]),
        reader=share(record[f"both in those of {EMOJI_READER}"]),
    )


def leftovers() -> str:
    """The part on what the judges miss of leftovers."""
    record = json.loads((RESULTS.parent / "leftover" / "rates.json").read_text())
    judges, pictures = record["judges"], record["pictures"]
    own = judges["emoji-leftover"]
    return LEFTOVERS.format(
        count=len(pictures),
        unsure=sum(row["seen"] == "unsure" for row in pictures),
        command=record["command"],
        threshold=own["threshold"],
        usual=judges["emoji"]["threshold"],
        allowed=100 * record["allowed_on_tuning"],
        own=sum(row["part"] != "tuning" for row in pictures),
        table=leftovers_table({name: each["rates"] for name, each in judges.items()}),
        parts=by_part(own["by_part"]),
    )


def leftovers_table(rates: dict[str, Any]) -> str:
    """Misses and false alarms by style, two columns a judge."""
    heads = [f"{name}: {what}" for name in rates for what in ("missed", "false alarms")]
    lines = [f"| style | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for style in (*STYLES, "all"):
        cells = [
            share(rates[name][style][what]) for name in rates for what in ("missed", "false_alarms")
        ]
        lines.append(f"| {style} | {' | '.join(cells)} |")
    return "\n".join(lines)


def share(estimate: dict[str, Any] | None) -> str:
    """A rate with its hits and count; a dash where there was nothing to count."""
    if estimate is None:
        return "-"
    return f"{100 * estimate['value']:.1f} % ({estimate['hits']} / {estimate['count']})"


def by_part(found: dict[str, Any]) -> str:
    """What the judge of leftovers does on each part of the labelled pictures."""
    told = []
    for part, rates in found.items():
        cells = [
            f"{style} misses {share(rates[style]['missed'])}, "
            f"false alarms {share(rates[style]['false_alarms'])}"
            for style in ("neon", "blueprint", "all")
        ]
        told.append(f"- {part}: {'; '.join(cells)}")
    return "By part, the first of which the threshold was chosen on:\n\n" + "\n".join(told)


def figures_table(record: dict[str, Any]) -> str:
    """All measured figures as a Markdown table."""
    lines = [
        "| figure | measured | 95 % interval | hits / n | bar | |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["figures"]:
        e = row["estimate"]
        bar, word = "", {True: "met", False: "**missed**", None: ""}[row["met"]]
        if row["at_least"] is not None and row["at_most"] is not None:
            bar = f"{100 * row['at_least']:.0f} to {100 * row['at_most']:.0f} %"
        elif row["at_least"] is not None:
            bar = f"at least {100 * row['at_least']:.0f} %"
        elif row["at_most"] is not None:
            bar = f"at most {100 * row['at_most']:.0f} %"
        interval = f"{100 * e['low']:.1f} to {100 * e['high']:.1f} %"
        value = f"{100 * e['value']:.1f} %"
        lines.append(
            f"| {row['what']} | {value} | {interval} "
            f"| {e['hits']} / {e['count']} | {bar} | {word} |"
        )
    if "seconds_for_16_pictures" in record:
        seconds, limit = record["seconds_for_16_pictures"], record["seconds_bar"]
        met = "met" if seconds <= limit else "**missed**"
        lines.append(
            f"| seconds for 16 pictures, two cores | {seconds:.1f} s "
            f"| | | at most {limit:.0f} s | {met} |"
        )
    if "autoencoder_psnr_db" in record:
        decibels = f"{record['autoencoder_psnr_db']:.1f} dB"
        lines.append(f"| autoencoder on held-out pairs, PSNR | {decibels} | | | | |")
    return "\n".join(lines)


def text(record: dict[str, Any]) -> str:
    """The card without its header."""
    introduction = INTRODUCTION.format(
        nouns=len(NOUNS),
        styles=len(STYLES),
        noun_list=", ".join(NOUNS),
        style_list="; ".join(f"{s.name} ({s.look})" for s in STYLES.values()),
        unsafe=", ".join(UNSAFE),
        figures=", ".join(FIGURES),
        held_out=len(HELD_OUT),
    )
    how = (
        f"\n## Measured\n\nBy `{record['command']}`: {record['steps']} DDIM steps, guidance "
        f"{record['guidance']}. A noun counts when it is the judge's most probable one and passes "
        "its threshold.\n\n"
    )
    measured = how + figures_table(record) + "\n" + together() + leftovers()
    return introduction + measured + variants() + scenes() + ENDING


def scenes() -> str:
    """The part on the model of scenes and its judge."""
    model = json.loads((RESULTS.parent / "emoji_scenes.json").read_text())
    judge = json.loads((RESULTS.parent / "scene_judge.json").read_text())
    told = SCENES.format(megabytes=model["bytes"] / 1e6, command=model["command"])
    judged = SCENE_JUDGE.format(command=judge["command"])
    return f"{told}{figures_table(model)}\n{judged}{figures_table(judge)}\n"


def variants() -> str:
    """The parts on the fine-tune and on the model that understands descriptions."""
    parts = []
    for told, name in ((REMIX, "emoji_remix"), (READER, "emoji_reader")):
        record = json.loads((RESULTS.parent / f"{name}.json").read_text())
        parts.append(told.format(megabytes=record["bytes"] / 1e6, command=record["command"]))
        parts.append(figures_table(record) + "\n")
    return "".join(parts)


def main() -> None:
    """Writes both pages."""
    record = json.loads(RESULTS.read_text())
    (weights_folder() / "README.md").write_text(HEADER + text(record))
    (ROOT / "docs" / "emoji.md").write_text(text(record))


if __name__ == "__main__":
    main()
