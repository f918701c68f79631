"""The shell answers at once, and says what to do when it is asked for something odd."""

import json
import resource
import subprocess
import sys

import pytest

from efface.cli.main import VERBS, main

QUICK = (
    ["--help"],
    ["list", "methods"],
    ["list", "judges"],
    ["list", "concepts"],
    ["list", "models"],
)


def run_alone(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.thorough
@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_answers_in_half_a_second_of_processor_time(arguments):
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run_alone(f"from efface.cli.main import main; main({arguments})")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(times) < 0.5


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_imports_nothing_heavy(arguments):
    heavy = ("torch", "diffusers", "transformers", "peft", "matplotlib")
    done = run_alone(
        "import sys; from efface.cli.main import main; "
        f"main({arguments}); sys.exit(repr([m for m in {heavy} if m in sys.modules]))"
    )
    assert done.stderr.strip() == "[]"


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)


def test_every_verb_has_help(capsys):
    for verb in VERBS:
        try:
            code = main([verb, "--help"])
        except SystemExit as stop:
            code = stop.code
        assert code in (0, None)
        assert "efface" in capsys.readouterr().out


def test_without_a_verb_shows_help_and_fails(capsys):
    assert main([]) == 2
    assert "verbs:" in capsys.readouterr().out


def test_unknown_verb_suggests(capsys):
    assert main(["erse"]) == 2
    assert capsys.readouterr().err == (
        f"efface: there is no verb called 'erse'; did you mean erase? known: {', '.join(VERBS)}\n"
    )


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("efface 0.")


def test_list_as_json_holds_settings(capsys):
    assert main(["list", "methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["methods"]
    assert all({"name", "summary", "settings"} <= set(row) for row in rows)


def test_bad_flag_is_one_line_and_json_for_machines(capsys):
    assert main(["list", "concepts", "--jsn"]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert "--jsn" in shown.err
    assert main(["list", "nothing", "--json"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["kind"] == "BadRequest"
