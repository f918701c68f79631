"""Jobs in turn on one model: it is left bit for bit as it was, whatever ends a job."""

import threading

import pytest
import torch

import efface
from efface.deltas.application import applied_to
from efface.errors import BadRequest
from efface.evaluation.identity import fingerprints
from efface.runs.workspace import Workspace
from efface.studio.jobs import Queue
from efface.training.session import Session
from tests.conftest import host


def ended(queue, job):
    for _ in queue.follow(job, pause=0.02):
        pass
    return job


def training(pipe, *, workspace=None, reached=None, release=None, fails=False):
    """Trains a toy for a few steps; says when it is at the second, and waits there."""

    def work(told):
        def watch(step, total, figures):
            told(step, total, figures)
            if step == 1 and fails:
                raise BadRequest("the third step is too much; take two")
            if step == 1 and reached is not None:
                reached.set()
                assert release.wait(30)

        with told.progress("training"):
            session = Session(watch, told.before)
            return efface.erase(
                pipe, "cat", method="esd", monitor=session, workspace=workspace, steps=4
            )

    return work


@pytest.fixture
def pipe():
    return host("tiny_sd1")


@pytest.fixture
def whole(pipe):
    """Says whether every tensor of the toy is as it was, and nothing is applied."""
    before = fingerprints(pipe)
    return lambda: fingerprints(pipe) == before and not applied_to(pipe)


def cancelled_by(end, pipe, queue, **how):
    """Ends a training at its second step."""
    reached, release = threading.Event(), threading.Event()
    work = training(pipe, reached=reached, release=release, **how)
    job = queue.submit("train", work, "page")
    assert reached.wait(60)
    end(job)
    release.set()
    return ended(queue, job)


@pytest.mark.thorough
def test_a_cancelled_training_leaves_the_model_bit_for_bit_and_goes_on_from_there(
    pipe, whole, tmp_path
):
    queue = Queue()
    space = Workspace(checkpoint=tmp_path / "checkpoint")
    job = cancelled_by(queue.cancel, pipe, queue, workspace=space)
    assert job.state == "cancelled"
    assert job.step == 2
    assert whole()
    onward = Workspace(checkpoint=tmp_path / "checkpoint", resume=True)
    resumed = ended(queue, queue.submit("resume", training(pipe, workspace=onward)))
    straight = ended(queue, queue.submit("whole", training(pipe)))
    assert resumed.state == "done", resumed.error
    assert resumed.result.delta.id == straight.result.delta.id
    assert whole()


@pytest.mark.thorough
def test_a_closed_page_ends_its_jobs_and_no_others(pipe, whole):
    queue = Queue()
    other = []

    def leave(job):
        other.append(queue.submit("other", lambda _: "kept", "another page"))
        other.append(queue.submit("waiting", lambda _: "never", "page"))
        assert queue.ahead(other[0]) == 1
        queue.leave("page")

    assert cancelled_by(leave, pipe, queue).state == "cancelled"
    assert [ended(queue, job).state for job in other] == ["done", "cancelled"]
    assert other[0].result == "kept"
    assert whole()


@pytest.mark.thorough
def test_a_job_that_nobody_follows_any_more_is_cancelled(pipe, whole):
    queue = Queue()

    def stop_following(job):
        course = queue.follow(job, pause=0.01)
        next(course)
        course.close()

    assert cancelled_by(stop_following, pipe, queue).state == "cancelled"
    assert whole()


@pytest.mark.thorough
def test_an_error_is_told_in_one_line_and_leaves_the_model_bit_for_bit(pipe, whole):
    queue = Queue()
    job = ended(queue, queue.submit("train", training(pipe, fails=True)))
    assert (job.state, job.error) == ("failed", "the third step is too much; take two")
    assert whole()


def test_an_error_within_a_delta_takes_it_off(pipe, whole):
    queue = Queue()
    delta = efface.erase(pipe, "cat", method="uce").delta

    def work(told):
        with delta.apply(pipe):
            assert not whole()
            raise OSError("the disk is full")

    assert ended(queue, queue.submit("apply", work)).error == "the disk is full"
    assert whole()


def test_a_bug_ends_its_job_and_not_the_queue(capsys):
    queue = Queue()
    job = ended(queue, queue.submit("bug", lambda _: 1 / 0))
    assert (job.state, job.error) == ("failed", "this is a bug: ZeroDivisionError")
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert ended(queue, queue.submit("next", lambda _: 2)).result == 2


def test_jobs_run_one_at_a_time_in_their_order():
    queue, inside, order = Queue(), threading.Lock(), []

    def work(number):
        def run(_):
            assert inside.acquire(blocking=False)
            order.append(number)
            inside.release()

        return run

    jobs = [queue.submit(str(number), work(number)) for number in range(8)]
    assert {ended(queue, job).state for job in jobs} == {"done"}
    assert order == list(range(8))


def test_figures_become_curves_and_lines_lose_the_place_of_the_runs():
    queue = Queue(root="/a/place")

    def work(told):
        told.say("wrote /a/place/pistol/delta.safetensors", torch.zeros(1))
        with told.progress("a\nb") as monitor:
            monitor(0, 2, {"loss": 1.0})
            monitor(1, 2, {"loss": 0.5})

    job = ended(queue, queue.submit("tell", work))
    assert job.lines == ["wrote pistol/delta.safetensors"]
    assert job.curves == {"loss": [1.0, 0.5]}
    assert (job.step, job.total) == (2, 2)
    assert "\n" not in job.what
