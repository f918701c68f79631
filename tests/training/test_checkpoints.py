"""Checkpoints: what they hold, when they are written, and that runs resume to the same bits."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from efface.deltas.recording import Recording
from efface.errors import BadRequest, ModelCollapsed
from efface.training.checkpoints import Checkpointing, identity_of
from efface.training.loop import train
from tests.conftest import host
from tests.training.loops import Settings, losses, ran


def breaking(weight, at, kind):
    """The terms of a run that goes wrong at a step: in a term, or in its gradient alone."""
    calls = []

    def terms(generator):
        calls.append(1)
        found = losses(weight)(generator)
        if len(calls) <= at:
            return found
        wrong = {"term": math.inf, "gradient": (weight[0] * 0).sqrt()}[kind]
        return {**found, "odd": found["small"] * 0 + wrong}

    return terms


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "match"), [("term", "term 'odd'"), ("gradient", "gradient of model/weight")]
)
def test_the_last_good_state_is_kept_and_resumed_from(tmp_path, kind, match):
    """At step 10 a checkpoint is due, but it is there that the loss breaks; that of 5 stays."""
    settings, weight = Settings(steps=12), nn.Parameter(torch.zeros(4))
    kept = Checkpointing(tmp_path, identity="{}", every=5)
    with pytest.raises(ModelCollapsed, match=f"{match}.* good state"):
        ran(settings, weight=weight, terms=breaking(weight, 10, kind), checkpointing=kept)
    again = nn.Parameter(torch.full((4,), 9.0))
    found, rows = ran(settings, weight=again, checkpointing=replace(kept, resume=True))
    whole, every = ran(settings)
    assert rows == every[5:]
    assert torch.equal(found, whole)


def test_a_run_that_breaks_before_any_good_state_says_so(tmp_path):
    weight = nn.Parameter(torch.zeros(4))
    kept = Checkpointing(tmp_path, identity="{}", every=5)
    with pytest.raises(ModelCollapsed, match="nothing is left"):
        ran(Settings(), weight=weight, terms=breaking(weight, 1, "term"), checkpointing=kept)
    assert not kept.file.exists()


@pytest.mark.parametrize(("broken", "left"), [(2, 1), (3, 2), (4, 2), (9, 8), (24, 16), (26, 25)])
def test_early_states_are_kept_more_often(tmp_path, broken, left):
    settings, weight = Settings(steps=30), nn.Parameter(torch.zeros(4))
    kept = Checkpointing(tmp_path, identity="{}")
    with pytest.raises(ModelCollapsed, match="last good state"):
        ran(settings, weight=weight, terms=breaking(weight, broken, "term"), checkpointing=kept)
    _, rows = ran(settings, checkpointing=replace(kept, resume=True))
    assert rows == ran(settings)[1][left:]


class Stopped(nn.Module):
    """A part beside the weights that every step changes; an interrupt comes where it is told to."""

    def __init__(self, where=None, at=13):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.where, self.at, self.calls = where, at, 0

    def stop(self, where):
        if where == self.where and self.calls == self.at:
            raise KeyboardInterrupt

    def terms(self, weight):
        def given(generator):
            self.calls += 1
            found = losses(weight)(generator)
            self.count += 1
            self.stop("losses")
            return {**found, "beside": 1e-3 * weight.square().sum() * self.count}

        return given

    def gradients(self, terms, _, /):
        sum(terms.values()).backward()
        self.stop("gradients")

    def after_step(self):
        self.stop("after the step")

    def step(self, *_):
        self.stop("monitor")


def stopping(settings, beside, kept):
    weight, seen = nn.Parameter(torch.zeros(4)), []

    def monitor(step, _, figures):
        seen.append((step, dict(figures)))
        beside.step()

    recording = Recording(
        host("tiny_sd1"), generator=torch.Generator(), monitor=monitor, steps=settings.steps
    )
    train(
        beside.terms(weight),
        {"model/weight": weight},
        settings,
        generator=torch.Generator().manual_seed(3),
        recording=recording,
        hooks=beside,
        beside={"part": beside},
        checkpointing=kept,
    )
    return weight.detach(), seen


@pytest.mark.parametrize(
    ("where", "left"), [("losses", 12), ("gradients", 12), ("after the step", 10), ("monitor", 13)]
)
@pytest.mark.parametrize("more", [{}, {"optimiser": "adamw"}])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, where, left, more):
    settings = Settings(steps=25, **more)
    whole, rows = stopping(settings, Stopped(), None)
    kept = Checkpointing(tmp_path, identity="{}", every=5)
    with pytest.raises(KeyboardInterrupt):
        stopping(settings, Stopped(where), kept)
    assert kept.file.exists()
    again, resumed = stopping(settings, Stopped(), replace(kept, resume=True))
    assert torch.equal(again, whole)
    assert resumed == rows[left:], "the monitor is only told of steps done since"
    assert not kept.file.exists()


@pytest.mark.thorough
def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(tmp_path):
    kept = Checkpointing(tmp_path, identity='{"method": "a", "seed": 1}', every=1)
    with pytest.raises(BadRequest, match="no checkpoint"):
        ran(Settings(), checkpointing=replace(kept, resume=True))

    def stops(generator):
        if kept.file.exists():
            raise KeyboardInterrupt
        return losses(weight)(generator)

    weight = nn.Parameter(torch.zeros(4))
    with pytest.raises(KeyboardInterrupt):
        ran(Settings(), weight=weight, terms=stops, checkpointing=kept)
    other = replace(kept, identity='{"method": "b", "seed": 1}', resume=True)
    with pytest.raises(BadRequest, match="method a; this one: method b"):
        ran(Settings(), checkpointing=other)
    with pytest.raises(BadRequest, match="--resume, or delete it"):
        ran(Settings(), checkpointing=kept)
    kept.file.write_bytes(kept.file.read_bytes()[:40])
    with pytest.raises(BadRequest, match="damaged"):
        ran(Settings(), checkpointing=replace(kept, resume=True))


def test_an_identity_tells_runs_apart_but_lets_steps_change():
    from efface.concepts import request

    same = identity_of("esd", "emoji", request("cat"), Settings(steps=3), 0)
    assert same == identity_of(
        "esd", "emoji", request("cat"), Settings(steps=9, learning_rate=1.0), 0
    )
    assert same != identity_of("esd", "emoji", request("dog"), Settings(steps=3), 0)
    assert same != identity_of("esd", "emoji", request("cat"), Settings(steps=3, batch=7), 0)
