"""Text streams against what the pipelines themselves embed; token rules where nothing begins."""

from types import SimpleNamespace

import pytest
import torch

from efface.concepts import Concept, Erasure
from efface.errors import BadModel
from efface.hosts.families import FAMILIES, layout
from efface.text.branches import text_branches
from efface.text.token_rules import erased_rows, every_row, kept_rows, prompt_pairs
from tests.conftest import host
from tests.reference import families as reference
from tests.reference.language import ROWS

LARGE = tuple(
    pytest.param(name, marks=pytest.mark.slow) if name in ROWS else name
    for name in FAMILIES
    if name not in ("sd1", "sd2")
)
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
    if family in ROWS:
        return [reference.token_rows(pipe, family, prompt)[0][0]]
    if family == "sdxl":
        tokens, _, pooled, _ = pipe.encode_prompt(prompt, **guided)
    elif family == "sd3":
        tokens, _, pooled, _ = pipe.encode_prompt(prompt, None, None, **guided)
    elif family == "flux":
        tokens, pooled, _ = pipe.encode_prompt(prompt, None)
    elif family == "auraflow":
        tokens, _, _, _ = pipe.encode_prompt(prompt, **guided)
        return [tokens[0, tokens[0].abs().sum(1) > 0].double()]
    else:
        rows, mask, _, _ = pipe.encode_prompt(prompt, max_sequence_length=24, **guided)
        read = mask[0].bool()
        return [pipe.transformer.caption_projection(rows)[0, read].double()]
    return [tokens[0].double(), pooled.double()]


def at_own_length(stream, prompt):
    """Takes the weight of a stream off its rows: two of one layer are scaled to each other."""
    read = 1 if stream.pooled else stream.tokenised(prompt).read
    return stream.embedded([prompt])[0, :read] / getattr(stream, "factor", 1.0)


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


@pytest.fixture(scope="module")
def captions():
    """The stream of PixArt, whose padding nobody reads."""
    return text_branches(host("tiny_pixart"))[0].streams[0]


def test_hidden_padding_is_never_moved_kept_or_looked_at(captions):
    """Up to the end token; rows beyond a shorter target's end go to its last row."""
    own, empty, lamp = captions.embedded(["a pistol", "", "a red lamp"])
    assert torch.equal(own[3:], torch.zeros_like(own[3:]))
    assert own[:3].norm(dim=1).min() > 0
    assert torch.equal(kept_rows(captions, "a pistol", "legacy"), own[:3])
    assert torch.equal(kept_rows(captions, "", "new"), empty[:1])
    found = erased_rows(captions, pair(captions, "a pistol", None), "legacy")
    assert torch.equal(found.sources, own[1:3])
    assert torch.equal(found.targets, empty[:1].expand(2, -1))
    every = every_row(captions, pair(captions, "a pistol", None), "anchor")
    assert torch.equal(every.sources, own[:3])
    assert torch.equal(every.targets, empty[:1].expand(3, -1))
    longer = erased_rows(captions, pair(captions, "a pistol", "red lamp"), "legacy")
    assert torch.equal(longer.targets, lamp[2:4])


def test_prompts_are_written_small_where_the_pipeline_does_so(captions, t5):
    assert captions.tokenised("A Pistol ").ids == captions.tokenised("a pistol").ids
    assert captions.span("A Pistol", "PISTOL") == (1, 1)
    assert t5.tokenised("A Pistol").ids != t5.tokenised("a pistol").ids


def test_captions_of_another_width_or_without_a_projection_are_refused():
    pipe = host("tiny_pixart")
    other = SimpleNamespace(**{**pipe.components, "text_encoder": host("tiny_sd1").text_encoder})
    with pytest.raises(
        BadModel, match="caption_projection reads 72 values and the text encoder gives 32"
    ):
        text_branches(other)
    del pipe.transformer.caption_projection
    with pytest.raises(BadModel, match=r"no caption_projection\.linear_1\.weight"):
        text_branches(pipe)


def test_old_pixart_files_are_told_by_their_norm():
    for norm, family in (("ada_norm_single", "pixart"), ("ada_norm_zero", "other")):
        config = SimpleNamespace(_class_name="Transformer2DModel", norm_type=norm)
        found = layout(SimpleNamespace(transformer=SimpleNamespace(config=config)))
        assert found == family


def test_parts_of_a_row_are_those_of_its_encoders(case):
    """SD 3's CLIP rows end in zeros, and its pooled row is two side by side."""
    family, pipe = case
    expected = {
        "sdxl": [[(32, 32)], [(32,)]],
        "sd3": [[(32, 32, 8), (72,)], [(32, 32)]],
        "flux": [[(72,)], [(32,)]],
        "pixart": [[(32,)]],
        "auraflow": [[(72,)]],
        "lumina2": [[(64,)]],
        "sana": [[(32,)]],
        "sanasprint": [[(32,)]],
        "chroma": [[(72,)]],
        "flux2klein": [[(64, 64, 64)]],
        "flux2dev": [[(64, 64, 64)]],
        "wan": [[(24,)]],
        **{key: [[(64,)]] for key in ("qwenimage", "cogview4", "zimage")},
    }[family]
    found = [[stream.blocks for stream in branch.streams] for branch in text_branches(pipe)]
    assert found == expected
    for branch in text_branches(pipe):
        for stream in branch.streams:
            assert sum(stream.blocks) == stream.width
            words = set(stream.vocabulary()[1].values())
            assert {"pistol", "church"} <= words
            assert words.isdisjoint({"a", "an"})
