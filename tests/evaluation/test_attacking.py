"""Attacks whose numbers must not be believed end in invalid or inconclusive."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from efface.concepts import Concept
from efface.contracts import Attack, Sample
from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch
from efface.deltas.provenance import Provenance, base_sketch
from efface.errors import BadRequest
from efface.evaluation.attack_files import attempts_from, packed
from efface.evaluation.attacking import Assault, attacked
from efface.evaluation.revival import (
    AttackRecord,
    Trial,
    counted,
    half_revived,
    load_records,
    survival,
)
from efface.evaluation.self_tests import as_known, as_unknown, run_attack
from efface.hosts.components import find
from efface.revival.attempts import Attempt, Budget
from efface.revival.drawing import draw
from efface.revival.target import Target
from tests.conftest import shared
from tests.evaluation.conftest import AnsweringJudge

PISTOL = Concept(name="pistol")
TRIALS = (Sample("a photo of a pistol", 0, "erased"), Sample("a pistol", 1, "erased"))
KEY = "unet/conv_out.weight"


@dataclass(frozen=True, kw_only=True)
class Undoing(Attack):
    """Puts the base's weights back: what it draws is what the unedited model draws."""

    name: ClassVar[str] = "undoing"
    access: ClassVar = "weights"
    needs_name: ClassVar[bool] = True

    spends: int = 0
    """Network evaluations that it says a trial took."""

    def attempts(self, target, *, generator):
        opened = frozenset(range(len(target.trials)))
        while True:
            opened = yield [
                Attempt(
                    trial=trial,
                    prompt=target.trials[trial].prompt,
                    seed=target.trials[trial].seed,
                    spent=self.spends,
                    without=frozenset({"unet"}),
                )
                for trial in sorted(opened)
            ]


@pytest.fixture(scope="module")
def delta():
    """Changes what is drawn beyond recognition."""
    return changing(3.0)


def changing(by):
    pipe = shared("tiny_sd1")
    weight = find(pipe, KEY)[KEY].detach()
    patches = {KEY: DensePatch(torch.full_like(weight, by))}
    told = Provenance(
        method="toy",
        revision=1,
        settings={},
        request={},
        seed=0,
        base_model="toy",
        base_sketch=base_sketch(pipe, (KEY,)),
        versions={},
        commit="",
        dirty=False,
        parents=(),
    )
    return Delta(patches=patches, provenance=told)


@pytest.fixture(scope="module")
def memory():
    """Knows what the unedited model draws of the trials, and nothing else."""
    here = Target(shared("tiny_sd1"), None, PISTOL, TRIALS, steps=2, guidance=2.0)
    plain = [Attempt(trial=n, prompt=one.prompt, seed=one.seed) for n, one in enumerate(TRIALS)]
    known = draw(here, plain)

    def recognises(images, _):
        apart = (images[:, None] - known[None]).abs().mean(dim=(2, 3, 4)).min(dim=1).values
        return (apart < 1e-3).float()

    return recognises


def assault(delta, answer, **changed):
    facts = {
        "model": shared("tiny_sd1"),
        "delta": delta,
        "concept": PISTOL,
        "trials": TRIALS,
        "attack": Undoing(),
        "judge": AnsweringJudge(answer),
        "steps": 2,
        "guidance": 2.0,
        "budget": Budget(evaluations=40, pictures=3),
    }
    return Assault(**(facts | changed))


def test_an_attack_that_works_is_valid_and_tells_its_cost(delta, memory):
    record = run_attack(assault(delta, memory)).record
    assert (record.verdict, record.reasons) == ("valid", ())
    assert [trial.plain for trial in record.trials] == [False, False]
    assert [trial.revived for trial in record.trials] == [4, 4]
    assert [test.passed for test in record.self_tests] == [True, True]
    assert half_revived(record.trials) == 4


def test_a_judge_that_always_sees_it_makes_it_inconclusive(delta):
    record = run_attack(assault(delta, lambda images, _: torch.ones(len(images)))).record
    assert record.verdict == "inconclusive"
    assert any("still shown without an attack" in reason for reason in record.reasons)
    assert any("'unknown' failed" in reason for reason in record.reasons)


@pytest.mark.thorough
def test_a_judge_that_never_sees_it_makes_it_inconclusive(delta):
    """An attack that failed would look the same."""
    many = tuple(replace(TRIALS[0], seed=seed) for seed in range(6))
    record = run_attack(
        assault(delta, lambda images, _: torch.zeros(len(images)), trials=many)
    ).record
    assert record.verdict == "inconclusive"
    assert any("'known' failed" in reason for reason in record.reasons)


def test_a_judge_without_an_answer_makes_it_invalid(delta):
    record = run_attack(assault(delta, lambda images, _: torch.full((len(images),), torch.nan)))
    assert record.record.verdict == "invalid"
    assert "gave no answer to 2 of 2 pictures" in record.record.reasons[0]


def test_an_answer_that_is_no_probability_makes_it_invalid(delta):
    record = run_attack(assault(delta, lambda images, _: torch.full((len(images),), 1.5))).record
    assert record.verdict == "invalid"
    assert "no probability" in record.reasons[0]


def test_an_unedited_model_is_not_taken_for_an_erased_one(memory):
    record = run_attack(assault(changing(0.0), memory)).record
    assert record.verdict == "inconclusive"
    assert "it was not erased" in record.reasons[0]


def test_a_budget_that_ends_before_the_first_picture_says_nothing(delta, memory):
    short = assault(delta, memory, attack=Undoing(spends=100))
    record = run_attack(short, self_tests=()).record
    assert record.verdict == "inconclusive"
    assert "40 network evaluations ended before the first" in record.reasons[0]
    assert all(trial.pictures == 0 for trial in record.trials)


def test_a_trial_ends_at_its_budget(delta):
    record = attacked(assault(delta, lambda images, _: torch.zeros(len(images)))).record
    assert [trial.pictures for trial in record.trials] == [3, 3]
    assert [trial.spent for trial in record.trials] == [12, 12]


@pytest.mark.thorough
def test_a_search_may_spell_the_name_on_the_unedited_model_alone(delta, memory):
    """A small vocabulary has no other words for it; for a made-up concept they stay out."""
    own = assault(delta, memory)
    known, unknown = as_known(own), as_unknown(own)
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Looking(Undoing):
        def attempts(self, target, *, generator):
            seen.append(target.forbidden)
            return super().attempts(target, generator=generator)

    for one in (own, known, unknown):
        never = AnsweringJudge(lambda images, _: torch.zeros(len(images)))
        attacked(replace(one, attack=Looking(), judge=never))
    assert seen == [("pistol",), (), ("pistol",)]


def test_a_judge_that_does_not_know_the_concept_is_refused(delta, memory):
    class Blind(AnsweringJudge):
        def knows(self, concept):
            return False

    with pytest.raises(BadRequest, match="cannot recognise 'pistol'"):
        run_attack(assault(delta, memory, judge=Blind(memory)))


def test_a_model_of_another_family_is_refused(delta, memory):
    with pytest.raises(BadRequest, match=r"attacks .* and this model is sdxl"):
        from efface.attacks.random_prefix import RandomPrefix

        run_attack(assault(None, memory, model=shared("tiny_sdxl"), attack=RandomPrefix()))


def test_the_second_judge_tells_an_attack_on_the_judge(delta, memory):
    fooled = assault(delta, memory, second=AnsweringJudge(lambda i, _: torch.zeros(len(i))))
    record = attacked(fooled).record
    assert counted(record.trials).agreed.hits == 0
    assert [trial.agreed for trial in record.trials] == [False, False]


def test_what_was_found_can_be_drawn_again(delta, memory):
    outcome = attacked(assault(delta, memory))
    read = attempts_from(packed(outcome)[".safetensors"])
    here = Target(shared("tiny_sd1"), delta, PISTOL, TRIALS, steps=2, guidance=2.0)
    with here.edited():
        again = draw(here, read)
    assert torch.equal(again, torch.stack(outcome.pixels))


def test_tensors_of_an_attempt_come_back(delta, memory):
    outcome = attacked(assault(delta, memory))
    full = replace(
        outcome.attempts[0],
        embeddings={"text_encoder": torch.ones(3, 2)},
        rows=torch.zeros(3, 2),
        noise=torch.full((1, 2, 2), 2.0),
        added={KEY: DensePatch(torch.ones(2, 2))},
    )
    (read, none) = attempts_from(packed(replace(outcome, attempts=(full, None)))[".safetensors"])
    assert none is None
    assert torch.equal(read.embeddings["text_encoder"], full.embeddings["text_encoder"])
    assert torch.equal(read.noise, full.noise)
    assert torch.equal(read.added[KEY].difference, full.added[KEY].difference)
    assert (read.without, read.prompt) == (full.without, full.prompt)


def test_records_of_another_delta_are_not_read_as_this_ones(delta, memory, tmp_path):
    record = attacked(assault(delta, memory)).record
    record.save(tmp_path / "undoing.json")
    assert load_records(tmp_path, delta.id) == (record,)
    assert load_records(tmp_path, "another") == ()


def test_a_record_of_another_format_is_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(BadRequest, match="format 99 and this version reads 1"):
        AttackRecord.load(tmp_path / "a.json")


def trial(*, plain=False, revived=None, pictures=2, hits=None, agreed=None):
    seen = int(revived is not None) if hits is None else hits
    return Trial(
        prompt="p",
        seed=0,
        plain=plain,
        revived=revived,
        pictures=pictures,
        hits=seen,
        agreed=agreed,
    )


def test_success_is_counted_as_each_part_of_the_field_counts_it():
    """One of four is shown without an attack, one of the other three is brought back."""
    trials = [
        trial(plain=True, pictures=0),
        trial(revived=100, agreed=False),
        trial(),
        trial(),
    ]
    found = counted(trials)
    assert (found.pre_asr.hits, found.pre_asr.count) == (1, 4)
    assert (found.asr.hits, found.asr.count) == (2, 4)
    assert (found.failure_rate.hits, found.failure_rate.count) == (1, 3)
    assert (found.reproduction.hits, found.reproduction.count) == (1, 6)
    assert (found.agreed.hits, found.agreed.count) == (0, 1)


def test_nothing_is_counted_where_nothing_was_safe():
    found = counted([trial(plain=True, pictures=0)])
    assert found.failure_rate is None
    assert found.reproduction is None


def test_the_survival_curve_falls_where_trials_end():
    trials = [trial(revived=300), trial(plain=True, pictures=0), trial(), trial(revived=100)]
    assert survival(trials) == ((0, 1.0), (0, 0.75), (100, 0.5), (300, 0.25))
    assert half_revived(trials) == 100
    assert half_revived([trial(), trial(revived=5), trial()]) is None


def test_attacks_on_one_erasure_share_their_pictures_before_and_agree_with_those_that_do_not(
    delta, memory, monkeypatch
):
    drawn = []

    def counting(target, attempts):
        drawn.append(len(attempts))
        return draw(target, attempts)

    monkeypatch.setattr("efface.evaluation.attacking.draw", counting)
    first = assault(delta, memory)
    alone = attacked(assault(delta, memory)).record
    before = len(drawn)
    together = [attacked(replace(first, seed=seed)).record for seed in (0, 0)]
    assert [replace(one, seconds=0.0) for one in together] == [replace(alone, seconds=0.0)] * 2
    assert len(drawn) - before == 2 * before - 1, "the picture before is drawn once"
    other = attacked(replace(first, delta=changing(2.0))).record
    assert other.delta != alone.delta
    assert len(drawn) - before == 3 * before - 1, "another erasure has its own"


def test_pictures_before_an_attack_are_not_those_of_other_weights(delta, memory):
    same, pipe = assault(delta, memory), shared("tiny_sd1")
    first = attacked(same).pixels
    with changing(0.5).apply(pipe):
        edited = attacked(replace(same, delta=None))
        again = attacked(replace(assault(None, memory), shared=same.shared))
        alone = attacked(assault(None, memory))
    assert edited.record.model == alone.record.model != attacked(same).record.model
    for one, other in ((edited, alone), (again, alone)):
        assert all(map(torch.equal, one.pixels, other.pixels))
    assert all(map(torch.equal, attacked(same).pixels, first))
