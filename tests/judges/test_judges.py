"""Judges from local folders: real transformers classes at toy size."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from efface import registry
from efface.concepts import Concept, wordings
from efface.contracts import Sample
from efface.errors import BadModel, BadRequest, MissingInput
from efface.hosts.clip import FolderClip
from efface.hosts.preprocessing import Preprocessing
from efface.judges.classifier import Classifier
from efface.judges.zero_shot import ZeroShot
from efface.metrics.clip_score import ClipScore
from efface.metrics.estimates import is_known
from tests.judges.toys import PREPROCESSOR

PISTOL = Concept(name="pistol", synonyms=("revolver",))


def test_both_judges_are_found_by_name():
    assert {entry.name for entry in registry.entries("judges")} == {"classifier", "zero_shot"}


def test_unknown_error_rates_are_said_and_not_invented(clip_folder, classifier_folder):
    for judge in (ZeroShot(folder=clip_folder), Classifier(folder=classifier_folder)):
        assert not is_known(judge.card.true_positive_rate)
        assert not is_known(judge.card.false_positive_rate)
        assert "not measured" in judge.card.notes


def test_zero_shot_shares_sum_to_one(clip_folder, pictures):
    """Concept and alternative swap roles, so their probabilities must add up to 1."""
    cat = Concept(name="cat", prompts=("a photo of a cat",))
    dog = Concept(name="dog", prompts=("a photo of a dog",))
    of_cat = ZeroShot(folder=clip_folder, alternatives=dog.prompts).presence(pictures, cat)
    of_dog = ZeroShot(folder=clip_folder, alternatives=cat.prompts).presence(pictures, dog)
    torch.testing.assert_close(of_cat + of_dog, torch.ones(5))
    assert of_cat.std() > 0


def test_zero_shot_is_the_softmax_of_the_models_own_logits(clip_folder, pictures):
    """transformers multiplies cosines with the learnt temperature, and so must the judge."""
    from transformers import AutoTokenizer, CLIPModel

    cat = Concept(name="cat", prompts=("a photo of a cat",))
    texts = ["a photo of a cat", "a photo of a dog"]
    tokens = AutoTokenizer.from_pretrained(clip_folder)(texts, padding=True, return_tensors="pt")
    pixels = Preprocessing.from_folder(clip_folder)(pictures)
    with torch.no_grad():
        logits = CLIPModel.from_pretrained(clip_folder).eval()(pixel_values=pixels, **tokens)
    found = ZeroShot(folder=clip_folder, alternatives=(texts[1],)).presence(pictures, cat)
    expected = logits.logits_per_image.softmax(dim=-1)[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_neighbours_are_labels_beside_a_concept_and_never_itself(clip_folder, pictures):
    """Each neighbour is worded like the concept; its own names are left out, however written."""
    clip, cat = FolderClip(clip_folder), Concept(name="cat", synonyms=("kitten",))
    judge = ZeroShot(folder=clip_folder, alternatives=("art",), neighbours=("Kitten", "dog", "cat"))
    labels = [
        torch.nn.functional.normalize(clip.text_features(words).mean(dim=0), dim=0)
        for words in (wordings(cat), wordings(Concept(name="dog")), ("art",))
    ]
    cosines = clip.image_features(pictures) @ torch.stack(labels).T
    expected = (clip.temperature * cosines).softmax(dim=-1)[:, 0]
    torch.testing.assert_close(judge.presence(pictures, cat), expected)
    assert "Kitten; dog; cat; art" in judge.card.notes
    assert judge.identity != ZeroShot(folder=clip_folder, alternatives=("art",)).identity


def test_clip_folder_gives_what_transformers_gives(clip_folder, pictures):
    """The loss-free reference is the model's own forward pass, which computes both logits."""
    from transformers import AutoTokenizer, CLIPModel

    texts = ["a photo of a cat", "art"]
    clip = FolderClip(clip_folder)
    tokens = AutoTokenizer.from_pretrained(clip_folder)(texts, padding=True, return_tensors="pt")
    pixels = Preprocessing.from_folder(clip_folder)(pictures)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        expected = model(pixel_values=pixels, **tokens).logits_per_image / model.logit_scale.exp()
    cosines = clip.image_features(pictures) @ clip.text_features(texts).T
    torch.testing.assert_close(cosines, expected)
    samples = [Sample(texts[0], seed, "kept") for seed in range(5)]
    scores = ClipScore(clip).scores(pictures, samples)
    torch.testing.assert_close(scores, 100 * expected[:, 0].clamp(min=0))


def test_long_prompts_are_cut_at_the_context(clip_folder):
    assert FolderClip(clip_folder).text_features(["a cat " * 50]).shape == (1, 8)


SQUARE = {"height": 16, "width": 16}
PROCESSORS = {
    "bilinear": ("ViTImageProcessor", {"size": SQUARE}),
    "nearest": ("ViTImageProcessor", {"size": SQUARE, "resample": 0}),
    "as it is": ("ViTImageProcessor", {"size": SQUARE, "do_normalize": False}),
    "levels": ("ViTImageProcessor", {"size": SQUARE, "do_rescale": False}),
    "cropped": ("ConvNextImageProcessor", {"size": {"shortest_edge": 16}, "crop_pct": 0.875}),
    "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": 20}, "crop_size": 16}),
}


@pytest.mark.parametrize("shape", [(24, 24), (24, 40)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_are_prepared_as_the_library_does(name, shape, tmp_path):
    """Resampling, crops, stretching, rescaling and normalising are the processor's own."""
    import transformers

    kind, settings = PROCESSORS[name]
    processor = getattr(transformers, kind)(**settings)
    processor.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    expected = processor(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"]
    prepare = Preprocessing.from_folder(tmp_path)
    found = prepare(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    torch.testing.assert_close(found, torch.as_tensor(np.asarray(expected)).float())


def test_a_clip_saved_by_its_processor_is_read(clip_folder, tmp_path, pictures):
    """transformers 5 writes processor_config.json and no preprocessor_config.json."""
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPProcessor

    shutil.copytree(clip_folder, tmp_path / "clip")
    (tmp_path / "clip" / "preprocessor_config.json").unlink()
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16, image_mean=[0.5] * 3)
    tokenizer = AutoTokenizer.from_pretrained(clip_folder)
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(tmp_path / "clip")
    assert FolderClip(tmp_path / "clip").image_features(pictures).shape == (5, 8)
    assert FolderClip(tmp_path / "clip").identity != FolderClip(clip_folder).identity


@pytest.mark.thorough
def test_judges_are_named_by_content_wherever_they_lie(clip_folder, classifier_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    shutil.copytree(classifier_folder, tmp_path / "vit")
    first = ZeroShot(folder=clip_folder).identity
    assert ZeroShot(folder=tmp_path / "clip").identity == first
    assert ZeroShot(folder=clip_folder, threshold=0.7).identity == first  # answers are the same
    assert ZeroShot(folder=clip_folder, alternatives=("a red house",)).identity != first
    assert (
        Classifier(folder=tmp_path / "vit").identity
        == Classifier(folder=classifier_folder).identity
    )
    for folder, judge in ((tmp_path / "clip", ZeroShot), (tmp_path / "vit", Classifier)):
        before = judge(folder=folder).identity
        changed = {**PREPROCESSOR, "image_mean": [0.4] * 3}
        (folder / "preprocessor_config.json").write_text(json.dumps(changed))
        prepared = judge(folder=folder).identity
        weights = load_file(folder / "model.safetensors")
        name = max(weights, key=lambda each: weights[each].numel())
        save_file({**weights, name: weights[name] * 1.01}, folder / "model.safetensors")
        assert len({before, prepared, judge(folder=folder).identity}) == 3


def test_asking_does_not_change_what_a_judge_is_called(clip_folder, pictures):
    clip = FolderClip(clip_folder)
    clip.text_features(["a photo of a cat", "art"])
    assert FolderClip(clip_folder).identity == clip.identity
    judge = ZeroShot(folder=clip_folder)
    before = judge.identity
    judge.presence(pictures, PISTOL)
    assert judge.identity == before


def test_classifier_sums_the_labels_of_a_concept(classifier_folder, pictures):
    from transformers import AutoModelForImageClassification

    judge = Classifier(folder=classifier_folder)
    model = AutoModelForImageClassification.from_pretrained(classifier_folder).eval()
    with torch.no_grad():
        logits = model(pixel_values=Preprocessing.from_folder(classifier_folder)(pictures)).logits
    shares = logits.softmax(dim=-1)
    torch.testing.assert_close(judge.presence(pictures, PISTOL), shares[:, 1] + shares[:, 2])
    tench = Concept(name="Tinca tinca")
    torch.testing.assert_close(judge.presence(pictures, tench), shares[:, 0])
    numbered = Concept(name="anything", labels=(0, 2))
    torch.testing.assert_close(judge.presence(pictures, numbered), shares[:, 0] + shares[:, 2])


def test_classifier_refuses_what_it_has_no_label_for(classifier_folder, pictures):
    judge = Classifier(folder=classifier_folder)
    assert judge.knows(PISTOL)
    assert not judge.knows(Concept(name="zeppelin"))
    assert not judge.knows(Concept(name="zeppelin", labels=(17,)))
    with pytest.raises(BadRequest, match="no label for 'zeppelin'"):
        judge.presence(pictures, Concept(name="zeppelin"))


@pytest.mark.parametrize("judge", [ZeroShot, Classifier])
def test_bad_folders_are_named(judge, tmp_path, clip_folder):
    with pytest.raises(MissingInput, match="is not a folder"):
        judge(folder=tmp_path / "nothing")
    with pytest.raises(BadModel, match=r"has no config\.json"):
        judge(folder=tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadModel, match="not readable as JSON"):
        judge(folder=tmp_path)
    with pytest.raises(BadRequest, match=r"threshold is 1\.5"):
        judge(folder=clip_folder, threshold=1.5)


def test_other_and_truncated_models_are_refused(tmp_path, clip_folder, classifier_folder):
    with pytest.raises(BadModel, match="model of type 'vit'"):
        ZeroShot(folder=classifier_folder)
    broken = tmp_path / "clip"
    shutil.copytree(clip_folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BadModel, match="does not load as CLIP"):
        ZeroShot(folder=broken)
    shutil.copy(clip_folder / "config.json", tmp_path)
    with pytest.raises(BadModel, match=r"has no preprocessor_config\.json"):
        FolderClip(tmp_path)


def test_sizes_nobody_understands_are_refused(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": "large"}))
    with pytest.raises(BadModel, match="does not say how its model wants pictures"):
        Preprocessing.from_folder(tmp_path)
    kind = {"image_processor_type": "ViTImageProcessor", "size": "large"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(kind))
    with pytest.raises(BadModel, match="image processor"):
        Preprocessing.from_folder(tmp_path)(torch.zeros(1, 3, 8, 8))


def test_a_zero_shot_judge_needs_alternatives(clip_folder):
    with pytest.raises(BadRequest, match="needs alternatives"):
        ZeroShot(folder=clip_folder, alternatives=())
