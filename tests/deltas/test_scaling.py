"""Training in float16: what scales its gradients is part of checkpoints."""

from dataclasses import replace

import pytest
import torch

from efface.training.checkpoints import Checkpointing
from tests.training.loops import GOAL, Settings
from tests.training.test_checkpoints import Stopped, stopping


class Overflowing(Stopped):
    """A loss in float16 whose scaled gradients overflow in the first steps."""

    def terms(self, weight):
        def given(generator):
            self.calls += 1
            noise = torch.randn(4, generator=generator)
            found = 10 * (weight[None] @ torch.eye(4) - GOAL - 0.1 * noise).square().mean()
            self.stop("losses")
            return {"near": found}

        return given


@pytest.mark.thorough
@pytest.mark.parametrize("at", [3, 13])
def test_the_gradient_scaler_resumes_where_it_was(tmp_path, at):
    """It starts so high that steps are left out until it fell, which a new one would do again."""
    settings = Settings(steps=25, precision="float16")
    whole, rows = stopping(settings, Overflowing(), None)
    assert rows[0][1]["near"] == pytest.approx(rows[1][1]["near"], rel=0.1), "no step was left out"
    kept = Checkpointing(tmp_path, identity="{}", every=5)
    with pytest.raises(KeyboardInterrupt):
        stopping(settings, Overflowing("monitor", at=at), kept)
    again, resumed = stopping(settings, Overflowing(), replace(kept, resume=True))
    assert torch.equal(again, whole)
    assert resumed == rows[at:]


@pytest.mark.parametrize(("first", "then"), [("float32", "float16"), ("float16", "float32")])
def test_a_run_may_resume_in_another_precision(tmp_path, first, then):
    kept = Checkpointing(tmp_path, identity="{}", every=5)
    with pytest.raises(KeyboardInterrupt):
        stopping(Settings(steps=25, precision=first), Overflowing("monitor"), kept)
    settings = Settings(steps=25, precision=then)
    _, resumed = stopping(settings, Overflowing(), replace(kept, resume=True))
    assert len(resumed) == 12
