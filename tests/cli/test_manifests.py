"""C2PA manifests say what the card says, and fail for another file, card or signer."""

import base64
import datetime
import hashlib
import json
import shutil
import struct
import sys

import pytest
from safetensors import safe_open

from efface.deltas.delta import Delta
from efface.errors import BadRequest
from efface.exchange.manifest_slots import KEY, find_slot
from efface.exchange.manifests import statement
from efface.workbench import runs

FILE, MANIFEST = "delta.safetensors", "delta.c2pa"


def certificates(folder):
    """Makes an authority, a certificate that it issued for signing, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name):
        both = ((NameOID.ORGANIZATION_NAME, "Test"), (NameOID.COMMON_NAME, name))
        return x509.Name([x509.NameAttribute(*each) for each in both])

    def usage(*, ca):
        names = (
            "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
            "encipher_only", "decipher_only",
        )  # fmt: skip
        off = dict.fromkeys(names, False)
        return x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **off)

    folder.mkdir()
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    root, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    made = []
    for key, name, ca in ((root, "authority", True), (own, "signer", False)):
        found = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + 30 * day)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(usage(ca=ca), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )
        if not ca:
            mail = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            found = found.add_extension(mail, critical=False)
        made.append(found.sign(root, hashes.SHA256()).public_bytes(form.Encoding.PEM))
    authority, signer = made
    (folder / "authority.pem").write_bytes(authority)
    (folder / "signer.pem").write_bytes(signer + authority)
    # As `openssl ecparam -genkey` writes it, which is not PKCS #8.
    plain = (form.Encoding.PEM, form.PrivateFormat.TraditionalOpenSSL, form.NoEncryption())
    (folder / "private.pem").write_bytes(own.private_bytes(*plain))
    return folder


def with_card(run):
    delta = json.loads((run / "run.json").read_text())["delta"]
    card = {
        "identity": {"delta": delta, "base_model": "toy", "base": "0123"},
        "scope": {"erased": [{"name": "pistol", "kind": "object"}]},
        "change": {"method": "uce"},
        "summary": "Erased.",
    }
    (run / "card.json").write_text(json.dumps(card))
    return delta


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    pytest.importorskip("c2pa")
    return certificates(tmp_path_factory.mktemp("keys") / "ours")


@pytest.fixture
def signed(efface, a_run, keys):
    """A run with a manifest, and how it is checked."""
    with_card(a_run)
    (a_run / "attacks").mkdir(exist_ok=True)
    (a_run / "attacks" / "found.safetensors").write_bytes(b"of an attack, no edited model")
    given = ("--certificate", keys / "signer.pem", "--key", keys / "private.pem")
    outcome = efface("sign", a_run, "--c2pa", *given)
    assert outcome.code == 0, outcome
    return a_run, ("--c2pa", "--certificate", keys / "authority.pem")


@pytest.mark.thorough
def test_a_manifest_says_what_the_card_says(efface, signed, model, tmp_path):
    import c2pa

    run, check = signed
    before = (run / FILE).read_bytes()
    with (run / FILE).open("rb") as opened:
        reader = c2pa.Reader("application/octet-stream", opened, (run / MANIFEST).read_bytes())
        told = json.loads(reader.json())
    assert told["validation_state"] == "Valid"
    (manifest,) = told["manifests"].values()
    assertions = {each["label"]: each["data"] for each in manifest["assertions"]}
    said = assertions["efface.card"]
    assert said == statement(run)
    assert said["erased"] == ["pistol"]
    assert (said["base_model"], said["method"]) == ("toy", "uce")
    assert said["delta"] == runs.read_delta(run).id
    created, edited = assertions["c2pa.actions.v2"]["actions"]
    assert created["action"] == "c2pa.created"
    assert (edited["action"], edited["description"]) == (
        "c2pa.edited",
        "erased from toy by uce: pistol",
    )
    outcome = efface("verify", run, "--model", model, *check)
    assert outcome.code == 0, outcome
    assert "1 manifests hold, by signer (Test)" in outcome.out + outcome.err
    assert (run / FILE).read_bytes() == before
    other = shutil.copytree(run, tmp_path / "export")
    (other / "run.json").unlink()
    assert efface("verify", other, *check, "--json").json == {"different": [], "agrees": True}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("file", "Hashes do not match"),
        ("longer", "Hashes do not match"),
        ("card", "the manifest is of another card"),
        ("statement", "hash does not match assertion data"),
        ("cut", f"the manifest of {FILE} is damaged"),
        ("gone", f"{FILE} has no manifest {MANIFEST}"),
        ("authority", "signing certificate untrusted"),
    ],
)
def test_what_is_another_since_is_told(efface, signed, tmp_path, change, told):
    run, check = signed
    (run / "run.json").unlink()
    file, manifest = run / FILE, run / MANIFEST
    if change == "file":
        bytes_ = bytearray(file.read_bytes())
        bytes_[-1] ^= 1
        file.write_bytes(bytes_)
    elif change == "longer":
        file.write_bytes(file.read_bytes() + b"x")
    elif change == "card":
        card = json.loads((run / "card.json").read_text())
        (run / "card.json").write_text(json.dumps({**card, "summary": "Nothing was erased."}))
    elif change == "statement":
        assert manifest.read_bytes().count(b"Erased.") == 1
        manifest.write_bytes(manifest.read_bytes().replace(b"Erased.", b"Edited."))
    elif change == "cut":
        manifest.write_bytes(manifest.read_bytes()[:-100])
    elif change == "gone":
        manifest.unlink()
    else:
        check = (*check[:-1], certificates(tmp_path / "others") / "authority.pem")
    outcome = efface("verify", run, *check)
    assert outcome.code == 1, outcome
    assert told in outcome.out + outcome.err


def tensors_of(file):
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 + length :]


@pytest.fixture
def signed_inside(efface, a_run, keys):
    """A folder whose delta holds its manifest, its content before, and how it is checked."""
    with_card(a_run)
    before = tensors_of(a_run / FILE), runs.read_delta(a_run).id
    given = ("--certificate", keys / "signer.pem", "--key", keys / "private.pem")
    told = "holds the hash of its delta's file"
    refused(efface, told, "sign", a_run, "--c2pa", "--inside", *given)
    (a_run / "run.json").unlink()
    outcome = efface("sign", a_run, "--c2pa", "--inside", *given)
    assert outcome.code == 0, outcome
    return a_run, before, ("--c2pa", "--certificate", keys / "authority.pem")


@pytest.mark.thorough
def test_a_manifest_inside_is_bound_to_all_other_bytes_and_changes_no_tensor(
    efface, signed_inside, keys
):
    import c2pa

    run, before, check = signed_inside
    file = run / FILE
    assert not (run / MANIFEST).exists()
    assert (tensors_of(file), Delta.load(run).id) == before
    with safe_open(file, "pt") as opened:
        assert opened.metadata()[KEY]
    slot, content = find_slot(file), file.read_bytes()
    with file.open("rb") as opened:
        reader = c2pa.Reader("application/octet-stream", opened, slot.manifest)
        held = json.loads(reader.detailed_json())
    (manifest,) = held["manifests"].values()
    bound = manifest["assertion_store"]["c2pa.hash.data"]
    assert bound["exclusions"] == [{"start": slot.start, "length": slot.length}]
    rest = content[: slot.start] + content[slot.start + slot.length :]
    assert bound["hash"] == base64.b64encode(hashlib.sha256(rest).digest()).decode()
    outcome = efface("verify", run, *check)
    assert outcome.code == 0, outcome
    assert "1 manifests hold, by signer (Test)" in outcome.out + outcome.err
    given = ("--certificate", keys / "signer.pem", "--key", keys / "private.pem")
    for words in ((), ("--overwrite",), ("--inside",)):
        told = "renew it: --inside --overwrite"
        refused(efface, told, "sign", run, "--c2pa", *given, *words)
    assert efface("sign", run, "--c2pa", "--inside", "--overwrite", *given).code == 0
    assert len(file.read_bytes()) == len(content)
    assert efface("verify", run, *check).code == 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("tensor", "Hashes do not match"),
        ("metadata", "Hashes do not match"),
        ("moved", "leaves out other bytes than the manifest"),
        ("card", "the manifest is of another card"),
        ("manifest", "hash does not match assertion data"),
        ("authority", "signing certificate untrusted"),
        ("taken out", f"{FILE} has no manifest {MANIFEST}, and none in its header"),
        ("twice", "holds no one manifest"),
    ],
)
def test_what_is_another_since_it_was_signed_inside_is_told(
    efface, signed_inside, tmp_path, change, told
):
    run, _, check = signed_inside
    file = run / FILE
    content, slot = file.read_bytes(), find_slot(file)
    key = f'"{KEY}"'.encode()
    if change == "tensor":
        content = content[:-1] + bytes([content[-1] ^ 1])
    elif change == "metadata":
        assert content.count(b"toy") or content.count(b"pistol")
        content = content.replace(b"pistol", b"pistil", 1)
    elif change == "moved":
        (length,) = struct.unpack("<Q", content[:8])
        content = struct.pack("<Q", length + 8) + b" " * 8 + content[8:]
    elif change == "card":
        card = json.loads((run / "card.json").read_text())
        (run / "card.json").write_text(json.dumps({**card, "summary": "Nothing was erased."}))
    elif change == "manifest":
        assert slot.manifest.count(b"Erased.") == 1
        other = base64.b64encode(slot.manifest.replace(b"Erased.", b"Edited."))
        content = content[: slot.start] + other + content[slot.start + slot.length :]
    elif change == "taken out":
        content = content.replace(key, b'"c2pa;manifest"')
    elif change == "twice":
        (length,) = struct.unpack("<Q", content[:8])
        more = b'"__metadata__":{' + key + b':"AAAA",'
        content = content.replace(b'"__metadata__":{', more, 1)
        content = struct.pack("<Q", length + len(key) + 8) + content[8:]
    else:
        check = (*check[:-1], certificates(tmp_path / "others") / "authority.pem")
    file.write_bytes(content)
    outcome = efface("verify", run, *check)
    assert outcome.code == 1, outcome
    assert told in outcome.out + outcome.err


def test_a_damaged_header_has_no_slot(tmp_path):
    file = tmp_path / "x.safetensors"
    for content in (b"", b"\xff" * 12, struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b"{}"):
        file.write_bytes(content)
        with pytest.raises(BadRequest, match="no whole safetensors file"):
            find_slot(file)


def refused(efface, told, *words):
    outcome = efface(*words)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
    assert told in outcome.err


@pytest.mark.thorough
def test_what_cannot_be_signed_is_refused(efface, a_run, keys, tmp_path):
    given = ("--certificate", keys / "signer.pem", "--key", keys / "private.pem")
    refused(efface, "write it: efface card", "sign", a_run, "--c2pa", *given)
    with_card(a_run)
    other = certificates(tmp_path / "others") / "private.pem"
    words = ("sign", a_run, "--c2pa", "--certificate", keys / "signer.pem", "--key")
    refused(efface, "cannot sign as", *words, other)
    (tmp_path / "bad.pem").write_text("no key")
    refused(efface, "give a private key as PEM", *words, tmp_path / "bad.pem")
    assert efface("sign", a_run, "--c2pa", *given).code == 0
    refused(efface, "is there already; give --overwrite", "sign", a_run, "--c2pa", *given)
    assert efface("sign", a_run, "--c2pa", *given, "--overwrite").code == 0
    card = json.loads((a_run / "card.json").read_text())
    card["identity"]["delta"] = "0" * 16
    (a_run / "card.json").write_text(json.dumps(card))
    refused(efface, "is not the card of delta", "sign", a_run, "--c2pa", *given, "--overwrite")


@pytest.mark.thorough
def test_flags_that_do_not_go_together_are_refused(efface, a_run, tmp_path):
    (tmp_path / "key.pem").write_text("x")
    key = ("--key", tmp_path / "key.pem")
    for words in (
        ("--c2pa",),
        ("--certificate", "x"),
        ("--c2pa", "--certificate", "x", "--out", "y"),
    ):
        refused(
            efface, "give --c2pa and --certificate FILE, and no --out", "sign", a_run, *words, *key
        )
    for words in (("--c2pa",), ("--certificate", "x")):
        refused(efface, "give --c2pa and --certificate FILE", "verify", a_run, *words)


@pytest.mark.thorough
def test_without_the_extra_it_is_said(efface, a_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with_card(a_run)
    (tmp_path / "key.pem").write_text("x")
    words = ("--c2pa", "--certificate", tmp_path / "key.pem", "--key", tmp_path / "key.pem")
    refused(efface, 'pip install "efface[c2pa]"', "sign", a_run, *words)
