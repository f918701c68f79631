"""The verb ``hardest``: what it refuses before any work, and what it writes."""

import json

import pytest
import torch

from efface.cli.main import main
from efface.hosts.vision_families import VISION_HOSTS
from efface.selection.forget_sets import ForgetSet
from tests.pictures import stripes


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((), "draws pictures; give --prompts"),
        (("--prompts", "--data", "somewhere"), "leave out --data"),
        (("--prompts", "--model", "icons-vit"), "unless it is a bundled generator"),
        (("--prompts", "--by", "class"), "--by class is for pictures"),
        (("--prompts", "--size", "-1"), "neither may be negative"),
        (("--prompts", "--search", "worst_cse"), "did you mean worst_case"),
        (("--prompts", "--search-settings", "rounds"), "'rounds' is no setting"),
        (("--prompts", "--search-settings", "rounds=none"), "worst_case:"),
        (("--prompts", "--method", "uxe"), "no method called 'uxe'"),
        (("--model", "icons-vit", "--candidates", "99999999"), "and there are"),
        (("--model", "somewhere"), "which pictures"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path, capsys, given, told):
    assert main(["hardest", *given, "--out", str(tmp_path / "out")]) == 2
    written = capsys.readouterr().err
    assert told in written
    assert written.count("\n") <= 2
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_refused(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("kept")
    assert main(["hardest", "--prompts", "--out", str(tmp_path)]) == 2
    assert "is there and not empty" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "kept"


@pytest.fixture
def toy(monkeypatch):
    """Lets the verb load a toy classifier and its pictures."""
    (kind,) = (host for host in VISION_HOSTS if host.key == "classifier")
    model = kind.toy(classes=6)
    monkeypatch.setattr("efface.cli.hardest.load_host", lambda *_: model)
    pictures = stripes(model.labels, each=2)
    monkeypatch.setattr("efface.data.places.open_pictures", lambda _: pictures)


@pytest.mark.parametrize("by", ["picture", "class"])
def test_it_writes_the_set_a_figure_and_a_page(tmp_path, capsys, toy, by):
    out = tmp_path / "out"
    given = ["--model", "toy", "--data", "here", "--by", by, "--size", "2", "--json"]
    more = ["--search-settings", "rounds=2", "--method-settings", "epochs=1"]
    assert main(["hardest", *given, *more, "--out", str(out)]) == 0
    told = json.loads((out / "forget_set.json").read_text())
    assert json.loads(capsys.readouterr().out)["chosen"] == told["chosen"]
    assert len(told["names"]) == len(told["chosen"]) == 2
    assert told["settings"]["rounds"] == 2
    assert len(told["losses"]) == (12 if by == "picture" else 6)
    page = (out / "index.html").read_text()
    assert "<script" not in page
    assert all(name in page for name in told["names"])
    assert all(len(near) == 4 and name not in near for name, near in told["neighbours"].items())
    assert (out / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_names_on_the_page_are_text():
    from efface.reports.hardest import exhibits, hardest_page, losses_figure

    losses = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = ForgetSet(torch.tensor([0]), losses, losses / 3, (), easiest=False, stable=True)
    names = ("<b>bold</b>", "plain")
    shown = [("all", exhibits(losses, names, [0], [[1]]))]
    page = hardest_page("t", [], shown, lambda _: torch.zeros(3, 8, 8), losses_figure(found))
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page
