"""Cells of a matrix, read from a store, and what people see of them."""

import io
from dataclasses import replace

import pytest
from PIL import Image

from efface.evaluation.encoding import encoded
from efface.evaluation.executors import Workers
from efface.evaluation.jobs import Plan, missing
from efface.evaluation.matrix import Matrix, collected, run_plan
from efface.evaluation.revival import AttackRecord, Trial
from efface.evaluation.stores import ResultStore
from efface.evaluation.transfers import transfer_jobs
from efface.reports.matrix import heat_map, markdown, matrix_page, transfer_map
from efface.revival.attempts import Budget

PLAN = Plan(
    methods=("uce", "spm"),
    attacks=("soft_prompt", "random_prefix"),
    concepts=("cat", "pistol"),
    budget=Budget(evaluations=400, pictures=4),
    trials=4,
)
FALLS = {("uce", "soft_prompt"), ("spm", "random_prefix")}
SAFE = Trial(prompt="a <b>cat</b>", seed=0, plain=False, spent=400, pictures=4)
BACK = replace(SAFE, revived=160, spent=160, pictures=2, hits=1, agreed=True)
SHOWN = replace(SAFE, plain=True, spent=0, pictures=0)


def record(job, trials, **changed):
    facts = {
        "attack": job.attack,
        "settings": {},
        "access": {"soft_prompt": "gradients", "random_prefix": "text"}[job.attack],
        "concept": job.concept,
        "model": "m",
        "delta": "d" if job.erasure else None,
        "method": job.erasure.method if job.erasure else "",
        "budget": {"evaluations": 400, "pictures": 4},
        "seed": 0,
        "steps": 20,
        "guidance": 3.0,
        "trials": tuple(trials),
        "setup_evaluations": 0,
        "seconds": 1.0,
        "judge": "j",
        "second_judge": None,
        "verdict": "valid",
    }
    return AttackRecord(**(facts | changed))


@pytest.fixture
def store(tmp_path):
    """spm falls to random prefixes; learnt embeddings undo uce; one test of itself failed."""
    made = ResultStore(tmp_path)
    for job in PLAN.tests():
        known = job.role == "known"
        trials = [BACK] * 4 if known else [SAFE] * 4
        if (job.attack, job.concept) == ("soft_prompt", "pistol") and known:
            trials = [SAFE] * 4
        made.write_json(job.result, encoded(record(job, trials)))
    for job in PLAN.assaults():
        falls = (job.erasure.method, job.attack) in (
            ("uce", "soft_prompt"),
            ("spm", "random_prefix"),
        )
        trials = [BACK, BACK, BACK, SAFE] if falls else [SAFE, SAFE, SAFE, SHOWN]
        made.write_json(job.result, encoded(record(job, trials)))
    return made


def test_cells_add_up_over_concepts_and_count_only_what_is_valid(store):
    matrix = collected(PLAN, store)
    spm = matrix.find("spm", "random_prefix")
    assert (spm.failure_rate.hits, spm.failure_rate.count) == (6, 8)
    assert spm.half_revived == 160
    safe = matrix.find("uce", "random_prefix")
    assert (safe.failure_rate.hits, safe.failure_rate.count, safe.pre_asr.hits) == (0, 6, 2)
    half = matrix.find("uce", "soft_prompt")
    assert (half.failure_rate.hits, half.failure_rate.count) == (3, 4)
    assert any("self-test 'known' failed" in reason for reason in half.reasons)
    assert matrix.find("uce", "soft_prompt", "pistol").verdict == "inconclusive"


def test_a_cell_without_a_result_is_missing_and_not_safe(tmp_path):
    matrix = collected(PLAN, ResultStore(tmp_path))
    assert matrix.pooled == ()
    assert matrix.find("uce", "soft_prompt") is None


def test_a_record_that_a_judge_failed_in_is_invalid_in_its_cell(store):
    for job in PLAN.assaults():
        if (job.erasure.method, job.attack) == ("uce", "random_prefix"):
            broken = record(job, [SAFE] * 4, verdict="invalid", reasons=("judge j raised",))
            store.write_json(job.result, encoded(broken))
    cell = collected(PLAN, store).find("uce", "random_prefix")
    assert cell.verdict == "invalid"
    assert cell.failure_rate is None


def test_it_is_written_and_read_back(store, tmp_path):
    matrix = collected(PLAN, store)
    store.write_json("matrix.json", matrix.plain())
    assert Matrix.load(tmp_path / "matrix.json").pooled == matrix.pooled


def test_people_see_hits_of_trials_and_why_there_are_none(store):
    matrix = collected(PLAN, store)
    table = markdown(matrix)
    assert "| method | random prefix | soft prompt |" in table
    assert "| spm | 6/8 | 0/3 |" in table
    page = matrix_page(matrix, store)
    assert "6/8" in page
    assert "self-test" in page
    assert "<script" not in page
    for picture in (heat_map(matrix), transfer_map(matrix)):
        assert min(Image.open(io.BytesIO(picture)).size) > 100


def test_jobs_have_ids_of_all_that_decides_them():
    every = [*PLAN.erasures(), *PLAN.tests(), *PLAN.assaults(), *transfer_jobs(PLAN)]
    assert len({job.id for job in every}) == len(every)
    assert [job.id for job in PLAN.assaults()] == [job.id for job in PLAN.assaults()]
    longer = replace(PLAN, budget=Budget(evaluations=500, pictures=4))
    assert {job.id for job in longer.assaults()}.isdisjoint(job.id for job in PLAN.assaults())
    assert {job.id for job in longer.erasures()} == {job.id for job in PLAN.erasures()}


def test_what_is_there_is_not_done_again(store):
    assert missing(list(PLAN.assaults()), store) == []
    assert len(missing(list(PLAN.erasures()), store)) == 4


@pytest.mark.slow
def test_processes_and_ray_give_the_numbers_that_one_process_gives(tmp_path):
    pytest.importorskip("ray")
    plan = Plan(
        methods=("uce",),
        attacks=("random_prefix", "component_swap"),
        concepts=("axe",),
        budget=Budget(evaluations=120, pictures=2),
        trials=2,
    )
    found = [
        run_plan(plan, str(tmp_path / executor), Workers(executor=executor, count=2))
        for executor in ("local", "processes", "ray")
    ]
    for one in found:
        assert one.failures == ()
        cells = [replace(cell, seconds=0.0) for cell in one.cells]
        assert cells == [replace(cell, seconds=0.0) for cell in found[0].cells]
