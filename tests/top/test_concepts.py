"""Concepts, requests and their refusals; settings and names found without importing."""

import textwrap
from pathlib import Path

import pytest

from efface import registry
from efface.bundled.vocabulary import canonical
from efface.concepts import (
    Concept,
    Erasure,
    ErasureRequest,
    bare,
    described,
    request,
    request_from,
    wordings,
)
from efface.contracts import Sample
from efface.errors import BadRequest, Refused


def test_wordings_fill_templates_with_every_name_or_are_those_given():
    concept = Concept(name="pistol", synonyms=("handgun",))
    assert wordings(concept)[0] == "pistol"
    assert "a photo of a handgun" in wordings(concept)
    assert wordings(Concept(name="pistol", prompts=("my gun",))) == ("my gun",)
    assert wordings(Concept(name="monet", kind="style"))[1] == "a painting in the style of monet"


def test_a_request_from_words_and_back_from_json():
    made = request(
        ["pistol", Concept(name="snoopy", kind="person", images=(Path("a.png"),), labels=(3,))],
        anchor="lamp",
        keep=["cat"],
    )
    assert [erasure.concept.name for erasure in made.erasures] == ["pistol", "snoopy"]
    assert all(erasure.anchor == Concept(name="lamp") for erasure in made.erasures)
    assert request_from(described(made)) == made
    assert request("pistol", anchor="").erasures[0].anchor is None
    with pytest.raises(BadRequest, match="damaged"):
        request_from({"erasures": [{"concept": {"nme": "x"}}]})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Concept(name=" "), "empty name"),
        (lambda: Concept(name="x", kind="thing"), "no kind of concept"),
        (lambda: Concept(name="x", prompts=("",)), "empty prompt"),
        (lambda: request("Pistol", anchor="pistol "), "replaced by itself"),
        (lambda: ErasureRequest(erasures=()), "erases nothing"),
        (lambda: request(["cat", " cat "]), "erased twice"),
        (lambda: request("cat", keep=["CAT"]), "both erased and kept"),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(BadRequest, match=message):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: Concept(name="nudity", synonyms=("minors",)),
        lambda: Erasure(concept=Concept(name="nudity"), anchor=Concept(name="child")),
    ],
)
def test_minors_and_sexual_content_together_are_refused(build):
    with pytest.raises(Refused, match="name each kind of content on its own"):
        build()


def test_either_alone_is_accepted():
    request("nudity", keep=["child", "kid rock"])


def test_a_sample_is_known_by_all_its_fields():
    one = Sample("a cat", 0, "kept", Concept(name="cat"))
    assert one.id == Sample("a cat", 0, "kept", Concept(name="cat")).id
    others = [
        Sample("a cat", 1, "kept", Concept(name="cat")),
        Sample("a cat", 0, "erased", Concept(name="cat")),
        Sample("a cat", 0, "kept"),
        Sample("a cat", 0, "kept", Concept(name="cat"), Concept(name="noto", kind="style")),
    ]
    assert len({one.id, *(other.id for other in others)}) == 5
    assert len(one.id) == 16


def test_names_are_suggested():
    with pytest.raises(BadRequest, match="did you mean rece"):
        registry.find("methods", "recce")
    with pytest.raises(BadRequest, match="no metric called 'x'; known:"):
        registry.find("metrics", "x")


def test_settings_are_read_from_the_source():
    entry = registry.find("methods", "uce")
    ridge = next(setting for setting in entry.settings if setting.name == "ridge")
    assert (ridge.type, ridge.default) == ("float", "0.5")
    assert ridge.doc.startswith("Pull toward the unedited weights")
    assert entry.class_name == "Uce"


def test_a_method_of_another_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    (package / "better.py").write_text(
        textwrap.dedent('''
            """Erases better."""
            class Better:
                """Does."""
                depth: int = 3
                """How deep."""
                def erase(self): ...
        ''')
    )
    facts = tmp_path / "elsewhere-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[efface.methods]\nbetter = elsewhere.better:Better\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry = registry.find("methods", "better")
    assert (entry.summary, entry.module) == ("Erases better.", "elsewhere.better")
    assert entry.settings[0].doc == "How deep."


def test_two_classes_in_one_file_are_ambiguous(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_ROOT", tmp_path)
    (tmp_path / "methods").mkdir()
    body = "class One:\n    def erase(self): ...\nclass Two:\n    def erase(self): ...\n"
    (tmp_path / "methods" / "both.py").write_text(body)
    with pytest.raises(BadRequest, match="defines One and Two"):
        registry.entries("methods")


@pytest.mark.parametrize("nothing", ["", " ", "\t\n"])
def test_nothing_has_no_article(nothing):
    assert bare(nothing) == nothing.casefold()
    assert canonical(nothing) is None


@pytest.mark.parametrize(
    ("name", "same"),
    [("caf\u00e9", "cafe\u0301"), ("pistol", "pis\u200btol"), ("cat", "\uff43\uff41\uff54")],
)
def test_one_word_in_two_spellings_of_unicode_is_one(name, same):
    with pytest.raises(BadRequest, match="both erased and kept"):
        request(name, keep=[same])
    with pytest.raises(BadRequest, match="replaced by itself"):
        request(name, anchor=same)
    if name != "cat":  # encoders that tell capitals apart may tell wide letters apart, too
        with pytest.raises(BadRequest, match="erased twice"):
            request([name, same])


def test_a_name_of_marks_that_nobody_sees_is_empty():
    with pytest.raises(BadRequest, match="empty name"):
        request("\u200b\u2060")


def test_one_kept_name_is_not_its_letters():
    assert [each.name for each in request("pistol", keep="cat").keep] == ["cat"]
    assert request("pistol", keep=None).keep == ()
    for given in ({"synonyms": "revolver"}, {"prompts": "a pistol"}):
        with pytest.raises(BadRequest, match="is one text, and several are wanted"):
            Concept(name="pistol", **given)


@pytest.mark.parametrize("odd", [3, b"pistol", ["cat"]])
def test_names_are_text(odd):
    with pytest.raises(BadRequest, match="name concepts by text"):
        request("pistol", anchor=odd)
    with pytest.raises(BadRequest, match="names no concepts"):
        request(3)
