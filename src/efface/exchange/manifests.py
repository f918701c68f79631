"""C2PA manifests in or beside safetensors files: what the card says, signed with a certificate."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from efface.errors import BadRequest, MissingInput
from efface.exchange.manifest_slots import Slot, find_slot, sign_inside
from efface.files import read_json_object, write_atomically
from efface.randomness import environment

__all__ = ["SUFFIX", "Checked", "check_manifests", "statement", "write_manifests"]

SUFFIX = ".c2pa"
"""Ends the name of a manifest in place of ``.safetensors``."""
_LABEL = "efface.card"
_CARD = "card.json"
_RUN = "run.json"
_ATTACKS = "attacks"
"""What a run's attacks found lies here, which is no edited model."""
_FORMAT = "application/octet-stream"
"""C2PA's library knows no safetensors file, and takes any file as bytes."""
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
    folder: Path, *, certificate: Path, key: Path, inside: bool = False, overwrite: bool = False
) -> tuple[Path, ...]:
    """Writes a manifest for every safetensors file of a folder, without any network.

    Each says what `statement` says, and has a hash of the file: of all of it where the manifest
    lies beside it, and of all but the manifest where it lies inside.

    Args:
        folder: a run, or an export or card, with ``card.json``.
        certificate: the signer's, as PEM, with those that issued it after it.
        key: the certificate's private key, as PEM without a password.
        inside: into the files' own headers, instead of beside them.
        overwrite: whether older manifests are replaced.

    Returns:
        The files that were written.

    Raises:
        MissingInput: the extra is not installed, or a file, card or safetensors file is missing.
        BadRequest: manifests are there, the card names no delta, the key cannot sign, or a run's
            own files would be changed.
    """
    library = _library()
    for file in (certificate, key):
        if not file.is_file():
            raise MissingInput(f"there is no file {file}; give a certificate and its private key")
    files, said = _assets(folder), statement(folder)
    if inside and (folder / _RUN).exists():
        raise BadRequest(
            f"{folder / _RUN} holds the hash of its delta's file, which a manifest inside would "
            "change; sign the folder that is published (efface card RUN --out FOLDER), or leave "
            "out --inside"
        )
    for file in files:
        _refuse_held(file, inside=inside, overwrite=overwrite)
    chain, private, algorithm = certificate.read_bytes(), *_private(key)
    for file in files:
        try:
            info = library.C2paSignerInfo(algorithm, chain, private, None)
            signer = library.Signer.from_info(info)
            context = library.Context(library.Settings.from_dict({"verify": _OFFLINE}))
            definition = _definition(file, said)
            if inside:
                sign_inside(library, context, signer, definition, file)
                file.with_suffix(SUFFIX).unlink(missing_ok=True)
                continue
            manifest = _signed(library, context, signer, definition, file)
        except library.C2paError as error:
            raise BadRequest(
                f"{key} cannot sign as {certificate} ({_line(error)}); give the certificate of "
                "this key with those that issued it, as PEM, for signing documents or e-mail"
            ) from error
        write_atomically(file.with_suffix(SUFFIX), manifest)
    return files if inside else tuple(file.with_suffix(SUFFIX) for file in files)


def _refuse_held(file: Path, *, inside: bool, overwrite: bool) -> None:
    """Keeps older manifests, unless they are to be replaced.

    Raises:
        BadRequest: the file has one, and it stays.
    """
    beside = file.with_suffix(SUFFIX)
    if beside.exists() and not overwrite:
        raise BadRequest(f"{beside} is there already; give --overwrite")
    if find_slot(file) and not (inside and overwrite):
        raise BadRequest(
            f"{file} holds a manifest in its header already; renew it: --inside --overwrite"
        )


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
        name, held = file.relative_to(folder), _held(file)
        if isinstance(held, str):
            trouble.append(held)
            continue
        for manifest, slot in held:
            try:
                context = library.Context(library.Settings.from_dict(settings))
                with file.open("rb") as opened:
                    reader = library.Reader(_FORMAT, opened, manifest, context)
                    told, detailed = json.loads(reader.json()), json.loads(reader.detailed_json())
            except library.C2paError as error:
                trouble.append(f"the manifest of {name} is damaged ({_line(error)})")
                continue
            found = told["manifests"][told["active_manifest"]]
            signers.append(_signer(found))
            bound = detailed["manifests"][told["active_manifest"]]["assertion_store"]
            apart = _apart(told, bound.get("c2pa.hash.data", {}), found, said, slot)
            trouble += [f"{name}: {each}" for each in apart]
    return Checked(files, tuple(dict.fromkeys(signers)), tuple(trouble))


def _held(file: Path) -> list[tuple[bytes, Slot | None]] | str:
    """Gives a file's manifests, with the slot of one in its header; or says what is wrong."""
    beside = file.with_suffix(SUFFIX)
    try:
        slot = find_slot(file)
    except BadRequest as error:
        return str(error)
    held: list[tuple[bytes, Slot | None]] = [(slot.manifest, slot)] if slot else []
    if beside.is_file():
        held.append((beside.read_bytes(), None))
    return held or f"{file.name} has no manifest {beside.name}, and none in its header"


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


def _signed(
    library: Any, context: Any, signer: Any, definition: Mapping[str, Any], file: Path
) -> bytes:
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
    told: Mapping[str, Any],
    bound: Mapping[str, Any],
    found: Mapping[str, Any],
    said: Mapping[str, Any],
    slot: Slot | None,
) -> Iterator[str]:
    """Says what does not hold of one manifest."""
    results = told.get("validation_results", {}).get("activeManifest", {})
    passed = {each["code"] for each in results.get("success", [])}
    failures = told.get("validation_status", [])
    if slot is not None:
        left_out = [(one["start"], one["length"]) for one in bound.get("exclusions", [])]
        if left_out != [(slot.start, slot.length)]:
            yield "the manifest's hash leaves out other bytes than the manifest"
        elif "assertion.dataHash.match" in passed:
            # The library knows no place for a manifest in this kind of file; it was checked here.
            failures = [each for each in failures if each["code"] != "assertion.dataHash.mismatch"]
    for each in failures:
        yield str(each.get("explanation") or each["code"])
    if not {"signingCredential.trusted", "claimSignature.validated"} <= passed and not failures:
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
