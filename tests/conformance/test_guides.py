"""What every guide must do: change what it should, cost what it says, leave the model alone."""

import gc
import json
import weakref
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import pytest
import torch

from efface import registry
from efface.contracts import Guide
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.guiding.drawing import NOTHING
from efface.hosts.families import host_of
from tests.cases import GUIDE_CASES
from tests.conformance.snapshots import differences, snapshot
from tests.conftest import host, shared
from tests.guiding.toys import drawn, erased

FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "flux")
SLOW = ("sd2",)
NAMES = sorted(entry.name for entry in registry.entries("guides"))


def pairs(*, everywhere):
    """Gives every case with every family that its guide steers.

    By default the first case of each guide runs in every family if ``everywhere``, and all others
    in the first of them alone: what tells families apart is how they are denoised.
    """
    seen = set()
    for case in GUIDE_CASES:
        built = [f for f in FAMILIES if f in registry.load("guides", case.guide).families]
        first = case.guide not in seen
        seen.add(case.guide)
        for family in built:
            there = family == built[0] or (everywhere and first and family not in SLOW)
            marks = [] if there else [pytest.mark.slow]
            yield pytest.param(case, family, marks=marks, id=f"{case.name}-{family}")


each_pair = pytest.mark.parametrize(("case", "family"), list(pairs(everywhere=False)))
everywhere = pytest.mark.parametrize(("case", "family"), list(pairs(everywhere=True)))
each_case = pytest.mark.parametrize("case", GUIDE_CASES, ids=lambda case: case.name)


def built(case, **changed):
    return registry.build("guides", case.guide, **{**case.settings, **changed})


@dataclass(frozen=True)
class Usual:
    """What came of a case's own settings, which tests compare with and leave as it is."""

    guide: Any
    latents: torch.Tensor
    changes: torch.Tensor
    evaluations: int
    left_different: list


@cache
def usual(name, family):
    (case,) = (case for case in GUIDE_CASES if case.name == name)
    pipe, guide = shared(f"tiny_{family}"), built(case)
    denoiser, before = Denoiser(pipe), snapshot(pipe)
    latents, steering = drawn(denoiser, [guide])
    left = differences(before, snapshot(pipe))
    return Usual(guide, latents, steering.changes[case.guide], denoiser.evaluations, left)


@cache
def plainly(family, *, guidance=3.0):
    """Draws without a guide, and counts."""
    denoiser = Denoiser(shared(f"tiny_{family}"))
    latents, _ = drawn(denoiser, [], guidance=guidance)
    return latents, denoiser.evaluations


def has_branch(case):
    return any(s.name == "negative_on" for s in registry.find("guides", case.guide).settings)


def family_of(case):
    return next(f for f in FAMILIES if f in registry.load("guides", case.guide).families)


def test_every_guide_has_a_case_and_every_case_a_guide():
    assert {case.guide for case in GUIDE_CASES} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_guide_states_its_facts_and_explains_its_settings(name):
    guide, entry = registry.load("guides", name), registry.find("guides", name)
    assert issubclass(guide, Guide)
    assert guide.name == name
    assert guide.revision >= 1
    assert guide.paper.arxiv
    assert entry.summary.endswith(".")
    assert entry.doc
    assert {s.name for s in entry.settings} == {field.name for field in fields(guide)}
    for setting in entry.settings:
        assert setting.doc, f"{setting.name} has no docstring"
        assert setting.default is not None, f"{setting.name} has no default"


@pytest.mark.parametrize("name", NAMES)
def test_settings_and_presets_survive_json(name):
    for preset in (None, *registry.load("guides", name).presets()):
        made = registry.build("guides", name, preset=preset)
        written = json.loads(json.dumps(registry.settings_of(made)))
        assert registry.build("guides", name, **written) == made


@each_pair
def test_off_is_bit_equal_to_plain_sampling(case, family):
    if case.off is None:
        return
    plain, spent = plainly(family)
    denoiser = Denoiser(shared(f"tiny_{family}"))
    off, steering = drawn(denoiser, [built(case, **case.off)])
    assert torch.equal(off, plain)
    assert denoiser.evaluations == spent
    assert not steering.parts


@everywhere
def test_it_changes_every_picture_and_knows_that_it_did(case, family):
    made = usual(case.name, family)
    for one, other in zip(made.latents, plainly(family)[0], strict=True):
        assert float((one - other).norm() / other.norm()) > 1e-5
    assert bool((made.changes > NOTHING).all())
    assert made.changes.shape == (2,)


@each_pair
def test_a_batch_gives_what_single_runs_give(case, family):
    denoiser, together = Denoiser(shared(f"tiny_{family}")), usual(case.name, family).latents
    for place, (prompt, seed) in enumerate((("a cat", 0), ("a dog", 1))):
        alone, _ = drawn(denoiser, [built(case)], prompts=[prompt], seeds=[seed])
        assert torch.allclose(alone[0], together[place], atol=2e-3 * float(alone.abs().max()))


@each_pair
def test_its_cost_is_counted(case, family):
    assert usual(case.name, family).evaluations == 2 * case.evaluations


@each_pair
def test_the_model_is_left_as_it_was_and_so_it_is_after_an_error(case, family):
    pipe = shared(f"tiny_{family}")
    assert usual(case.name, family).left_different == []
    before = snapshot(pipe)
    for failing in (1, 3):
        denoiser, passes = Denoiser(pipe), []

        def broken(*given, at=failing, passes=passes, held=denoiser.host.predict):
            passes.append(given)
            if len(passes) == at:
                raise RuntimeError("broken halfway")
            return held(*given)

        denoiser.host.predict = broken
        with pytest.raises(RuntimeError, match="broken halfway"):
            drawn(denoiser, [built(case)])
        assert differences(before, snapshot(pipe)) == []


@each_case
def test_the_same_seed_gives_the_same_picture_and_guides_keep_no_state(case):
    first = usual(case.name, family_of(case))
    again, _ = drawn(Denoiser(shared(f"tiny_{family_of(case)}")), [first.guide])
    assert torch.equal(first.latents, again)
    assert set(vars(first.guide)) == {field.name for field in fields(first.guide)}


@each_case
def test_nothing_of_a_run_is_kept_after_it(case):
    _, steering = drawn(Denoiser(shared(f"tiny_{family_of(case)}")), [built(case)])
    held = [weakref.ref(course) for _, course in steering.parts]
    del steering
    gc.collect()
    assert [each() for each in held] == [None] * len(held)


@pytest.mark.thorough
@each_case
def test_while_a_delta_is_applied_the_base_says_what_to_avoid(case):
    """That is the default; weights are bit for bit what they were, and the choice matters."""
    if not has_branch(case):
        return
    pipe, delta = erased(family_of(case))
    plain = [drawn(Denoiser(pipe), [built(case, negative_on=b)])[0] for b in ("unedited", "edited")]
    assert torch.equal(*plain), "without a delta both are one"
    with delta.apply(pipe):
        before = snapshot(pipe)
        usual = drawn(Denoiser(pipe), [built(case, **about_pistols(case))])[0]
        unedited, edited = (
            drawn(Denoiser(pipe), [built(case, **about_pistols(case), negative_on=branch)])[0]
            for branch in ("unedited", "edited")
        )
        assert differences(before, snapshot(pipe)) == []
    assert torch.equal(usual, unedited)
    assert not torch.allclose(unedited, edited, atol=1e-4)


def about_pistols(case):
    """Gives a case's settings with the erased concept in the place of its texts to avoid."""
    return {
        name: "pistol" if isinstance(value, str) else ("pistol",) * len(value)
        for name, value in case.settings.items()
        if name in ("text", "concepts", "remove")
    }


@cache
def deaf():
    """Gives a toy whose pictures do not depend on the prompt."""
    pipe = host("tiny_sd1")
    with torch.no_grad():
        for name, parameter in pipe.unet.named_parameters():
            if "attn2.to_out" in name or "attn2.to_k" in name:
                parameter.zero_()
    return pipe


@cache
def plain_of_the_deaf():
    return drawn(Denoiser(deaf()), [])[0]


@cache
def halved():
    return host("tiny_sd1", dtype=torch.float16)


@each_case
def test_it_says_that_nothing_changed_on_a_model_that_ignores_text(case):
    latents, steering = drawn(Denoiser(deaf()), [built(case)])
    assert torch.allclose(latents, plain_of_the_deaf(), atol=1e-4)
    assert bool((steering.changes[case.guide] <= NOTHING).all())


@each_case
def test_in_half_precision_pictures_are_finite(case):
    latents, _ = drawn(Denoiser(halved()), [built(case)], steps=3)
    assert latents.dtype == torch.float16
    assert bool(latents.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_other_families_are_refused_by_name(name):
    case = next(case for case in GUIDE_CASES if case.guide == name)
    for family in set(FAMILIES) - registry.load("guides", name).families:
        pipe = shared(f"tiny_{family}")
        with pytest.raises(BadRequest, match=f"{name} is not built for {host_of(pipe).title}"):
            drawn(Denoiser(pipe), [built(case)])


@each_case
def test_without_guidance_it_works_or_says_that_it_needs_it(case):
    denoiser = Denoiser(shared(f"tiny_{family_of(case)}"))
    try:
        latents, _ = drawn(denoiser, [built(case)], guidance=None)
    except BadRequest as error:
        assert str(error).startswith(f"{case.guide} changes classifier-free guidance, which is off")
        return
    plain, _ = plainly(family_of(case), guidance=None)
    assert not torch.allclose(latents, plain, atol=1e-3)
