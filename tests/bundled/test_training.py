"""The build scripts' loop: an interrupted training goes on exactly where it stopped."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "emoji"))
from training import Schedule, train

SCHEDULE = Schedule(steps=12, peak=0.1, warmup=2, flat=0.5, floor=0.1)


def network():
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(0.5)
        model.bias.fill_(0.0)
    return model


def run(folder, *, until=None):
    model = network()

    def loss(generator):
        x = torch.randn(8, 3, generator=generator)
        error = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return error, {"error": float(error.detach())}

    return train(model, loss, folder=folder, schedule=SCHEDULE, seed=7, every=4, until=until)


def test_resuming_gives_the_same_weights_as_one_go(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", until=5)
    parts = run(tmp_path / "parts")
    assert torch.equal(whole.weight, parts.weight)
    assert torch.equal(whole.bias, parts.bias)
    assert not torch.equal(whole.weight, network().weight)


def test_the_log_has_means_of_what_was_measured(tmp_path):
    run(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert rows[0]["loss"] == rows[0]["error"] > rows[-1]["error"]


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.05), (1, 0.1), (5, 0.1), (6, 0.1), (9, 0.055), (12, 0.01)]
)
def test_the_schedule_warms_up_holds_and_decays(step, rate):
    assert SCHEDULE.rate(step) == pytest.approx(rate)
