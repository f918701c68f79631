"""What attacks keep of each trial: its own randomness, what it has spent, which texts it tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from efface.randomness import derive
from efface.revival.attempts import Attempt
from efface.revival.target import Target

if TYPE_CHECKING:
    from efface.contracts import Attempts

__all__ = ["Course", "drawn_with", "trial_draws"]


def drawn_with(target: Target, changes: Iterable[Mapping[str, Any]]) -> Attempts:
    """Attempts each open trial's own prompt and seed, with one change after the other.

    Args:
        target: whose trials they are.
        changes: fields of an `Attempt`, such as ``added`` and ``note``, made when they are needed.
    """
    opened = frozenset(range(len(target.trials)))
    for change in changes:
        opened = yield [
            Attempt(
                trial=trial,
                prompt=target.trials[trial].prompt,
                seed=target.trials[trial].seed,
                **change,
            )
            for trial in sorted(opened)
        ]


def trial_draws(target: Target, generator: torch.Generator) -> list[torch.Generator]:
    """Makes one generator per trial, by what the trial is: other trials do not change its draws."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return [derive(seed, trial.id) for trial in target.trials]


class Course:
    """The trials of a target on the way: which are open, what each spent, what each has tried.

    Args:
        target: whose trials they are.
    """

    def __init__(self, target: Target) -> None:
        self._trials = target.trials
        self._spent = [0] * len(self._trials)
        self._tried: list[set[str]] = [set() for _ in self._trials]
        self.opened = list(range(len(self._trials)))
        """Trials that go on, in order."""

    def spend(self, evaluations: int, trials: Iterable[int] | None = None) -> None:
        """Books network evaluations for each open trial, or for each of the trials given."""
        for trial in self.opened if trials is None else trials:
            self._spent[trial] += evaluations

    def follow(self, opened: frozenset[int]) -> None:
        """Goes on with the trials that are still open."""
        self.opened = sorted(opened)

    def attempts(
        self,
        texts: Mapping[int, str],
        note: str,
        *,
        last: bool = False,
        **given: Mapping[int, Any],
    ) -> list[Attempt]:
        """Makes an attempt of every text that its trial has not tried yet.

        A text that was tried gives no new picture, so its trial keeps what it spent for its next
        attempt. If there will be none, the text is drawn from another seed.

        Args:
            texts: by open trial.
            note: what was done, for people.
            last: whether the search is over.
            given: further fields of attempts, by trial.
        """
        made = []
        for trial, text in texts.items():
            again = text in self._tried[trial]
            if again and not (last and self._spent[trial]):
                continue
            self._tried[trial].add(text)
            seed = self._trials[trial].seed
            made.append(
                Attempt(
                    trial=trial,
                    prompt=text,
                    seed=seed + 1 if again else seed,
                    spent=self._spent[trial],
                    note=f"{note}, another seed" if again else note,
                    **{name: values[trial] for name, values in given.items()},
                )
            )
            self._spent[trial] = 0
        return made
