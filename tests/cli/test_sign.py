"""A signature holds for the folder as it was signed, by the key that signed it, and no further."""

import json
import sys

import pytest


def keys(folder):
    """Makes a pair of keys as PEM files."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir()
    private = ec.generate_private_key(ec.SECP256R1())
    plain = (form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    (folder / "private.pem").write_bytes(private.private_bytes(*plain))
    public = private.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "public.pem").write_bytes(public)
    return folder / "private.pem", folder / "public.pem"


@pytest.fixture
def signed(efface, a_run, tmp_path):
    """A signed run, with its signature and public key."""
    pytest.importorskip("model_signing.signing")
    (a_run / "card.json").write_text(json.dumps({"identity": {"delta": delta_of(a_run)}}))
    private, public = keys(tmp_path / "keys")
    outcome = efface("sign", a_run, "--key", private)
    assert outcome.code == 0, outcome
    return a_run, a_run / "model.sig", public


def delta_of(run):
    return json.loads((run / "run.json").read_text())["delta"]


@pytest.mark.thorough
def test_a_signed_run_is_verified(efface, signed, model):
    run, signature, public = signed
    outcome = efface("verify", run, "--model", model, "--signature", signature, "--key", public)
    assert outcome.code == 0, outcome
    assert "every file, by that key" in outcome.out + outcome.err


@pytest.mark.thorough
@pytest.mark.parametrize("change", ["card", "added", "gone", "key", "signature"])
def test_a_changed_folder_and_another_key_are_told(efface, signed, tmp_path, change):
    run, signature, public = signed
    if change == "card":
        (run / "card.json").write_text("{}")
    elif change == "added":
        (run / "extra.txt").write_text("x")
    elif change == "signature":
        signature.write_text("{}")
    elif change == "gone":
        (run / "curves.jsonl").unlink()
    else:
        public = keys(tmp_path / "others")[1]
    outcome = efface("verify", run, "--signature", signature, "--key", public)
    assert outcome.code == 1, outcome
    assert "the signature does not hold" in outcome.out + outcome.err


@pytest.mark.thorough
def test_a_signed_folder_is_named_as_one_likes(efface, signed, monkeypatch):
    run, _, public = signed
    monkeypatch.chdir(run.parent)
    check = ("--signature", f"{run.name}/model.sig", "--key", public)
    assert efface("verify", run.name, *check).code == 0
    monkeypatch.chdir(run)
    assert efface("verify", ".", "--signature", "model.sig", "--key", public).code == 0


def test_a_signed_folder_that_is_no_run(efface, signed, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "card.json").write_text("{}")
    private, public = keys(tmp_path / "more")
    assert efface("sign", folder, "--key", private, "--out", tmp_path / "a.sig").code == 0
    check = ("verify", folder, "--signature", tmp_path / "a.sig", "--key", public)
    assert efface(*check, "--json").json == {"different": [], "agrees": True}
    again = efface("sign", folder, "--key", private, "--out", tmp_path / "a.sig")
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "is there already" in again.err
    (tmp_path / "bad.pem").write_text("no key")
    bad = efface("sign", folder, "--key", tmp_path / "bad.pem")
    assert (bad.code, bad.err.count("\n")) == (2, 1)
    assert "cannot sign" in bad.err


def test_without_the_extra_it_is_said(efface, a_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    (tmp_path / "key.pem").write_text("x")
    outcome = efface("sign", a_run, "--key", tmp_path / "key.pem")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert 'pip install "efface[sign]"' in outcome.err


@pytest.mark.parametrize("flag", ["--signature", "--key"])
def test_one_of_signature_and_key_is_not_enough(efface, a_run, tmp_path, flag):
    outcome = efface("verify", a_run, flag, tmp_path / "x")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "give --signature FILE and --key FILE" in outcome.err


def test_a_key_in_the_folder_is_refused(efface, a_run):
    (a_run / "private.pem").write_text("x")
    outcome = efface("sign", a_run, "--key", a_run / "private.pem")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "keep keys elsewhere" in outcome.err
