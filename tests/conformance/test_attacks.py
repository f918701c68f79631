"""What every attack must do for its numbers to say how hard a concept is to bring back."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from efface import registry
from efface.contracts import Sample
from efface.evaluation.attacking import Assault
from efface.evaluation.self_tests import run_attack
from efface.revival.attempts import Budget
from efface.revival.drawing import draw
from efface.revival.target import Knowledge, Target
from tests.cases import ATTACK_CASES, CASES
from tests.conformance.conftest import run
from tests.conformance.snapshots import differences, snapshot
from tests.conftest import shared
from tests.evaluation.conftest import AnsweringJudge

TRIALS = (
    Sample("a photo of a pistol", 0, "erased"),
    Sample("a red pistol", 1, "erased"),
    Sample("pistol", 2, "erased"),
)
OTHERS = ("a photo of a cat", "a photo of a house")


def brightness(images, _):
    """How bright pictures are, as a presence."""
    return images.mean(dim=(1, 2, 3))


def refusing(images, _):
    raise RuntimeError(f"cannot look at {len(images)} pictures")


WORDINGS = ("red pistol", "lamp")
KNOWN = Knowledge(others=OTHERS, look=brightness, logits=brightness, wordings=WORDINGS)
CONCEPT = CASES[0].request.erasures[0].concept


@pytest.fixture(scope="session", params=ATTACK_CASES, ids=lambda case: case.attack)
def case(request):
    return request.param


@pytest.fixture(scope="session")
def erasure():
    """Makes the delta of a method's case on the toy, each once."""
    made = {}

    def delta(method):
        if method not in made:
            ours = next(c for c in CASES if (c.method, c.host) == (method, "tiny_sd1"))
            pipe = shared("tiny_sd1")
            built = registry.build("methods", method, **ours.settings)
            made[method] = run(built, ours, pipe).delta
        return made[method]

    return delta


def built(case):
    return registry.build("attacks", case.attack, **case.settings)


def aimed(case, erasure, *, trials=TRIALS):
    pipe = shared("tiny_sd1")
    return Target(
        pipe,
        erasure(case.method),
        CONCEPT,
        trials,
        steps=2,
        guidance=3.0,
        knowledge=KNOWN,
    )


def driven(case, target, *, closing=frozenset(), seed=0):
    """Runs an attack to its end with no success; ``closing`` trials end after the first round."""
    opened, rounds = frozenset(range(len(target.trials))), []
    course = built(case).attempts(target, generator=torch.Generator().manual_seed(seed))
    with target.edited():
        try:
            attempts = next(course)
            while True:
                trials = [attempt.trial for attempt in attempts]
                assert len(trials) == len(set(trials)), "two attempts of a trial at a time"
                assert opened.issuperset(trials), "an attempt of a trial that has ended"
                rounds.append(attempts)
                opened -= closing
                attempts = course.send(opened)
        except StopIteration:
            return rounds


@dataclass(frozen=True)
class Driven:
    """What came of a case with the first seed, which tests compare with and leave as it is."""

    target: Any
    rounds: list
    evaluations: int
    left_different: list


@pytest.fixture(scope="session")
def usual(case, erasure):
    target = aimed(case, erasure)
    before = snapshot(target.model)
    rounds = driven(case, target)
    left = differences(before, snapshot(target.model))
    return Driven(target, rounds, target.evaluations, left)


def flat(rounds):
    return [attempt for attempts in rounds for attempt in attempts]


def gist(attempt):
    """Lists all that is drawn."""
    tensors = [*attempt.embeddings.values(), attempt.rows, attempt.noise, attempt.clean]
    tensors += [value for patch in attempt.added.values() for value in vars(patch).values()]
    numbers = [t.flatten().double() for t in tensors if t is not None]
    plain = (attempt.trial, attempt.prompt, attempt.seed, attempt.spent, attempt.negative)
    ways = (attempt.guidance, attempt.steps, attempt.scheduler, attempt.without, attempt.note)
    return (*plain, *ways), torch.cat(numbers) if numbers else torch.zeros(0)


def test_every_attack_has_a_case_and_every_case_an_attack():
    listed = {entry.name for entry in registry.entries("attacks")}
    assert {case.attack for case in ATTACK_CASES} == listed


def test_an_attack_is_named_by_its_file_and_says_what_it_needs(case):
    attack = registry.load("attacks", case.attack)
    assert attack.name == case.attack
    assert attack.access
    assert attack.revision >= 1


def test_it_attempts_every_open_trial(case, usual):
    tried = {attempt.trial for attempt in flat(usual.rounds)}
    assert tried == (set() if case.silent else {0, 1, 2})


def test_the_same_seed_gives_the_same_attempts(case, erasure, usual):
    again = driven(case, aimed(case, erasure))
    for one, other in zip(flat(usual.rounds), flat(again), strict=True):
        facts, numbers = gist(one)
        assert gist(other)[0] == facts
        assert torch.equal(gist(other)[1], numbers)


def test_trials_that_end_change_nothing_for_the_others(case, erasure, usual):
    whole = [attempt for attempt in flat(usual.rounds) if attempt.trial == 0]
    alone = driven(case, aimed(case, erasure), closing=frozenset({1, 2}))
    assert all(attempt.trial == 0 for attempt in flat(alone[1:]))
    found = [a for r in alone for a in r if a.trial == 0]
    for one, other in zip(whole, found, strict=True):
        assert gist(one)[0] == gist(other)[0]
        assert torch.allclose(gist(one)[1], gist(other)[1], atol=1e-3)


def test_what_trials_spent_adds_up_to_what_was_evaluated(case, usual):
    """Of what serves all trials at once, each is counted the whole."""
    spent = [sum(a.spent for a in flat(usual.rounds) if a.trial == trial) for trial in range(3)]
    shared_by_all = registry.load("attacks", case.attack).learns_once
    counted = max(spent) if shared_by_all else sum(spent)
    assert counted == usual.evaluations - usual.target.setup


def test_the_model_is_left_as_it_was(usual):
    assert usual.left_different == []
    before = snapshot(usual.target.model)
    with usual.target.edited():
        for attempts in usual.rounds[:1]:
            draw(usual.target, attempts)
    assert differences(before, snapshot(usual.target.model)) == []


def test_the_model_is_left_as_it_was_when_it_is_stopped_halfway(case, erasure):
    if case.silent:
        return
    target = aimed(case, erasure)
    before = snapshot(target.model)
    course = built(case).attempts(target, generator=torch.Generator().manual_seed(0))
    with pytest.raises(KeyboardInterrupt), target.edited():
        next(course)
        try:
            raise KeyboardInterrupt
        finally:
            course.close()
    assert differences(before, snapshot(target.model)) == []


def test_a_picture_does_not_depend_on_what_is_drawn_with_it(case, usual):
    if case.silent:
        return
    attempts = usual.rounds[0]
    with usual.target.edited():
        together = draw(usual.target, attempts)
        alone = torch.cat([draw(usual.target, [attempt]) for attempt in attempts])
    assert torch.allclose(together, alone, atol=2 / 255)


def test_a_run_of_it_stays_within_its_budget(case, erasure):
    budget = Budget(evaluations=30, pictures=3)
    record = run_attack(assault(case, erasure, budget=budget), self_tests=()).record
    assert all(trial.spent <= 30 or trial.pictures == 0 for trial in record.trials)
    assert all(trial.pictures <= 3 for trial in record.trials)


def test_a_judge_that_fails_makes_it_invalid(case, erasure):
    judge = AnsweringJudge(refusing)
    judge.logits = brightness
    record = run_attack(assault(case, erasure, judge=judge), self_tests=()).record
    assert record.verdict == "invalid"
    assert "raised" in record.reasons[0]


def assault(case, erasure, **changed):
    judge = AnsweringJudge(brightness, threshold=0.999)
    judge.logits = brightness
    given = {
        "model": shared("tiny_sd1"),
        "delta": erasure(case.method),
        "concept": CONCEPT,
        "trials": TRIALS,
        "attack": built(case),
        "judge": judge,
        "steps": 2,
        "guidance": 3.0,
        "others": OTHERS,
        "wordings": WORDINGS,
    }
    return Assault(**(given | changed))
