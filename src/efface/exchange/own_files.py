"""Files of this package: a delta is imported as it is, an adapter is no edit of weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from efface.deltas.application import parents_of
from efface.deltas.delta import Delta
from efface.deltas.storage import FILE_NAME, FORMAT
from efface.errors import BadDelta
from efface.exchange import adapter
from efface.exchange.sources import header_of
from efface.hosts.shards import is_safetensors

if TYPE_CHECKING:
    from efface.concepts import ErasureRequest

__all__ = ["own_delta"]


def own_delta(source: Path, model: Any, request: ErasureRequest) -> Delta | None:
    """Reads a delta of this package from its file or folder; None if another tool wrote it.

    Raises:
        BadDelta: it is damaged, an adapter, of another base, of other concepts than those asked
            for, or made on others that are not applied.
    """
    file = source / FILE_NAME if source.is_dir() else source
    if not file.is_file() or not is_safetensors(file):
        return None
    try:
        written = header_of(file).get("format")
    except (SafetensorError, OSError):
        return None  # what reads the others says what is wrong with it
    if written in (adapter.FORMAT, adapter.ROW_FORMAT):
        raise BadDelta(
            f"{file} is an adapter, which changes no weight; use it on prompt embeddings: "
            f"efface.load_adapter('{file}')"
        )
    if written != FORMAT:
        return None
    delta = Delta.load(file)
    said = [each["concept"] for each in delta.provenance.request.get("erasures", ())]
    asked = [each.concept.name for each in request.erasures]
    aliases = {name for each in said for name in (each["name"], *each.get("synonyms", ()))}
    if len(said) != len(asked) or not aliases.issuperset(asked):
        erased, wanted = ", ".join(each["name"] for each in said), ", ".join(asked)
        raise BadDelta(
            f"{file} is a delta that erases {erased}, and {wanted} was asked for; name what it "
            "erases"
        )
    if delta.provenance.parents != parents_of(model):
        stands = ", ".join(delta.provenance.parents) or "nothing"
        raise BadDelta(
            f"{file} stands on {stands}, which is not what is applied here; take the run folders "
            "of all of them, which say how to apply them in turn"
        )
    with delta.apply(model):  # refuses another base
        return delta
