"""Debiases a concept: draw it, let a judge count its attributes, move it toward the rare ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from efface.closed_form.text_space import Weighting
from efface.concepts import Concept, ConceptKind, ErasureRequest, request
from efface.contracts import Judge, Method, Monitor, Paper, silent
from efface.deltas.recording import model_name, model_place
from efface.errors import BadRequest, require_positive
from efface.evaluation.instruments import knows
from efface.evaluation.rounds import Rounds, Watch
from efface.randomness import as_usual
from efface.registry import BUNDLED, bundled
from efface.runs.checks import finish
from efface.runs.recipe import DebiasRecipe
from efface.text.token_rules import TokenRule

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.deltas.results import ErasureResult

__all__ = ["Debias", "debias", "require_attributes"]


@dataclass(frozen=True, kw_only=True)
class Debias(Method):
    """Moves a concept toward attributes until each has its share of the pictures (UCE's third use).

    A round draws the concept's prompts with the edit so far, gives every picture to the attribute
    that the judge finds most likely, and moves each attribute's weight by ``step`` times the share
    it lacks. The edit is UCE's closed form with the concept's own values plus the weighted values
    of the attributes as targets (section on debiasing), solved from the unedited weights each time.

    Differs from the paper:
        Targets start afresh each round; the released script adds to those of the round before.
        A picture that the judge gives to no attribute counts for none, where the paper takes the
        likeliest label always. A round that loses the concept itself is not taken, and the nearest
        round is, not the last one.
    """

    paper: ClassVar[Paper] = Paper(
        "Unified Concept Editing in Diffusion Models", "2308.14761", 2024
    )
    name: ClassVar[str] = "debias"

    attributes: tuple[str, ...] = ()
    """What pictures are told apart by, as one would write it in a prompt and ask the judge."""
    attribute_kind: ConceptKind = "style"
    """Which kind of concept the judge is asked for."""
    shares: tuple[float, ...] = ()
    """Wanted share of each attribute; empty: all alike. They add up to 1."""
    rounds: int = 8
    """Most rounds of drawing and moving; the paper's code makes 30."""
    pictures: int = 128
    """Pictures drawn in a round; the paper's code draws 10 for each of its prompts."""
    step: float = 0.3
    """Weight that an attribute gains in a round if it lacks all of its pictures."""
    tolerance: float = 0.05
    """Largest gap of any share at which the rounds end, as in the paper's code."""
    least_presence: float = 0.9
    """Share of the concept's presence before that a round must keep to be taken."""
    steps: int = 50
    """Denoising steps of a picture."""
    guidance: float = 7.5
    """Scale of classifier-free guidance."""
    keep_scale: float = 1.0
    """Weight of the kept tokens. Higher protects other prompts better and moves it less."""
    ridge: float = 0.5
    """Pull toward the unedited weights, in squared embedding norm."""
    tokens: TokenRule = "legacy"
    """Which tokens move: from the last concept token on (legacy) or that token alone (new)."""
    weighting: Weighting = "sum"
    """Whether the moved and the kept side count by number of tokens (sum) or as one (mean)."""

    def __post_init__(self) -> None:
        require_positive(self, "ridge", "rounds", "pictures", "step", "tolerance", "steps")
        if self.keep_scale < 0:
            raise BadRequest(f"keep_scale is {self.keep_scale}; it must not be negative")
        if not 0 <= self.least_presence <= 1:
            raise BadRequest(f"least_presence is {self.least_presence}; it must be between 0 and 1")
        if self.shares and len(self.shares) != len(self.attributes):
            raise BadRequest(
                f"{len(self.shares)} shares for {len(self.attributes)} attributes; give one each"
            )
        if self.shares and (min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6):
            raise BadRequest(
                f"the shares {list(self.shares)} add up to {sum(self.shares):g}; they must be "
                "0 or more and add up to 1"
            )

    @classmethod
    def presets(cls) -> Mapping[str, Debias]:
        """Gives settings for the bundled model, as UCE's preset has them, with its sampling."""
        return {"emoji": cls(keep_scale=3.0, ridge=1e-3, weighting="mean", steps=20, guidance=3.0)}

    def wanted(self) -> Float[Tensor, " k"]:
        """Gives the wanted share of every attribute, in their order."""
        alike = [1 / len(self.attributes)] * len(self.attributes)
        return torch.tensor(self.shares or alike, dtype=torch.float64)

    def concepts(self) -> tuple[Concept, ...]:
        """Gives the attributes as the judge is asked for them."""
        return tuple(Concept(name=name, kind=self.attribute_kind) for name in self.attributes)


@as_usual()
def debias(
    model: Any,
    concept: str | Concept | ErasureRequest,
    method: Debias,
    judge: Judge,
    *,
    keep: Sequence[str | Concept] = (),
    seed: int = 0,
    monitor: Monitor = silent,
) -> ErasureResult:
    """Debiases one concept and returns the change; the model stays as it was.

    Args:
        model: a pipeline from `efface.load`; pictures are drawn with it.
        concept: what is drawn, as a name, a concept or a whole request. The bundled model brings
            wordings without a style and a keep set.
        method: attributes, wanted shares and settings.
        judge: recognises the attributes; if it knows the concept too, its presence is watched.
        keep: what must stay as it is. Prompts with attributes are kept as they are, too.
        seed: of every picture.
        monitor: called once per round with the distance to the wanted shares.

    Returns:
        Curves with ``distance``, ``presence`` and every attribute's share, by round (round 0 is
        the unedited model), and diagnostics with the weights of each round and the one taken.

    Raises:
        BadRequest: more than one concept, or an attribute that the judge does not know.
        NothingChanged: the shares are within the tolerance already, or no round came nearer.
        ModelCollapsed: the edit wrecks other prompts.
    """
    asked = concept if isinstance(concept, ErasureRequest) else request(concept, keep=keep)
    wanted = _understood(model, asked)
    require_attributes(method, judge)
    watch = Watch(torch.Generator().manual_seed(seed), monitor)
    rounds = Rounds(model, wanted, method, judge, watch)
    recipe = DebiasRecipe(
        model=model_place(model),
        request=asked,
        seed=seed,
        judge=judge.card.name,
        settings=vars(method),
    )
    return finish(model, rounds.result(rounds.run()), recipe)


def require_attributes(method: Debias, judge: Judge) -> None:
    """Refuses attributes that pictures cannot be told apart by.

    Raises:
        BadRequest: there are fewer than two, or the judge does not know one.
    """
    folded = {each.casefold().strip() for each in method.attributes}
    if len(folded) < 2 or len(folded) < len(method.attributes):
        raise BadRequest(
            f"the attributes are {list(method.attributes)}; name at least two different ones"
        )
    if unknown := [each.name for each in method.concepts() if not knows(judge, each)]:
        raise BadRequest(
            f"the judge {judge.card.name} does not know '{unknown[0]}'; name attributes that it "
            "knows, or choose another judge"
        )


def _understood(model: Any, wanted: ErasureRequest) -> ErasureRequest:
    if len(wanted.erasures) != 1:
        raise BadRequest(f"{len(wanted.erasures)} concepts were given; debias one at a time")
    name = model_name(model)
    if name not in BUNDLED:
        return wanted
    filled: ErasureRequest = bundled(name).plainly_understood(wanted)
    return filled
