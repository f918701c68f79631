"""What the README tells a newcomer to type must work."""

import re
import shlex
from pathlib import Path

import pytest

from efface.emoji import weights_folder

README = (Path(__file__).parent.parent.parent / "README.md").read_text("utf-8")


def blocks(language):
    every = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in every if name == language]


@pytest.mark.skipif(
    not (weights_folder() / "pipeline" / "model_index.json").exists(),
    reason="the bundled model is not built yet: make emoji",
)
def test_the_python_example_runs_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "no_pistol.png").exists()
    assert (tmp_path / "runs" / "pistol" / "delta.safetensors").exists()


def test_every_command_line_parses():
    from efface.cli import apply, evaluate, rerun, verify
    from efface.cli.erase import choose
    from efface.cli.list import List
    from efface.cli.shell import parse

    verbs = {
        "apply": apply.Apply,
        "evaluate": evaluate.Evaluate,
        "verify": verify.Verify,
        "rerun": rerun.Rerun,
        "list": List,
    }
    lines = [line for block in blocks("") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("efface")]
    assert {command[0] for command in commands} == {"erase", *verbs}
    for verb, *words in commands:
        if verb == "erase":
            choose(words[0], words[1:])
        else:
            parse(verbs[verb], words, prog=f"efface {verb}", description="")


def test_every_make_target_exists():
    makefile = (Path(__file__).parent.parent.parent / "Makefile").read_text("utf-8")
    targets = re.findall(r"^make (\S+)", "\n".join(blocks("")), flags=re.MULTILINE)
    assert targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
