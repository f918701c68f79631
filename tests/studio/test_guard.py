"""Who may speak to the studio, and what it may read: tokens, hosts, paths out of the root."""

import asyncio
import json

import pytest

from efface.errors import BadRequest
from efface.studio.desk import Desk
from efface.studio.guard import Guard, check_bind

TOKEN = "0123456789abcdef"


def asked(token=None, *, method="GET", query="", kind="http", **headers):
    """Sends one request; gives status, headers and whether it reached the page."""
    reached, sent = [], []

    async def page(scope, receive, send):
        reached.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})

    async def send(message):
        sent.append(message)

    named = {"host": "127.0.0.1:7860", **headers}
    scope = {"type": kind, "method": method, "query_string": query.encode()}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in named.items()]
    asyncio.run(Guard(page, token=token)(scope, None, send))
    first = sent[0]
    return first.get("status"), dict(first.get("headers", ())), bool(reached)


def test_without_a_token_only_names_of_this_machine_are_answered_to():
    for host in ("127.0.0.1:7860", "localhost", "[::1]:7860"):
        assert asked(host=host)[::2] == (200, True)
    for host in ("evil.example:7860", "127.0.0.1.evil.example", "", "192.168.0.7:7860"):
        assert asked(host=host)[::2] == (403, False)


def test_pages_of_other_sites_cannot_post():
    own, other = "http://127.0.0.1:7860", "http://evil.example"
    assert asked(method="POST", origin=own)[::2] == (200, True)
    assert asked(method="POST")[::2] == (200, True)
    assert asked(method="POST", origin=other)[::2] == (403, False)
    assert asked(method="POST", origin="null")[::2] == (403, False)
    assert asked(TOKEN, method="POST", origin=other, cookie=f"efface_studio={TOKEN}")[0] == 403
    assert not asked(kind="websocket")[2]


def test_a_token_is_asked_for_once_and_is_a_cookie_from_then_on():
    away = {"host": "studio.example"}
    assert asked(TOKEN, **away)[::2] == (401, False)
    assert asked(TOKEN, query="token=0123456789abcdeX", **away)[::2] == (401, False)
    status, headers, reached = asked(TOKEN, query=f"token={TOKEN}", **away)
    assert (status, reached) == (200, True)
    cookie = headers[b"set-cookie"].decode()
    assert "HttpOnly; SameSite=Strict" in cookie
    assert asked(TOKEN, cookie=cookie.partition(";")[0], **away)[::2] == (200, True)


def test_the_page_may_load_nothing_from_elsewhere():
    policy = asked()[1][b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "http" not in policy


def test_other_machines_need_a_token():
    check_bind("127.0.0.1", None)
    check_bind("0.0.0.0", TOKEN)
    with pytest.raises(BadRequest, match=r"0\.0\.0\.0 can be reached by other machines"):
        check_bind("0.0.0.0", None)
    with pytest.raises(BadRequest, match="the token has 5 characters; give at least 16"):
        check_bind("127.0.0.1", "short")


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "a/../../x", "/etc", "", ".hidden", "a/.pictures", "a\\..\\..\\x", "a\0b"],
)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    with pytest.raises(BadRequest, match="is not a name of a run"):
        Desk(tmp_path / "runs").place(name)


def test_links_out_of_the_folder_are_refused_and_not_listed(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "run.json").write_text("{}")
    desk = Desk(tmp_path / "runs")
    (desk.root / "link").symlink_to(tmp_path / "outside")
    (desk.root / "own").mkdir()
    (desk.root / "own" / "run.json").write_text("{}")
    with pytest.raises(BadRequest, match=r"leads out of .*; runs are in that folder"):
        desk.place("link")
    assert desk.run_names() == ["own"]
    assert desk.lines() == []  # it cannot be read, which does no harm to others


def test_classes_are_those_of_the_model_in_the_order_of_its_head(tmp_path):
    desk = Desk(tmp_path / "runs")
    model = tmp_path / "model"
    model.mkdir()
    assert desk.classes(str(model)) == []
    names = {str(number): f"class {number}" for number in (10, 9, 0)}
    (model / "config.json").write_text(json.dumps({"id2label": names}))
    assert desk.classes(str(model)) == ["class 0", "class 9", "class 10"]


def test_the_command_refuses_an_open_door_before_anything_is_loaded(capsys):
    from efface.cli.main import main

    assert main(["studio", "--host", "0.0.0.0"]) == 2
    assert "give --token" in capsys.readouterr().err
    assert main(["studio", "--port", "0"]) == 2
    assert "port is 0" in capsys.readouterr().err


def test_methods_follow_the_model_that_is_chosen(tmp_path):
    gradio = pytest.importorskip("gradio")
    from efface.studio.recognisers import RecognisersTab

    with gradio.Blocks():
        tab = RecognisersTab(Desk(tmp_path / "runs", "icons-detector"))
    assert tab.method.choices == [("gs_lora", "gs_lora")]
    _, methods = tab.with_model("icons-vit")
    assert {"gs_lora", "scrub"} <= {name for _, name in methods["choices"]}
    assert methods["value"] == "gs_lora"
