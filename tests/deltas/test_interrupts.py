"""Ctrl-C and threads: a model is edited or as it was, and no thread undoes another's work."""

import os
import signal
import threading

import pytest
import torch

from efface.deltas.patches import DensePatch
from efface.deltas.whole import uninterrupted, write
from efface.errors import BadDelta
from tests.deltas.toys import KEY, PLAIN, delta, drawn, toy


def edit(model):
    return delta(model, {KEY: DensePatch(drawn(1, 4, 6)), PLAIN: DensePatch(drawn(2, 3, 2, 2, 2))})


def values(model):
    return [weight.detach().clone() for weight in model.unet.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def stopping(number):
    """Gives a ``copy_`` that is interrupted when it is called for the so manieth time."""
    calls, plain = [0], torch.Tensor.copy_

    def copy(self, *rest, **named):
        calls[0] += 1
        if calls[0] == number:
            raise KeyboardInterrupt
        return plain(self, *rest, **named)

    return copy


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("step", ["apply", "revert", "merge"])
def test_an_interrupt_in_the_middle_leaves_the_model_whole(step, number, monkeypatch):
    model = toy()
    made, before = edit(model), values(model)
    applied = made.apply(model) if step == "revert" else None
    edited = values(model)
    monkeypatch.setattr(torch.Tensor, "copy_", stopping(number))
    with pytest.raises(KeyboardInterrupt):
        {"apply": lambda: made.apply(model), "merge": lambda: made.merge_into(model)}.get(
            step, lambda: applied.revert()
        )()
    monkeypatch.undo()
    assert same(values(model), edited)
    if step == "revert":
        applied.revert()
    assert same(values(model), before)
    with made.apply(model):
        assert not same(values(model), before)


def test_ctrl_c_waits_until_the_body_has_ended(request):
    held = signal.signal(signal.SIGINT, signal.default_int_handler)  # xdist lets it be ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, held))
    done = []
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("all of it")
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_cannot_be_written_leaves_everything_as_it_was():
    model = toy()
    targets = dict(model.unet.named_parameters())
    before = values(model)
    with pytest.raises(RuntimeError):
        write(
            targets,
            {name: torch.ones(7, 7) if "conv" in name else w + 1 for name, w in targets.items()},
        )
    assert same(values(model), before)


def test_another_thread_is_refused_while_a_delta_is_in_force():
    model = toy()
    first, second = edit(model), delta(model, {KEY: DensePatch(drawn(5, 4, 6))})
    before, problems = values(model), []

    def other():
        try:
            with second.apply(model):
                pass
        except BadDelta as error:
            problems.append(str(error))

    with first.apply(model):
        thread = threading.Thread(target=other, name="other")
        thread.start()
        thread.join()
    assert "is in force on this model in the thread MainThread" in problems[0]
    assert same(values(model), before)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(problems) == 1


def test_many_threads_leave_the_model_as_it_was():
    model = toy()
    deltas = [delta(model, {KEY: DensePatch(drawn(n, 4, 6))}, number=n) for n in range(4)]
    before, others = values(model), []

    def work(made):
        for _ in range(10):
            try:
                with made.apply(model):
                    pass
            except BadDelta:
                pass
            except BaseException as error:
                others.append(error)

    threads = [threading.Thread(target=work, args=(made,)) for made in deltas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not others
    assert same(values(model), before)
