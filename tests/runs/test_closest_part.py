"""Gates that one row of a prompt opens: on a toy, whatever is around a name; in files; refusals."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

import efface
from efface.concepts import Concept, Erasure, ErasureRequest, request, wordings
from efface.deltas import storage
from efface.deltas.composition import compose
from efface.deltas.delta import Delta
from efface.deltas.gates import ClosestPart
from efface.diffusion.denoising import Denoiser
from efface.errors import BadDelta, BadRequest
from efface.runs import closest_part as numerics
from efface.runs.closest_part import closest_part, surrounded
from efface.runs.gating import GateRule, gate_for
from efface.runs.gradient_eraser import worded
from tests.conftest import shared
from tests.deltas.test_gates import drawn, gated

PISTOL = request("pistol", keep=["cat", "dog", "a red lamp"])
BOTH = request(["pistol", "house"], keep=["cat", "a red lamp"])
BY_PART = {"opens_by": "closest_part", "calibrated": True}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def part_of(pipe, wanted, seed=0):
    erasures = [*wanted.erasures]
    found = [(each, n) for n, erasure in enumerate(erasures) for each in worded(erasure, "anchor")]
    owners = torch.tensor([n for _, n in found])
    kept = [text for concept in wanted.keep for text in wordings(concept)] + [""]
    words = [each for each, _ in found]
    return closest_part(Denoiser(pipe), words, owners, kept, generator=generator(seed)), kept


@pytest.fixture(scope="module", autouse=True)
def fewer():
    """Fewer contexts, which need a few seconds, not many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numerics, "OWN_CONTEXTS", 60)
        patch.setattr(numerics, "KEPT_CONTEXTS", 200)
        yield


@pytest.fixture(scope="module")
def part(fewer):
    """The bundled model reads whole words; toys spell them, so that a last row is a letter."""
    pipe = efface.load("emoji")
    return pipe, *part_of(pipe, BOTH)


def opened(pipe, part, prompts, membranes=2):
    return part.openings(Denoiser(pipe).conditions(prompts).rows.float(), membranes)


@pytest.mark.thorough
def test_a_name_opens_its_own_membrane_whatever_is_around_it(part):
    pipe, gate, _ = part
    text = Denoiser(pipe).text
    for name, mine, other in (("pistol", 0, 1), ("house", 1, 0)):
        around = [*surrounded(text, [f"a {name}"], 40, generator(8))]
        found = opened(pipe, gate, around)
        assert (found[:, mine] == 1).float().mean() > 0.8
        assert (found[:, other] == 0).float().mean() > 0.8


def test_kept_prompts_leave_every_membrane_shut_to_the_bit(part):
    pipe, gate, kept = part
    assert not opened(pipe, gate, kept).any()


@pytest.mark.thorough
def test_the_same_draws_give_the_same_gate_and_others_another(part):
    pipe, gate, _ = part
    again, _ = part_of(pipe, BOTH)
    other, _ = part_of(pipe, BOTH, seed=1)
    assert torch.equal(gate.directions, again.directions)
    assert torch.equal(gate.bias, again.bias)
    assert not torch.equal(gate.directions, other.directions)


def test_one_row_decides_by_hand():
    """Rows (1, 0) and (0, 3) against directions (1, 0) - 0.5 and (0, 1) - 1 of one membrane each.

    The first reads 0.5 at its best row, the second 2, which is cut to 1; a third of the second
    membrane reads below zero everywhere.
    """
    gate = ClosestPart(
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]),
        torch.tensor([-0.5, -1.0, -1.0]),
        torch.tensor([0, 1, 1]),
    )
    rows = torch.tensor([[[1.0, 0.0], [0.0, 3.0]], [[-1.0, 0.0], [-1.0, 0.0]]])
    assert torch.equal(gate.openings(rows, 2), torch.tensor([[0.5, 1.0], [0.0, 0.0]]))


def test_a_read_out_tells_two_clouds_apart():
    """Own rows lie one step along the first axis; the read-out looks along it, between both."""
    own = torch.randn(200, 3, generator=generator(1)).double() * 0.1
    others = torch.randn(400, 3, generator=generator(2)).double() * 0.1
    own[:, 0] += 1
    direction, bias = numerics._read_out(own, others)
    assert direction[0] > 10 * direction[1:].abs().max()
    assert (own @ direction + bias > 0).all()
    assert (others @ direction + bias < 0).all()


def test_random_words_surround_a_prompt_and_the_text_fits(tiny_sd1):
    text = Denoiser(tiny_sd1).text
    found = [*surrounded(text, ["a pistol", "a cat"], 40, generator())]
    assert all(("a pistol", "a cat")[n % 2] in each for n, each in enumerate(found))
    assert len({*found}) > 20
    assert all(text.tokenised(each).end < len(text.tokenised(each).ids) for each in found)
    assert found == [*surrounded(text, ["a pistol", "a cat"], 40, generator())]


@pytest.fixture(scope="module")
def by_part(fewer):
    pipe = shared("tiny_sd1")
    return pipe, gated(pipe, PISTOL, **BY_PART)


@pytest.mark.thorough
def test_it_opens_where_the_whole_prompt_does_and_more(by_part):
    pipe, delta = by_part
    whole = replace(delta.gate, part=None)
    prompts = ["a pistol", *surrounded(Denoiser(pipe).text, ["pistol"], 30, generator(4))]
    rows = Denoiser(pipe).conditions(prompts).rows
    assert (delta.gate.openings(rows) >= whole.openings(rows)).all()
    assert (delta.gate.openings(rows) > whole.openings(rows) + 0.5).any()


def test_kept_prompts_draw_the_same_pictures_to_the_bit(by_part):
    pipe, delta = by_part
    base = drawn(pipe, ["a cat", "cat"])
    with delta.apply(pipe):
        assert torch.equal(drawn(pipe, ["a cat", "cat"]), base)
        assert not torch.equal(drawn(pipe, ["a pistol", "cat"])[0], drawn(pipe)[0] * 0)


def test_files_keep_it_and_older_versions_refuse_them(by_part, tmp_path, monkeypatch):
    pipe, delta = by_part
    delta.save(tmp_path / "new.safetensors")
    old = replace(delta, gate=replace(delta.gate, part=None))
    old.save(tmp_path / "old.safetensors")
    versions = []
    for name in ("new", "old"):
        with safe_open(tmp_path / f"{name}.safetensors", framework="pt") as opened:
            versions.append(opened.metadata()["format_version"])
    assert versions == ["5", "3"]
    assert old.id != delta.id
    back = Delta.load(tmp_path / "new.safetensors")
    assert back.id == delta.id
    rows = Denoiser(pipe).conditions(["x y pistol"]).rows
    assert torch.equal(back.gate.openings(rows), delta.gate.openings(rows))
    assert Delta.load(tmp_path / "old.safetensors").gate.part is None
    monkeypatch.setattr(storage, "FORMAT_VERSION", 4)
    with pytest.raises(BadDelta, match="reads up to 4"):
        Delta.load(tmp_path / "new.safetensors")


@pytest.mark.thorough
def test_stacked_gates_keep_their_parts(by_part, tmp_path):
    pipe, delta = by_part
    other = gated(pipe, request("house", keep=["dog"]))
    both = compose([delta, other])
    both.save(tmp_path / "delta.safetensors")
    back = Delta.load(tmp_path)
    assert back.gate.reads_parts
    rows = Denoiser(pipe).conditions(["x pistol", "house", "cat"]).rows
    wanted = {tuple(each.gate.openings(rows)[:, 0].tolist()) for each in (delta, other)}
    assert {tuple(column) for column in back.gate.openings(rows).T.tolist()} == wanted


def test_scaling_leaves_the_gate_as_it_is(by_part):
    _, delta = by_part
    assert delta.scaled(0.5).gate is delta.gate


def test_a_concept_that_no_prompt_names_is_refused(tiny_sd1):
    unnamed = Concept(name="pistol", prompts=("a thing that shoots",))
    wanted = ErasureRequest(erasures=(Erasure(concept=unnamed),), keep=PISTOL.keep)
    with pytest.raises(BadRequest, match="no prompt of concept 1 uses its name"):
        part_of(tiny_sd1, wanted)


def test_without_a_generator_it_cannot_be_made(tiny_sd1):
    words = [*worded(PISTOL.erasures[0], "anchor")]
    owners = torch.zeros(len(words), dtype=torch.long)
    rule = GateRule(opens_by="closest_part")
    with pytest.raises(ValueError, match="needs a generator"):
        gate_for(Denoiser(tiny_sd1), words, owners, PISTOL.keep, rule=rule)
