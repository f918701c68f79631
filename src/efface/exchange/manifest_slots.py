"""A C2PA manifest in a safetensors file's own header, as C2PA 2.4 has it: found and signed."""

from __future__ import annotations

import base64
import binascii
import ctypes
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from efface.errors import BadRequest, MissingInput

__all__ = ["KEY", "Slot", "find_slot", "sign_inside"]

KEY = "c2pa:manifest"
"""Of the header's ``__metadata__``; its value is the manifest as Base64."""
_METADATA = "__metadata__"
_RAW = b"application/c2pa"
"""What C2PA's library calls a manifest that is wrapped in nothing."""
_BYTES = ctypes.POINTER(ctypes.c_ubyte)


class Slot(NamedTuple):
    """Where a file's header holds a manifest."""

    start: int
    """Of the Base64, in bytes from the start of the file."""
    length: int
    manifest: bytes


def find_slot(file: Path) -> Slot | None:
    """Finds the manifest in a file's header; None where there is none.

    Raises:
        BadRequest: the header is damaged, or holds several manifests or one that is no Base64.
    """
    with file.open("rb") as opened:
        header = _header(file, opened)
    names: list[str] = []
    facts = _parsed(file, header, names).get(_METADATA)
    value = facts.get(KEY) if isinstance(facts, dict) else None
    if value is None:
        return None
    quoted = f'"{value}"'.encode()
    try:
        manifest = base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        manifest = b""
    if not manifest or names.count(KEY) != 1 or header.count(quoted) != 1:
        raise BadRequest(f"the header of {file} holds no one manifest as Base64; sign it again")
    return Slot(8 + header.index(quoted) + 1, len(quoted) - 2, manifest)


def sign_inside(
    library: Any, context: Any, signer: Any, definition: Mapping[str, Any], file: Path
) -> None:
    """Puts a signed manifest into a file's header, in place of an older one.

    The manifest has a hash of all bytes but its own, so its length is fixed before it is signed
    (C2PA 2.4, embedding into safetensors). Tensors stay as they are, byte for byte; the file is
    replaced in one step.

    Raises:
        BadRequest: the header is damaged.
        MissingInput: the installed c2pa-python does not give what this needs.
        C2paError: the library cannot sign.
    """
    builder = library.Builder(dict(definition), context)
    native = _Native(library)
    handle, staged = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w+b") as copy:
            size = len(native.placeholder(builder, signer))
            start, length = _with_slot(file, copy, size)
            copy.seek(0)
            manifest = native.signed(builder, signer, copy, start, length)
            if len(manifest) != size:
                raise library.C2paError("the manifest is of another length than was reserved")
            copy.seek(start)
            copy.write(base64.b64encode(manifest))
            copy.flush()
            os.fsync(copy.fileno())
        shutil.copymode(file, staged)
        Path(staged).replace(file)
    finally:
        Path(staged).unlink(missing_ok=True)


def _with_slot(file: Path, out: IO[bytes], size: int) -> tuple[int, int]:
    """Copies a file with room for a manifest of so many bytes; gives the room's start and length.

    Raises:
        BadRequest: the header is damaged.
    """
    with file.open("rb") as source:
        header = _parsed(file, _header(file, source), [])
        facts = {key: one for key, one in (header.pop(_METADATA, None) or {}).items() if key != KEY}
        room = base64.b64encode(bytes(size)).decode()
        # The key comes last: what precedes its value is found as text.
        whole = {_METADATA: {**facts, KEY: room}, **header}
        text = json.dumps(whole, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        out.write(struct.pack("<Q", len(text)) + text)
        shutil.copyfileobj(source, out)
    before = f'"{KEY}":"'.encode()
    return 8 + text.index(before) + len(before), len(room)


def _header(file: Path, opened: IO[bytes]) -> bytes:
    """Reads the header's text; what is opened then stands where tensors begin.

    Raises:
        BadRequest: the file is shorter than it says.
    """
    try:
        (length,) = struct.unpack("<Q", opened.read(8))
    except struct.error:
        length = -1
    if not 0 <= length <= file.stat().st_size - 8:
        raise BadRequest(f"{file} is no whole safetensors file; write it again")
    return opened.read(length)


def _parsed(file: Path, header: bytes, names: list[str]) -> dict[str, Any]:
    """Reads a header as JSON, and adds the names of texts to a list, so that doubles are seen.

    Raises:
        BadRequest: it is no such header.
    """

    def seen(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names.extend(name for name, value in pairs if isinstance(value, str))
        return dict(pairs)

    try:
        held = json.loads(header, object_pairs_hook=seen)
    except (ValueError, RecursionError):
        held = None
    if not isinstance(held, dict) or not isinstance(held.get(_METADATA, {}), dict):
        raise BadRequest(f"{file} is no whole safetensors file; write it again")
    return held


class _Native:
    """Two functions of C2PA's library in C that its Python package ships and does not wrap."""

    def __init__(self, library: Any) -> None:
        try:
            inner = library.c2pa
            loaded = ctypes.CDLL(inner._lib._name)
            self._placeholder = loaded.c2pa_builder_data_hashed_placeholder
            self._sign = loaded.c2pa_builder_sign_data_hashed_embeddable
            self._stream = inner.Stream
            self._error, self._free = loaded.c2pa_error, loaded.c2pa_manifest_bytes_free
        except (AttributeError, OSError) as error:
            raise MissingInput(
                f"this c2pa-python signs into no file's header ({error}); leave out --inside, or "
                "install the version that efface names: pip install 'efface[c2pa]'"
            ) from error
        out = ctypes.POINTER(_BYTES)
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        self._placeholder.argtypes = [pointer, ctypes.c_size_t, text, out]
        self._sign.argtypes = [pointer, pointer, text, text, pointer, out]
        self._placeholder.restype = self._sign.restype = ctypes.c_int64
        self._error.restype, self._free.argtypes = text, [_BYTES]
        self._failure = library.C2paError

    def placeholder(self, builder: Any, signer: Any) -> bytes:
        """Gives bytes of the length that the signed manifest will have."""
        found, size = _BYTES(), signer.reserve_size()
        count = self._placeholder(builder._handle, size, _RAW, ctypes.byref(found))
        return self._taken(found, count)

    def signed(self, builder: Any, signer: Any, asset: IO[bytes], start: int, length: int) -> bytes:
        """Signs a manifest with the hash of all bytes of a file but ``length`` from ``start``."""
        bound = {
            "exclusions": [{"start": start, "length": length}],
            "name": "all but the manifest",
            "alg": "sha256",
            "hash": "",
            "pad": "",
        }
        stream, found = self._stream(asset), _BYTES()
        try:
            count = self._sign(
                builder._handle,
                signer._handle,
                json.dumps(bound).encode(),
                _RAW,
                stream._stream,
                ctypes.byref(found),
            )
            return self._taken(found, count)
        finally:
            stream.close()

    def _taken(self, found: Any, count: int) -> bytes:
        if count < 0:
            raise self._failure((self._error() or b"no reason given").decode("utf-8", "replace"))
        try:
            return ctypes.string_at(found, count)
        finally:
            self._free(found)
