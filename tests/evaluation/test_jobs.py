"""What is kept of jobs that could not be done, and which are still to do."""

from dataclasses import dataclass

import pytest

from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.jobs import failures, give_up, missing, perform
from efface.evaluation.stores import ResultStore


@dataclass(frozen=True)
class Task:
    """A job that fails as long as the store does not hold the file of what it needs."""

    id: str
    known: bool = True
    """Whether it fails by an error of ours."""

    @property
    def result(self):
        return f"done/{self.id}.json"

    def perform(self, store):
        if not store.has(f"needed/{self.id}"):
            raise (MeasurementFailed if self.known else ZeroDivisionError)(
                f"{self.id} found nothing"
            )
        store.write_json(self.result, {})


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path)


def test_a_failure_is_on_record_until_the_job_is_done(store):
    job = Task("a")
    assert perform(job, store.place) == "a found nothing"
    assert failures([job, Task("b")], store) == {"a": "a found nothing"}
    record = store.read_json("failures/a.json")
    assert record["job"]["id"] == "a"
    assert "trace" not in record
    store.write("needed/a", b"")
    assert perform(job, store.place) == ""
    assert failures([job], store) == {}
    assert store.names("failures") == ()


def test_an_error_of_somebody_else_s_ends_one_job_and_leaves_its_trace(store):
    job = Task("a", known=False)
    assert perform(job, store.place) == "ZeroDivisionError: a found nothing"
    assert "in perform" in store.read_json("failures/a.json")["trace"]


def test_a_result_counts_more_than_an_older_failure(store):
    job = Task("a")
    give_up(job, store.place, "its worker died")
    assert failures([job], store) == {"a": "its worker died"}
    store.write_json(job.result, {})
    assert failures([job], store) == {}


def test_what_is_missing_is_listed_once(store):
    jobs = [Task("a"), Task("b"), Task("a")]
    store.write_json("done/b.json", {})
    assert [job.id for job in missing(jobs, store)] == ["a"]


def test_a_place_that_cannot_be_written_ends_all(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(BadRequest, match="cannot be written to"):
        perform(Task("a"), str(tmp_path / "file" / "folder"))
