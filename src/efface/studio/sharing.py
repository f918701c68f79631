"""What tabs do alike: hear of a page's jobs, and choose runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from efface.studio import views
from efface.studio.desk import Desk
from efface.studio.jobs import Job, Work

__all__ = ["following", "leaving", "run_choice"]


def leaving(desk: Desk) -> Any:
    """Gives what ends all jobs of a page."""

    def leave(request: gr.Request) -> None:
        desk.queue.leave(request.session_hash)

    return leave


def following(
    desk: Desk,
    title: str,
    work: Work,
    request: gr.Request,
    render: Callable[[Job], tuple[Any, ...]],
) -> Iterator[tuple[Any, ...]]:
    """Submits a job and yields its progress with what else is shown of it."""
    job = desk.queue.submit(title, work, request.session_hash or "")
    for _ in desk.queue.follow(job):
        yield (views.progress(job, desk.queue), *render(job))


def run_choice(desk: Desk, label: str, **given: Any) -> gr.Dropdown:
    """Gives a choice among the runs of this model, as they are when the page is opened."""
    names = desk.drawn_runs()
    first = names[0] if names and not given.get("multiselect") else None
    return gr.Dropdown(names, value=first, label=label, **given)
