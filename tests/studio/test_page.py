"""The page in Debian's Chromium: names are text, and every tab does its work."""

import json
import shutil

import pytest

from tests.studio import tour

needs = pytest.mark.skipif(tour.missing() is not None, reason=str(tour.missing()))


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A folder with a run whose name would be a picture if it were not text."""
    import efface
    from efface.hosts.loading import load

    root = tmp_path_factory.mktemp("studio") / "runs"
    result = efface.erase(load("emoji"), "pistol", method="uce")
    result.save(root / tour.EVIL)
    result.save(root / "pistol-uce")
    record = json.loads((root / tour.EVIL / "run.json").read_text())
    assert record["delta"] == result.delta.id
    return root


@pytest.mark.slow
@needs
def test_names_are_text_and_nothing_is_asked_of_other_machines(pair, tmp_path, monkeypatch):
    """Also: a studio that is ended leaves no picture among temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with tour.studio(pair) as (address, _), tour.screen(address) as shown:
        shown.open(address)
        shown.tab("Runs")
        shown.wait("#runs [role=gridcell]", tour.EVIL)
        shown.choose("#run", tour.EVIL)
        shown.page.click("#card")
        shown.wait("#shown", "not measured")
        shown.tab("Look")
        shown.page.wait_for_timeout(500)
        assert shown.page.title() == "efface studio"
        assert not shown.page.query_selector("img[src=x]")
        assert (shown.complaints, shown.foreign) == ([], [])
        assert [*tmp_path.glob("efface-studio-*")]
    assert not [*tmp_path.glob("efface-studio-*")]


@pytest.mark.slow
@needs
@pytest.mark.parametrize("size", [*tour.SIZES])
@pytest.mark.parametrize("dark", [False, True])
def test_every_tab_fits_the_screen(pair, size, dark):
    with tour.studio(pair) as (address, _), tour.screen(address, size) as shown:
        shown.open(address, dark=dark)
        for name in ("Erase", "Strength", "Look", "Collateral", "Attack", "Runs", "Recognisers"):
            shown.tab(name)
            assert shown.wide() <= 0, name
        assert (shown.complaints, shown.foreign) == ([], [])


@pytest.mark.slow
@needs
def test_every_tab_does_its_work(tmp_path):
    with tour.studio(tmp_path / "runs") as (address, _), tour.screen(address) as shown:
        shown.open(address)
        assert tour.erase(shown) < 60
        shown.open(address)
        tour.erase(shown, concept="knife")
        shown.open(address)
        tour.strength(shown)
        tour.look(shown)
        tour.collateral(shown)
        tour.attack(shown)
        tour.runs(shown, "pistol-uce", "knife-uce")
        tour.recognisers(shown)
        assert (shown.complaints, shown.foreign) == ([], [])


@pytest.mark.slow
@needs
def test_a_closed_page_ends_its_training_and_leaves_its_checkpoint(pair, tmp_path):
    """The next page's job starts at once, on the model as it was, and the training goes on."""
    with tour.studio(pair) as (address, _):
        with tour.screen(address) as shown:
            shown.open(address)
            shown.choose("#concepts", "pistol")
            shown.choose("#method", "esd")
            shown.page.click("#erase")
            shown.wait("#erase-status figure")
        with tour.screen(address) as shown:
            shown.open(address)
            shown.tab("Strength")
            shown.page.click("#strength-draw")
            shown.wait("#strength-slider img")
        assert (pair / "pistol-esd.checkpoint").is_dir()
        assert not (pair / "pistol-esd" / "run.json").exists()


@pytest.mark.slow
@needs
def test_a_token_opens_the_page(pair):
    token = "0123456789abcdef"
    with tour.studio(pair, "--token", token) as (address, _), tour.screen(address) as shown:
        shown.page.goto(address)
        assert "open the address with its token" in shown.page.content()
        shown.page.goto(f"{address}?token={token}")
        shown.page.wait_for_selector("[role=tablist]")
        assert shown.complaints == []


def test_the_tour_knows_what_it_lacks(monkeypatch):
    monkeypatch.setattr(tour, "find_spec", lambda name: None if name == "gradio" else name)
    assert tour.missing() == "gradio is not installed"
    monkeypatch.setattr(tour, "find_spec", lambda name: name)
    monkeypatch.setattr(tour, "CHROMIUM", None)
    assert tour.missing() == "there is no chromium"
    monkeypatch.setattr(tour, "CHROMIUM", shutil.which("sh"))
    assert tour.missing() is None
