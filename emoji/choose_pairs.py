"""Finds two nouns and a style of which the bundled model draws both, for the suite's compositions.

    python emoji/choose_pairs.py              writes src/efface/bundled/drawn_together.json
    python emoji/choose_pairs.py --measure    measures the chosen pairs again

The model seldom draws both of two nouns, and its pairs differ much. So every third of the pairs
that training showed, in one order and one style, is drawn with two seeds; where both judges see
both nouns in both pictures, with six more. The pairs that have at least seven of eight are taken,
best first, no noun more often than `MOST`. Their pictures are chosen, so their rate is measured
with seeds that no choice has seen, and written beside them. The suite's own seeds are others again.
emoji-reader is asked for the same pairs.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import torch

from efface.bundled.judge import EmojiJudge
from efface.bundled.suites import GUIDANCE, STEPS
from efface.bundled.vocabulary import HELD_OUT, NOUNS, STYLES, TEMPLATES, TWO_OBJECT, prompt
from efface.contracts import Sample
from efface.evaluation.bench import Bench
from efface.evaluation.drawing import draw
from efface.files import write_atomically
from efface.metrics.estimates import rate

OUT = Path(__file__).parent.parent / "src" / "efface" / "bundled" / "drawn_together.json"
FIRST, MORE, FRESH = range(7000, 7002), range(7002, 7008), range(8000, 8008)
"""Seeds of the two rounds of choosing, and of measuring what was chosen."""
LEAST = 7
"""Pictures of eight in which both must be."""
COUNT, MOST = 48, 3
"""How many are taken at most, and how many of them share a noun."""
STRIDE = 3
"""Every so many pairs are tried."""
READER = "emoji-reader"
BATCH = 32


@dataclass(frozen=True)
class Together:
    """Two nouns in one picture, in a style."""

    first: str
    second: str
    style: str

    def prompt(self, number: int) -> str:
        """Writes it in one of the two trained wordings."""
        template = TEMPLATES["two_objects"][number % 2]
        style = STYLES[self.style].wording
        return prompt(template, self.first, style=style, other=self.second)


def candidates() -> Iterator[Together]:
    """Pairs in either order but those kept out of training, turning through the styles."""
    kept_out = {frozenset(pair) for pair in TWO_OBJECT}
    for number, (first, second) in enumerate(permutations(NOUNS, 2)):
        shown = [s for s in STYLES if not {(first, s), (second, s)} & HELD_OUT]
        if frozenset((first, second)) not in kept_out:
            yield Together(first, second, shown[number % len(shown)])


def seen(bench: Bench, asked: Sequence[Together], seeds: Sequence[int]) -> list[int]:
    """Counts the pictures of each in which both judges see both nouns."""
    judges = (EmojiJudge("emoji"), EmojiJudge("emoji-second"))
    shots = [
        (place, Sample(each.prompt(seed), seed, "composition"))
        for place, each in enumerate(asked)
        for seed in seeds
    ]
    hits = [0] * len(asked)
    for start in range(0, len(shots), BATCH):
        part = shots[start : start + BATCH]
        drawn = draw(bench.pipe, [shot for _, shot in part], steps=STEPS, guidance=GUIDANCE)
        images = torch.from_numpy(drawn.pixels).permute(0, 3, 1, 2) / 255
        found = [judge.probabilities(images)[0] >= judge.card.threshold for judge in judges]
        for row, (place, _) in enumerate(part):
            both = [list(NOUNS).index(noun) for noun in (asked[place].first, asked[place].second)]
            hits[place] += all(bool(each[row, both].all()) for each in found)
        if start // BATCH % 20 == 0:
            print(f"{start} of {len(shots)} pictures", flush=True)
    return hits


def spread(ranked: Sequence[Together]) -> list[Together]:
    """Takes the first of them that share no noun too often, each pair in one order."""
    taken: list[Together] = []
    used: Counter[str] = Counter()
    for each in ranked:
        nouns = {each.first, each.second}
        again = any(nouns == {one.first, one.second} for one in taken)
        if not again and all(used[noun] < MOST for noun in nouns):
            taken.append(each)
            used.update(nouns)
    return taken[:COUNT]


def chosen(bench: Bench) -> dict[str, Any]:
    """Tries pairs; says how many were left after each round, and which are taken."""
    every = list(candidates())[::STRIDE]
    first = dict(zip(every, seen(bench, every, FIRST), strict=True))
    left = [each for each in every if first[each] == len(FIRST)]
    print(f"{len(left)} of {len(every)} pairs in both pictures", flush=True)
    hits = {e: first[e] + n for e, n in zip(left, seen(bench, left, MORE), strict=True)}
    taken = spread(sorted((e for e in left if hits[e] >= LEAST), key=lambda e: -hits[e]))
    return {
        "command": "python emoji/choose_pairs.py",
        "pairs tried": len(every),
        "both in all of the first pictures": len(left),
        "pairs": [[each.first, each.second, each.style] for each in taken],
    }


def measured(model: str, taken: Sequence[Together]) -> dict[str, Any]:
    """Says in how many pictures of fresh seeds both are."""
    hits = seen(Bench(model), taken, FRESH)
    found = rate([float(seed < each) for each in hits for seed in range(len(FRESH))])
    print(f"{model}: both in {found.hits} of {found.count} pictures of fresh seeds", flush=True)
    return asdict(found)


def main(*, again: bool) -> None:
    """Chooses, unless they are to be measured again; measures and writes them."""
    told = json.loads(OUT.read_text("utf-8")) if again else chosen(Bench("emoji"))
    taken = [Together(*each) for each in told.pop("pairs")]
    told["both in pictures of other seeds"] = measured("emoji", taken)
    told[f"both in those of {READER}"] = measured(READER, taken)
    told["pairs"] = [[each.first, each.second, each.style] for each in taken]
    write_atomically(OUT, (json.dumps(told, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(again="--measure" in sys.argv[1:])
