"""Which scenes a request takes, and what it refuses."""

from dataclasses import replace

import pytest
import torch

from efface.concepts import Concept, request
from efface.data.scenes import some_scenes
from efface.errors import BadRequest, MissingInput
from efface.methods.gs_lora import GsLora
from efface.runs.forgetting_scenes import SceneForgettingRun, forgetting_scenes
from tests.pictures import knowing
from tests.scenes import squares

GONE = 1


@pytest.fixture(scope="module")
def model():
    return knowing("detector")


def asked(name, pictures, **more):
    return replace(request(Concept(name=name, kind="class")), retain_data=pictures, **more)


def showing(pictures, number):
    return [n for n, each in enumerate(pictures.things) if number in each.classes.tolist()]


def running(model, method, pictures):
    return SceneForgettingRun(
        method,
        model,
        asked(model.labels[GONE], pictures),
        generator=torch.Generator().manual_seed(0),
        monitor=lambda *_: None,
    )


def test_scenes_with_a_thing_of_the_class_are_forgotten_and_all_others_retained(model):
    pictures = squares(model.labels, count=20)
    data = forgetting_scenes(model, asked(model.labels[GONE], pictures), "")
    having = showing(pictures, GONE)
    assert 0 < len(having) < 20
    assert data.forget.keys == tuple(pictures.keys[n] for n in having)
    assert set(data.retain.keys) == set(pictures.keys) - set(data.forget.keys)
    assert (data.classes, data.earlier) == ((GONE,), ())


def test_classes_that_a_head_or_the_scenes_lack_are_refused(model):
    pictures = squares(model.labels, count=20)
    with pytest.raises(BadRequest, match="head has no class 'whale'"):
        forgetting_scenes(model, asked("whale", pictures), "")
    others = [n for n in range(20) if n not in showing(pictures, GONE)]
    with pytest.raises(MissingInput, match="no scene shows thing 1; the scenes show thing 0"):
        forgetting_scenes(model, asked("thing 1", some_scenes(pictures, others)), "")
    with pytest.raises(BadRequest, match="nothing is left to retain"):
        only = some_scenes(pictures, showing(pictures, GONE))
        forgetting_scenes(model, asked("thing 1", only), "")
    with pytest.raises(BadRequest, match="which the detector's head of 3 classes does not have"):
        forgetting_scenes(model, asked("thing 1", squares(("a", "b", "c"))), "")


def test_requests_without_scenes_or_for_single_pictures_are_refused(model):
    with pytest.raises(MissingInput, match="this detector learns to forget from scenes"):
        forgetting_scenes(model, asked("thing 1", None), "")
    single = request(Concept(name="these", kind="content"))
    with pytest.raises(BadRequest, match="a detector forgets classes of things"):
        forgetting_scenes(model, single, "")


def test_what_detectors_have_no_use_for_is_refused(model):
    pictures = squares(model.labels)
    with pytest.raises(BadRequest, match="shots is 4, and scenes show things of several classes"):
        running(model, GsLora(shots=4), pictures)
    wanted = asked(model.labels[GONE], pictures)
    for method, said in (
        (GsLora(prototype_retain=0.5), "prototype_retain is for pictures of one class"),
        (GsLora(distil=0.5), "distil is for pictures of one class"),
        (GsLora(suppress=0.5), "suppress is for pictures of one class"),
        (GsLora(unseen="left_out"), "unseen is for pictures of one class"),
    ):
        with pytest.raises(BadRequest, match=said):
            method.erase(model, wanted, generator=torch.Generator().manual_seed(0))


def test_replay_is_a_share_of_all_scenes(model):
    pictures = squares(model.labels, count=20)
    run = running(model, GsLora(replay=0.5), pictures)
    whole = len(showing(pictures, GONE))
    assert (len(run.forget), len(run.retain)) == (round(whole / 2), round((20 - whole) / 2))
    assert set(run.retain.keys) <= set(run.data.retain.keys)
