"""What a target gives, and that its model comes back."""

import pytest
import torch

from efface import registry
from efface.concepts import Concept
from efface.contracts import Sample
from efface.deltas.patches import DensePatch
from efface.errors import BadModel, BadRequest
from efface.hosts.components import find
from efface.hosts.streaming import stream
from efface.revival.attempts import Attempt, Budget
from efface.revival.drawing import cost_of, draw
from efface.revival.target import Knowledge, Target
from tests.cases import CASES
from tests.conformance.conftest import run
from tests.conformance.snapshots import differences, snapshot
from tests.conftest import shared

PISTOL = Concept(name="pistol")
TRIALS = (Sample("a photo of a pistol", 3, "erased"),)
KEY = "unet/conv_out.weight"


@pytest.fixture(scope="module")
def delta():
    case = next(c for c in CASES if (c.method, c.host) == ("uce", "tiny_sd1"))
    return run(registry.build("methods", "uce", **case.settings), case, shared("tiny_sd1")).delta


def target(delta, **knowledge):
    known = Knowledge(**knowledge)
    return Target(shared("tiny_sd1"), delta, PISTOL, TRIALS, steps=2, guidance=2.0, knowledge=known)


def plain(**changed):
    facts = {"trial": 0, "prompt": TRIALS[0].prompt, "seed": 3}
    return Attempt(**(facts | changed))


def test_a_plain_attempt_is_what_the_pipeline_draws():
    pipe = shared("tiny_sd1")
    drawn = draw(target(None), [plain()])[0]
    own = pipe(
        TRIALS[0].prompt,
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images[0]
    assert torch.allclose(drawn.permute(1, 2, 0), torch.from_numpy(own), atol=1.5 / 255)


def test_without_guidance_there_is_one_evaluation_a_step():
    here = target(None)
    assert cost_of(here, plain()) == 4
    assert cost_of(here, plain(guidance=1.0)) == 2
    assert cost_of(here, plain(steps=5)) == 10
    assert cost_of(here, plain(clean=torch.zeros(4, 8, 8))) == 0


def test_the_unedited_model_is_the_base_and_only_inside(delta):
    here = target(delta)
    bare = target(None)
    read = here.denoiser.conditions([TRIALS[0].prompt])
    latents, times = torch.zeros(1, 4, 8, 8), torch.tensor([500.0])
    with torch.no_grad():
        base = bare.denoiser.predict(latents, times, read)
        with here.edited():
            edited = here.denoiser.predict(latents, times, read)
            with here.unedited() as denoiser:
                assert torch.equal(denoiser.predict(latents, times, read), base)
            assert torch.equal(here.denoiser.predict(latents, times, read), edited)
    assert not torch.equal(edited, base)


@pytest.mark.thorough
def test_what_is_left_out_of_an_erasure_is_off_while_it_is_drawn(delta):
    here = target(delta)
    before = snapshot(here.model)
    with here.edited():
        whole, off = draw(here, [plain(), plain(without=frozenset({"unet"}))])
        again = draw(here, [plain()])[0]
    assert torch.equal(off, draw(target(None), [plain()])[0])
    assert torch.equal(whole, again)
    assert not torch.equal(whole, off)
    assert differences(before, snapshot(here.model)) == []


def test_what_is_added_to_weights_is_there_while_it_is_drawn_and_then_gone():
    here = target(None)
    before = snapshot(here.model)
    change = DensePatch(torch.full_like(find(here.model, KEY)[KEY].detach(), 0.3))
    one, other = draw(here, [plain(), plain(added={KEY: change})])
    assert not torch.equal(one, other)
    assert differences(before, snapshot(here.model)) == []


def test_pictures_of_the_concept_are_drawn_once_and_counted_apart(delta):
    here = target(delta)
    with here.edited():
        pictures = here.pictures(2)
        assert torch.equal(here.pictures(2), pictures)
    assert here.setup == here.evaluations == 2 * 2 * 2


def test_pictures_of_a_thing_are_the_same_for_every_trial():
    trials = (Sample("a pistol", 0, "erased"), Sample("a pistol", 1, "erased"))
    here = Target(shared("tiny_sd1"), None, PISTOL, trials, steps=2, guidance=2.0)
    first, second = here.pictures_by_trial(2)
    assert torch.equal(first, second)
    assert torch.equal(second, here.pictures(2))


def test_pictures_of_a_style_show_what_each_trial_asks_for():
    """Three are asked for, two trials have four together; each is drawn from its trial's prompt."""
    trials = (Sample("a sepia cat", 0, "erased"), Sample("a dog", 1, "erased"))
    style = Concept(name="sepia", kind="style")
    here = Target(shared("tiny_sd1"), None, style, trials, steps=2, guidance=2.0)
    found = here.pictures_by_trial(3)
    assert found.shape[:2] == (2, 2)
    prompts = ["a sepia cat", "a dog sepia"] * 2
    assert torch.equal(found.transpose(0, 1).flatten(0, 1), here.drawn("style", prompts, 4))


def test_pictures_of_a_style_that_are_given_are_for_every_trial():
    given = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    here = Target(
        shared("tiny_sd1"),
        None,
        Concept(name="sepia", kind="style"),
        (Sample("a sepia cat", 0, "erased"), Sample("a dog", 1, "erased")),
        steps=2,
        guidance=2.0,
        knowledge=Knowledge(pictures=given),
    )
    assert torch.equal(here.pictures_by_trial(2), given.expand(2, -1, -1, -1, -1))


def test_fewer_pictures_than_needed_are_refused():
    given = torch.zeros(1, 4, 8, 8)
    with pytest.raises(BadRequest, match="learns from 2 pictures and 1 were given"):
        target(None, pictures=given).pictures(2)


def test_a_target_without_trials_is_refused():
    with pytest.raises(BadRequest, match="at least one trial"):
        Target(shared("tiny_sd1"), None, PISTOL, (), steps=2, guidance=2.0)


@pytest.mark.parametrize("given", [{"evaluations": 0}, {"pictures": 0}])
def test_a_budget_below_one_is_refused(given):
    with pytest.raises(BadRequest, match="a trial needs at least one of each"):
        Budget(**given)


def test_a_scheduler_that_is_not_known_is_refused():
    with pytest.raises(BadRequest, match="not drawn with EulerDiscreteScheduler"):
        draw(target(None), [plain(scheduler="EulerDiscreteScheduler")])


def test_a_model_that_is_streamed_from_its_files_is_refused(tmp_path):
    shared("tiny_sd1").save_pretrained(tmp_path)
    with pytest.raises(BadModel, match="only the text side of this model is open"):
        Target(stream(tmp_path), None, PISTOL, TRIALS, steps=2, guidance=2.0)
