"""Finds a concept's words in a prompt whatever is written around them, for gates of membranes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from efface.deltas.gates import ClosestPart
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.hosts.streams import TextStream
from efface.runs.gradient_eraser import Wording

__all__ = ["closest_part", "surrounded"]

MOST_BEFORE, MOST_AFTER = 5, 3
"""Random words around a prompt, at most."""
OWN_CONTEXTS, KEPT_CONTEXTS = 200, 2000
"""Prompts with random words around them: of each name of a concept, and of all kept ones."""
PENALTY = 1e-3
"""Weight of the read-out's squared length, in units where rows have unit spread."""
KEPT_WEIGHT = 20.0
"""How much kept rows count together, beside those of the concept's words."""
SHUT_AMONG = 0.99
"""Share of the kept prompts with random words around them that leave a membrane shut."""
OPEN_FOR = 0.95
"""Share of the concept's prompts with random words around them that come wholly past halfway."""
MARGIN = 0.1
"""From the score of the kept prompt that comes nearest to where a membrane begins to open."""
LEAST_SPAN = 0.5
"""Between shut and open, in logits."""


def closest_part(
    denoiser: Denoiser,
    wordings: Sequence[Wording],
    owners: Int[Tensor, " wordings"],
    kept: Sequence[str],
    *,
    generator: torch.Generator,
) -> ClosestPart:
    """Learns, for each name of a concept, what its rows have and all other rows have not.

    What stands before a word moves its row far, since encoders are causal: below the likeness of
    some other words. So prompts are encoded with random words around them, and a logistic read-out
    is fitted that tells the last row of a concept's name from rows of kept prompts, whatever
    surrounds both. It is scaled to be shut, exactly, for every kept prompt by itself.

    Args:
        denoiser: reads the prompts.
        wordings: what is erased; those that use no name are passed over.
        owners: which membrane each wording opens.
        kept: prompts that must leave membranes shut.
        generator: draws the random words.

    Raises:
        BadRequest: no wording of a membrane uses a name.
    """
    own = _own_rows(denoiser, wordings, owners, generator)
    named = {owner for owner, _ in own}
    if missing := sorted({*owners.tolist()} - named):
        raise BadRequest(
            f"no prompt of concept {missing[0] + 1} uses its name, which a gate that opens by the "
            "closest part looks for; add one, or open by the whole prompt"
        )
    around = list(surrounded(denoiser.text, kept, KEPT_CONTEXTS, generator))
    names = {name for _, name in own}
    others = [each for each in around if not _mentions(denoiser.text, each, names)]
    plain, mixed = _encoded(denoiser, kept), _encoded(denoiser, others)
    found: list[tuple[Tensor, Tensor]] = []
    for (owner, _), rows in own.items():
        strangers = [other for (its, _), other in own.items() if its != owner]
        negative = torch.cat([plain.flatten(0, 1), mixed.flatten(0, 1), *strangers])
        direction, bias = _read_out(rows, negative)
        scores = [(each @ direction + bias).amax(dim=1) for each in (plain, mixed)]
        floor = torch.maximum(scores[0].max(), scores[1].quantile(SHUT_AMONG)) + MARGIN
        halfway = (floor + (rows @ direction + bias).quantile(1 - OPEN_FOR)) / 2
        span = (halfway - floor).clamp(min=LEAST_SPAN)
        found.append((direction / span, (bias - floor) / span))
    directions, biases = zip(*found, strict=True)
    return ClosestPart(
        torch.stack(directions).float(),
        torch.stack(biases).float(),
        torch.tensor([owner for owner, _ in own]),
    )


def surrounded(
    text: TextStream, prompts: Sequence[str], count: int, generator: torch.Generator
) -> Iterator[str]:
    """Writes prompts in turn with random words of the vocabulary around them, as many as fit.

    Half of the words are two that were cut and joined, which no vocabulary has.
    """
    words = sorted({*text.vocabulary()[1].values()}) or sorted({*" ".join(prompts).split()})

    def number(most: int) -> int:
        return int(torch.randint(most, (1,), generator=generator))

    def word() -> str:
        one, other = words[number(len(words))], words[number(len(words))]
        if number(2):
            return one
        return one[: 1 + number(len(one))] + other[number(len(other)) :]

    for place in range(count):
        before = [word() for _ in range(number(MOST_BEFORE + 1))]
        after = [word() for _ in range(number(MOST_AFTER + 1))]
        while not _fits(text, prompt := " ".join([*before, prompts[place % len(prompts)], *after])):
            (after or before).pop()
        yield prompt


def _fits(text: TextStream, prompt: str) -> bool:
    try:
        text.tokenised(prompt)
    except BadRequest:
        return False
    return True


def _encoded(denoiser: Denoiser, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens dim"]:
    """Encodes prompts in batches and remembers none; in float64 on the CPU."""
    parts = [prompts[start : start + 64] for start in range(0, len(prompts), 64)]
    return torch.cat([denoiser.host.encode(part).rows.cpu().double() for part in parts])


def _own_rows(
    denoiser: Denoiser,
    wordings: Sequence[Wording],
    owners: Int[Tensor, " wordings"],
    generator: torch.Generator,
) -> dict[tuple[int, str], Float[Tensor, "contexts dim"]]:
    """Collects the last row of each membrane's names among random words."""
    by_name: dict[tuple[int, str], list[str]] = {}
    for wording, owner in zip(wordings, owners.tolist(), strict=True):
        if wording.name:
            by_name.setdefault((owner, wording.name), [wording.name]).append(wording.prompt)
    found = {}
    for (owner, name), prompts in by_name.items():
        around = list(surrounded(denoiser.text, prompts, OWN_CONTEXTS, generator))
        last = torch.tensor([denoiser.text.span(prompt, name)[1] for prompt in around])
        found[owner, name] = _encoded(denoiser, around)[torch.arange(len(around)), last]
    return found


def _mentions(text: TextStream, prompt: str, names: set[str]) -> bool:
    """Says whether random words spelled a name."""
    ids = text.tokenised(prompt).content
    for name in names:
        wanted = text.tokenised(name).content
        if any(ids[n : n + len(wanted)] == wanted for n in range(len(ids) - len(wanted) + 1)):
            return True
    return False


def _read_out(
    own: Float[Tensor, "n dim"], others: Float[Tensor, "m dim"]
) -> tuple[Float[Tensor, " dim"], Float[Tensor, ""]]:
    """Fits a direction and a bias, in logits, on rows of unit spread (logistic regression)."""
    center = others.mean(dim=0)
    spread = torch.cov(others.T) + torch.cov(own.T)
    ridge = 1e-3 * spread.diagonal().mean()
    factor = torch.linalg.cholesky(spread + ridge * torch.eye(len(spread)).to(spread))

    def unit(rows: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.solve_triangular(factor, (rows - center).T, upper=False)
        return solved.T

    mine, rest = unit(own), unit(others)
    direction = torch.zeros(own.shape[1]).double().requires_grad_()
    bias = torch.zeros(()).double().requires_grad_()
    optimiser = torch.optim.LBFGS([direction, bias], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        missed = functional.softplus(-(mine @ direction + bias)).mean()
        mistaken = functional.softplus(rest @ direction + bias).mean()
        total: Tensor = missed + KEPT_WEIGHT * mistaken + PENALTY * direction.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(loss)
    learnt = torch.linalg.solve_triangular(factor.T, direction.detach()[:, None], upper=True)[:, 0]
    return learnt, bias.detach() - center @ learnt
