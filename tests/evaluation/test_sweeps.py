"""Sweeps on a toy: which jobs there are, what their ids depend on, and what is left of them."""

import json
import pickle
from dataclasses import replace

import pytest

from efface.errors import BadRequest
from efface.evaluation import sweep_jobs
from efface.evaluation.encoding import decoded
from efface.evaluation.executors import Workers
from efface.evaluation.record import Evaluation
from efface.evaluation.stores import ResultStore
from efface.evaluation.sweep_jobs import Measuring, SweepJob, base_print
from efface.evaluation.sweeps import Sweep, Variant, costs, run_sweep
from efface.reports.sweep import sweep_markdown
from tests.evaluation.conftest import MemoryJudge, small_suite

HERE = Workers(executor="local")
UCE, RECE = Variant(method="uce"), Variant(method="rece", settings={"ridge": 0.5})


@pytest.fixture
def folder(tmp_path, monkeypatch, toy):
    """The folder that stands for the toy, which is not loaded from there."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "weights.safetensors").write_bytes(bytes(200))
    monkeypatch.setattr(sweep_jobs, "_pipe_of", lambda model: toy)
    return str(made)


def sweep(folder, **changes):
    facts = {"variants": (UCE, RECE), "concepts": ("pistol",), "model": folder, "keep": ("cat",)}
    return Sweep(**facts | {"measuring": None} | changes)


def test_every_variant_meets_every_concept_and_seed(folder):
    jobs = sweep(folder, concepts=("pistol", "cat"), keep=(), seeds=(3, 1)).jobs()
    assert len({job.id for job in jobs}) == len(jobs) == 8
    assert [job.seed for job in jobs] == [3] * 4 + [1] * 4
    assert jobs[1].title == "rece ridge=0.5 on pistol, seed 3"


def test_ids_are_of_what_is_done(folder):
    (job,) = sweep(folder, variants=(RECE,)).jobs()
    changed = [
        {"settings": {"ridge": 0.25}},
        {"method": "uce", "settings": {}},
        {"concept": "dog"},
        {"anchor": "dog"},
        {"keep": ()},
        {"kind": "style"},
        {"seed": 1},
        {"base": "another"},
        {"delta": False},
        {"measuring": Measuring(judge="zero_shot")},
        {"measuring": Measuring(judge="zero_shot", size="smoke")},
    ]
    assert len({job.id, *(replace(job, **each).id for each in changed)}) == 1 + len(changed)
    ridge = job.recipe().build().ridge
    same = [{"settings": {"ridge": ridge, "rounds": job.recipe().build().rounds}}]
    same += [{"model": "elsewhere"}]
    assert {replace(job, **each).id for each in same} == {job.id}
    assert replace(pickle.loads(pickle.dumps(job))).id == job.id


def test_a_model_is_known_by_its_files_wherever_they_lie(folder, tmp_path):
    base_print.cache_clear()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "weights.safetensors").write_bytes(bytes(200))
    assert base_print(folder) == base_print(str(copy))
    base_print.cache_clear()
    (copy / "weights.safetensors").write_bytes(bytes(199) + b"1")
    assert base_print(folder) != base_print(str(copy))
    assert base_print("emoji") != base_print("emoji-remix")
    with pytest.raises(BadRequest, match="neither a bundled model that draws"):
        base_print("icons-vit")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": (UCE, Variant(method="uce", settings={}))}, "is the same job as"),
        ({"seeds": ()}, "has no jobs"),
        ({"measuring": Measuring()}, "uce on pistol, seed 0: .* needs a judge"),
        ({"measuring": Measuring(judge="zero_shots")}, "did you mean zero_shot"),
        ({"model": "emoji", "measuring": Measuring(judge="zero_shot")}, "a judge of its own"),
        ({"model": "emoji", "measuring": Measuring(size="tiny")}, "'tiny' is no size"),
        ({"model": "emoji", "concepts": ("zeppelin",), "measuring": Measuring()}, "zeppelin"),
        ({"variants": (Variant(method="uces"),)}, "did you mean"),
        ({"keep": ("pistol",)}, "both erased and kept"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(folder, changes, message):
    with pytest.raises(BadRequest, match=message):
        sweep(folder, **changes).jobs()


def test_bundled_models_have_presets_that_go_without_saying():
    both = (Variant.usual("emoji", "esd"), Variant.usual("emoji", "uce+esd"))
    jobs = Sweep(variants=both, concepts=("pistol",)).jobs()
    assert both[0].settings == {"preset": "emoji"}
    assert [job.label for job in jobs] == ["esd", "uce+esd"]
    assert jobs[0].steps() == jobs[1].steps() == 120
    plain = Variant(method="esd", settings={"preset": None})
    (job,) = Sweep(variants=(plain,), concepts=("pistol",)).jobs()
    assert job.label == "esd preset=None"
    assert job.id != jobs[0].id


@pytest.mark.thorough
def test_rows_are_read_from_the_store_and_nothing_is_done_twice(folder, tmp_path):
    jobs = sweep(folder).jobs()
    told = []
    first, second = run_sweep(jobs, str(tmp_path / "out"), HERE, lambda *facts: told.append(facts))
    assert (first.state, second.state, len(told)) == ("done", "done", 2)
    store = ResultStore(tmp_path / "out")
    assert store.names("deltas") == tuple(sorted(f"{job.id}.safetensors" for job in jobs))
    again = run_sweep(jobs, str(tmp_path / "out"), HERE, lambda *facts: told.append(facts))
    assert again == (first, second)
    assert len(told) == 2
    assert "| rece ridge=0.5 | 1 | - | - | - | - |" in sweep_markdown(again)


@pytest.mark.thorough
def test_a_measured_job_leaves_its_numbers_and_a_sheet_but_no_pictures(
    folder, tmp_path, monkeypatch, known
):
    monkeypatch.setattr(sweep_jobs, "_instruments", lambda *_: (MemoryJudge(known), None))
    monkeypatch.setattr(sweep_jobs, "_suite", lambda *_: small_suite(set_metrics=()))
    measured = Measuring(judge="zero_shot")
    jobs = sweep(folder, variants=(UCE,), measuring=measured, deltas=False).jobs()
    store = ResultStore(tmp_path / "out")
    assert costs(jobs, None)[0].pictures == len(small_suite().samples)
    (row,) = run_sweep(jobs, store.place, HERE)
    assert row.rates["erased"] == (4, 0, 4)
    assert row.verdict in ("valid", "inconclusive")
    assert store.names("deltas") == ()
    assert store.names("sheets") == (f"{row.id}.png",)
    unedited, locks = store.names("pictures")
    assert locks == "in_use"
    assert len([name for name in store.names(f"pictures/{unedited}") if "png" in name]) == 6
    (cost,) = costs(jobs, store)
    assert cost.state == "done"
    assert cost.seconds == store.read_json(jobs[0].result)["seconds_in_all"]
    assert "4 → 0/4" in sweep_markdown([row])
    held = decoded(Evaluation, store.read_json(jobs[0].result)["evaluation"])
    assert held.find("presence", "erased").after.hits == 0


@pytest.mark.thorough
def test_failures_stay_until_they_are_tried_again(folder, tmp_path, monkeypatch):
    jobs, place = sweep(folder).jobs(), str(tmp_path / "out")
    perform = SweepJob.perform

    def failing(job, store):
        if job.method == "rece":
            raise ZeroDivisionError("by nought")
        perform(job, store)

    monkeypatch.setattr(SweepJob, "perform", failing)
    states = [row.state for row in run_sweep(jobs, place, HERE)]
    assert states == ["done", "failed"]
    monkeypatch.setattr(SweepJob, "perform", perform)
    (_, failed) = run_sweep(jobs, place, HERE)
    assert failed.error == "ZeroDivisionError: by nought"
    (_, done) = run_sweep(jobs, place, HERE, retry=True)
    assert done.state == "done"


@pytest.mark.thorough
def test_an_interrupt_leaves_whole_results_and_the_next_run_goes_on(folder, tmp_path, monkeypatch):
    jobs, place = sweep(folder).jobs(), str(tmp_path / "out")
    write = ResultStore.write_json

    def interrupted(store, name, value):
        if name == jobs[1].result:
            raise KeyboardInterrupt
        write(store, name, value)

    monkeypatch.setattr(ResultStore, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(jobs, place, HERE)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert [json.loads(path.read_text())["job"]["method"] for path in files if "rows" in str(path)]
    monkeypatch.setattr(ResultStore, "write_json", write)
    told = []
    rows = run_sweep(jobs, place, HERE, lambda *facts: told.append(facts))
    assert [row.state for row in rows] == ["done", "done"]
    assert told == [(1, 1, "")]


def test_results_may_lie_where_fsspec_reaches(folder):
    jobs, place = sweep(folder, variants=(UCE,)).jobs(), "memory://efface-sweeps/one"
    (row,) = run_sweep(jobs, place, HERE)
    assert row.state == "done"
    assert ResultStore(place).names("rows") == (f"{row.id}.json",)
    with pytest.raises(BadRequest, match="seen by one process alone"):
        run_sweep(jobs, place, Workers(executor="processes"))


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_other_workers_give_the_same_numbers(tmp_path, executor):
    if executor == "ray":
        pytest.importorskip("ray")
    small = Sweep(
        variants=(Variant.usual("emoji", "uce"),),
        concepts=("pistol",),
        measuring=Measuring(size="smoke"),
    )
    jobs = small.jobs()
    found = [
        [
            replace(row, seconds=0.0)
            for row in run_sweep(jobs, str(tmp_path / name), Workers(executor=name, count=2))
        ]
        for name in ("local", executor)
    ]
    assert found[0] == found[1]
    assert all(row.state == "done" for row in found[0])
