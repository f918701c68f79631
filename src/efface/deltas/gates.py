"""Gates that open low-rank layers by what a prompt says, sample by sample (SPM, section 3.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from efface.deltas.adapters import LowRankLayer, attach, layer_behind
from efface.deltas.patches import LowRankPatch, Patch
from efface.errors import BadDelta
from efface.hosts.components import component
from efface.hosts.states import refuse_compiled

__all__ = [
    "ClosestPart",
    "Gate",
    "PromptGate",
    "StackedGates",
    "attach_gated",
    "gates_are_shut",
    "gates_shut",
    "pairs_first",
    "read_gate",
    "stacked",
]


@dataclass(frozen=True, eq=False)
class ClosestPart:
    """How far each membrane opens for the row of a prompt that is most like its concept.

    One row decides, so that whatever else a prompt says cannot shut a membrane.
    """

    directions: Float[Tensor, "names dim"]
    """What is read out of a row, for each name of a concept."""
    bias: Float[Tensor, " names"]
    """Added to that: the sum is 0 or less where a membrane stays shut, and 1 where it is open."""
    owner: Int[Tensor, " names"]
    """Which membrane each name opens."""

    def openings(
        self, rows: Float[Tensor, "n tokens dim"], membranes: int
    ) -> Float[Tensor, "n membranes"]:
        """Gives how far every membrane opens, 0 to 1."""
        told = rows.to(self.directions) @ self.directions.T + self.bias
        return _by_owner(told.amax(dim=1).clamp(0.0, 1.0), self.owner, membranes)


@dataclass(frozen=True, eq=False)
class PromptGate:
    """How far each membrane opens for a prompt: by the prompt's rows, so in any pipeline.

    The opening is the larger of two likenesses: the cosine of the prompt's rows, all in a row, with
    those of the nearest erased prompt; and the share of a name's token rows that the prompt has.
    (The paper compares token ids; a denoiser sees none, so rows are compared.)
    Likeness up to ``floor`` keeps a membrane shut; above that it opens linearly up to ``ceiling``.
    With ``part``, a membrane also opens for a single row of the concept, whatever is around it.
    """

    prompts: Float[Tensor, "prompts values"]
    """Rows of erased prompts, one after the other, as unit vectors."""
    prompt_owner: Int[Tensor, " prompts"]
    """Which membrane each prompt opens."""
    words: Float[Tensor, "rows dim"]
    """Rows of the concepts' names less the center, as unit vectors."""
    center: Float[Tensor, " dim"]
    """Mean row of other prompts: what all token rows share tells no word from another."""
    word_floor: Float[Tensor, " rows"]
    """Cosine to each of them that a row of a prompt must pass to count as the same word."""
    word_name: Int[Tensor, " rows"]
    """Which name each row is of."""
    name_owner: Int[Tensor, " names"]
    """Which membrane each name opens."""
    floor: Float[Tensor, " membranes"]
    """Likeness up to which a membrane stays shut."""
    ceiling: Float[Tensor, " membranes"]
    """Likeness from which it is wide open."""
    squared: Int[Tensor, ""]
    """1: the opening is squared, as in the released code, which multiplies both factors by it."""
    shared: bool = False
    """With guidance, whether a prompt's opening holds for the prediction without it too."""
    part: ClosestPart | None = None
    """Opens membranes by one row; left out, whole prompts and names alone open them."""

    @property
    def membranes(self) -> int:
        """How many membranes there are."""
        return len(self.floor)

    def likeness(self, rows: Float[Tensor, "n tokens dim"]) -> Float[Tensor, "n membranes"]:
        """Measures how alike prompts are to what each membrane erases, at most 1.

        Longer prompts come as several windows of the encoder's length, each of which may be alike;
        of shorter ones, and of a last part, the rows that are there are compared.

        Raises:
            BadDelta: the rows are of another encoder, of another width.
        """
        dim = len(self.center)
        if rows.shape[-1] != dim:
            raise BadDelta(
                f"the gate reads rows of {dim} values and this pipeline's prompts have rows of "
                f"{rows.shape[-1]}; the delta is for another model"
            )
        wide = rows.to(self.prompts)
        alike = []
        for window in wide.split(self.prompts.shape[1] // dim, dim=1):
            flat = functional.normalize(window.flatten(1), dim=1)
            there = self.prompts[:, : flat.shape[1]]
            if there.shape != self.prompts.shape:
                there = functional.normalize(there, dim=1)
            alike.append(flat @ there.T)
        nearest = torch.stack(alike).amax(dim=0)
        found = _by_owner(nearest, self.prompt_owner, self.membranes)
        if len(self.words):
            unit = functional.normalize(wide - self.center, dim=2)
            there = ((unit @ self.words.T).amax(dim=1) > self.word_floor).to(wide)
            names = len(self.name_owner)
            count = torch.zeros(names).index_add(0, self.word_name, torch.ones(len(self.words)))
            hits = torch.zeros(len(rows), names).to(wide).index_add(1, self.word_name, there)
            shares = hits / count.to(wide)
            found = torch.maximum(found, _by_owner(shares, self.name_owner, self.membranes))
        return found.clamp(max=1.0)

    def openings(
        self, rows: Float[Tensor, "n tokens dim"], *, guided: bool = False
    ) -> Float[Tensor, "n membranes"]:
        """Gives how far every membrane opens for every prompt, 0 to 1.

        Args:
            rows: of the prompts.
            guided: the second half are prompts, the first half what guidance leads away from.
        """
        like = self.likeness(rows)
        span = (self.ceiling - self.floor).clamp(min=1e-6)
        opened = ((like - self.floor) / span).clamp(0.0, 1.0)
        if self.part is not None:
            opened = torch.maximum(opened, self.part.openings(rows, self.membranes))
        found = opened**2 if int(self.squared) else opened
        return found[len(found) // 2 :].repeat(2, 1) if guided and self.shared else found

    def tensors(self, prefix: str = "gate") -> dict[str, Tensor]:
        """Lists the tensors by the names that files use; ``shared`` is there where it is true."""
        told = {name: getattr(self, name) for name in _plain_names(type(self))}
        told |= {"shared": torch.tensor(1)} if self.shared else {}
        if self.part is not None:
            told |= {f"part_{name}": tensor for name, tensor in vars(self.part).items()}
        return {f"{prefix}::{name}": tensor for name, tensor in told.items()}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], prefix: str = "gate") -> PromptGate:
        """Reads what `tensors` lists.

        Raises:
            KeyError: one of them is not there.
        """
        held = {name: tensors[f"{prefix}::{name}"] for name in _plain_names(cls)}
        part = None
        if f"{prefix}::part_directions" in tensors:
            part = ClosestPart(
                **{
                    field.name: tensors[f"{prefix}::part_{field.name}"]
                    for field in fields(ClosestPart)
                }
            )
        return cls(**held, shared=f"{prefix}::shared" in tensors, part=part)

    @property
    def reads_parts(self) -> bool:
        """Whether a single row of a prompt may open membranes."""
        return self.part is not None


@dataclass(frozen=True, eq=False)
class StackedGates:
    """Gates of membranes that stand side by side, each as it was made."""

    gates: tuple[PromptGate, ...]

    @property
    def membranes(self) -> int:
        """How many membranes there are."""
        return sum(gate.membranes for gate in self.gates)

    @property
    def reads_parts(self) -> bool:
        """Whether a single row of a prompt may open membranes of one of them."""
        return any(gate.reads_parts for gate in self.gates)

    def openings(
        self, rows: Float[Tensor, "n tokens dim"], *, guided: bool = False
    ) -> Float[Tensor, "n membranes"]:
        """Gives how far every membrane opens for every prompt; see `PromptGate.openings`."""
        return torch.cat([gate.openings(rows, guided=guided) for gate in self.gates], dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """Lists the tensors of all gates by the names that files use."""
        every: dict[str, Tensor] = {}
        for place, gate in enumerate(self.gates):
            every |= gate.tensors(f"gate{place}")
        return every


def _plain_names(kind: type[PromptGate]) -> list[str]:
    """Lists the fields that are one tensor each."""
    return [field.name for field in fields(kind) if field.name not in ("shared", "part")]


Gate: TypeAlias = PromptGate | StackedGates
"""What opens the low-rank layers of a delta."""


def stacked(gates: Sequence[Gate]) -> Gate:
    """Puts the gates of stacked membranes after one another.

    Raises:
        BadDelta: they read texts of different length or width.
    """
    every = [
        each
        for gate in gates
        for each in (gate.gates if isinstance(gate, StackedGates) else (gate,))
    ]
    if len({(gate.prompts.shape[1], len(gate.center)) for gate in every}) > 1:
        raise BadDelta("gates of different models cannot stand side by side")
    return every[0] if len(every) == 1 else StackedGates(tuple(every))


def read_gate(tensors: Mapping[str, Tensor]) -> Gate | None:
    """Reads the gate among the tensors of a file; None where there is none.

    Raises:
        KeyError: a tensor of it is not there.
    """
    if "gate::floor" in tensors:
        return PromptGate.read(tensors)
    count = sum(name.startswith("gate") and name.endswith("::floor") for name in tensors)
    gates = tuple(PromptGate.read(tensors, f"gate{place}") for place in range(count))
    return StackedGates(gates) if gates else None


def _by_owner(
    likeness: Float[Tensor, "n items"], owners: Int[Tensor, " items"], membranes: int
) -> Float[Tensor, "n membranes"]:
    """Takes the largest likeness among the items of each membrane."""
    found = likeness.new_zeros(len(likeness), membranes)
    index = owners.to(likeness.device).expand(len(likeness), -1)
    return found.scatter_reduce(1, index, likeness, reduce="amax")


_shut: ContextVar[bool] = ContextVar("shut", default=False)


@contextmanager
def gates_shut() -> Iterator[None]:
    """Keeps every gate shut inside the body, whatever the prompt."""
    token = _shut.set(True)
    try:
        yield
    finally:
        _shut.reset(token)


def gates_are_shut() -> bool:
    """Says whether the code runs inside `gates_shut`."""
    return _shut.get()


_pairs: ContextVar[int | None] = ContextVar("pairs", default=None)


@contextmanager
def pairs_first(count: int) -> Iterator[None]:
    """Says what batches inside the body hold: so many samples twice, and then others.

    The first of each two are without their prompt, the second with it. A gate that is shared opens
    for both by the prompt, and for all others by their own text. Outside, the pipeline says
    whether it guides.
    """
    token = _pairs.set(count)
    try:
        yield
    finally:
        _pairs.reset(token)


def attach_gated(model: Any, patches: Mapping[str, Patch], gate: Gate, scale: float) -> list[Any]:
    """Adds gated low-rank layers to a model; removing the handles takes them off.

    A hook before the denoiser reads each sample's text and sets the gates, so that prompts of one
    batch each get their own, with and without guidance, or the prompt's where the gate is shared.

    Raises:
        BadDelta: a patch is not of low rank, or does not hold the same rank for every membrane.
    """
    (part,) = {key.partition("/")[0] for key in patches}
    refuse_compiled(model, part)
    network = component(model, part)
    layers: dict[nn.Module, LowRankLayer] = {}
    for key, patch in patches.items():
        if not isinstance(patch, LowRankPatch) or len(patch.down) % gate.membranes:
            raise BadDelta(f"the gate has {gate.membranes} membranes and {key} does not fit them")
        layer = layer_behind(model, key)
        weight: Any = layer.weight
        layers[layer] = LowRankLayer(patch.down.to(weight), (scale * patch.up).to(weight))
    now: list[Tensor | None] = [None]

    def read(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows = named["encoder_hidden_states"] if "encoder_hidden_states" in named else given[2]
        latents = given[0] if given else named["sample" if "sample" in named else "hidden_states"]
        texts, count = rows.detach().cpu(), 2 * _paired(model, latents)
        parts = [(texts[:count], True), (texts[count:], False)]
        openings = [gate.openings(some, guided=pairs) for some, pairs in parts if len(some)]
        opened = torch.cat(openings).to(rows.device)
        now[0] = torch.zeros_like(opened) if _shut.get() else opened

    return [
        network.register_forward_pre_hook(read, with_kwargs=True),
        *attach(layers, lambda: now[0]),
    ]


def _paired(model: Any, latents: Tensor) -> int:
    """Counts the samples of a batch that are there twice: without their prompts, then with them.

    The pipeline says that it guides, and then every latent is there twice. Where a pipeline runs
    the two one after the other, as FLUX's does, no batch holds both.
    """
    said = _pairs.get()
    if not hasattr(type(model), "do_classifier_free_guidance"):
        return 0
    if said is not None:
        own = latents[: 2 * said]
        return said if said and torch.equal(*own.chunk(2)) else 0
    if len(latents) % 2 or not getattr(model, "do_classifier_free_guidance", False):
        return 0
    return len(latents) // 2 if torch.equal(*latents.chunk(2)) else 0
