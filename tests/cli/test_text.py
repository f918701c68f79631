"""Markup, control characters and odd encodings in arguments are shown as text, or refused."""

import os
import subprocess
import sys

import pytest

CODE = "import sys; from efface.cli.main import main; sys.exit(main())"


def command(*arguments, **options):
    environment = {**os.environ, **options.pop("env", {})}
    words = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.run(
        words, env=environment, capture_output=True, timeout=120, check=False, **options
    )


@pytest.mark.parametrize(
    "name",
    [
        *("[/b]", "a\x1b[31mb", "\u202eab", "ü"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("[/]", "[b]bold", "[red]")),
    ],
)
def test_a_ledger_shows_any_name(efface, model, tmp_path, name):
    book = tmp_path / "[b][/] \x1b[31m"
    add = ("ledger", "add", book, "--model", model, "--concept", name, "--id", "r1")
    shown = name.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")
    assert f"added r1: {shown} (" in efface(*add).out
    listed = efface("ledger", "list", book)
    assert listed.code == 0
    assert f"  {shown}  active" in listed.out
    revoke = ("ledger", "revoke", book, "--id", "r1", "--reason", name)
    assert efface(*revoke).code == 0
    assert f"{shown}\n" in efface("ledger", "list", book).out
    assert "\x1b" not in listed.out + efface("ledger", "list", tmp_path / "a\x1b[31m").err


def test_help_is_shown_whole(efface):
    shown = efface("erase", "--help").out
    assert "[uce] and [esd]" in shown
    assert "a [[stage]] table for each" in shown


def test_bytes_that_are_no_text_are_refused(efface, model, tmp_path):
    out = tmp_path / "run"
    for verb in (
        ("erase", "uce", "--model", model, "--concept", "\udcff", "--out", out),
        ("generate", "--model", model, "--prompt", "\udcff", "--out", tmp_path / "a.png"),
        ("ledger", "add", out, "--model", model, "--concept", "\udcff"),
    ):
        outcome = efface(*verb)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
        assert "bytes that are not text" in outcome.err
    assert not out.exists()


@pytest.mark.parametrize("verb", ["list", "nothing"])
def test_any_terminal_will_do(tmp_path, verb):
    plain = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = command(*((verb, "methods") if verb == "list" else (verb, "ü\udcff")), env=plain)
    assert (done.returncode, done.stderr.count(b"\n")) == ((0, 0) if verb == "list" else (2, 1))


@pytest.mark.thorough
@pytest.mark.parametrize("closed", ["1", "2", "0 1 2"])
def test_closed_streams_are_no_trouble(closed):
    def close():
        for number in map(int, closed.split()):
            os.close(number)

    done = command("list", "methods", preexec_fn=close)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("list", "methods"), ("--help",), ("list", "suites", "--json")]
)
def test_a_full_output_is_one_line(arguments):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-c", CODE, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
    assert b"no space left" in done.stderr.lower()
