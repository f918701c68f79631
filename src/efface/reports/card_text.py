"""The cards that hubs read, made of ``card.json`` alone: a model card, and results as YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from efface.errors import BadRequest
from efface.printable import printable
from efface.reports.model_words import words_of_kind

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

__all__ = ["card_text", "check_card", "eval_results"]

_MARKDOWN = re.compile(
    r"[&<>|`*~\[\]\\$]|@(?=[a-z])|^[#+=-]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.",
    re.IGNORECASE,
)
"""Signs that are or begin Markdown, links included; inside a word, as in clip_score, is none."""
_TEMPLATE = Path(__file__).parent / "templates" / "card.md"
_NEEDED = ("publishing", "not_tested", "uses", "shown", "model_kind")


def check_card(values: Any, origin: str) -> Mapping[str, Any]:
    """Gives the values of a card that a model card can be made of.

    Raises:
        BadRequest: it is of before format 2, or no card.
    """
    if not isinstance(values, Mapping) or any(name not in values for name in _NEEDED):
        found = values.get("format") if isinstance(values, Mapping) else type(values).__name__
        raise BadRequest(
            f"{origin} has format {found} and a card for hubs needs 2 or more; measure the run "
            "again: efface evaluate RUN"
        )
    return values


def card_text(values: Mapping[str, Any]) -> str:
    """Writes a model card whose metadata huggingface_hub reads back as it is.

    Args:
        values: the content of ``card.json``.
    """
    from jinja2 import Environment, StrictUndefined
    from jinja2.utils import htmlsafe_json_dumps

    environment = Environment(finalize=_harmless, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["fenced"] = _fenced
    words = words_of_kind(values["model_kind"])
    base = values["identity"]["base_model"] or "BASE MODEL"
    body = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        card=values,
        shown=values["shown"],
        outcome=values["outcome"],
        words=words,
        code=Markup(words.code(_fenced(htmlsafe_json_dumps(base)), values.get("notes", ()))),
        licence=values["publishing"],
    )
    return f"---\n{_metadata(values).to_yaml()}\n---\n\n{body}\n"


def eval_results(values: Mapping[str, Any]) -> str:
    """Writes the results as ``.eval_results/*.yaml`` holds them; empty where none is valid.

    Hubs show these for benchmarks that they know. The suites of efface are none of those, so that
    the names are theirs, under ``efface/``, and intervals and hits are in the notes.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    suite = str(values["scope"]["suite"]).replace("@", "-v")
    entries = [
        EvalResultEntry(
            dataset_id=f"efface/{suite}",
            task_id=f"{row['role']}_{row['metric']}",
            value=row["value"],
            date=values["reproduce"]["measured"] or None,
            notes=row["name"],
        )
        for row in values["shown"]["results"]
    ]
    if not entries:
        return ""
    text: str = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
    return text


def _harmless(value: Any) -> Any:
    """Escapes text, since hubs show Markdown as HTML and names and prompts are others' text.

    Signs of Markdown become numbers, which are shown as the sign and never read as Markdown.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", _one_line(value))


def _fenced(text: str) -> Markup:
    """Keeps code as it is, except for what could end its block."""
    return Markup(_one_line(text.replace("`", "'")))  # nothing of it is read as HTML


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _metadata(values: Mapping[str, Any]) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    told, suite = values["publishing"], str(values["scope"]["suite"])
    results = [
        EvalResult(
            task_type=told["pipeline_tag"],
            dataset_type=f"efface-{suite.replace('@', '-v')}",
            dataset_name=f"efface suite {suite}, {row['role']} prompts",
            dataset_config=row["role"],
            metric_type=row["metric"],
            metric_value=row["value"],
            metric_name=row["name"],
        )
        for row in values["shown"]["results"]
    ]
    relation = told["base_model_relation"] if told["base_model"] else None
    more = {} if relation is None else {"base_model_relation": relation}
    return ModelCardData(
        model_name=told["model_name"] if results else None,
        base_model=told["base_model"],
        license=told["license"],
        license_name=told["license_name"],
        license_link=told["license_link"],
        language=told["language"] or None,
        library_name=told["library_name"],
        pipeline_tag=told["pipeline_tag"],
        tags=told["tags"],
        eval_results=results or None,
        **more,
    )
