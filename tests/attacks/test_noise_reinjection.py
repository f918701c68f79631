"""Fresh noise at every step: none is the plain run, all of it forgets the noise before."""

import pytest
import torch

from efface.attacks.noise_reinjection import NoiseReinjection, _Stirring
from efface.diffusion.sampling import Visit
from efface.errors import BadRequest
from efface.revival.attempts import Attempt
from tests.attacks.toys import TRIALS, course, drawn, erasure, generator, left_as_found, target_of


@pytest.mark.thorough
def test_with_no_fresh_noise_it_is_the_plain_picture(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1))
    with left_as_found(tiny_sd1):
        none, whole = course(NoiseReinjection(shares=(0.0, 1.0), rounds=1), target)
        plain = drawn(
            target,
            [Attempt(trial=i, prompt=t.prompt, seed=t.seed) for i, t in enumerate(TRIALS)],
        )
        assert torch.allclose(drawn(target, none), plain, atol=1.5 / 255)
        assert not torch.allclose(drawn(target, whole), plain, atol=0.1)
    assert target.evaluations - target.setup == sum(one.spent for one in (*none, *whole))


def test_all_fresh_keeps_the_predicted_picture_and_nothing_of_the_old_noise(tiny_sd1):
    """With z the picture and n the noise: signal z + weight n becomes signal z + weight n'."""
    target = target_of(tiny_sd1, None)
    process = target.denoiser.process
    clean, old, new = (torch.randn(1, 4, 8, 8, generator=generator(seed)) for seed in range(3))
    times = torch.tensor([600.0], dtype=torch.float64)
    latents = process.noised(clean, old, times)
    stirring = _Stirring(target.denoiser, new[None], 1.0)
    visit = Visit(0, 1, times[0], torch.arange(1), latents, target.denoiser.conditions([""]))
    after = Visit(**{**vars(visit), "prediction": process.truth(clean, old, times)})
    assert stirring(visit) is visit
    stirring(after)
    assert torch.allclose(stirring(visit).latents, process.noised(clean, new, times), atol=1e-4)


def test_shares_out_of_range_are_refused():
    with pytest.raises(BadRequest, match="shares is"):
        NoiseReinjection(shares=(2.0,))
