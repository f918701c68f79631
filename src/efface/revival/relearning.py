"""Training that serves all trials at once: pictures, prompts, and what was learnt at marks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.concepts import wordings
from efface.deltas.adapters import Adapters, adapting
from efface.deltas.patches import Patch
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.hosts.conditions import Conditions
from efface.randomness import split
from efface.revival.target import Target
from efface.training.parameters import chosen, training
from efface.training.relearning import Relearning, denoising_error

__all__ = [
    "Learnt",
    "Lesson",
    "Token",
    "check_marks",
    "concept_lesson",
    "learning",
    "other_lesson",
    "rounds",
]


@dataclass(frozen=True, eq=False)
class Lesson:
    """Pictures with the prompts that they are to be drawn for."""

    clean: Float[Tensor, "n c h w"]
    prompts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Learnt:
    """What training has added after so many steps."""

    step: int
    spent: int
    """Network evaluations since the last mark."""
    patches: Mapping[str, Patch]


@dataclass(frozen=True, eq=False)
class Token:
    """Input embeddings in training."""

    learnt: Float[Tensor, "*shape"]
    """A leaf that asks for a gradient."""
    learning_rate: float
    read: Callable[[], Conditions]
    """Encodes the lesson's prompts with the embeddings as they are."""


def concept_lesson(target: Target, count: int) -> Lesson:
    """Pictures of the concept, given or drawn by the unedited model, with its usual wordings."""
    texts = wordings(target.concept)
    # As `Target.drawn` takes them, so that each picture has the prompt it was drawn for.
    stride = max(1, len(texts) // count)
    prompts = tuple(texts[(place * stride) % len(texts)] for place in range(count))
    return Lesson(target.pictures(count), prompts)


def other_lesson(target: Target, count: int, *, near: bool) -> Lesson:
    """Pictures of other concepts, drawn by the unedited model.

    Args:
        target: whose knowledge holds prompts of other concepts.
        count: of pictures.
        near: the nearest quarter of these prompts to the concept's name, as the unedited text
            encoder has them (rows averaged, by cosine); otherwise the farthest quarter.

    Raises:
        BadRequest: the attacker knows no other concepts.
    """
    known = target.knowledge.others
    if not known:
        raise BadRequest(
            "the attack learns from pictures of other concepts and no prompts of any were given; "
            "give others, or train on the concept"
        )
    with target.unedited() as base:
        rows = base.conditions([target.concept.name, *known]).rows.float().mean(dim=1)
    unit = torch.nn.functional.normalize(rows - rows.mean(dim=0), dim=1)
    order = (unit[1:] @ unit[0]).argsort(descending=near).tolist()
    some = [known[place] for place in order[: max(1, len(known) // 4)]]
    stride = max(1, len(some) // count)
    prompts = tuple(some[(place * stride) % len(some)] for place in range(count))
    purpose = "neighbours" if near else "unrelated"
    return Lesson(target.drawn(purpose, prompts, count), prompts)


def learning(
    target: Target,
    lesson: Lesson,
    settings: Relearning,
    marks: Sequence[int],
    *,
    generator: torch.Generator,
    unedited: bool = False,
    token: Token | None = None,
) -> Iterator[Learnt]:
    """Trains the model under attack, and gives what it has learnt at each mark.

    Between marks the model is as it was: what was learnt is put on by whoever draws with it. The
    erasure's patches stay in force while it learns, gated ones too.

    Args:
        target: the model under attack.
        lesson: what it learns.
        settings: what is trained and how fast; its steps are those of the last mark.
        marks: numbers of steps, in order.
        generator: of all draws.
        unedited: whether the unedited model is trained instead.
        token: embeddings that learn too, and what the prompts are with them.
    """
    draws = split(generator, "layers", "batches")
    course = _Course(target, settings, draws["layers"], token=token)
    done = 0
    for mark in marks:
        with course.open(unedited=unedited) as denoiser:
            known = denoiser.conditions(lesson.prompts)
            for _ in range(done, mark):
                which = rounds(len(lesson.prompts), settings.batch, draws["batches"])
                read = known if token is None else token.read()
                error = denoising_error(denoiser, lesson.clean, read, which, draws["batches"])
                course.step(error)
        yield Learnt(mark, (mark - done) * settings.batch, course.patches)
        done = mark


def check_marks(marks: Sequence[int]) -> None:
    """Refuses marks that are not numbers of steps in order.

    Raises:
        BadRequest: naming them.
    """
    if not marks or [*marks] != sorted({*marks}) or marks[0] < 1:
        raise BadRequest(f"marks is {marks}; give numbers of steps in order, from 1 on")


def rounds(items: int, count: int, generator: torch.Generator) -> Tensor:
    """Takes every item once before any comes again."""
    drawn = [torch.randperm(items, generator=generator) for _ in range(-(-count // items))]
    return torch.cat(drawn)[:count]


class _Course:
    """Parameters in training, which can be left and entered again."""

    def __init__(
        self,
        target: Target,
        settings: Relearning,
        generator: torch.Generator,
        *,
        token: Token | None,
    ) -> None:
        self._target, self._role = target, settings.role
        self._layers: Adapters | None = None
        self._values: dict[str, Tensor] = {}
        self.patches: Mapping[str, Patch] = {}
        """What was learnt when the training was last left."""
        if settings.rank:
            self._layers = Adapters(
                target.model,
                settings.role,
                rank=settings.rank,
                alpha=float(settings.rank),
                generator=generator,
            )
            learnt: Mapping[str, nn.Parameter] = self._layers.parameters
        else:
            learnt = chosen(target.model, settings.role)
        groups: list[dict[str, Any]] = [
            {"params": [*learnt.values()], "lr": settings.learning_rate}
        ]
        if token is not None:
            groups.append({"params": [token.learnt], "lr": token.learning_rate})
        self._parameters = [one for group in groups for one in group["params"]]
        self._optimiser = torch.optim.Adam(groups)

    def step(self, error: Float[Tensor, ""]) -> None:
        """Steps down the gradient of what learns, and leaves no gradient anywhere else."""
        gradients = torch.autograd.grad(error, self._parameters, allow_unused=True)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    @contextmanager
    def open(self, *, unedited: bool) -> Iterator[Denoiser]:
        """Lets the body train on from where it was left."""
        place: AbstractContextManager[Denoiser] = (
            self._target.unedited() if unedited else nullcontext(self._target.denoiser)
        )
        model = self._target.model
        with place as denoiser:
            if self._layers is not None:
                with adapting(model, self._layers):
                    yield denoiser
                self.patches = self._layers.patches()
                return
            with training(model, chosen(model, self._role)) as edit:
                for key, value in self._values.items():
                    edit.parameters[key].data.copy_(value)
                yield denoiser
                self._values = {k: one.detach().clone() for k, one in edit.parameters.items()}
                self.patches = edit.patches()
