"""What the README and the guide tell a newcomer to type must work."""

import json
import re
import shlex
from pathlib import Path

import pytest

import efface
from efface.bundled import weights_folder
from efface.exchange.adapter import write_adapter

ROOT = Path(__file__).parent.parent.parent
README, GUIDE = ROOT / "README.md", ROOT / "docs" / "guide.md"
PAGES = {
    page.stem: page
    for page in sorted((ROOT / "docs").glob("*.md"))
    if re.search(r"^efface ", page.read_text("utf-8"), flags=re.MULTILINE)
}
built = pytest.mark.skipif(
    not (weights_folder() / "pipeline" / "model_index.json").exists(),
    reason="the bundled model is not built yet: make emoji",
)


USUAL_RECIPE = '[[stage]]\nmethod = "uce"\n'


def blocks(page, language):
    text = page.read_text("utf-8")
    every = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in every if name == language]


@pytest.mark.thorough
@built
def test_the_python_example_runs_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(README, "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "no_pistol.png").exists()
    assert (tmp_path / "runs" / "pistol" / "delta.safetensors").exists()


@built
@pytest.mark.slow
def test_the_python_of_the_guide_runs_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(GUIDE, "python")
    exec(compile(example, "guide.md", "exec"), {})
    assert (tmp_path / "without_both" / "model_index.json").exists()


@pytest.mark.slow
@built
def test_the_python_of_the_ledger_page_runs_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(PAGES["ledger"], "python")
    names = {}
    exec(compile(example, "ledger.md", "exec"), names)
    assert [entry.id for entry in names["book"].active] == ["T-107"]


@built
@pytest.mark.slow
def test_the_python_of_the_exchange_page_runs_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = efface.erase(efface.load("emoji"), "pistol", method="uce")
    write_adapter(made.delta, tmp_path / "adapter.safetensors", {})
    (example,) = blocks(PAGES["exchange"], "python")
    names = {}
    exec(compile(example, "exchange.md", "exec"), names)
    assert names["image"].size == (64, 64)


@pytest.mark.thorough
@built
def test_the_python_of_the_guides_page_runs_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, *_ = blocks(PAGES["guides"], "python")
    names = {}
    exec(compile(first, "guides.md", "exec"), names)
    assert names["drawn"].images[0].size == (64, 64)
    assert names["drawn"].evaluations == 60


def classes_of_verbs():
    """What holds the flags of each verb that has a class of them."""
    from efface.cli import (
        apply,
        attack,
        card,
        evaluate,
        export,
        hardest,
        importing,
        matrix,
        rerun,
        revoke,
        sign,
        sweep,
        transfer,
        verify,
    )
    from efface.cli.generate import Generate
    from efface.cli.list import List
    from efface.cli.studio import Studio

    return {
        "studio": Studio,
        "apply": apply.Apply,
        "attack": attack.AttackOptions,
        "matrix": matrix.MatrixOptions,
        "sweep": sweep.SweepOptions,
        "evaluate": evaluate.Evaluate,
        "verify": verify.Verify,
        "rerun": rerun.Rerun,
        "generate": Generate,
        "list": List,
        "hardest": hardest.HardestOptions,
        "export": export.Export,
        "card": card.Card,
        "sign": sign.Sign,
        "import": importing.Import,
        "transfer": transfer.Transfer,
        "revoke": revoke.Revoke,
    }


@pytest.mark.parametrize("page", [README, *PAGES.values()], ids=["README", *PAGES])
def test_every_command_line_parses(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rece.toml").write_text("ridge = 0.5\n")
    (tmp_path / "recipe.toml").write_text([*blocks(page, "toml"), USUAL_RECIPE][0])
    from efface.cli import ledger
    from efface.cli.choosing import choose
    from efface.cli.debias import read_flags
    from efface.cli.erase import Erase, with_goal
    from efface.cli.guiding import guides_of
    from efface.cli.plan import Plan
    from efface.cli.shell import parse

    verbs, kinds = classes_of_verbs(), {"erase": Erase, "plan": Plan}
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    commands = [
        shlex.split(line, comments=True)[1:] for line in lines if line.startswith("efface ")
    ]
    assert commands
    for verb, *words in commands:
        if words[-1:] == ["--help"]:
            with pytest.raises(SystemExit, match="0"):
                choose(words[0], words[1:], kinds[verb])
        elif verb == "debias":
            read_flags(words)
        elif verb == "ledger":
            parse(ledger.ACTIONS[words[0]][0], words[1:], prog="efface ledger", description="")
        elif verb in kinds:
            choose(words[0], with_goal(words[1:]), kinds[verb])
        else:
            parse(verbs[verb], guides_of(words)[0], prog=f"efface {verb}", description="")


def test_the_sweep_of_its_page_is_read_as_its_page_says(tmp_path):
    from efface.cli.sweep_file import KEYS, read_sweep

    first, *others = blocks(PAGES["sweeps"], "toml")
    for text in (first, *others):
        (tmp_path / "sweep.toml").write_text(text)
        made = read_sweep(tmp_path / "sweep.toml")
        if text is first:
            assert len(made.jobs()) == 36
    page = PAGES["sweeps"].read_text("utf-8")
    assert all(f"`{name}`" in page for name in KEYS)
    results = ROOT / "benchmarks" / "results" / "scheduling.json"
    local, processes, ray, _ = json.loads(results.read_text("utf-8"))["rows"]
    for row in (local, processes, ray):
        facts = (row[name] for name in ("workers", "milliseconds_per_job", "seconds_until_first"))
        assert f"| {row['run']} | {' | '.join(map(str, facts))} |" in page


@built
@pytest.mark.slow
def test_the_python_of_the_page_of_sweeps_runs_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(PAGES["sweeps"], "python")
    names = {}
    exec(compile(example, "sweeps.md", "exec"), names)
    assert names["rows"][0].rates["erased"][2] == 8


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^make (\S+)", "\n".join(blocks(README, "")), flags=re.MULTILINE)
    assert targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
