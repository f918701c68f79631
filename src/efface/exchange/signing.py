"""Signatures of folders: every file, ``card.json`` among them, by the maker's key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface.errors import BadRequest, MissingInput

__all__ = ["SIGNATURE", "sign", "signature_trouble"]

SIGNATURE = "model.sig"
"""Where a folder's signature lies unless another place is named."""
_LOCK = ".efface.lock"


def sign(folder: Path, signature: Path, *, key: Path) -> None:
    """Signs all files of a folder with an elliptic-curve key, without any network.

    The signature is a Sigstore bundle as `model_signing` writes it, so that other tools check it.

    Args:
        folder: what is signed.
        signature: where the signature goes; it is not part of what is signed.
        key: the private key, as PEM without a password.

    Raises:
        MissingInput: the extra is not installed, or there is no folder or key.
        BadRequest: the key is none, or has a password.
    """
    library = _library()
    _check(folder, key)
    config = library.signing.Config().set_hashing_config(_hashing(library, folder, signature))
    try:
        config.use_elliptic_key_signer(private_key=key).sign(folder.absolute(), signature)
    except (ValueError, TypeError) as error:
        raise BadRequest(
            f"{key} cannot sign ({_line(error)}); give an elliptic-curve private key as PEM "
            "without a password"
        ) from error


def signature_trouble(folder: Path, signature: Path, *, key: Path) -> str:
    """Says what is wrong with the signature of a folder; nothing where it holds.

    Args:
        folder: what was signed, with no file added, left out or changed since.
        signature: the signature.
        key: the signer's public key, as PEM.

    Raises:
        MissingInput: the extra is not installed, or there is no folder, signature or key.
    """
    library = _library()
    from cryptography.exceptions import InvalidSignature

    _check(folder, key, signature)
    config = library.verifying.Config().set_hashing_config(_hashing(library, folder, signature))
    try:
        config.use_elliptic_key_verifier(public_key=key).verify(folder.absolute(), signature)
    except (InvalidSignature, ValueError, LookupError, TypeError, OSError) as error:
        return _line(error) or type(error).__name__
    return ""


def _library() -> Any:
    try:
        import model_signing.signing
        import model_signing.verifying
    except ModuleNotFoundError as error:
        raise MissingInput(
            f'signatures need model-signing ({error.name} is missing); pip install "efface[sign]"'
        ) from error
    return model_signing


def _hashing(library: Any, folder: Path, signature: Path) -> Any:
    aside = [signature.absolute(), (folder / _LOCK).absolute()]
    return library.hashing.Config().set_ignored_paths(paths=aside)


def _check(folder: Path, *files: Path) -> None:
    if not folder.is_dir():
        raise MissingInput(f"there is no folder {folder}; give the folder that is signed")
    for file in files:
        if not file.is_file():
            raise MissingInput(f"there is no file {file}; give a key or signature that is there")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
