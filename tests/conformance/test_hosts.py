"""What every family of models must do: read prompts and predict as its own pipeline does."""

import pytest
import torch

from efface.deltas.delta import Delta
from efface.deltas.patches import TextMapPatch
from efface.deltas.provenance import Provenance, base_sketch
from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import denoise
from efface.errors import BadModel, BadRequest
from efface.exchange.kohya_names import kohya_name
from efface.hosts.components import canonical, components
from efface.hosts.families import HOSTS, host_of, layout
from efface.hosts.streaming import stream
from tests.cases import HOST_CASES
from tests.conformance.snapshots import differences, snapshot
from tests.conftest import host, shared

PROMPTS = ("a photo of a cat", "pistol", "")


def marked(cases):
    slow = pytest.mark.slow
    return [pytest.param(each, marks=slow if each.slow else ()) for each in cases]


CASES = marked(HOST_CASES)
PREDICTING = marked(case for case in HOST_CASES if "pixart" not in case.host)


@pytest.fixture(params=CASES, ids=lambda case: case.host)
def case(request):
    return request.param


@pytest.fixture
def pipe(case):
    return shared(case.host)


@pytest.fixture
def known(pipe):
    return host_of(pipe)


def test_every_family_has_a_case_and_every_case_a_family():
    assert {case.family for case in HOST_CASES} == {family.key for family in HOSTS}


def test_a_toy_is_of_its_family_and_of_no_other(case, pipe, known):
    assert layout(pipe) == known.key == case.family
    assert [family.key for family in HOSTS if family.recognises(pipe)] == [case.family]
    assert known.title
    assert known.part in pipe.components


def test_a_toy_depends_on_its_seed_and_on_nothing_else(case):
    first, again, other = (
        dict(host(case.host, seed=seed).components[part].named_parameters())
        for part in [host_of(shared(case.host)).part]
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(again[name], weight) for name, weight in first.items())
    assert any(not torch.equal(other[name], weight) for name, weight in first.items())


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_are_encoded_as_the_pipeline_encodes_them(case, pipe, known, prompt):
    with torch.no_grad():
        rows, pooled = case.encoded(pipe, prompt)
    found = known.encode([prompt])
    count = rows.shape[1] if case.family == "pixart" else found.rows.shape[1]
    assert torch.allclose(found.rows[:, :count], rows, atol=1e-5)
    assert (found.pooled is None) == (pooled is None)
    assert pooled is None or torch.allclose(found.pooled, pooled, atol=1e-5)


@pytest.mark.parametrize("case", PREDICTING, ids=lambda case: case.host)
def test_a_trajectory_ends_where_the_pipeline_does(case):
    """Same noise, steps and guidance: times, conditions and predictions are the pipeline's."""
    ours, pipelines, start = ends(case, steps=3, guidance=case.guidance)
    assert torch.allclose(pipelines, ours, atol=1e-3)
    assert not torch.allclose(pipelines, start, atol=1e-1)


def ends(case, *, steps, guidance):
    """Draws with our loop and with the pipeline: latents at both ends, and where both started."""
    pipe = shared(case.host)
    denoiser = Denoiser(pipe)
    start = torch.randn(1, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    ours, sizes = start.clone(), {}
    for _ in denoise(
        denoiser,
        ours,
        denoiser.conditions(["a cat"]),
        scheduler=denoiser.ready(steps),
        guidance=guidance,
        generators=[torch.Generator().manual_seed(7)],
    ):
        pass
    if case.sized:
        height, width = (edge * pipe.vae_scale_factor for edge in start.shape[-2:])
        sizes = {"height": height, "width": width}
    held, pipe.scheduler = pipe.scheduler, denoiser.scheduler()
    options = {"num_inference_steps": steps, "output_type": "latent", **sizes}
    try:
        if case.drawn is not None:
            ended = case.drawn(pipe, start, guidance, **options)
        else:
            ended = pipe("a cat", latents=start, guidance_scale=guidance, **options).images
    finally:
        pipe.scheduler = held
    return ours, ended, start


def test_a_prediction_has_the_shape_of_its_latents_or_is_refused_by_name(case, known):
    latents = torch.randn(2, *known.latent_shape, generator=torch.Generator().manual_seed(0))
    times, asked = torch.tensor([500.0, 20.0]), known.encode(["a cat", ""])
    if not known.predicts:
        with pytest.raises(BadModel, match=known.title):
            known.predict(latents, times, asked)
        return
    with torch.no_grad():
        both = known.predict(latents, times, asked)
        alone = known.predict(latents[1:], times[1:], asked[[1]])
    assert both.shape == latents.shape
    assert torch.allclose(both[1:], alone, atol=1e-4)


def test_what_reads_text_is_found(case, known):
    assert tuple(reader.key for reader in known.readers) == case.branches
    for reader in known.readers:
        assert reader.weights
        for weight in reader.weights.values():
            assert weight.shape[1] == reader.width == reader.streams[0].width
        assert {stream.width for stream in reader.streams} == {reader.width}


def test_names_of_parameters_are_canonical_and_distinct(pipe):
    for part in components(pipe).values():
        names = [canonical(name) for name, _ in part.named_parameters()]
        assert len(set(names)) == len(names)
        assert [canonical(name) for name in names] == names


def test_kohya_has_a_name_of_its_own_for_every_layer_or_says_that_it_has_none(known, pipe):
    parts = [known.part, *known.kohya_encoders]
    assert set(parts) <= set(components(pipe))
    for part in parts:
        layers = [
            path
            for path, module in pipe.components[part].named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        ]
        if not known.kohya_encoders:
            with pytest.raises(BadRequest, match="diffusers-lora"):
                kohya_name(pipe, part, layers[0])
            continue
        names = [kohya_name(pipe, part, layer) for layer in layers]
        assert len(set(names)) == len(names)
        assert all(name.startswith("lora_") and "." not in name for name in names)


def test_an_edit_of_what_reads_text_is_taken_off_bit_for_bit(pipe, known):
    patches = {}
    for reader in known.readers:
        draws = torch.Generator().manual_seed(reader.inputs)
        left, right = (torch.randn(reader.inputs, 2, generator=draws) / 9 for _ in range(2))
        patches[reader.key] = TextMapPatch(left, right.T.contiguous())
    provenance = Provenance(
        method="test",
        revision=1,
        settings={},
        request={},
        seed=0,
        base_model="toy",
        base_sketch=base_sketch(pipe, tuple(patches)),
        versions={},
    )
    before, rows = snapshot(pipe), [dict(reader.weights) for reader in known.readers]
    held = [{path: w.clone() for path, w in weights.items()} for weights in rows]
    with Delta(patches=patches, provenance=provenance).apply(pipe):
        for weights, were in zip(rows, held, strict=True):
            assert all(not torch.equal(weights[path], were[path]) for path in were)
    assert not differences(before, snapshot(pipe))


def test_a_streamed_folder_reads_text_as_the_loaded_model_does(pipe, known, tmp_path):
    pipe.save_pretrained(tmp_path)
    streamed = host_of(stream(tmp_path))
    assert streamed.key == known.key
    for prompt in PROMPTS:
        one, other = known.readers, streamed.readers
        for mine, theirs in zip(one, other, strict=True):
            assert mine.key == theirs.key
            for path, weight in mine.weights.items():
                assert torch.equal(theirs.weights[path], weight)
            for first, second in zip(mine.streams, theirs.streams, strict=True):
                assert torch.equal(first.embedded([prompt]), second.embedded([prompt]))
