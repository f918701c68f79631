"""Wan: videos of one frame and of several, rows of padding, and pipelines that are refused."""

import json

import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils

from efface.contracts import Sample
from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import denoise
from efface.errors import BadModel
from efface.evaluation.drawing import draw
from efface.hosts.families import host_of, tiny_pipeline
from efface.hosts.original_names import OriginalNames
from efface.hosts.streaming import stream
from efface.hosts.survey import survey
from efface.hosts.wan import Wan
from tests.cases.hosts import drawn_in_frames
from tests.conftest import shared


@pytest.fixture(scope="module")
def pipe():
    return shared("tiny_wan")


@pytest.mark.parametrize(
    ("frames", "expanded"),
    [(1, False), (3, False), pytest.param(1, True, marks=pytest.mark.slow)],
)
def test_our_loop_ends_where_the_pipeline_does_for_one_frame_and_for_several(
    pipe, frames, expanded
):
    """Wan 2.2 of 5B is told the time token by token, of which all are alike."""
    denoiser = Denoiser(pipe)
    pipe.register_to_config(expand_timesteps=expanded)
    denoiser.host.frames = frames
    assert denoiser.latent_shape == (4, 8 * frames, 8)
    draws = torch.Generator().manual_seed(0)
    start = torch.randn(1, *denoiser.latent_shape, generator=draws)
    held, pipe.scheduler = pipe.scheduler, denoiser.scheduler()
    try:
        options = {"num_inference_steps": 2, "output_type": "latent"}
        ended = drawn_in_frames(pipe, start.clone(), 3.0, frames=frames, **options)
    finally:
        pipe.scheduler = held
        pipe.register_to_config(expand_timesteps=False)
    latents = start.clone()
    asked = denoiser.conditions(["a cat"])
    for _ in denoise(denoiser, latents, asked, scheduler=denoiser.ready(2), guidance=3.0):
        pass
    assert torch.allclose(latents, ended, atol=1e-5)
    assert not torch.allclose(latents, start, atol=1e-1)


def test_pictures_to_look_at_are_single_frames_of_a_size_that_the_table_of_places_holds(pipe):
    assert host_of(pipe).picture_side == 16
    found = draw(pipe, [Sample("a cat", 3, "general")], steps=2, guidance=3.0)
    own = pipe(
        prompt="a cat",
        height=16,
        width=16,
        num_frames=1,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(3),
    ).frames
    assert own.shape == (1, 1, 16, 16, 3)
    assert found.pixels.shape == (1, 16, 16, 3)
    assert np.array_equal(found.pixels, (own[:, 0].clip(0, 1) * 255).round().astype(np.uint8))
    assert found.evaluations == 4


def test_rows_of_padding_are_alike_in_every_prompt_and_read(pipe):
    (stream_,) = host_of(pipe).readers[0].streams
    long, empty = stream_.embedded(["A  pistol &amp; a cat", ""])
    assert stream_.tokenised("").read == len(long) == 512
    assert torch.equal(long[60:], empty[60:])
    assert long[60].norm() > 0
    assert stream_.tokenised("A  pistol &amp; a").ids == stream_.tokenised("A pistol & a").ids
    assert stream_.tokenised("A cat").ids != stream_.tokenised("a cat").ids


def test_the_table_of_original_names_is_the_one_that_diffusers_turns_back(pipe):
    names = Wan.original_layers
    assert isinstance(names, OriginalNames)
    state = {path: weight.detach() for path, weight in pipe.transformer.named_parameters()}
    pieces = names.pieces(pipe.transformer)
    assert all(piece.is_all for piece in pieces.values())
    whole = {piece.name: state[path] for path, piece in pieces.items()}
    assert len(whole) == len(state)
    found = single_file_utils.convert_wan_transformer_to_diffusers(dict(whole))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[path], weight) for path, weight in state.items())


def test_two_transformers_and_pipelines_of_pictures_are_refused_by_what_to_do(tmp_path):
    pipe = tiny_pipeline("wan")
    pipe.save_pretrained(tmp_path)
    file = tmp_path / "model_index.json"
    index = json.loads(file.read_text("utf-8"))
    two = {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": 0.9}
    given = {"_class_name": "WanImageToVideoPipeline"}
    told = (
        (two, "transformer_2 draws the later steps.*erase from both"),
        (given, "WanImageToVideoPipeline is given pictures.*load the text-to-video model"),
    )
    for change, what in told:
        file.write_text(json.dumps(index | change), "utf-8")
        for look in (survey, stream):
            with pytest.raises(BadModel, match=what):
                look(tmp_path)
    pipe.register_modules(transformer_2=pipe.transformer)
    with pytest.raises(BadModel, match="transformer_2 draws the later steps"):
        host_of(pipe)
