"""The page of a search: the hardest and easiest candidates, their losses and their neighbours."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.printable import printable

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.selection.forget_sets import ForgetSet

__all__ = ["Exhibit", "exhibits", "hardest_page", "losses_figure"]

_SIDE = 96
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; color: #222 }
section { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0; padding: .6rem; border: 1px solid #ddd; border-radius: 6px; width: 13rem }
figure > img { width: 96px; height: 96px; object-fit: contain; background: #eee }
figcaption { font-size: 13px; overflow-wrap: anywhere }
.near img { width: 40px; height: 40px; object-fit: contain; background: #eee }
.all { width: 100%; height: auto }
"""


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One candidate as it is shown, and the others that it is most like."""

    name: str
    loss: float
    place: int
    neighbours: tuple[tuple[str, int], ...]
    """Their names and places, the most alike first."""


def exhibits(
    losses: Float[Tensor, " n"],
    names: Sequence[str],
    which: Sequence[int],
    neighbours: Sequence[Sequence[int]],
) -> list[Exhibit]:
    """Puts together what is shown of some candidates.

    Args:
        losses: of all candidates.
        names: of all candidates.
        which: those shown.
        neighbours: of each of those, by number.
    """
    return [
        Exhibit(names[place], float(losses[place]), place, tuple((names[n], n) for n in near))
        for place, near in zip(which, neighbours, strict=True)
    ]


def hardest_page(
    title: str,
    told: Sequence[str],
    groups: Sequence[tuple[str, Sequence[Exhibit]]],
    picture: Callable[[int], Float[Tensor, "3 h w"]],
    figure: bytes,
) -> str:
    """Writes one page without scripts, with all pictures inside.

    Args:
        title: heading.
        told: sentences below it.
        groups: headings with what is shown under each.
        picture: gives the picture of a candidate, pixels of 0 to 1.
        figure: a PNG file of all losses.
    """
    parts = [f"<h1>{_safe(title)}</h1>", *(f"<p>{_safe(line)}</p>" for line in told)]
    parts.append(f'<img class="all" alt="losses of all candidates" src="{_uri(figure)}">')
    for heading, shown in groups:
        parts += [f"<h2>{_safe(heading)}</h2>", "<section>"]
        parts += [_figure(one, picture) for one in shown]
        parts.append("</section>")
    head = f'<meta charset="utf-8"><title>{_safe(title)}</title><style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _figure(one: Exhibit, picture: Callable[[int], Float[Tensor, "3 h w"]]) -> str:
    near = "".join(
        f'<img alt="{_safe(name)}" title="{_safe(name)}" src="{_uri(_png(picture(place)))}">'
        for name, place in one.neighbours
    )
    return (
        f'<figure><img alt="{_safe(one.name)}" src="{_uri(_png(picture(one.place)))}">'
        f"<figcaption>{_safe(one.name)}<br>loss {one.loss:.4g}</figcaption>"
        f'<div class="near">{near}</div></figure>'
    )


def losses_figure(found: ForgetSet) -> bytes:
    """Draws all losses in order, with those of the set, as a PNG file."""
    import torch
    from matplotlib.figure import Figure

    order = found.losses.argsort()
    inside = torch.isin(order, found.chosen)
    figure = Figure(figsize=(9, 2.6), dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots()
    places, values = torch.arange(len(order)), found.losses[order]
    axes.plot(places[~inside], values[~inside], ".", color="0.6", label="others")
    axes.plot(places[inside], values[inside], ".", color="C3", label="the set")
    axes.set_xlabel("candidates, by loss after erasing")
    axes.set_ylabel("loss")
    axes.legend()
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def _png(pixels: Float[Tensor, "3 h w"]) -> bytes:
    from PIL import Image

    levels = (pixels.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    image: Any = Image.fromarray(levels)
    image.thumbnail((_SIDE, _SIDE))
    written = io.BytesIO()
    image.save(written, format="PNG")
    return written.getvalue()


def _uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _safe(text: str) -> str:
    return html.escape(printable(text))
