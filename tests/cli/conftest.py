"""A toy model on disk, a finished run of it, and a way to call the command line."""

import json
import shutil
from dataclasses import dataclass

import pytest

from efface.cli.main import main


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def efface(capsys):
    """Runs a command in this process."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A folder with a toy Stable Diffusion 1.x model."""
    from efface.hosts.families import tiny_pipeline

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline("sd1", seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def other_model(tmp_path_factory):
    """The same layout with other weights."""
    from efface.hosts.families import tiny_pipeline

    folder = tmp_path_factory.mktemp("models") / "other"
    tiny_pipeline("sd1", seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def made_run(model, tmp_path_factory):
    """A run of the toy model; copy it before changing it."""
    folder = tmp_path_factory.mktemp("runs") / "pistol"
    erase = ["erase", "uce", "--model", model, "--concept", "pistol", "--keep", "cat", "--smoke"]
    assert main([str(word) for word in [*erase, "--no-evaluate", "--out", folder]]) == 0
    return folder


@pytest.fixture
def a_run(made_run, tmp_path):
    """A copy of the run that a test may break."""
    return shutil.copytree(made_run, tmp_path / "run")


@pytest.fixture
def broken_model(model, tmp_path):
    """A copy of the toy model that a test may break."""
    return shutil.copytree(model, tmp_path / "model")
