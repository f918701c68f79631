"""An edited copy of a folder of transformers: a model that reads pictures, with a delta in it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from efface.deltas.copy_plan import applied_in
from efface.deltas.delta import Delta
from efface.errors import BadDelta, ModelCollapsed
from efface.exchange.low_rank import check_exportable
from efface.files import RECORD, write_atomically
from efface.hosts.components import find
from efface.hosts.shards import weight_set
from efface.hosts.vision_families import load_vision

__all__ = ["write_recogniser"]

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ckpt")
_CARD = "README.md"


def write_recogniser(
    base: Path, delta: Delta, out: Path, *, card: str | None = None, scale: float = 1.0
) -> int:
    """Writes the model with the delta in its weights, in the float format of its files.

    The network is saved by its own library, since names in files and in memory may differ. The
    processor, licences and all other small files come along; the base's own card becomes
    ``README.base.md`` where there is an Erasure Card.

    Args:
        base: folder of the model.
        delta: what is merged.
        out: the new folder.
        card: text of the Erasure Card; without one the base's card stays.
        scale: 1 is the whole change.

    Returns:
        How many tensors were changed.

    Raises:
        BadModel, BadDelta: see `load_vision` and `Delta.apply`; or it is merged already.
        ModelCollapsed: a changed value does not fit the float format of the files.
    """
    check_exportable(delta, scale=scale)
    earlier = applied_in(base)
    if any(delta.id == each["delta"] for each in earlier):
        raise BadDelta(f"delta {delta.id} is merged into {base} already; take its base model")
    held = weight_set(base).tensors()
    dtype = max(held.values(), key=lambda each: each.bytes).dtype
    model = load_vision(base, dtype)
    out.mkdir(parents=True, exist_ok=True)
    with delta.apply(model, scale=scale):
        changed = [weight for key in delta.keys for weight in find(model, key).values()]
        if not all(bool(weight.isfinite().all()) for weight in changed):
            raise ModelCollapsed(
                f"delta {delta.id} gives values that do not fit {dtype}; lower the scale, or use a "
                "copy of the model in a wider float format"
            )
        model.model.save_pretrained(out)  # type: ignore[operator]  # transformers' own
    for file in sorted(base.iterdir()):
        skipped = file.name == RECORD or ".safetensors" in file.name or file.suffix in _WEIGHTS
        if file.is_file() and not skipped:
            shutil.copyfile(file, out / file.name)
    if card is not None:
        if (out / _CARD).exists():
            (out / _CARD).replace(out / "README.base.md")
        write_atomically(out / _CARD, card.encode())
    merged = {"delta": delta.id, "scale": scale, "provenance": asdict(delta.provenance)}
    content = {"base": base.resolve().name, "merged": [*earlier, merged]}
    text = json.dumps(content, indent=2, default=str) + "\n"
    write_atomically(out / RECORD, text.encode())
    return len(changed)
