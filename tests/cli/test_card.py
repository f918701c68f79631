"""``efface card``: what a hub is given, of ``card.json`` alone; nothing is sent unasked."""

import json
import shutil

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard, parse_eval_result_entries
from huggingface_hub.errors import HfHubHTTPError

from efface.reports.cards import card_values, write_json_card, write_model_card
from efface.reports.facts import run_facts
from efface.workbench import runs
from tests.reports.conftest import RUN, made


@pytest.fixture
def measured(a_run, tmp_path):
    """A run with the cards of an evaluation made by hand."""
    evaluation = made(tmp_path / "measured")
    delta = json.loads((a_run / "run.json").read_text())["delta"]
    from dataclasses import replace

    evaluation = replace(evaluation, after=replace(evaluation.after, delta=delta))
    facts = run_facts(evaluation, RUN)
    write_json_card(a_run / "card.json", evaluation, facts)
    write_model_card(a_run / "card.md", evaluation, facts)
    runs.record_reports(a_run, ("card.json", "card.md"))
    return a_run


def test_a_repository_is_made_of_card_json_alone(efface, measured, tmp_path):
    extra = tmp_path / "lora.safetensors"
    extra.write_bytes(b"x")
    (measured / "card.md").write_text("not read")
    out = tmp_path / "repository"
    names = ("--base-model", "someone/some-model", "--license", "openrail", "--license-link", "x")
    outcome = efface("card", measured, "--out", out, "--file", extra, *names, "--json")
    assert outcome.code == 0, outcome
    card = ModelCard.load(out / "README.md")
    told = card.data
    assert (told.license, told.license_link, told.base_model) == (
        "openrail", "x", "someone/some-model"
    )  # fmt: skip
    assert told.base_model_relation == "adapter"
    assert told.language == ["en"]
    for heading in ("## Uses", "### Direct Use", "### Out-of-Scope Use", "## License"):
        assert f"\n{heading}\n" in card.content
    assert "\n## Bias, Risks, and Limitations\n" in card.content
    values = json.loads((out / "card.json").read_text())
    assert values["publishing"]["license"] == "openrail"
    entries = parse_eval_result_entries(
        yaml.safe_load((out / ".eval_results" / "efface.yaml").read_text())
    )
    legacy = {(one.dataset_config, one.metric_type): one for one in told.eval_results}
    assert len(entries) == len(legacy)
    for entry in entries:
        role, _, metric = entry.task_id.partition("_")
        assert legacy[role, metric].metric_value == entry.value
        assert legacy[role, metric].metric_name == entry.notes
    held = {path.name for path in out.iterdir()}
    assert {"README.md", "card.json", "delta.safetensors", "lora.safetensors"} <= held
    assert "run.json" not in held, "it names places of a machine"


def test_an_edited_folder_holds_card_and_results(efface, measured, model, tmp_path):
    out = tmp_path / "edited"
    export = ("export", measured, "--as", "diffusers", "--model", model, "--out", out)
    assert efface(*export).code == 0
    assert json.loads((out / "card.json").read_text())["format"] == 2
    assert yaml.safe_load((out / ".eval_results" / "efface.yaml").read_text())
    assert ModelCard.load(out / "README.md").data.eval_results


def test_a_folder_of_weights_is_a_finetune_of_its_base(efface, measured, model, tmp_path):
    named = efface("card", measured, "--base-model", "someone/some-model").out
    (measured / "card.md").write_text(named)
    out = tmp_path / "edited"
    assert efface("export", measured, "--as", "diffusers", "--model", model, "--out", out).code == 0
    assert ModelCard(named).data.base_model_relation == "adapter"
    assert ModelCard.load(out / "README.md").data.base_model_relation == "finetune"


def test_without_a_place_the_card_is_printed(efface, measured):
    outcome = efface("card", measured)
    assert outcome.code == 0
    assert ModelCard(outcome.out).data.library_name == "diffusers"


def test_nothing_is_sent_unless_told_to(efface, measured, monkeypatch):
    sent = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, *a, **k: sent.append((a, k)))

    def upload(self, *, folder_path, **_):
        sent.append(sorted(path.name for path in folder_path.iterdir()))
        return "url"

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    outcome = efface("card", measured, "--push", "me/pistol")
    assert outcome.code == 0
    assert "dry run: nothing was sent to me/pistol" in outcome.out + outcome.err
    assert "README.md" in outcome.out + outcome.err
    assert sent == []
    outcome = efface("card", measured, "--push", "me/pistol", "--no-dry-run", "--private", "--json")
    assert outcome.json["commit"] == "url"
    (repository, how), files = sent
    assert (repository, how["private"]) == (("me/pistol",), True)
    assert "README.md" in files


def test_a_hub_that_refuses_is_one_line(efface, measured, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError("no route to the hub\nand more")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    outcome = efface("card", measured, "--push", "me/pistol", "--no-dry-run")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "the hub did not take me/pistol (no route to the hub); log in" in outcome.err
    assert issubclass(HfHubHTTPError, OSError), "what the hub says is caught by the same line"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--push", "nobody"), "give owner/name"),
        (("--push", "a b/c"), "is no name on the hub"),
        (("--base-model", "../x"), "give owner/name"),
        (("--out", "{out}", "--file", "{nothing}"), "there is no file"),
        (("--out", "{out}", "--file", "{run}/card.json"), "has the name of another file"),
    ],
)
def test_bad_input_is_one_line(efface, measured, tmp_path, arguments, text):
    places = {"out": tmp_path / "out", "nothing": tmp_path / "nothing", "run": measured}
    outcome = efface("card", measured, *(word.format(**places) for word in arguments))
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
    assert text in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_run_without_its_card_is_refused(efface, measured, tmp_path):
    bare = shutil.copytree(measured, tmp_path / "bare")
    (bare / "card.json").unlink()
    assert "holds no card.json; measure it" in efface("card", bare).err
    values = json.loads((measured / "card.json").read_text())
    changed = shutil.copytree(measured, tmp_path / "changed")
    (changed / "card.json").write_text(json.dumps({**values, "verdict": "valid "}))
    assert "is not the one that was written" in efface("card", changed).err
    old = shutil.copytree(measured, tmp_path / "old")
    del values["publishing"]
    (old / "card.json").write_text(json.dumps({**values, "format": 1}))
    runs.record_reports(old, ("card.json",))
    outcome = efface("card", old)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "has format 1 and a card for hubs needs 2 or more" in outcome.err


def test_what_was_not_tested_is_listed_for_machines(tmp_path):
    evaluation = made(tmp_path)
    card = card_values(evaluation, run_facts(evaluation, RUN))
    listed = {(one["kind"], one["id"]) for one in card["not_tested"]}
    assert ("attack", "weights") in listed
    assert ("condition", "sampling") in listed
    assert ("role", "paraphrase") in listed
    assert ("role", "kept") not in listed
    assert all(one["what"] for one in card["not_tested"])
