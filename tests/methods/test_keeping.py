"""What `GradientRun.keep` asks of a network in training: kept prompts, and none at some latents."""

import pytest
import torch

from efface.contracts import silent
from efface.diffusion.losses import predicted
from efface.errors import BadRequest
from efface.runs.gradient_runs import GradientRun
from tests.methods.trained import TO_LAMP, made


def asked(pipe, **settings):
    generator = torch.Generator().manual_seed(0)
    method = made("esd", keep_weight=2.0, keep_batch=6, **settings)
    run = GradientRun(method, pipe, TO_LAMP, generator=generator, monitor=silent)
    return run, run.keep(3, torch.Generator().manual_seed(1))[0]


@pytest.mark.parametrize(("share", "without"), [(0.0, 0), (0.5, 3), (1.0, 6)])
def test_some_kept_latents_are_held_without_a_prompt(tiny_sd1, share, without):
    run, ask = asked(tiny_sd1, keep_unconditional=share)
    _, plain = asked(tiny_sd1)
    assert torch.equal(ask.latents, plain.latents)
    assert torch.equal(ask.prediction[without:], plain.prediction[without:])
    empty, rows = run.empty(1).rows[0], ask.conditions.rows
    assert [bool(torch.equal(row, empty)) for row in rows] == [True] * without + [False] * (
        6 - without
    )


def test_the_unedited_model_answers_as_wanted_with_a_prompt_and_without(tiny_sd1):
    run, ask = asked(tiny_sd1, keep_unconditional=0.5)
    with run.denoiser.inference_mode():
        answer = predicted(run.denoiser, [ask])[0]
    assert torch.allclose(answer, ask.prediction, rtol=1e-4, atol=1e-5)
    assert ask.weight == 2.0


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(BadRequest, match="keep_unconditional"):
        made("esd", keep_unconditional=share)
