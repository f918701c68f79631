"""Runs an attack: draws what it asks for, judges it, stops trials, and tests it on itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor

from efface.concepts import Concept, names
from efface.contracts import Attack, Judge, Sample
from efface.deltas.delta import Delta
from efface.errors import BadRequest, EffaceError, MeasurementFailed
from efface.evaluation.identity import fingerprints, model_id
from efface.evaluation.instruments import identity_of, knows
from efface.evaluation.record import Verdict
from efface.evaluation.revival import AttackRecord, Trial
from efface.hosts.families import layout
from efface.metrics.presence import ask
from efface.randomness import derive, environment
from efface.revival.attempts import Attempt, Budget
from efface.revival.drawing import cost_of, draw
from efface.revival.shared import SharedPictures
from efface.revival.target import Knowledge, Look, Target

__all__ = ["Assault", "Hear", "Outcome", "See", "attacked", "unheard", "unseen"]

Hear: TypeAlias = Callable[[str, int, int], None]
See: TypeAlias = Callable[[Sequence[Trial]], None]


def unheard(attack: str, ended: int, trials: int) -> None:
    """Tells nobody how many trials have ended."""


def unseen(trials: Sequence[Trial]) -> None:
    """Shows nobody how trials stand."""


@dataclass(frozen=True, kw_only=True)
class Assault:
    """What is attacked, by what, and who judges."""

    model: Any
    delta: Delta | None
    concept: Concept
    trials: tuple[Sample, ...]
    attack: Attack
    judge: Judge
    second: Judge | None = None
    """Another judge, which tells a concept that is back from an attack on the first judge."""
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    steps: int = 50
    guidance: float = 7.5
    others: tuple[str, ...] = ()
    """Prompts of other concepts."""
    given: Float[Tensor, "n c h w"] | None = None
    """Pictures of the concept, as clean latents; None: the unedited model draws them."""
    aim: Concept | None = None
    """What the judge looks for, where that is not what is attacked."""
    names_allowed: bool = False
    """Whether chosen tokens may spell the concept's names."""
    deltas: tuple[Delta, ...] = ()
    """Erasures of other concepts from the same base, which somebody may put on as well."""
    wordings: tuple[str, ...] = ()
    """Other names and descriptions of the concept, for the attacker."""
    shared: SharedPictures = field(default_factory=SharedPictures)
    """What attacks on this model have drawn; several attacks may be given the same one."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A record, and the best attempt of each trial, which can be drawn again."""

    record: AttackRecord
    attempts: tuple[Attempt | None, ...]
    pixels: tuple[Float[Tensor, "3 h w"] | None, ...]


def _check(assault: Assault) -> None:
    family, known = layout(assault.model), assault.attack.families
    if family not in known:
        raise BadRequest(
            f"{assault.attack.name} attacks {', '.join(sorted(known))} and this model is {family}; "
            "choose another attack (efface list attacks)"
        )
    aim = assault.aim or assault.concept
    if not knows(assault.judge, aim):
        raise BadRequest(
            f"judge {assault.judge.card.name} cannot recognise '{aim.name}', so that "
            "no attack could be seen to succeed; choose another judge"
        )


def attacked(assault: Assault, *, monitor: Hear = unheard, seen: See = unseen) -> Outcome:
    """Runs an attack once, without tests of itself.

    Args:
        assault: what is attacked and by what.
        monitor: called with the attack, trials that ended, and trials.
        seen: called with how the trials stand, as often.

    Raises:
        BadRequest, BadDelta: as for `run_attack`.
    """
    _check(assault)
    started = time.perf_counter()
    model = model_id(assault.model, fingerprints(assault.model))
    assault.shared.keep_for(model)
    target = Target(
        assault.model,
        assault.delta,
        assault.concept,
        assault.trials,
        steps=assault.steps,
        guidance=assault.guidance,
        knowledge=_knowledge(assault),
        shared=assault.shared,
    )
    watch = _Watch(assault, target)
    reasons: tuple[str, ...] = ()
    verdict: Verdict = "valid"
    with target.edited():
        try:
            watch.follow(monitor, seen)
        except (MeasurementFailed, _JudgeFailed) as error:
            verdict, reasons = "invalid", (str(error),)
    ran = environment()
    record = AttackRecord(
        attack=assault.attack.name,
        settings=asdict(assault.attack),
        access=assault.attack.access,
        concept=assault.concept.name,
        model=model,
        delta=assault.delta.id if assault.delta else None,
        method=assault.delta.provenance.method if assault.delta else "",
        budget=asdict(assault.budget),
        seed=assault.seed,
        steps=assault.steps,
        guidance=assault.guidance,
        trials=tuple(watch.trials),
        setup_evaluations=target.setup,
        seconds=time.perf_counter() - started,
        judge=identity_of(assault.judge),
        second_judge=identity_of(assault.second) if assault.second else None,
        verdict=verdict,
        reasons=reasons,
        versions={**ran.versions, "commit": ran.commit + ("+changes" if ran.dirty else "")},
    )
    return Outcome(record, tuple(watch.best), tuple(watch.pixels))


def _knowledge(assault: Assault) -> Knowledge:
    """Says what the attacker has; a made-up thing is seen by no judge."""
    return Knowledge(
        others=assault.others,
        look=assault.judge.presence if assault.aim is None else _blind,
        logits=_logits(assault.judge, made_up=assault.aim is not None),
        forbidden=() if assault.names_allowed else names(assault.aim or assault.concept),
        pictures=assault.given,
        deltas=assault.deltas,
        wordings=assault.wordings,
    )


def _logits(judge: Judge, *, made_up: bool) -> Look | None:
    """Gives what of a judge an attack may differentiate: its `logits`, if it has them."""
    found: Look | None = getattr(judge, "logits", None)
    return _blind if made_up and found is not None else found


def _blind(images: Float[Tensor, "n 3 h w"], concept: Concept) -> Float[Tensor, " n"]:  # noqa: ARG001
    """Sees a made-up concept in no picture, which no judge knows; its gradient is zero."""
    return 0.0 * images.flatten(1).sum(dim=1)


class _JudgeFailed(Exception):
    """A judge raised, or had no answer."""


class _Watch:
    """Draws and judges attempts, and keeps account of every trial."""

    def __init__(self, assault: Assault, target: Target) -> None:
        self._assault, self._target = assault, target
        self._aim = assault.aim or assault.concept
        self.trials = [Trial(prompt=t.prompt, seed=t.seed, plain=False) for t in target.trials]
        self.best: list[Attempt | None] = [None] * len(self.trials)
        self.pixels: list[Tensor | None] = [None] * len(self.trials)
        self._open = set(range(len(self.trials)))

    def follow(self, monitor: Hear, seen: See) -> None:
        """Draws each prompt by itself, then lets the attack have the trials that are left."""
        plain = [
            Attempt(trial=place, prompt=one.prompt, seed=one.seed, note="no attack")
            for place, one in enumerate(self._target.trials)
        ]
        told = (self._assault.delta and self._assault.delta.id, self._target.trials)
        pictures = self._target.shared.of(
            ("no attack", *told, self._target.steps, self._target.guidance),
            lambda: draw(self._target, plain),
        )
        for attempt, picture, presence in self._judged(plain, pictures):
            shown = presence >= self._assault.judge.card.threshold
            self._keep(attempt, picture, presence, shown=shown)
            self.trials[attempt.trial] = replace(self.trials[attempt.trial], plain=shown)
            if shown:
                self._open.discard(attempt.trial)
        if not self._open:
            return
        generator = derive(self._assault.seed, self._assault.attack.name)
        course = self._assault.attack.attempts(self._target, generator=generator)
        try:
            attempts = next(course, None)
            while attempts is not None and self._open:
                self._take(attempts)
                monitor(self._assault.attack.name, self._ended, len(self.trials))
                seen(tuple(self.trials))
                attempts = course.send(frozenset(self._open)) if self._open else None
        except StopIteration:
            pass
        finally:
            course.close()

    @property
    def _ended(self) -> int:
        return len(self.trials) - len(self._open)

    def _take(self, attempts: Sequence[Attempt]) -> None:
        """Draws and judges what open trials can pay for."""
        affordable = [one for one in attempts if one.trial in self._open and self._pays(one)]
        pictures = draw(self._target, affordable) if affordable else None
        for attempt, picture, presence in self._judged(affordable, pictures):
            trial = self.trials[attempt.trial]
            shown = presence >= self._assault.judge.card.threshold
            trial = replace(
                trial,
                pictures=trial.pictures + 1,
                hits=trial.hits + shown,
                revived=trial.spent if shown else None,
            )
            self.trials[attempt.trial] = trial
            self._keep(attempt, picture, presence, shown=shown)
            if shown or trial.pictures >= self._assault.budget.pictures:
                self._open.discard(attempt.trial)

    def _pays(self, attempt: Attempt) -> bool:
        """Books what an attempt costs; a trial that cannot pay for its picture ends."""
        trial = self.trials[attempt.trial]
        whole = trial.spent + attempt.spent + cost_of(self._target, attempt)
        if whole > self._assault.budget.evaluations:
            self.trials[attempt.trial] = replace(trial, spent=trial.spent + attempt.spent)
            self._open.discard(attempt.trial)
            return False
        self.trials[attempt.trial] = replace(trial, spent=whole)
        return True

    def _keep(self, attempt: Attempt, picture: Tensor, presence: float, *, shown: bool) -> None:
        """Remembers the best picture of a trial, and what the second judge says to it."""
        trial = self.trials[attempt.trial]
        if self.best[attempt.trial] is not None and presence <= trial.presence:
            return
        second = agreed = None
        if self._assault.second is not None:
            second = float(_answers(self._assault.second, picture[None], [self._aim])[0])
            agreed = second >= self._assault.second.card.threshold if shown else None
        self.best[attempt.trial], self.pixels[attempt.trial] = attempt, picture
        self.trials[attempt.trial] = replace(
            trial,
            presence=presence,
            second=second,
            agreed=agreed,
            found=attempt.prompt,
            note=attempt.note,
        )

    def _judged(
        self, attempts: Sequence[Attempt], pictures: Float[Tensor, "n 3 h w"] | None
    ) -> Iterator[tuple[Attempt, Tensor, float]]:
        if pictures is None:
            return
        answers = _answers(self._assault.judge, pictures, [self._aim] * len(attempts))
        yield from zip(attempts, pictures, answers.tolist(), strict=True)


def _answers(judge: Judge, pictures: Tensor, aims: Sequence[Concept]) -> Tensor:
    """Asks a judge; whatever it raises is its failure, and so is no answer.

    Raises:
        _JudgeFailed: it raised, or answered NaN.
    """
    try:
        answers = ask(judge, pictures, aims)
    except EffaceError:
        raise
    except Exception as error:
        raise _JudgeFailed(f"judge {judge.card.name} raised {error!r}") from error
    if bool(answers.isnan().any()):
        missing = int(answers.isnan().sum())
        raise _JudgeFailed(
            f"judge {judge.card.name} gave no answer to {missing} of {len(answers)} pictures"
        )
    return answers
