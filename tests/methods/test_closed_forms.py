"""UCE and RECE on real toy denoisers equal the literal layer-by-layer loops."""

from dataclasses import replace

import pytest
import torch

from efface.concepts import Concept, request, wordings
from efface.errors import BadRequest, NothingChanged
from efface.methods.rece import Rece
from efface.methods.uce import Uce
from tests.conftest import host
from tests.reference import closed_form as reference

PISTOL = Concept(name="pistol", synonyms=("revolver",))
ERASE = request([PISTOL, "church"], keep=["cat", "tree"])


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module", params=["tiny_sd1", "tiny_sd2"])
def pipe(request):
    return host(request.param, dtype=torch.float64)


def applied_layers(pipe, delta):
    with delta.apply(pipe):
        return {name: w.clone() for name, w in reference.key_value_layers(pipe.unet).items()}


def worst(found, expected):
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


def prompts(wanted):
    return [text for erasure in wanted.erasures for text in wordings(erasure.concept)]


def kept_states(pipe, wanted):
    texts = ["", *(text for concept in wanted.keep for text in wordings(concept))]
    return [reference.states(pipe, text)[0] for text in texts]


def test_uce_with_the_legacy_rule_equals_the_loop_over_layers(pipe):
    layers = reference.key_value_layers(pipe.unet)
    pairs = [reference.legacy_rows(pipe, text, "") for text in prompts(ERASE)]
    expected = reference.uce(
        layers, pairs, kept_states(pipe, ERASE), erase=2.0, keep=0.7, ridge=0.5
    )
    method = Uce(erase_scale=2.0, keep_scale=0.7)
    result = method.erase(pipe, ERASE, generator=generator())
    assert worst(applied_layers(pipe, result.delta), expected) < 1e-9


def test_uce_with_the_new_rule_and_an_anchor_equals_the_loop_over_layers(pipe):
    wanted = request("pistol", anchor="lamp", keep=["cat"])
    layers = reference.key_value_layers(pipe.unet)
    pairs = [
        reference.last_rows(pipe, text, text.replace("pistol", "lamp")) for text in prompts(wanted)
    ]
    kept = [
        reference.last_rows(pipe, text, text)[0] for text in ("cat", *wordings(Concept(name="cat")))
    ][1:]
    expected = reference.uce(layers, pairs, kept)
    method = Uce(tokens="new", always_keep=())
    result = method.erase(pipe, wanted, generator=generator())
    assert worst(applied_layers(pipe, result.delta), expected) < 1e-9


@pytest.mark.thorough
@pytest.mark.parametrize("aim", ["current", "original"])
def test_rece_equals_the_loop_over_layers_with_two_denoisers(pipe, aim):
    layers = reference.key_value_layers(pipe.unet)
    kept = kept_states(pipe, ERASE)
    first = [reference.legacy_rows(pipe, text, "") for text in prompts(ERASE)]
    start = reference.uce(layers, first, kept, keep=1.0, ridge=0.5)
    every = [
        (reference.states(pipe, text)[0], reference.states(pipe, "")[0]) for text in prompts(ERASE)
    ]
    expected = reference.rece(
        layers, start, every, kept, rounds=2, strength=0.1, keep=0.1, ridge=0.1, aim=aim
    )
    result = Rece(rounds=2, aim=aim).erase(pipe, ERASE, generator=generator())
    assert worst(applied_layers(pipe, result.delta), expected) < 1e-9


def test_rece_without_rounds_is_uce(pipe):
    """Zero rounds leave the first edit, bit for bit."""
    uce = Uce().erase(pipe, ERASE, generator=generator()).delta
    rece = Rece(rounds=0).erase(pipe, ERASE, generator=generator()).delta
    for key, patch in uce.patches.items():
        assert torch.equal(patch.left, rece.patches[key].left)
        assert torch.equal(patch.right, rece.patches[key].right)


def test_the_order_of_concepts_does_not_matter(pipe):
    one = Uce().erase(pipe, request(["pistol", "church"]), generator=generator()).delta
    two = Uce().erase(pipe, request(["church", "pistol"]), generator=generator()).delta
    assert worst(applied_layers(pipe, one), applied_layers(pipe, two)) < 1e-9


def test_scaling_all_weights_leaves_the_edit(pipe):
    one = Uce().erase(pipe, ERASE, generator=generator()).delta
    two = Uce(erase_scale=3.0, keep_scale=3.0, ridge=1.5).erase(pipe, ERASE, generator=generator())
    assert worst(applied_layers(pipe, one), applied_layers(pipe, two.delta)) < 1e-9


def test_a_prompt_without_the_name_cannot_lose_it(tiny_double):
    concept = Concept(name="pistol", prompts=("a red lamp",))
    with pytest.raises(BadRequest, match="does not name 'pistol'"):
        Uce(target="prompt_without_concept").erase(
            tiny_double, request(concept), generator=generator()
        )


def test_an_anchor_with_the_same_tokens_is_refused(tiny_double):
    """Capitals are lost in tokenising, so this prompt and its anchor are one."""
    same = request(Concept(name="pistol", prompts=("lamp",)), anchor="LAMP")
    with pytest.raises(BadRequest, match="same tokens"):
        Uce().erase(tiny_double, same, generator=generator())


def test_a_concept_without_tokens_is_refused(tiny_double):
    with pytest.raises(BadRequest, match="no tokens"):
        Uce().erase(tiny_double, request("<|endoftext|>"), generator=generator())


def test_a_width_that_text_does_not_have_is_refused():
    from efface.errors import BadModel

    pipe = host("tiny_sd1")
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    layer.to_k = torch.nn.utils.skip_init(torch.nn.Linear, 7, 32, bias=False)
    with pytest.raises(BadModel, match="should read 32 values"):
        Uce().erase(pipe, request("pistol"), generator=generator())


def test_settings_out_of_range_are_refused():
    for method in (Uce, Rece):
        with pytest.raises(BadRequest, match="ridge is 0"):
            method(ridge=0.0)
        with pytest.raises(BadRequest, match="keep_scale is -1"):
            method(keep_scale=-1)
    with pytest.raises(BadRequest, match="rounds is -1"):
        Rece(rounds=-1)


def test_rounds_make_the_concept_dearer_to_bring_back(tiny_double):
    result = Rece(rounds=3).erase(tiny_double, request("pistol"), generator=generator())
    cost = result.curves["embedding_cost"]
    assert len(cost) == 4
    assert cost[1] > cost[0]
    assert cost[3] > 2 * cost[0]


def test_rounds_stop_once_bringing_back_is_dear_enough(tiny_double):
    told = []
    whole = Rece(rounds=3).erase(tiny_double, request("pistol"), generator=generator())
    cost = whole.curves["embedding_cost"]
    short = Rece(rounds=3, stop_at_cost=(cost[1] + cost[2]) / 2).erase(
        tiny_double,
        request("pistol"),
        generator=generator(),
        monitor=lambda *given: told.append(given),
    )
    assert short.curves["embedding_cost"] == cost[:3]
    assert len(told) == 3
    two = Rece(rounds=2).erase(tiny_double, request("pistol"), generator=generator())
    for name, tensor in two.delta.tensors().items():
        assert torch.equal(tensor, short.delta.tensors()[name])


def test_the_cost_of_each_of_several_concepts_is_told(tiny_double):
    result = Rece(rounds=1).erase(
        tiny_double, request(["pistol", "van gogh"]), generator=generator()
    )
    each = [result.curves[f"embedding_cost_of_{name}"] for name in ("pistol", "van_gogh")]
    weakest = tuple(min(pair) for pair in zip(*each, strict=True))
    assert result.curves["embedding_cost"] == weakest


@pytest.mark.parametrize("rows", ["all", "erased"])
def test_standard_regularisation_pulls_row_i_to_row_i(tiny_double, rows):
    """Against the literal loop: ``E' = (lam E_old + E B^T) (lam I + S)^-T`` with all rows."""
    wanted = request(Concept(name="pistol", prompts=("pistol",)), keep=["cat"])
    layers = reference.key_value_layers(tiny_double.unet)
    kept = kept_states(tiny_double, wanted)
    first = [reference.legacy_rows(tiny_double, "pistol", "")]
    start = reference.uce(layers, first, kept, keep=1.0, ridge=0.5)
    concept, empty, old = (
        reference.states(tiny_double, text)[0] for text in ("pistol", "", "a red lamp")
    )
    every, pull = (concept, empty), old
    if rows == "erased":
        last = 1  # "pistol" is one token after the first
        every = first[0]
        pull = old[last : last + len(every[0])]
    expected = reference.rece(
        layers, start, [every], kept, rounds=1, strength=0.1, keep=0.1, ridge=0.1, toward=[pull]
    )
    method = Rece(rounds=1, regularisation="standard", toward="a red lamp", rows=rows)
    result = method.erase(tiny_double, wanted, generator=generator())
    assert worst(applied_layers(tiny_double, result.delta), expected) < 1e-9
    plain = Rece(rounds=1, rows=rows).erase(tiny_double, wanted, generator=generator())
    assert worst(applied_layers(tiny_double, plain.delta), expected) > 1e-4


def test_published_presets_erase_the_names_alone(tiny_double):
    """As the published commands do; whole wordings move more."""
    bare = Concept(name="pistol", prompts=("pistol",))
    cat = Concept(name="cat", prompts=("cat",))
    for method in (Uce, Rece):
        published = {
            name: preset
            for name, preset in method.presets().items()
            if name.startswith(("paper", "released"))
        }
        assert {preset.wordings for preset in published.values()} == {"names"}
        preset = next(iter(published.values()))
        named = preset.erase(tiny_double, request("pistol", keep=["cat"]), generator=generator())
        given = request(bare, keep=[cat])
        literal = replace(preset, wordings="all").erase(tiny_double, given, generator=generator())
        for key, tensor in literal.delta.tensors().items():
            assert torch.equal(tensor, named.delta.tensors()[key])


def test_templates_go_to_the_bare_anchor_where_the_papers_code_expands_them(pipe):
    wanted = request("pistol", anchor="lamp", keep=["cat"])
    layers = reference.key_value_layers(pipe.unet)
    pairs = [reference.legacy_rows(pipe, text, "lamp") for text in prompts(wanted)]
    expected = reference.uce(layers, pairs, kept_states(pipe, wanted))
    result = Uce(target="bare_anchor").erase(pipe, wanted, generator=generator())
    assert worst(applied_layers(pipe, result.delta), expected) < 1e-9


def test_an_edit_too_weak_to_notice_is_an_error(tiny_sd1):
    import efface

    with pytest.raises(NothingChanged, match="which is rounding"):
        efface.erase(tiny_sd1, "pistol", method="uce", ridge=1e9)


def test_uce_in_the_null_space_leaves_the_keys_and_values_of_kept_prompts(pipe):
    kept = Concept(name="cat", prompts=("cat",))
    wanted = request("pistol", keep=[kept])
    before = reference.key_value_layers(pipe.unet)
    rows, erased = reference.states(pipe, "cat")[0], reference.states(pipe, "pistol")[0]
    moved = {}
    for share in (0.0, 1e-12):
        method = Uce(null_space=share, always_keep=(), ridge=1e-3)
        after = applied_layers(pipe, method.erase(pipe, wanted, generator=generator()).delta)
        moved[share] = [
            max(float((states @ (after[name] - before[name]).T).abs().max()) for name in before)
            for states in (rows, erased)
        ]
    assert moved[1e-12][0] < 1e-8 < moved[0.0][0]
    assert moved[1e-12][1] > 0.1


def test_a_share_that_is_none_is_refused():
    with pytest.raises(BadRequest, match="null_space is 2"):
        Uce(null_space=2)


def test_uce_without_an_anchor_moderates_toward_the_values_of_the_empty_prompt(pipe):
    """The paper's three uses differ in the target: here the empty prompt's, not an anchor's.

    With one pair of rows and nothing kept the way left is ``ridge / (ridge + |c|^2)`` of the whole.
    """
    concept = Concept(name="pistol", prompts=("pistol",))
    method = Uce(tokens="new", always_keep=(), ridge=1e-6)
    layers = reference.key_value_layers(pipe.unet)
    source, empty = reference.last_rows(pipe, "pistol", "")
    lamp = reference.last_rows(pipe, "pistol", "lamp")[1]
    for anchor, target in ((None, empty), ("lamp", lamp)):
        wanted = request(concept, anchor=anchor)
        edited = applied_layers(pipe, method.erase(pipe, wanted, generator=generator()).delta)
        for name, weight in layers.items():
            assert torch.allclose(source @ edited[name].T, target @ weight.T, atol=1e-5)
            assert not torch.allclose(source @ edited[name].T, source @ weight.T, atol=1e-2)
