"""Every method that trains: interrupted and resumed, a run ends in the same bits."""

from dataclasses import replace

import pytest

from efface.training.checkpoints import Checkpointing
from efface.training.session import Session
from efface.training.settings import Training
from tests.conformance.conftest import TRAINED, kinds, run

STOP = 7


@pytest.mark.thorough
@kinds(TRAINED, default=("esd-tiny_sd1", "doco-tiny_sd1"))
def test_an_interrupted_run_resumes_to_the_same_delta(ran, tmp_path):
    assert isinstance(ran.method, Training)
    steps = []

    def interrupting(step, *_):
        if step + 1 == STOP:
            raise KeyboardInterrupt

    kept = Checkpointing(tmp_path, identity="{}", every=1000)
    session = Session(interrupting, checkpointing=kept)
    with pytest.raises(KeyboardInterrupt):
        run(ran.method, ran.case, ran.pipe, monitor=session)
    resumed = Session(lambda step, *_: steps.append(step), checkpointing=replace(kept, resume=True))
    again = run(ran.method, ran.case, ran.pipe, monitor=resumed)
    assert steps[0] == STOP, "it began again instead of going on"
    assert again.curves == ran.result.curves
    assert again.delta.id == ran.result.delta.id
    assert not kept.file.exists()
