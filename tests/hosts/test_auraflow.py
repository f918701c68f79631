"""AuraFlow: hidden padding is zeros that no edit moves; the whole suite of families is slow."""

import torch

import efface
from efface.contracts import Sample
from efface.evaluation.drawing import draw
from efface.hosts.families import host_of, tiny_pipeline


def test_what_its_pipeline_reads_is_erased_and_padding_is_not_touched():
    pipe = tiny_pipeline("auraflow")
    (reader,) = host_of(pipe).readers
    (stream,) = reader.streams
    rows, _, _, _ = pipe.encode_prompt("a cat", do_classifier_free_guidance=False)
    assert torch.allclose(host_of(pipe).encode(["a cat"]).rows, rows, atol=1e-5)
    tokens = stream.tokenised("a cat")
    assert tokens.read == tokens.end + 1 == 3
    assert rows[0, :3].abs().sum(1).min() > 0
    assert not rows[0, 3:].any()
    delta = efface.erase(pipe, "pistol", keep=["cat"], method="uce").delta
    with torch.no_grad():
        before = pipe.transformer.context_embedder(rows)
        with delta.apply(pipe):
            assert torch.equal(pipe.transformer.context_embedder(rows)[0, 3:], before[0, 3:])


def test_pictures_are_of_a_size_that_its_table_of_places_holds():
    """The pipeline draws 1024 pixels unasked; four places of two latents of two pixels are 16."""
    pipe = tiny_pipeline("auraflow")
    assert host_of(pipe).picture_side == 16
    drawn = draw(pipe, [Sample("a cat", 0, "general")], steps=1, guidance=1.0)
    assert drawn.pixels.shape == (1, 16, 16, 3)
    pipe.transformer.register_to_config(pos_embed_max_size=96 * 96, patch_size=2)
    pipe.vae_scale_factor = 8
    assert host_of(pipe).picture_side is None, "1536 pixels, more than the usual 1024"
