"""``efface studio``: the same work in the browser, on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from efface.cli.shell import Shared, parse
from efface.errors import BadRequest, MissingInput
from efface.workbench.models import BUNDLED

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Studio", "run"]


@dataclass(frozen=True, kw_only=True)
class Studio(Shared):
    """Which model and runs the page is about, and who may open it."""

    model: str = BUNDLED
    """The bundled model, a diffusers folder, a hub id, or a model that reads pictures."""
    runs: Path = Path("runs")
    """Folder of runs; nothing outside of it is read or written."""
    host: str = "127.0.0.1"
    """Address to serve at; others than this machine's own need a token."""
    port: int = 7860
    """Port to serve at."""
    token: str | None = None
    """What the address must hold, of at least 16 characters; without it only this machine is
    answered to."""
    blur: bool = False
    """Blur pictures until somebody points at them."""


def run(arguments: list[str], output: Output) -> int:
    """Serves the page until it is interrupted.

    Raises:
        MissingInput: Gradio is not installed.
        BadRequest: another machine could open it and there is no token; or no such port.
    """
    about = "Opens efface in the browser."
    options = parse(Studio, arguments, prog="efface studio", description=about)
    if not 0 < options.port < 65536:
        raise BadRequest(f"port is {options.port}; give one from 1 to 65535")
    from efface.studio.guard import LOCAL, check_bind

    check_bind(options.host, options.token)
    if options.runs.exists() and not options.runs.is_dir():
        raise BadRequest(f"{options.runs} is a file; name the folder of runs")
    if find_spec("gradio") is None:
        raise MissingInput("the studio needs Gradio: pip install 'efface[studio]'")
    from efface.studio.app import serve
    from efface.studio.desk import Desk

    desk = Desk(options.runs, options.model, options.blur)
    token = "" if options.token is None else f"?token={options.token}"
    who = "this machine alone" if options.host in LOCAL else "whoever has the token"
    output.say(
        f"efface studio: http://{options.host}:{options.port}/{token}",
        f"for {who}; runs in {desk.root}; Ctrl-C ends it",
    )
    output.after_interrupt = "the studio is closed; runs are kept"
    serve(desk, host=options.host, port=options.port, token=options.token)
    return 0
