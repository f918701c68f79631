"""Few-shot unlearning: what it trains, its sign, its steps, its pictures, its rules."""

import hashlib
import math

import pytest
import torch
from PIL import Image

from efface import registry
from efface.concepts import Concept, Erasure, ErasureRequest, request
from efface.contracts import silent
from efface.deltas.delta import Delta
from efface.errors import BadRequest, MissingInput
from efface.hosts.components import components, parameters
from efface.hosts.families import host_of
from efface.runs.encoder_training import encoder_parameters, every_fifth, noised_errors
from efface.runs.gradient_runs import GradientRun
from efface.runs.pictures import Epochs, Pictures
from tests.conftest import host, shared

PISTOL = request("pistol", keep=["cat"])
SMALL = {"epochs": 0, "steps": 3, "trajectories": 2, "sampling_steps": 2, "learning_rate": 1e-3}


def made(**settings):
    return registry.build("methods", "few_shot", **(SMALL | settings))


def ran(pipe, wanted=PISTOL, **settings):
    generator = torch.Generator().manual_seed(0)
    return made(**settings).erase(pipe, wanted, generator=generator, monitor=silent)


@pytest.fixture
def folder(tmp_path):
    """Three pictures of other shapes than the model's."""
    place = tmp_path / "icons"
    place.mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (20 + number, 30), colour).save(place / f"{number}.png")
    return place


def shown(folder, name="pistol"):
    concept = Concept(name=name, images=(folder,))
    return ErasureRequest(erasures=(Erasure(concept=concept),), keep=(Concept(name="cat"),))


@pytest.mark.parametrize(
    ("part", "tensors", "count"),
    [
        # L (2df + f + d) + 4 (d^2 + d) with 2 layers of d = 32 and f = 64
        ("feed_forward_last_attention", 4 * 2 + 8, 2 * (2 * 32 * 64 + 64 + 32) + 4 * (32**2 + 32)),
        ("feed_forward", 4 * 2, 2 * (2 * 32 * 64 + 64 + 32)),
        ("attention", 8 * 2, 2 * 4 * (32**2 + 32)),
        ("feed_forward_attention", 12 * 2, 2 * (2 * 32 * 64 + 64 + 32) + 8 * (32**2 + 32)),
    ],
)
def test_what_is_trained_is_counted_by_its_formula(tiny_sd1, part, tensors, count):
    found = encoder_parameters(tiny_sd1, part, {"text_encoder", "text_encoder_2"})
    assert (len(found), sum(weight.numel() for weight in found.values())) == (tensors, count)


def test_all_of_an_encoder_is_its_embeddings_and_norms_too(tiny_sd1):
    found = encoder_parameters(tiny_sd1, "all", {"text_encoder"})
    assert len(found) == len([*tiny_sd1.text_encoder.parameters()])


def test_layers_that_xl_does_not_read_are_left_out():
    """Its first encoder is read up to its last but one layer; the second one's last is pooled."""
    pipe = shared("tiny_sdxl")
    found = encoder_parameters(pipe, "feed_forward_last_attention", {"text_encoder"})
    count = pipe.text_encoder.config.num_hidden_layers
    assert {key.split(".")[2] for key in found} == {str(n) for n in range(count - 1)}
    assert any(
        key.startswith(f"text_encoder/encoder.layers.{count - 2}.self_attn") for key in found
    )


def hashes(pipe):
    return {
        key: hashlib.sha256(weight.detach().numpy().tobytes()).hexdigest()
        for key, weight in parameters(pipe)
    }


def test_nothing_but_the_chosen_weights_changes(tiny_sd1):
    before = hashes(tiny_sd1)
    result = ran(tiny_sd1)
    assert hashes(tiny_sd1) == before
    with result.delta.apply(tiny_sd1):
        during = hashes(tiny_sd1)
    chosen = encoder_parameters(tiny_sd1, "feed_forward_last_attention", {"text_encoder"})
    assert {key for key in before if during[key] != before[key]} == set(chosen)
    assert hashes(tiny_sd1) == before
    assert all(
        w.requires_grad and w.grad is None
        for network in components(tiny_sd1).values()
        for w in network.parameters()
    )


def fixed(pipe, **settings):
    """Gives a run and one noised batch of it."""
    generator = torch.Generator().manual_seed(1)
    run = GradientRun(made(**settings), pipe, PISTOL, generator=generator, monitor=silent)
    z = torch.randn(4, *run.denoiser.latent_shape, generator=generator)
    noise = torch.randn(z.shape, generator=generator)
    return run, z, noise, torch.tensor([100.0, 300.0, 500.0, 900.0])


def test_the_error_is_that_of_textual_inversion(tiny_sd1):
    """Mean squared error to the very noise that was added, by the pipeline's own scheduler."""
    run, z, noise, times = fixed(tiny_sd1)
    c = run.denoiser.conditions(["pistol"]).repeated(4)
    with torch.no_grad():
        errors = noised_errors(run.denoiser, z, noise, times, c)
        noised = tiny_sd1.scheduler.add_noise(z, noise, times.long())
        guess = tiny_sd1.unet(noised, times, encoder_hidden_states=c.rows)[0]
    assert float(errors.mean()) == pytest.approx(
        float(torch.nn.functional.mse_loss(guess, noise)), abs=1e-6
    )


def test_a_small_plain_step_raises_the_error(tiny_sd1):
    run, z, noise, times = fixed(tiny_sd1)
    chosen = encoder_parameters(tiny_sd1, "feed_forward_last_attention", {"text_encoder"})

    def error():
        c = host_of(tiny_sd1).encode(["a photo of a pistol"] * 4, gradients=True)
        return noised_errors(run.denoiser, z, noise, times, c)

    with run.training(chosen) as edit:
        before = error()
        loss = run.method._ascent(before)
        assert float(loss) == -float(before.mean())
        loss.backward()
        with torch.no_grad():
            for weight in edit.parameters.values():
                weight -= 1e-2 * weight.grad
        assert float(error().mean()) > float(before.mean())


def test_gradients_reach_the_text_through_cross_attention_alone():
    pipe = host("tiny_sd1")
    for path, weight in pipe.unet.named_parameters():
        if "attn2.to_k" in path or "attn2.to_v" in path:
            weight.data.zero_()
    run, z, noise, times = fixed(pipe)
    chosen = encoder_parameters(pipe, "all", {"text_encoder"})
    with run.training(chosen) as edit:
        c = host_of(pipe).encode(["pistol"] * 4, gradients=True)
        noised_errors(run.denoiser, z, noise, times, c).mean().backward()
        reached = [w.grad for w in edit.parameters.values() if w.grad is not None]
        assert reached
        assert not any(bool(gradient.any()) for gradient in reached)


@pytest.mark.thorough
def test_the_first_step_of_adam_moves_no_weight_by_more_than_its_size(tiny_sd1):
    result = ran(tiny_sd1, steps=1, learning_rate=1e-3)
    largest = max(float(p.difference.abs().max()) for p in result.delta.patches.values())
    assert 0.5e-3 < largest <= 1e-3 * (1 + 1e-3)
    smaller = ran(tiny_sd1, steps=1, learning_rate=1e-3, epsilon=1e-3)
    sizes = [
        sum(float(p.difference.abs().sum()) for p in each.delta.patches.values())
        for each in (smaller, result)
    ]
    assert sizes[0] < sizes[1]


@pytest.mark.thorough
def test_decay_is_added_to_the_gradient_and_only_where_that_is_asked(tiny_sd1):
    """With decay far above the gradients, Adam's first step is minus the sign of the weight."""
    result = ran(tiny_sd1, steps=1, weight_decay=1e6)
    weight = tiny_sd1.text_encoder.get_parameter("encoder.layers.0.mlp.fc1.weight")
    change = result.delta.patches["text_encoder/encoder.layers.0.mlp.fc1.weight"].difference
    assert torch.equal(change.sign(), -weight.sign())
    plain = ran(tiny_sd1, steps=1, weight_decay=1e6, optimiser="adam")
    assert plain.delta.id != result.delta.id
    none = ran(tiny_sd1, steps=1, weight_decay=0.0, optimiser="adam")
    for key, patch in none.delta.patches.items():
        assert torch.equal(patch.difference, plain.delta.patches[key].difference)


def test_an_epoch_visits_every_picture_once_and_resumes_in_the_middle():
    generator = torch.Generator().manual_seed(0)
    order = Epochs(5, 2)
    assert order.steps == 3
    for _ in range(2):
        visits = [order.drawn(generator).tolist() for _ in range(order.steps)]
        assert [len(each) for each in visits] == [2, 2, 1]
        assert sorted(number for each in visits for number in each) == [0, 1, 2, 3, 4]
    order.drawn(generator)
    other = Epochs(5, 2)
    other.load_state_dict(order.state_dict())
    state = generator.get_state()
    assert other.drawn(generator).tolist() == order.drawn(generator.set_state(state)).tolist()


@pytest.mark.parametrize(("epochs", "steps"), [(2, 4), (0, 3)])
def test_epochs_decide_the_number_of_steps(tiny_sd1, folder, epochs, steps):
    """Three pictures, two a step: two steps an epoch."""
    result = ran(tiny_sd1, shown(folder), epochs=epochs, steps=3)
    assert len(result.curves["erase"]) == steps
    assert result.diagnostics["stopped"] == {
        "rule": "steps",
        "step": steps,
        "says": f"all {steps} steps were done",
    }


def test_given_pictures_are_encoded_by_the_vae_at_its_own_scale(tiny_sd1, folder):
    generator = torch.Generator().manual_seed(0)
    run = GradientRun(made(), tiny_sd1, shown(folder), generator=generator, monitor=silent)
    state = run.draws["pool"].get_state()
    pictures = Pictures.of(run, fit="squash", flip=0.0)
    again = torch.Generator()
    again.set_state(state)
    torch.rand(3, generator=again)
    vae = tiny_sd1.vae
    side = 8 * 2 ** (len(vae.config.block_out_channels) - 1)
    by_content = sorted(
        folder.iterdir(), key=lambda file: hashlib.sha256(file.read_bytes()).hexdigest()
    )
    for place, file in enumerate(by_content):
        colour = Image.open(file).convert("RGB").getpixel((0, 0))
        pixels = torch.tensor(colour).float().reshape(1, 3, 1, 1).expand(1, 3, side, side)
        with torch.no_grad():
            found = vae.encode(pixels / 127.5 - 1).latent_dist.sample(again)
        expected = found * vae.config.scaling_factor
        assert torch.allclose(pictures.latents[place], expected[0], atol=1e-5)
    assert pictures.source == "learnt from 3 given pictures"


@pytest.mark.thorough
def test_names_of_files_do_not_matter_and_their_content_does(tiny_sd1, folder):
    first = ran(tiny_sd1, shown(folder)).delta
    (folder / "0.png").rename(folder / "9.png")
    folder = folder.rename(folder.with_name("others"))
    assert ran(tiny_sd1, shown(folder)).delta.id == first.id
    assert "icons" not in str(first.provenance.request)
    Image.new("RGB", (8, 8), "white").save(folder / "9.png")
    assert ran(tiny_sd1, shown(folder)).delta.id != first.id


def test_pictures_are_drawn_where_none_are_given_and_the_result_says_so(tiny_sd1):
    result = ran(tiny_sd1, trajectories=3)
    assert "3 pictures that the unedited model drew" in result.diagnostics["notes"][0]
    # 3 pictures, 2 steps, twice for guidance; then 3 steps of at most 2 pictures: 2, 1, 2
    assert result.diagnostics["network_evaluations"] == 3 * 2 * 2 + 5


def test_pictures_that_must_be_given_are_asked_for(folder):
    with pytest.raises(MissingInput, match=r"no pictures of 'pistol'.*--images FOLDER"):
        made(pictures="given").check_request(PISTOL)
    some = ErasureRequest(
        erasures=(*shown(folder).erasures, Erasure(concept=Concept(name="house")))
    )
    with pytest.raises(MissingInput, match="no pictures of 'house'"):
        made().check_request(some)


def test_an_anchor_is_refused():
    with pytest.raises(BadRequest, match=r"steers to no anchor, and 'lamp'"):
        made().check_request(request("pistol", anchor="lamp"))


@pytest.mark.thorough
def test_retention_keeps_kept_prompts_nearer(tiny_sd1):
    bare = ran(tiny_sd1, steps=12)
    held = ran(tiny_sd1, steps=12, retention_weight=30.0)
    assert bare.diagnostics["drift"]["kept"] > bare.diagnostics["drift"]["empty"] > 0
    for name in ("kept", "empty"):
        assert held.diagnostics["drift"][name] < 0.8 * bare.diagnostics["drift"][name]
    assert held.curves["retain"][0] == 0.0
    assert held.curves["retain"][-1] > 0.0


def test_the_drift_that_is_told_is_that_of_the_applied_delta(tiny_sd1):
    result = ran(tiny_sd1)
    before = host_of(tiny_sd1).encode([""]).rows
    with result.delta.apply(tiny_sd1):
        after = host_of(tiny_sd1).encode([""]).rows
    share = float((after - before).norm() / before.norm())
    assert result.diagnostics["drift"]["empty"] == pytest.approx(share, rel=1e-4)


@pytest.mark.thorough
def test_a_rule_that_stops_says_which_it_was(tiny_sd1):
    drifted = ran(tiny_sd1, steps=12, stop_drift=0.02)
    told = drifted.diagnostics["stopped"]
    assert told["rule"] == "drift"
    assert 0 < told["step"] < 12
    assert told["step"] == len(drifted.curves["erase"])
    assert told["figure"] >= 0.02
    assert "(the limit is 0.02)" in drifted.diagnostics["notes"][1]
    risen = ran(tiny_sd1, steps=60, learning_rate=1e-2, stop_error=1.02, check_every=4)
    told = risen.diagnostics["stopped"]
    assert told["rule"] == "error"
    assert told["step"] % 4 == 0
    assert told["figure"] >= 1.02


def test_every_fifth_wording_is_set_aside_where_there_are_five():
    concept = Concept(name="pistol", prompts=tuple(f"pistol {letter}" for letter in "abcdefghijk"))
    both = ErasureRequest(
        erasures=(Erasure(concept=concept), Erasure(concept=Concept(name="house")))
    )
    generator = torch.Generator().manual_seed(0)
    run = GradientRun(made(), shared("tiny_sd1"), both, generator=generator, monitor=silent)
    assert every_fifth(run) == {4, 9}


def test_the_hinge_bounds_the_loss():
    errors = torch.tensor([0.5, 3.0])
    assert float(made(hinge=2.0)._ascent(errors)) == pytest.approx((1.5 + 0.0) / 2)
    assert float(made()._ascent(errors)) == pytest.approx(-1.75)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stop_error": 0.5}, "a factor above 1"),
        ({"flip": 2.0}, "a chance, of 0 to 1"),
        ({"hinge": -1.0}, "must not be negative"),
        ({"keep_weight": 1.0}, "set retention_weight"),
        ({"retention_weight": 1.0, "keep_batch": 0}, "set keep_batch"),
        ({"check_every": 0}, "check_every"),
        ({"betas": (0.9, 1.0)}, "below 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(BadRequest, match=says):
        made(**settings)


@pytest.mark.thorough
def test_saved_and_loaded_it_gives_the_same_rows(tiny_sd1, tmp_path):
    delta = ran(tiny_sd1).delta
    delta.save(tmp_path / "delta.safetensors")
    rows = []
    for each in (delta, Delta.load(tmp_path)):
        with each.apply(tiny_sd1):
            rows.append(host_of(tiny_sd1).encode(["a photo of a pistol"]).rows)
    assert torch.equal(*rows)


@pytest.mark.parametrize("family", ["sd3", "flux", "pixart"])
def test_other_families_are_refused_by_name(family):
    with pytest.raises(BadRequest, match="few_shot does not edit"):
        ran(shared(f"tiny_{family}"))


def test_velocity_is_trained_on_as_velocity():
    result = ran(host("tiny_sd2_v"), steps=1)
    assert math.isfinite(result.curves["erase"][0])
    assert result.delta.patches
