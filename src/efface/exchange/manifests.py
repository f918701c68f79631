"""C2PA manifests beside safetensors files: what the card says, signed with a certificate."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from efface.errors import BadRequest, MissingInput
from efface.files import read_json_object, write_atomically
from efface.randomness import environment

__all__ = ["SUFFIX", "Checked", "check_manifests", "statement", "write_manifests"]

SUFFIX = ".c2pa"
"""Ends the name of a manifest in place of ``.safetensors``."""
_LABEL = "efface.card"
_CARD = "card.json"
_ATTACKS = "attacks"
"""What a run's attacks found lies here, which is no edited model."""
_FORMAT = "application/octet-stream"
"""C2PA's library writes into no such file; its data hash is over the whole."""
_SOURCE = "http://c2pa.org/digitalsourcetype/trainedAlgorithmicData"
_CURVES = {"secp256r1": b"es256", "secp384r1": b"es384", "secp521r1": b"es512"}
_OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}


class Checked(NamedTuple):
    """What became of the manifests of a folder."""

    files: tuple[Path, ...]
    """Every file that has one or should."""
    signers: tuple[str, ...]
    trouble: tuple[str, ...]
    """Nothing where all hold."""


def write_manifests(
    folder: Path, *, certificate: Path, key: Path, overwrite: bool = False
) -> tuple[Path, ...]:
    """Writes a manifest beside every safetensors file of a folder, without any network.

    Each says what `statement` says, and has a hash of the whole file. The files stay as they are.

    Args:
        folder: a run, or an export or card, with ``card.json``.
        certificate: the signer's, as PEM, with those that issued it after it.
        key: the certificate's private key, as PEM without a password.
        overwrite: whether older manifests are replaced.

    Raises:
        MissingInput: the extra is not installed, or a file, card or safetensors file is missing.
        BadRequest: manifests are there, the card names no delta, or the key cannot sign.
    """
    library = _library()
    for file in (certificate, key):
        if not file.is_file():
            raise MissingInput(f"there is no file {file}; give a certificate and its private key")
    files, said = _assets(folder), statement(folder)
    held = [file.with_suffix(SUFFIX) for file in files if file.with_suffix(SUFFIX).exists()]
    if held and not overwrite:
        raise BadRequest(f"{held[0]} is there already; give --overwrite")
    chain, private, algorithm = certificate.read_bytes(), *_private(key)
    for file in files:
        try:
            info = library.C2paSignerInfo(algorithm, chain, private, None)
            signer = library.Signer.from_info(info)
            manifest = _signed(library, signer, _definition(file, said), file)
        except library.C2paError as error:
            raise BadRequest(
                f"{key} cannot sign as {certificate} ({_line(error)}); give the certificate of "
                "this key with those that issued it, as PEM, for signing documents or e-mail"
            ) from error
        write_atomically(file.with_suffix(SUFFIX), manifest)
    return tuple(file.with_suffix(SUFFIX) for file in files)


def check_manifests(folder: Path, *, certificate: Path) -> Checked:
    """Checks every manifest of a folder: signature, certificate, the file's hash, and the card.

    Args:
        folder: what was signed.
        certificate: of the authority that is trusted, as PEM; a chain with its root will do.

    Raises:
        MissingInput: the extra is not installed, or a folder or file is missing.
        BadRequest: the certificate is none.
    """
    library = _library()
    if not certificate.is_file():
        raise MissingInput(f"there is no file {certificate}; give a certificate to trust")
    anchors = certificate.read_text("utf-8", errors="replace")
    if "BEGIN CERTIFICATE" not in anchors:
        raise BadRequest(f"{certificate} holds no certificate as PEM; give the authority's")
    settings = {"verify": {**_OFFLINE, "verify_trust": True}, "trust": {"trust_anchors": anchors}}
    files, said = _assets(folder), statement(folder)
    signers, trouble = [], []
    for file in files:
        name = file.relative_to(folder)
        if not (place := file.with_suffix(SUFFIX)).is_file():
            trouble.append(f"{name} has no manifest {place.name}")
            continue
        try:
            context = library.Context(library.Settings.from_dict(settings))
            with file.open("rb") as opened:
                reader = library.Reader(_FORMAT, opened, place.read_bytes(), context)
                told = json.loads(reader.json())
        except library.C2paError as error:
            trouble.append(f"the manifest of {name} is damaged ({_line(error)})")
            continue
        found = told["manifests"][told["active_manifest"]]
        signers.append(_signer(found))
        trouble += [f"{name}: {each}" for each in _apart(told, found, said)]
    return Checked(files, tuple(dict.fromkeys(signers)), tuple(trouble))


def statement(folder: Path) -> dict[str, Any]:
    """Gives what manifests say of a folder's files, all of it from its card.

    Raises:
        MissingInput: there is no card.
        BadRequest: it names no delta.
    """
    place = folder / _CARD
    if not place.is_file():
        raise MissingInput(f"there is no {place}, which a manifest repeats; write it: efface card")
    card = read_json_object(place, advice="write the card again: efface card")
    identity, scope, change = (_part(card, name) for name in ("identity", "scope", "change"))
    if not identity.get("delta"):
        raise BadRequest(f"{place} names no delta; write the card of an erased model: efface card")
    erased = scope.get("erased")
    names = [one.get("name") for one in erased if isinstance(one, dict)] if erased else []
    return {
        "what": "a model was edited so that it draws these concepts no more, or a part of that",
        "erased": names,
        "base_model": identity.get("base_model"),
        "base": identity.get("base"),
        "delta": identity["delta"],
        "method": change.get("method"),
        "summary": card.get("summary"),
        "card_sha256": hashlib.sha256(place.read_bytes()).hexdigest(),
    }


def _definition(file: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    erased = ", ".join(str(name) for name in said["erased"]) or "nothing that has a name"
    edited = f"erased from {said['base_model']} by {said['method']}: {erased}"
    actions = [
        {"action": "c2pa.created", "digitalSourceType": _SOURCE},
        {"action": "c2pa.edited", "description": edited},
    ]
    return {
        "claim_generator_info": [{"name": "efface", "version": environment().versions["efface"]}],
        "title": file.name,
        "format": _FORMAT,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions}},
            {"label": _LABEL, "data": dict(said), "created": True},
        ],
    }


def _signed(library: Any, signer: Any, definition: Mapping[str, Any], file: Path) -> bytes:
    context = library.Context(library.Settings.from_dict({"verify": _OFFLINE}))
    builder = library.Builder(dict(definition), context)
    builder.set_no_embed()
    # The library copies the file, though nothing is put in it.
    with file.open("rb") as source, tempfile.TemporaryFile(dir=file.parent) as copy:
        manifest: bytes = builder.sign(signer, _FORMAT, source, copy)
    return manifest


def _private(key: Path) -> tuple[bytes, bytes]:
    """Gives the key as C2PA's library wants it, and the algorithm that it signs by."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        read = form.load_pem_private_key(key.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise BadRequest(
            f"{key} cannot sign ({_line(error)}); give a private key as PEM without a password"
        ) from error
    algorithm = None
    if isinstance(read, ec.EllipticCurvePrivateKey):
        algorithm = _CURVES.get(read.curve.name)
    elif isinstance(read, ed25519.Ed25519PrivateKey):
        algorithm = b"ed25519"
    elif isinstance(read, rsa.RSAPrivateKey):
        algorithm = b"ps256"
    if algorithm is None:
        raise BadRequest(
            f"{key} is of a kind that C2PA does not sign with; give one of P-256, P-384, P-521, "
            "Ed25519 or RSA"
        )
    plain = (form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return read.private_bytes(*plain), algorithm


def _apart(
    told: Mapping[str, Any], found: Mapping[str, Any], said: Mapping[str, Any]
) -> Iterator[str]:
    """Says what does not hold of one manifest."""
    for each in told.get("validation_status", []):
        yield str(each.get("explanation") or each["code"])
    if told.get("validation_state") != "Trusted" and not told.get("validation_status"):
        yield f"the manifest is {told.get('validation_state')}, and should be Trusted"
    ours = [one["data"] for one in found.get("assertions", []) if one.get("label") == _LABEL]
    if ours != [dict(said)]:
        yield "the manifest is of another card, or of none"


def _signer(found: Mapping[str, Any]) -> str:
    info = found.get("signature_info", {})
    return f"{info.get('common_name') or 'nobody named'} ({info.get('issuer') or 'no issuer'})"


def _assets(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise MissingInput(f"there is no folder {folder}; give the folder that is signed")
    every = sorted(folder.rglob("*.safetensors"))
    found = tuple(file for file in every if file.relative_to(folder).parts[0] != _ATTACKS)
    if not found:
        raise MissingInput(f"{folder} holds no safetensors file to write a manifest for")
    return found


def _part(card: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = card.get(name)
    return part if isinstance(part, dict) else {}


def _library() -> Any:
    try:
        import c2pa
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingInput(
            f'manifests need c2pa-python ({error.name} is missing); pip install "efface[c2pa]"'
        ) from error
    return c2pa


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
