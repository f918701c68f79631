"""The whole page, and the server that serves it to this machine."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from efface.studio import views
from efface.studio.attack import AttackTab
from efface.studio.collateral import CollateralTab
from efface.studio.desk import Desk
from efface.studio.erase import EraseTab
from efface.studio.guard import Guard
from efface.studio.look import LookTab
from efface.studio.recognisers import RecognisersTab
from efface.studio.runs import RunsTab
from efface.studio.sharing import leaving
from efface.studio.strength import StrengthTab

__all__ = ["application", "page", "serve"]

_FONTS = ["system-ui", "sans-serif"]
_TOGGLE = """(on) => { document.querySelectorAll('.pictures').forEach(
  each => each.classList.toggle('blurred', on)); return on; }"""
_START = """() => { const box = document.querySelector('#blur input');
  document.querySelectorAll('.pictures').forEach(
    each => each.classList.toggle('blurred', Boolean(box && box.checked))); }"""


def page(desk: Desk) -> gr.Blocks:
    """Builds the page with all its tabs."""
    with gr.Blocks(title="efface studio", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(
            f'<div class="told"><h1>efface studio</h1><p>{views.text_of(Path(desk.model).name)}; '
            f"folder {views.text_of(desk.root.name)}</p></div>"
        )
        blur = gr.Checkbox(desk.blur, label="Blur pictures until pointed at", elem_id="blur")
        choices: list[tuple[Any, bool]] = []
        done = []
        with gr.Tabs():
            if desk.draws:
                with gr.Tab("Erase"):
                    done.append(EraseTab(desk).done)
                with gr.Tab("Strength"):
                    strength = StrengthTab(desk)
                    choices.append((strength.run, True))
                    done.append(strength.done)
                with gr.Tab("Look"):
                    choices.append((LookTab(desk).runs, True))
                with gr.Tab("Collateral"):
                    collateral = CollateralTab(desk)
                with gr.Tab("Attack"):
                    choices.append((AttackTab(desk).run, True))
            with gr.Tab("Runs"):
                browser = RunsTab(desk)
                choices += [(browser.run, False), (browser.other, False)]
            with gr.Tab("Recognisers"):
                done.append(RecognisersTab(desk).done)

        def renewed(*chosen: Any) -> list[Any]:
            drawn, every = desk.drawn_runs(), desk.run_names()
            return [
                gr.update(choices=drawn, value=drawn[0] if drawn and value is None else value)
                if own
                else gr.update(choices=every)
                for (_, own), value in zip(choices, chosen, strict=True)
            ]

        shown = [choice for choice, _ in choices]
        for event in (blocks.load, *(each.then for each in done)):
            event(renewed, shown, shown, queue=False)
            listing = [browser.text, browser.outcome]
            event(browser.filtered, listing, browser.table, queue=False)
            if desk.draws:
                event(collateral.read, None, [collateral.map, collateral.told], queue=False)
        blocks.load(None, None, None, js=_START)
        blur.change(None, blur, blur, js=_TOGGLE)
        blocks.unload(leaving(desk))
    return blocks


def application(desk: Desk, *, host: str, port: int, token: str | None) -> Any:
    """Gives the guarded ASGI application."""
    import fastapi

    inner = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    theme = gr.themes.Default(font=_FONTS, font_mono=["ui-monospace", "monospace"])
    blocks = page(desk).queue(api_open=False)
    mounted = gr.mount_gradio_app(
        inner,
        blocks,
        path="/",
        server_name=host,
        server_port=port,
        theme=theme,
        css=views.CSS,
        allowed_paths=[],
        max_file_size="1mb",
        show_error=False,
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
    )
    return Guard(mounted, token=token)


def _ended(number: int, frame: Any) -> None:  # noqa: ARG001
    raise SystemExit(0)


def serve(desk: Desk, *, host: str, port: int, token: str | None) -> None:
    """Serves the page until it is interrupted; pictures on their way lie in a folder that goes."""
    import uvicorn

    # uvicorn hands a signal on once it has closed, and the default would leave the folder behind.
    signal.signal(signal.SIGTERM, _ended)
    with tempfile.TemporaryDirectory(prefix="efface-studio-") as cache:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(cache).resolve())
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        app = application(desk, host=host, port=port, token=token)
        uvicorn.run(app, host=host, port=port, log_level="warning")
