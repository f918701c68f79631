"""Times the closed-form edit as published against ours, on the same tensors in one run.

    python -m benchmarks closed_form     writes benchmarks/results/closed_form.json

Text encoders and key and value matrices have the sizes of SD 1.5 (CLIP-L; 32 matrices, width 768)
and SDXL (CLIP-L and OpenCLIP-bigG; 140 matrices, width 2048), with random weights. Compared are

(a) the algorithm as published: every prompt is encoded again for every layer, all projections of a
    prompt are computed at every layer, each layer has its own sums and a float32 inverse;
(b) the same with every prompt encoded once;
(c) ours, cold: encode once, one float64 solve for all layers, one low-rank update a matrix;
(d) ours with the Gram matrix of the keep set at hand.

Every prompt counts with one wording. What is timed in full: our solve and update at every size
(encoder outputs are drawn, not computed), and (b) and (a) on a prefix. What is scaled: encoding, by
the seconds per prompt of a prefix; (a) and (b), by prompts and layers. The file says which prefix.
Seconds are those of the wall clock; processor seconds stand beside them, since this compares ratios
within one run and other work may disturb a clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.literal import RIDGE, drift, literal_layer
from efface.closed_form.text_space import gram, ridge_edit
from efface.concepts import Concept, Erasure
from efface.deltas.patches import TextMapPatch
from efface.files import write_atomically
from efface.hosts.embedding import Embedder
from efface.hosts.toys import tiny_tokenizer
from efface.text.token_rules import erased_pairs, kept_rows

RESULTS = Path(__file__).parent / "results" / "closed_form.json"
CONCEPTS = (1, 10, 100, 1000)
KEPT = (0, 100, 1700)
PREFIX_PROMPTS = 8
PREFIX_LAYERS = 4
LENGTH = 77


@dataclass(frozen=True)
class Size:
    """Widths of a model's text encoders and the output rows of its key and value matrices."""

    name: str
    encoders: tuple[dict[str, int], ...]
    outputs: tuple[int, ...]

    @property
    def width(self) -> int:
        """Values per token that a key or value matrix reads."""
        return sum(encoder["hidden_size"] for encoder in self.encoders)


CLIP_L = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
BIG_G = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20)
SIZES = (
    Size("SD 1.5", (CLIP_L,), (320,) * 10 + (640,) * 10 + (1280,) * 12),
    Size("SDXL", (CLIP_L, BIG_G), (640,) * 20 + (1280,) * 120),
)


@dataclass
class Spent:
    """Seconds of a piece of work."""

    wall: float = 0.0
    processor: float = 0.0

    def times(self, factor: float) -> Spent:
        """Scales both."""
        return Spent(self.wall * factor, self.processor * factor)

    def plus(self, *others: Spent) -> Spent:
        """Adds others up."""
        every = (self, *others)
        return Spent(sum(one.wall for one in every), sum(one.processor for one in every))


@contextmanager
def timed() -> Iterator[Spent]:
    """Fills a `Spent` when the body ends."""
    spent, wall, processor = Spent(), time.perf_counter(), time.process_time()
    yield spent
    spent.wall, spent.processor = time.perf_counter() - wall, time.process_time() - processor


class DrawnEncoder(nn.Module):
    """Gives each prompt states that depend on its ids, at no cost, in place of an encoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=width)
        self.device = torch.device("cpu")

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor]:  # noqa: ARG002
        """Draws states; causal, as in CLIP: the begin token's are the same for all prompts."""
        states = [
            torch.randn(
                LENGTH,
                self.config.hidden_size,
                generator=torch.Generator().manual_seed(int(row.sum()) * 7919 + int(row[1])),
            )
            for row in ids
        ]
        stacked = torch.stack(states)
        stacked[:, 0] = 1.0
        return (stacked,)


def per_prompt(size: Size) -> Spent:
    """Measures the encoding of one prompt, all encoders, in a batch of a prefix."""
    total = Spent()
    for shape in size.encoders:
        config = CLIPTextConfig(vocab_size=49408, max_position_embeddings=LENGTH, **shape)
        with torch.random.fork_rng(devices=[]):
            encoder = CLIPTextModel(config).eval()
        ids = torch.full((PREFIX_PROMPTS, LENGTH), 5)
        with torch.no_grad():
            encoder(ids[:1])
            with timed() as spent:
                encoder(ids)
        total = total.plus(spent.times(1 / PREFIX_PROMPTS))
    return total


def matrices(size: Size) -> list[Tensor]:
    """Draws the key and value matrices in float32."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, size.width, generator=generator) / 27 for rows in size.outputs]


def literal(size: Size, weights: list[Tensor]) -> tuple[Spent, Spent]:
    """Measures, on prefixes, one prompt at one layer and the rest of one layer."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(76, size.width, generator=generator) for _ in range(PREFIX_PROMPTS)]
    pairs = [(one, rows[0]) for one in rows]
    with timed() as many:
        for layer in range(PREFIX_LAYERS):
            literal_layer(weights, layer * len(weights) // PREFIX_LAYERS, pairs, [])
    with timed() as none:
        for layer in range(PREFIX_LAYERS):
            literal_layer(weights, layer * len(weights) // PREFIX_LAYERS, [], [])
    fixed = none.times(1 / PREFIX_LAYERS)
    both = many.times(1 / PREFIX_LAYERS)
    each = both.plus(fixed.times(-1)).times(1 / PREFIX_PROMPTS)
    return each, fixed


def names(count: int, first: str) -> list[str]:
    """Words of letters that no other list shares."""
    letters = "abcdefghij"
    return [
        first + "".join(letters[int(digit)] for digit in f"{number:05}") for number in range(count)
    ]


@dataclass(frozen=True)
class Ours:
    """Seconds of the parts of our edit."""

    rows: Spent
    """From encoder outputs to collapsed rows."""
    kept: Spent
    """The keep set's Gram matrix."""
    solve: Spent
    update: Spent


def ours(size: Size, weights: list[Tensor], concepts: int, kept: int) -> Ours:
    """Runs our edit in full, with encoder outputs that cost nothing."""
    model = SimpleNamespace(
        tokenizer=tiny_tokenizer(length=LENGTH), text_encoder=DrawnEncoder(size.width)
    )
    embedder = Embedder(model)
    erasures = [
        Erasure(concept=Concept(name=name, prompts=(name,))) for name in names(concepts, "x")
    ]
    keep = [Concept(name=name, prompts=(name,)) for name in names(kept, "y")]
    embedder.embedded([erasure.concept.name for erasure in erasures] + [""])
    with timed() as rows:
        pairs = erased_pairs(embedder, erasures, tokens="legacy", target="anchor")
    prompts = ["", *(concept.name for concept in keep)]
    embedder.embedded(prompts)
    blocks = [kept_rows(embedder, prompt, "legacy") for prompt in prompts]
    with timed() as summed:
        gathered = gram(blocks, size.width)
    with timed() as solve:
        solution = ridge_edit(pairs, gathered, ridge=RIDGE)
    patch = TextMapPatch(left=solution.map.left.float(), right=solution.map.right.float())
    with timed() as update:
        for weight in weights:
            _ = weight + patch.on(weight)
    return Ours(rows, summed, solve, update)


def point(
    size: Size,
    weights: list[Tensor],
    encode: Spent,
    prompt: Spent,
    layer: Spent,
    *,
    concepts: int,
    kept: int,
) -> dict[str, Any]:
    """Adds up one cell: (a), (b), (c), (d) and where our time goes."""
    made, layers = ours(size, weights, concepts, kept), len(weights)
    erased_prompts, kept_prompts = concepts + 1, kept + 1  # the empty prompt on either side
    loop = prompt.times(layers * (concepts + kept_prompts)).plus(layer.times(layers))
    again = encode.times(layers * (2 * concepts + kept_prompts))
    rest = made.rows.plus(made.solve, made.update)
    cold = encode.times(erased_prompts + kept).plus(rest, made.kept)
    warm = encode.times(erased_prompts).plus(rest)
    limit = encode.times(erased_prompts).plus(made.update)
    ways = {
        "a": again.plus(loop),
        "b": encode.times(erased_prompts + kept).plus(loop),
        "c": cold,
        "d": warm,
    }
    parts = {"rows": made.rows, "keep gram": made.kept, "solve": made.solve, "update": made.update}
    row: dict[str, Any] = {"size": size.name, "concepts": concepts, "kept": kept}
    row |= {"seconds": {way: spent.wall for way, spent in ways.items()}}
    row |= {"processor_seconds": {way: spent.processor for way, spent in ways.items()}}
    row |= {"parts": {name: spent.wall for name, spent in parts.items()}}
    row |= {"encoding_per_prompt": encode.wall, "over_limit": warm.wall / limit.wall}
    row |= {"a_over_c": ways["a"].wall / cold.wall, "b_over_c": ways["b"].wall / cold.wall}
    return row | {"a_over_d": ways["a"].wall / warm.wall}


def run() -> None:
    """Measures every cell that the result file lacks, the small ones first."""
    record: dict[str, Any] = {
        "command": "python -m benchmarks closed_form",
        "threads": torch.get_num_threads(),
        "prefix": {"prompts": PREFIX_PROMPTS, "layers": PREFIX_LAYERS},
        "rows": [],
        "added_concept": {},
        "drift": {},
    }
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text())
    known = {(row["size"], row["concepts"], row["kept"]) for row in record["rows"]}
    cells = sorted(product(CONCEPTS, KEPT), key=lambda cell: cell[0] + cell[1])
    for size in SIZES:
        if missing := [cell for cell in cells if (size.name, *cell) not in known]:
            measure(size, missing, record)


def measure(size: Size, cells: list[tuple[int, int]], record: dict[str, Any]) -> None:
    """Measures some cells of one size and stores each as it is there."""
    weights, encode = matrices(size), per_prompt(size)
    prompt, layer = literal(size, weights)
    record["drift"][size.name] = drift(size.width)
    for concepts, kept in cells:
        cell = point(size, weights, encode, prompt, layer, concepts=concepts, kept=kept)
        record["rows"].append(cell)
        print(told(cell), flush=True)
        if (cost := added(record["rows"], size.name)) is not None:
            record["added_concept"][size.name] = cost
        write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())


def added(rows: list[dict[str, Any]], size: str) -> dict[str, float] | None:
    """Seconds that one more concept costs between 100 and 1,000, against its encoding."""
    cells = {row["concepts"]: row for row in rows if row["size"] == size and row["kept"] == 0}
    if not {100, 1000} <= cells.keys():
        return None
    seconds = (cells[1000]["seconds"]["c"] - cells[100]["seconds"]["c"]) / 900
    return {"seconds": seconds, "over_encoding": seconds / cells[1000]["encoding_per_prompt"]}


def told(cell: dict[str, Any]) -> str:
    """One cell in a line."""
    ways = "  ".join(f"{way} {seconds:9.2f} s" for way, seconds in cell["seconds"].items())
    ratios = "  ".join(f"{name} {cell[name]:7.1f}" for name in ("a_over_c", "b_over_c", "a_over_d"))
    return f"{cell['size']:6} {cell['concepts']:4} concepts {cell['kept']:4} kept  {ways}  {ratios}"
