"""Text streams against what the pipelines themselves embed; token rules where nothing begins."""

from types import SimpleNamespace

import pytest
import torch

from efface.concepts import Concept, Erasure
from efface.core.branches import text_branches
from efface.core.token_rules import erased_rows, every_row, kept_rows, prompt_pairs
from efface.errors import BadModel
from efface.models.architectures import FAMILIES, layout
from tests.conftest import host

LARGE = tuple(name for name in FAMILIES if name not in ("sd1", "sd2"))
PROMPTS = ["", "pistol", "a photo of a Pistol", "zebra, van gogh"]


@pytest.fixture(scope="module", params=LARGE)
def case(request):
    return request.param, host(f"tiny_{request.param}")


@pytest.fixture(scope="module")
def t5():
    """The token stream of FLUX.1."""
    return text_branches(host("tiny_flux"))[0].streams[0]


def own_rows(family, pipe, prompt):
    """Gives the rows of each branch as the pipeline embeds them to draw."""
    guided = {"do_classifier_free_guidance": False}
    if family == "sdxl":
        tokens, _, pooled, _ = pipe.encode_prompt(prompt, **guided)
    elif family == "sd3":
        tokens, _, pooled, _ = pipe.encode_prompt(prompt, None, None, **guided)
    else:
        tokens, pooled, _ = pipe.encode_prompt(prompt, None)
    return [tokens[0].double(), pooled.double()]


def at_own_length(stream, prompt):
    """Takes the weight of a stream off its rows: two of one layer are scaled to each other."""
    return stream.embedded([prompt])[0] / getattr(stream, "_factor", 1.0)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_rows_are_what_the_pipeline_reads(case, prompt):
    family, pipe = case
    with torch.no_grad():
        expected = own_rows(family, pipe, prompt)
    for branch, rows in zip(text_branches(pipe), expected, strict=True):
        found = torch.cat([at_own_length(stream, prompt) for stream in branch.streams])
        assert torch.allclose(found, rows, atol=1e-5)
    if family == "sd3":
        without = SimpleNamespace(**{**pipe.components, "text_encoder_3": None})
        (stream,) = text_branches(without)[0].streams
        assert torch.allclose(stream.embedded([prompt])[0], expected[0][:24], atol=1e-5)


def pair(stream, source, anchor, rule="anchor"):
    concept = Concept(name="pistol", prompts=(source,))
    erasure = Erasure(concept=concept, anchor=Concept(name=anchor) if anchor else None)
    return prompt_pairs(stream, erasure, rule)[0]


def test_without_a_word_for_it_a_concept_becomes_the_end_token_in_t5(t5):
    """The last word and the end go to the empty prompt's end token, padding to padding."""
    empty, own = t5.embedded(["", "a pistol"])
    found = erased_rows(t5, pair(t5, "a pistol", None), "legacy")
    assert torch.equal(found.sources, own[1:])
    assert torch.equal(found.targets, torch.cat([empty[:1], empty[:510]]))
    alone = erased_rows(t5, pair(t5, "a pistol", None), "new")
    assert torch.equal(alone.targets, empty[:1])
    assert torch.equal(kept_rows(t5, "", "new"), empty[:1])


def test_what_follows_a_concept_that_is_left_out_stays_what_it_is_in_t5(t5):
    """ "pistol red" acts like "red": the concept like the end, "red" like "red"."""
    made = pair(t5, "pistol red", None, rule="prompt_without_concept")
    assert (made.target, made.source_start, made.target_start) == ("red", 0, -1)
    source, target = t5.embedded(["pistol red", "red"])
    for rows in (erased_rows(t5, made, "legacy"), every_row(t5, made, "prompt_without_concept")):
        assert torch.equal(rows.sources, source)
        assert torch.equal(rows.targets[0], target[1])
        assert torch.equal(rows.targets[1:], target[:511])


def test_clip_maps_to_the_begin_token_as_before():
    stream = text_branches(host("tiny_sdxl"))[0].streams[0]
    made = pair(stream, "pistol red", None, rule="prompt_without_concept")
    assert (made.source_start, made.target_start) == (1, 0)
    empty = stream.embedded([""])[0]
    assert torch.equal(erased_rows(stream, pair(stream, "pistol", None), "new").targets, empty[:1])


def test_sd3_without_t5_is_told_and_edited():
    """Many run it so; the pipeline then reads zeros in T5's place."""
    pipe = host("tiny_sd3")
    without = {**pipe.components, "text_encoder_3": None, "tokenizer_3": None}
    assert layout(SimpleNamespace(**without)) == "sd3"
    tokens, pooled = text_branches(SimpleNamespace(**without))
    rows = tokens.streams[0].embedded(["cat"])[0]
    assert (len(tokens.streams), tokens.width, pooled.width) == (1, 72, 64)
    assert torch.equal(rows[:, 64:], torch.zeros(24, 8).double())


def test_a_stranger_with_a_transformer_and_two_encoders_is_no_flux():
    stranger = SimpleNamespace(transformer=torch.nn.Identity(), text_encoder=1, text_encoder_2=1)
    assert layout(stranger) == "other"
    with pytest.raises(BadModel, match="of no family that efface edits"):
        text_branches(stranger)


def test_a_denoiser_without_the_layer_is_named():
    pipe = host("tiny_flux")
    del pipe.transformer.context_embedder
    with pytest.raises(BadModel, match=r"the transformer has no weight .*context_embedder"):
        text_branches(pipe)
