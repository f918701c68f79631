"""Sections of docs/training.md on what attacks and random words bring back, and on few_shot."""

from __future__ import annotations

from typing import Any

from readme_tables import table

__all__ = ["adversarial", "few_shot", "gate", "harden"]

FEW_SHOT = """
## The text encoder, from a few pictures

<!-- needs: minutes of computing; that the lines parse is tested -->

```
efface erase few_shot --concept pistol --images icons --out runs/icons     # learns from a folder
efface erase few_shot --concept pistol --out runs/pistol                   # or the model draws them
efface erase few_shot --concept pistol --unconditional original --out runs/one-sided
```

`few_shot` trains the text encoder and leaves the denoiser alone. Its pictures are given, and then
their place and a hash are in `run.json` and in the printed command, and other pictures are refused
when it is repeated; or the unedited model draws them, which the output says. It holds no
predictions (`--keep-weight` is refused): `--retention-weight` holds the embeddings of kept prompts,
which asks the denoiser nothing. It stops after its epochs or steps, when the error on wordings set
aside has risen (`--stop-error`), or when kept embeddings have drifted (`--stop-drift`); the output,
the page and the card say which it was.

`--unconditional original` lets the unedited encoder read the empty prompt, exactly, wherever the
delta is applied. Weights alone cannot do that: merging and exporting such a delta is refused.

`python -m benchmarks few_shot`: the small suite, no anchor; hits before → after, of pictures.
`emoji` holds embeddings; `emoji-bare` is the paper's form with 16 steps, at a step size that does
something to a model of this size. Its damage is the paper's own: nothing holds what is kept. The
preset was chosen by hand on dog, swords, mage, watercolor and sepia. Processor seconds are those of
one thread on a busy machine, at most.

"""
ADVERSARIAL = """
Attacked (`python -m benchmarks advunlearn`): pictures in which the judge sees the concept when it
is named, by name and by synonym, and kept nouns; then what two attacks bring back, as trials that
succeed and pictures that show the concept. *Soft prompt* is one input embedding in the name's
place, learned from pictures of the concept by the edited model's denoising loss (textual
inversion); *prefix* is one before the name, by AdvUnlearn's own attack, 30 steps. `advunlearn`
trains the text encoder against such prompts; without attacks it is ESD on the text encoder. Seconds
are of one processor.{more}

"""
LOOP = """ The published loop samples latents anew for every step of both players; here it has a
tenth of its steps, this model's step size and weight of what is kept, and {times:.1f} times as
many evaluations as the preset for the same concept. All its steps, which were not run, would ask
{whole:.0f} times as many; how robust they would make it is not known."""
ELSEWHERE = """ The erased encoder was also put into emoji-remix, whose own judge looks, and beside
emoji-reader's U-Net."""
SEARCHED = """
The same erasures under the attacks of `efface attack` that search by gradients, at its budget
(`python -m benchmarks advunlearn_attacks`): trials brought back of those that were safe before, all
concepts added up; a dash is an attack with no valid row. The goal, set before measuring, was that
`advunlearn` gives back at most a third of what ESD and RECE do: {goal}.{others}

"""
OTHERS = """ Other settings, tried
under the soft prompt alone: {ways}. Longer and kept more is `--keep-weight 60 --steps 180`; two
attackers in the name's place are `--placements prefix replace replace` with 8 gradients an attack
on 9 latents, and 180 steps."""
CANDIDATES = """
What changes of `advunlearn`'s preset do (`python -m benchmarks advunlearn_tuning`, on {concepts};
four trials of each attack a concept, by the same attacks as in the first of these tables):

"""
GATE = """
Random words around a name (`python -m benchmarks gate`). SPM's gate compares whole prompts, and a
name's rows with a floor; encoders are causal, so that what stands before a word moves its row below
the likeness of other words, and membranes stay shut. With `--opens-by closest_part`, which is on in
the bundled model's preset, a read-out that was fitted among random words finds the row. The same
membranes with both gates; pictures that show the concept, of those with 1 to 5 random tokens before
the prompt, after it and around it; seeds at which the best of ten prefixes brings it back; kept
pictures that are the unedited model's bit for bit, as they are and with a random prefix:

"""


HARDEN = """
Hardening (`python -m benchmarks harden`): an attacker has eight pictures of the concept and trains
low-rank layers beside all attention; steps until half of twelve pictures show it again, before →
after hardening, at three step sizes, and kept pictures of 24 that still show what they should. The
goal, set before measuring, was three times the steps at 2 % less kept: {missed}.

"""


def harden(rows: list[dict[str, Any]]) -> str:
    """Writes how much longer relearning takes, by the ways of hardening."""
    lines = []
    times = []
    for row in rows:
        before, after = row["before"]["half"], row["after"]["half"]
        both = [(before[rate], after[rate]) for rate in before]
        times += [later / first for first, later in both if first and later]
        steps = [f"{first or 'never'} → {later or 'never'}" for first, later in both]
        kept = f"{row['before']['kept']} → {row['after']['kept']}"
        lines.append([row["concept"], row["method"], row.get("way", "preset"), *steps, kept])
    reached = all(each >= 3 for each in times)
    missed = "met" if reached else f"missed, {min(times):.1f} to {max(times):.1f} times"
    rates = [f"step {float(rate):g}" for rate in rows[0]["before"]["half"]]
    head = ["concept", "erased by", "hardened by", *rates, "kept"]
    figure = "![Shares shown again while an attacker relearns](../benchmarks/results/harden.png)"
    return HARDEN.format(missed=missed) + table(head, lines) + f"\n\n{figure}\n"


def adversarial(rows: list[dict[str, Any]]) -> str:
    """Writes what two attacks bring back of what several methods erased."""
    lines = []
    for row in rows:
        hits = [
            f"{row[role]['hits']} of {row[role]['of']}" for role in ("erased", "synonym", "kept")
        ]
        back = [
            f"{one['revived']} of {one['trials']} ({one['hits']} of {one['pictures']})"
            if (one := row.get(attack))
            else "-"
            for attack in ("soft_prompt", "prefix")
        ]
        cost = [f"{row['evaluations']:,}" if "evaluations" in row else "-"]
        cost.append(f"{row['processor_seconds']:.0f}" if "processor_seconds" in row else "-")
        lines.append([row["method"], row["concept"], *hits, *back, *cost])
    labels = " ".join(row["method"] for row in rows)
    more = (_loop(rows) if "published" in labels else "") + (ELSEWHERE if "remix" in labels else "")
    names = ["method", "concept", "erased ↓", "synonyms ↓", "kept", "soft prompt ↓", "prefix ↓"]
    return ADVERSARIAL.format(more=more) + table([*names, "evaluations", "seconds"], lines) + "\n"


def candidates(rows: list[dict[str, Any]]) -> str:
    """Adds up what changes of advunlearn's preset leave, keep and give back."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    lines = []
    for name, own in found.items():
        counts = [
            f"{sum(row[role]['hits'] for row in own)} of {sum(row[role]['of'] for row in own)}"
            for role in ("erased", "synonym", "kept")
        ]
        back = [
            f"{sum(row[attack]['revived'] for row in own)} of "
            f"{sum(row[attack]['trials'] for row in own)}"
            for attack in ("soft_prompt", "prefix")
        ]
        lines.append([name, *counts, *back, f"{own[0]['evaluations']:,}"])
    names = ["changed", "erased ↓", "synonyms ↓", "kept", "soft prompt ↓", "prefix ↓"]
    concepts = " and ".join(dict.fromkeys(row["concept"] for row in rows))
    text = table([*names, "evaluations"], lines)
    return CANDIDATES.format(concepts=concepts) + text + "\n"


def _loop(rows: list[dict[str, Any]]) -> str:
    """Says what the published loop costs beside the preset."""
    (loop,) = (row for row in rows if row["method"] == "published loop")
    (preset,) = (
        row for row in rows if (row["method"], row["concept"]) == ("advunlearn", loop["concept"])
    )
    times = loop["evaluations"] / preset["evaluations"]
    return LOOP.format(times=times, whole=10 * times)


def searched(rows: list[dict[str, Any]]) -> str:
    """Adds up what searches by gradients bring back, by method and attack."""
    found: dict[str, dict[str, list[int]]] = {}
    kept: dict[str, list[int]] = {}
    for row in rows:
        if "shown" in row:
            counts = row["shown"]["kept"]
            told = kept.setdefault(row["method"], [0, 0])
            told[0] += counts["hits"]
            told[1] += counts["of"]
        told = found.setdefault(row["method"], {}).setdefault(row["attack"], [0, 0])
        if row["verdict"] == "valid" and row["brought_back"]:
            told[0] += row["brought_back"][0]
            told[1] += row["brought_back"][1]
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    lines = [
        [method, *(_of(told.get(attack, [0, 0])) for attack in attacks)]
        for method, told in found.items()
    ]
    goal = "; ".join(_third(found, attack) for attack in attacks)
    names = [f"`{attack}` ↓" for attack in attacks]
    ways = "; ".join(
        f"{name.partition(', ')[2]}, {_of(found[name]['soft_prompt'])}, with {_of(count)} kept "
        f"pictures shown: {_third(found, 'soft_prompt', name)}"
        for name, count in kept.items()
    )
    others = OTHERS.format(ways=ways) if ways else ""
    return SEARCHED.format(goal=goal, others=others) + table(["method", *names], lines) + "\n"


def _of(counts: list[int]) -> str:
    return f"{counts[0]} of {counts[1]}" if counts[1] else "-"


def _third(found: dict[str, dict[str, list[int]]], attack: str, method: str = "advunlearn") -> str:
    """Says whether advunlearn gives back a third of the least that another method does."""
    shares = {
        name: told[attack][0] / told[attack][1]
        for name, told in found.items()
        if told.get(attack, [0, 0])[1]
    }
    own = shares.get(method)
    beside = {name: share for name, share in shares.items() if not name.startswith("advunlearn")}
    if own is None or not beside:
        return f"not known for `{attack}`"
    missed = [f"{name} {share:.0%}" for name, share in beside.items() if own > share / 3]
    if not missed:
        return f"met for `{attack}`"
    return f"missed for `{attack}` ({own:.0%} against {', '.join(missed)})"


def gate(record: dict[str, list[dict[str, Any]]]) -> str:
    """Counts of pictures by concept and gate, then what gates alone say of more prompts."""
    places = ("plain", "prefix", "suffix", "both")
    head = (
        "| concept | seed | gate | plain | before | after | around | searched | kept | prefixed |"
    )
    lines = [head, "| --- " * 10 + "|"]
    for row in record["pictures"]:
        count = row["pictures"]
        for gate in ("unedited", "whole_prompt", "closest_part"):
            told = row[gate]
            shown = [f"{told[f'{place}_shown']} of {count[place]}" for place in places]
            same = [f"{told[f'{k}_unchanged']} of {count[k]}" for k in ("kept", "kept_prefix")]
            cells = (row["concept"], str(row["seed"]), gate.replace("_", " "), *shown)
            lines.append(f"| {' | '.join((*cells, str(told['searched']) + ' of 4', *same))} |")
    text = (
        GATE
        + "\n".join(lines)
        + "\n\nGates alone, of 100 prompts each (whole prompt → closest part): "
    )
    text += (
        "concept's prompts that leave them less than half open, and kept ones that open them.\n\n"
    )
    columns = [
        ("erased prefix shut", "before: shut"),
        ("erased suffix shut", "after: shut"),
        ("erased both shut", "around: shut"),
        ("kept plain open", "kept: open"),
        ("kept prefix open", "kept, prefixed: open"),
    ]
    lines = [f"| concept | seed | {' | '.join(title for _, title in columns)} |"]
    lines.append("| --- " * (2 + len(columns)) + "|")
    for row in record["openings"]:
        pairs = [
            " → ".join(row[f"{key} {gate}"].split()[0] for gate in ("whole_prompt", "closest_part"))
            for key, _ in columns
        ]
        lines.append(f"| {row['concept']} | {row['seed']} | {' | '.join(pairs)} |")
    return text + "\n".join(lines) + "\n"


def few_shot(totals: dict[str, dict[str, Any]]) -> str:
    """Writes few_shot's counts beside those of the paper's bare form."""
    roles = ("erased", "synonym", "neighbour", "kept", "kept style")
    lines = []
    for name, row in totals.items():
        if not row["concepts"]:
            continue
        hits = [f"{row[role][0]} → {row[role][1]} of {row[role][2]}" for role in roles]
        seconds = f"{row['most processor seconds']:.0f}"
        lines.append([name, f"{row['concepts']}", f"{row['failed']}", *hits, seconds])
    names = ["preset", "concepts", "refused", *roles, "seconds"]
    return FEW_SHOT + table(names, lines) + "\n"
