"""Records of attacks in a run's folder: which are kept, and what reports are written of them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from efface.cli import verify
from efface.cli.output import Output
from efface.concepts import Concept
from efface.contracts import Sample, Suite
from efface.errors import BadRequest
from efface.evaluation.attacking import Assault
from efface.evaluation.record import Evaluation
from efface.evaluation.revival import AttackRecord, Trial
from efface.files import write_atomically
from efface.reports.robustness import hardest
from efface.revival.attempts import Budget
from efface.workbench import attacking, keeping, measuring, recognising, runs
from efface.workbench.folder import RunFolder
from tests.reports.conftest import made

PISTOL = Concept(name="pistol")
SAFE = Trial(prompt="a pistol", seed=0, plain=False)


def record(*, trials=2, evaluations=200, **changed):
    facts = {
        "attack": "other_seeds",
        "settings": {},
        "access": "text",
        "concept": "pistol",
        "model": "",
        "delta": None,
        "budget": {"evaluations": evaluations, "pictures": 12},
        "seed": 0,
        "steps": 2,
        "guidance": 3.0,
        "trials": (SAFE,) * trials,
        "setup_evaluations": 0,
        "seconds": 1.0,
        "judge": "",
        "second_judge": None,
        "verdict": "valid",
    }
    return AttackRecord(**(facts | changed))


def assault(*, trials=2, evaluations=200, concept=PISTOL):
    sample = Sample(prompt="a pistol", seed=0, role="erased", concept=concept)
    return Assault(
        model=None, delta=None, concept=concept, trials=(sample,) * trials, attack=None,
        judge=None, budget=Budget(evaluations=evaluations, pictures=12),
    )  # fmt: skip


def asked(folder, what):
    return list(
        attacking.attacked_with(
            RunFolder(folder), what, ["other_seeds"], Output(machine=False, traceback=False)
        )
    )


def saved(folder, **changed):
    path = folder / "attacks" / "other_seeds-pistol.json"
    path.parent.mkdir()
    record(**changed).save(path)
    runs.record_attack(folder, [path])
    return path


@pytest.mark.parametrize("harm", ["edited", "gone"])
def test_an_attack_that_was_changed_since_is_found_and_goes_into_no_report(a_run, capsys, harm):
    path, output = saved(a_run), Output(machine=False, traceback=False)
    assert verify._attacks(runs.open_run(a_run), output) == []
    assert "attacks equal: all 1 files" in capsys.readouterr().out
    if harm == "edited":
        replace(record(), seconds=2.0).save(path)
        with pytest.raises(BadRequest, match="give --overwrite to attack again"):
            asked(a_run, assault())
    else:
        path.unlink()
    told = "attacks/other_seeds-pistol.json is not what was written"
    assert verify._attacks(runs.open_run(a_run), output) == [told]
    assert "attacks DIFFERENT" in capsys.readouterr().out
    with pytest.raises(BadRequest, match="so no report is made with it"):
        measuring.measure(RunFolder(a_run), None, measuring.Plan(), output)


def test_records_of_attacks_that_were_written_before_have_no_hashes(a_run, capsys):
    path = saved(a_run)
    told = runs.record_of(a_run)
    del told[runs.ATTACKS]
    write_atomically(a_run / runs.RECORD, json.dumps(told).encode())
    assert verify._attacks(runs.open_run(a_run), Output(machine=False, traceback=False)) == []
    assert f"attacks without hashes: attacks/{path.name}" in capsys.readouterr().out


@pytest.mark.parametrize("less", [{"trials": 1}, {"evaluations": 199}])
def test_an_attack_is_not_replaced_by_a_smaller_one(a_run, less):
    path = saved(a_run)
    with pytest.raises(BadRequest, match=r"2 trials \(each --budget 200 .*give --overwrite"):
        asked(a_run, assault(**less))
    assert AttackRecord.load(path) == record()


def test_concepts_whose_names_look_alike_have_files_of_their_own():
    names = ("ice cream", "ice, cream", "ice/cream", "手枪", "!", "?")
    assert len({attacking._slug(name) for name in names}) == len(names)
    assert attacking._slug("ice cream") == "ice-cream"


@pytest.mark.parametrize("harm", ["another delta's", "damaged", "a broken attack"])
def test_reports_are_not_renewed_from_what_is_not_the_runs_own(a_run, tmp_path, capsys, harm):
    found = made(tmp_path / "measured")
    delta = runs.open_run(a_run).delta.id
    replace(found, after=replace(found.after, delta=delta)).save(a_run)
    (a_run / "card.json").write_text("written before")
    runs.record_reports(a_run, (measuring.EVALUATION, "card.json"))
    if harm == "another delta's":
        found.save(a_run)
    elif harm == "damaged":
        (a_run / measuring.EVALUATION).write_text('{"verdict": ')
    else:
        (a_run / "attacks").mkdir()
        (a_run / "attacks" / "x.json").write_text("{")
    told = runs.record_of(a_run)
    attacking.renew_reports(RunFolder(a_run), Output(machine=False, traceback=False))
    assert "left as it is" in capsys.readouterr().out
    assert (a_run / "card.json").read_text() == "written before"
    assert runs.record_of(a_run) == told


def test_what_was_tried_in_vain_is_not_said_of_attacks_that_tried_less():
    assert hardest([record()]) == (
        "The one attack did not bring it back in 2 trials each of at most 200 network evaluations."
    )
    assert hardest([record(), record(trials=1, evaluations=50)]) == (
        "Of 2 attacks none brought it back in 1 to 2 trials each of at most 50 to 200 network "
        "evaluations."
    )


def test_a_measurement_is_not_replaced_by_one_that_does_not_say_what_was_erased(a_run, tmp_path):
    there = made(tmp_path / "measured")
    assert there.verdict == "valid"
    there.save(a_run)
    suite = Suite(
        name="basic", version=1, samples=there.samples, judge="emoji", image_metrics=("clip_score",)
    )
    with pytest.raises(BadRequest, match="add --metrics presence, or give --overwrite"):
        keeping.refuse_to_shrink(a_run, suite, there.after.delta, measuring.Plan())
    whole = replace(suite, image_metrics=("presence",))
    keeping.refuse_to_shrink(a_run, whole, there.after.delta, measuring.Plan())


def test_a_recogniser_is_not_measured_on_fewer_pictures_than_before(a_run, tmp_path, monkeypatch):
    found = made(tmp_path / "measured", model_kind="classifier")
    there = replace(found, after=replace(found.after, delta=runs.open_run(a_run).delta.id))
    there.save(a_run)
    suite = SimpleNamespace(name="held out", places=there.samples[1:])
    monkeypatch.setattr(recognising, "detects", lambda _: False)
    monkeypatch.setattr(recognising, "_held_out", lambda *_: ("held out", ""))
    monkeypatch.setattr(recognising, "_picture_suite", lambda *_: suite)
    output = Output(machine=False, traceback=False)
    with pytest.raises(BadRequest, match=r"and this one has 39 .*give --overwrite"):
        recognising.measured(a_run, None, measuring.Plan(), output)
    assert Evaluation.load(a_run).samples == there.samples
