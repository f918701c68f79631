"""Debiasing on a toy pipeline: what is counted, how weights move, which round is taken."""

import pytest
import torch

from efface.concepts import Concept, request
from efface.contracts import Sample
from efface.deltas.results import ErasureResult
from efface.errors import BadRequest, MeasurementFailed, NothingChanged
from efface.evaluation.debias import Debias, debias
from efface.evaluation.tallies import tally
from tests.evaluation.conftest import AnsweringJudge

SMALL = {"attributes": ("cat", "tree"), "pictures": 8, "steps": 1, "guidance": 1.0, "rounds": 3}


class ScriptedJudge(AnsweringJudge):
    """Finds in round n as many pictures of each attribute, and of the pistol, as a script says.

    It is asked once a round and concept, since a round is one batch.
    """

    def __init__(self, *rounds):
        self.rounds, self.asked = rounds, []
        super().__init__(self.scripted)

    def scripted(self, images, concept):
        number = self.asked.count(concept.name)
        self.asked.append(concept.name)
        cats, trees, present = self.rounds[number]
        first = {"cat": 0, "tree": cats, "pistol": 0}[concept.name]
        count = {"cat": cats, "tree": trees, "pistol": present}[concept.name]
        places = torch.arange(len(images))
        return ((places >= first) & (places < first + count)).float()


@pytest.mark.thorough
def test_rounds_move_weights_by_the_gap_and_the_nearest_is_taken(toy):
    judge = ScriptedJudge((8, 0, 8), (6, 1, 8), (5, 3, 8), (7, 1, 8))
    result = debias(toy, "pistol", Debias(**SMALL, step=0.4), judge)
    told = result.diagnostics
    assert told["taken"] == 2
    assert result.curves["distance"] == pytest.approx((0.5, 0.375, 0.125, 0.375))
    assert result.curves["cat"] == (1.0, 0.75, 0.625, 0.875)
    assert result.curves["presence"] == (1.0, 1.0, 1.0, 1.0)
    # round 0 gives -0.4 * 0.5 and 0.4 * 0.5; round 1 adds -0.4 * 0.25 and 0.4 * 0.375
    assert told["weights"][2] == pytest.approx([-0.3, 0.35])
    assert not told["reached"]


def test_rounds_end_where_all_gaps_are_within_the_tolerance(toy):
    judge = ScriptedJudge((8, 0, 8), (4, 4, 8))
    result = debias(toy, "pistol", Debias(**SMALL), judge)
    assert len(result.curves["distance"]) == 2
    assert (result.diagnostics["taken"], result.diagnostics["reached"]) == (1, True)


@pytest.mark.thorough
def test_a_round_that_loses_the_concept_is_not_taken(toy):
    judge = ScriptedJudge((8, 0, 8), (4, 4, 3), (6, 2, 8), (4, 4, 7))
    result = debias(toy, "pistol", Debias(**SMALL), judge)
    assert result.diagnostics["taken"] == 2
    judge = ScriptedJudge((8, 0, 8), *[(4, 4, 3)] * 3)
    with pytest.raises(NothingChanged, match="none of 3 rounds still shows the concept"):
        debias(toy, "pistol", Debias(**SMALL), judge)


@pytest.mark.thorough
def test_shares_that_are_there_already_and_rounds_that_do_not_help_are_told(toy):
    with pytest.raises(NothingChanged, match=r"within 0.05 of the wanted one already"):
        debias(toy, "pistol", Debias(**SMALL), ScriptedJudge((4, 4, 8)))
    judge = ScriptedJudge((6, 2, 8), *[(7, 1, 8)] * 3)
    with pytest.raises(NothingChanged, match=r"none of 3 rounds came nearer .*0.25 before"):
        debias(toy, "pistol", Debias(**SMALL), judge)


def test_wanted_shares_other_than_equal_ones(toy):
    judge = ScriptedJudge((8, 0, 8), (6, 2, 8))
    result = debias(toy, "pistol", Debias(**SMALL, shares=(0.75, 0.25)), judge)
    assert result.diagnostics["reached"]


@pytest.mark.thorough
def test_the_delta_is_ordinary_the_model_is_left_and_the_same_seed_gives_the_same(toy, tmp_path):
    before = {name: weight.clone() for name, weight in toy.unet.state_dict().items()}
    script = ((8, 0, 8), (4, 4, 8))
    first = debias(toy, "pistol", Debias(**SMALL), ScriptedJudge(*script), seed=3)
    assert all(torch.equal(w, before[n]) for n, w in toy.unet.state_dict().items())
    again = debias(toy, "pistol", Debias(**SMALL), ScriptedJudge(*script), seed=3)
    assert first.delta.id == again.delta.id
    assert first.delta.provenance.method == "debias"
    first.save(tmp_path)
    read = ErasureResult.load(tmp_path)
    assert read.delta.id == first.delta.id
    assert read.curves["tree"] == (0.0, 0.5)
    with read.delta.apply(toy):
        changed = [n for n, w in toy.unet.state_dict().items() if not torch.equal(w, before[n])]
    assert changed
    assert all("attn2.to_k" in name or "attn2.to_v" in name for name in changed)


@pytest.mark.thorough
def test_every_round_draws_other_pictures(toy):
    seen = []

    def answer(images, concept):
        seen.append(images[0])
        return torch.full((len(images),), float(concept.name == "cat"))

    with pytest.raises(NothingChanged):
        debias(toy, "pistol", Debias(**SMALL), AnsweringJudge(answer))
    rounds = seen[::3]
    assert len(rounds) == 4
    assert not any(torch.equal(rounds[0], other) for other in rounds[1:])


def test_a_picture_goes_to_the_likeliest_attribute_above_the_threshold_or_to_none(toy):
    table = {"cat": [0.9, 0.6, 0.4], "tree": [0.7, 0.8, 0.3], "pistol": [0.5, 0.49, 1.0]}
    judge = AnsweringJudge(lambda images, concept: torch.tensor(table[concept.name]))
    samples = [Sample("a pistol", seed, "general", Concept(name="pistol")) for seed in range(3)]
    concepts = [Concept(name=name) for name in ("cat", "tree")]
    found = tally(toy, samples, judge, concepts, steps=1, guidance=1.0)
    assert (found.attributes, found.present, found.pictures) == ((1, 1), 2, 3)
    assert found.shares().tolist() == pytest.approx([1 / 3, 1 / 3])


@pytest.mark.parametrize("silent_about", ["cat", "tree", "pistol"])
def test_no_answer_of_the_judge_is_not_counted_as_absence(toy, silent_about):
    """Nothing is counted then: a share of pictures that were not scored would be a made-up one."""

    def some(images, concept):
        answers = torch.full((len(images),), 0.9)
        answers[1] = torch.nan if concept.name == silent_about else 0.9
        return answers

    samples = [Sample("a pistol", seed, "erased", Concept(name="pistol")) for seed in range(3)]
    attributes = [Concept(name="cat"), Concept(name="tree")]
    with pytest.raises(MeasurementFailed, match=rf"no answer .* '{silent_about}' for 1 of 3"):
        tally(toy, samples, AnsweringJudge(some), attributes, steps=1, guidance=1.0)


def test_presence_is_not_made_up_where_the_judge_does_not_know_the_concept(toy):
    class Attributes(ScriptedJudge):
        def knows(self, concept):
            return concept.name != "pistol"

    judge = Attributes((8, 0, 0), (4, 4, 0))
    result = debias(toy, "pistol", Debias(**SMALL), judge)
    assert "presence" not in result.curves
    assert result.diagnostics["tallies"][0]["present"] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": (0.5, 0.2)}, r"add up to 0.7"),
        ({"shares": (1.5, -0.5)}, r"must be 0 or more"),
        ({"shares": (1.0,)}, r"1 shares for 2 attributes"),
        ({"step": 0.0}, r"step is 0.0; it must be above zero"),
        ({"keep_scale": -1.0}, r"keep_scale is -1.0"),
        ({"least_presence": 1.5}, r"least_presence is 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadRequest, match=message):
        Debias(**{**SMALL, **settings})


@pytest.mark.parametrize("attributes", [(), ("cat",), ("cat", "Cat")])
def test_fewer_than_two_attributes_are_refused(toy, attributes):
    with pytest.raises(BadRequest, match="at least two different ones"):
        debias(toy, "pistol", Debias(attributes=attributes), ScriptedJudge())


def test_an_attribute_that_the_judge_does_not_know_and_two_concepts_are_refused(toy):
    class Blind(ScriptedJudge):
        def knows(self, concept):
            return concept.name != "tree"

    with pytest.raises(BadRequest, match="does not know 'tree'"):
        debias(toy, "pistol", Debias(**SMALL), Blind())
    with pytest.raises(BadRequest, match="2 concepts were given"):
        debias(toy, request(["pistol", "lamp"]), Debias(**SMALL), ScriptedJudge())
