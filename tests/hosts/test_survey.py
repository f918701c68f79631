"""How many tokens of a prompt a plan counts: what the family's encoder is given at most."""

import inspect
import json

import pytest
from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline, QwenImagePipeline

from efface.errors import BadRequest
from efface.hosts.families import HOSTS, host_of
from efface.hosts.survey import LONGEST, survey
from tests.conftest import host, shared

COUNTED = {"cogview4": 1024, "qwenimage": 1024 + 34, "lumina2": 256}


@pytest.mark.parametrize(
    "family",
    ["cogview4", *(pytest.param(f, marks=pytest.mark.slow) for f in ("qwenimage", "lumina2"))],
)
def test_a_language_model_counts_as_many_tokens_as_its_family_reads(family, tmp_path):
    host(f"tiny_{family}").save_pretrained(tmp_path)
    place = tmp_path / "text_encoder" / "config.json"
    config = json.loads(place.read_text())
    short = config.get("text_config") or config
    short["max_position_embeddings"] = 100_000
    place.write_text(json.dumps(config))
    (encoder,) = survey(tmp_path).encoders
    assert encoder.length == COUNTED[family] != LONGEST
    short["max_position_embeddings"] = 77
    place.write_text(json.dumps(config))
    (encoder,) = survey(tmp_path).encoders
    assert encoder.length == 77


@pytest.mark.slow
@pytest.mark.parametrize("family", [h.key for h in HOSTS if h.tokens_read and h.key != "qwenimage"])
def test_families_read_as_many_tokens_as_their_pipelines_unasked(family):
    kind = PixArtSigmaPipeline if family == "pixart" else type(shared(f"tiny_{family}"))
    call = inspect.signature(kind.__call__).parameters  # PixArt-alpha's reads 120
    (known,) = next(h for h in HOSTS if h.key == family).tokens_read.values()
    assert known == call["max_sequence_length"].default


def test_qwen_image_s_pipeline_gives_its_encoder_the_conversation_too():
    pipe = shared("tiny_qwenimage")
    (known,) = next(h for h in HOSTS if h.key == "qwenimage").tokens_read.values()
    assert known == pipe.tokenizer_max_length + 34  # what stands before the prompt, see DROPPED


def test_rows_that_qwen_image_s_pipeline_cuts_off_are_not_read():
    rows = host_of(shared("tiny_qwenimage")).rows
    most = inspect.signature(QwenImagePipeline.__call__).parameters["max_sequence_length"].default
    with pytest.raises(BadRequest, match=f"more tokens than the {most + 34} that the text"):
        rows.tokenised("cat " * (most + 1))


@pytest.mark.parametrize("kind", [PixArtAlphaPipeline, PixArtSigmaPipeline])
def test_each_pixart_reads_as_many_tokens_as_its_pipeline_unasked(kind):
    parts = host("tiny_pixart").components
    parts["tokenizer"].model_max_length = 512
    most = inspect.signature(kind.__call__).parameters["max_sequence_length"].default
    with pytest.raises(BadRequest, match=f"more tokens than the {most} that the text"):
        host_of(kind(**parts)).encode(["cat " * (most + 1)])
