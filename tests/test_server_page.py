"""The chat page: what it shows of a reply, its files and headers, and its stream of events."""

from __future__ import annotations

import gzip
import json
import random
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

import starchat.server.page.markdown as page_markdown
from starchat import StarChat
from starchat.server.app import create_app
from starchat.server.errors import ApiError
from starchat.server.page import static_files
from starchat.server.page.blocks import MOST_OPEN, BlockSplitter
from starchat.server.page.markdown import Block, BlockRenderer, render
from starchat.server.page.reply import ReplyEvents
from starchat.server.settings import ServerSettings
from support.fake_replies import FakeReplies
from support.server import app, client, server_model
from support.xss_payloads import PAYLOADS

__all__ = ["app", "client", "server_model"]

STATIC = Path(page_markdown.__file__).parent / "static"
QUESTION = [{"role": "user", "content": "How do I sort a list in Python?"}]
ADD = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
}
#: lines that begin, continue, interrupt and end blocks of every kind
LINES = (
    """\
para|para two|  two|    four|\t tab|a  |a|- a|- b|* a|+ c|1. x|2. y|3) z|10. t|  - n|   - n3|
- [ ] x|-     code|- \tx|-|1.|> q|>|> - a| > q|    > q|```|```py|~~~|~~~~ x|  ```|   ```|    ```|
- ```|1. ```|`````|``` a`b|---|- - -|***|* * *|===|# h|## h2 #| # h|#|#x|a;b|-;-|;a;b;|;-;-:;|
[a]: b|[a]|![x](http://y)|<div>|<!-- x|-->|lazy `code|`|**bold|**|\\|   |\t|    - d4""".replace(
        "\n", ""
    )
    .replace(";", "\x00")
    .split("|")
)
LINES = [line.replace("\x00", "|") for line in LINES] + ["", "", ""]


def merged(blocks: list[Block]) -> str:
    """Return the HTML of all pieces, lists joined as the page joins them."""
    html = ""
    for block in blocks:
        if block.continues:
            end, begin = re.search(r"</(.l)>\n$", html), re.match(r"<(.l)[^>]*>\n", block.html)
            assert end and begin and end[1] == begin[1]
            html = html[: end.start()] + block.html[begin.end() :]
        else:
            html += block.html
    return html


def at_once(text: str) -> str:
    """Return the HTML that markdown-it gives for a whole text."""
    tokens = page_markdown.parse(text, page_markdown._PARSER)
    for token in tokens:
        token.hidden = False
    parser = page_markdown._PARSER
    return str(parser.renderer.render(tokens, parser.options, {"highlighted": True}))


def in_pieces(text: str, sizes: random.Random) -> list[Block]:
    splitter, renderer, blocks = BlockSplitter(), BlockRenderer(), []
    while text:
        n = sizes.choice((1, 2, 5, 50))
        splitter.feed(text[:n])
        blocks += [renderer.whole(piece) for piece in splitter.take_whole()]
        text = text[n:]
    splitter.finish()
    return blocks + [renderer.whole(piece) for piece in splitter.take_whole()]


@pytest.mark.parametrize("seed", range(5))
def test_a_text_in_pieces_gives_what_the_whole_text_gives(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(100):
        lines = [choose.choice(LINES) for _ in range(choose.randint(1, 9))]
        text = choose.choice(("\n", "\r\n")).join(lines)
        expected = at_once(text)
        assert merged(in_pieces(text, choose)) == expected, text
        assert merged(render(text)) == expected, text


def test_a_definition_of_a_link_changes_nothing_above_it() -> None:
    [link, definition] = render("See [a].\n\n[a]: https://a.example\n")
    assert (link.html, definition.html) == (
        "<p>See [a].</p>\n",
        "<p>[a]: https://a.example</p>\n",
    )


def test_items_of_a_list_and_code_become_whole_one_by_one() -> None:
    splitter = BlockSplitter()
    splitter.feed("- one\n- two\n- thr")
    assert splitter.take_whole() == ["- one\n"]
    splitter.feed("ee\n\n```py\nx = 1\n``")
    assert splitter.take_whole() == ["- two\n", "- three\n\n"]
    assert (splitter.language, splitter.take_code()) == ("py", "x = 1\n")
    splitter.feed("x\n  y")
    assert splitter.take_code() == "``x\n  y"
    splitter.feed("\n```\n")
    assert (splitter.language, splitter.take_code()) == (None, "")
    assert splitter.take_whole() == ["```py\nx = 1\n``x\n  y\n```\n"]


@pytest.mark.parametrize(
    "text", ["word " * 20_000, "> quote\n" * 10_000, "a|b\n-|-\n" + "x\n" * 9_000]
)
def test_what_is_rendered_again_stays_short(text: str) -> None:
    splitter = BlockSplitter()
    longest = 0
    for start in range(0, len(text), 1_000):
        splitter.feed(text[start : start + 1_000])
        longest = max(longest, len(splitter.open))
    splitter.finish()
    assert longest <= MOST_OPEN
    assert "".join(splitter.take_whole()) == text


class Elements(HTMLParser):
    """The elements of an HTML text, with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[tuple[str, str, str]] = set()
        self.names: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.found |= {(tag, name, value or "") for name, value in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def allowed_by_the_page() -> set[str]:
    source = (STATIC / "html.js").read_text()
    listed = source[source.index("const ALLOWED") : source.index("]);\n")]
    return {*re.findall(r'"([a-z0-9]+)"', listed)}


def is_allowed(tag: str, attribute: str, value: str) -> bool:
    form = {
        ("a", "href"): r"(?:https?://|mailto:).*",
        ("code", "class"): r"language-[a-z0-9+#-]{1,20}",
        ("span", "class"): r"[a-z]",
        ("th", "class"): r"right|center",
        ("td", "class"): r"right|center",
        ("ol", "start"): r"\d{1,9}",
    }.get((tag, attribute), r"(?!)")
    return re.fullmatch(form, value, re.IGNORECASE) is not None


@pytest.mark.parametrize("text", PAYLOADS)
def test_replies_are_shown_as_text_whatever_they_spell(text: str) -> None:
    for form in (text, f"Look:\n\n- {text}", f"|a|\n|-|\n|{text}|", f"```html\n{text}\n```"):
        for html in (merged(render(form)), BlockRenderer().open(form).html):
            elements = Elements(html)
            assert elements.names <= allowed_by_the_page()
            assert not [each for each in elements.found if not is_allowed(*each)]
    if "```" not in text:
        assert Elements(merged(render(f"```html\n{text}\n```"))).text.strip("\n") == text


def test_the_page_lets_through_just_what_the_renderer_writes() -> None:
    text = """# a
## b
### c
#### d
###### e
*a* **b** ~~c~~ `d` [e](https://a.example "title") <mailto:a@b.example> ![f](http://a.example/b.png)
***
> quote
- list
1. list
3) list

    code

```python
def f(): return "x"  # y
```

|a|b|c|
|:-|-:|:-:|
|1|2|3|

line
break"""
    elements = Elements(merged(render(text)))
    assert elements.names == allowed_by_the_page()
    assert not [each for each in elements.found if not is_allowed(*each)]
    assert ("a", "href", "http://a.example/b.png") in elements.found
    assert ("td", "class", "right") in elements.found


@pytest.mark.parametrize("language", ["python", "C++", "made-up", "", "javascript", "diff"])
def test_code_keeps_its_text_and_gets_classes_of_the_style_sheet(language: str) -> None:
    code = 'def f(a):\n\n    return "<b>" + 1  # &amp;\n+ x\n- y\n\t\n'
    elements = Elements(merged(render(f"```{language}\n{code}```\n")))
    assert elements.text.rstrip("\n") == code.rstrip("\n")
    styles = (STATIC / "style.css").read_text()
    kinds = {value for tag, _, value in elements.found if tag == "span"}
    assert all(f".{kind} {{ color" in styles for kind in kinds)
    assert bool(kinds) == (language not in ("", "made-up"))


def test_code_that_would_take_long_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "<span" in page_markdown.highlighted("x = 1\n" * 2_000, "python")
    assert "<span" not in page_markdown.highlighted("x = 1\n" * 20_000, "python")
    assert "<span" not in page_markdown.highlighted("x = 1;" * 2_000, "python")
    monkeypatch.setattr(page_markdown, "_HIGHLIGHT_S", 0.0)
    assert "<span" not in page_markdown.highlighted("x = 1\n" * 2_000, "python")


# ---- files and headers ----------------------------------------------------------------------


def test_the_page_is_small_and_names_no_other_host() -> None:
    files = static_files()
    assert {"/", "/ui/style.css", "/ui/app.js", "/ui/icon.svg"} <= files.keys()
    assert sum(len(file.compressed) for file in files.values()) <= 60_000
    for name, file in files.items():
        text = file.content.decode()
        urls = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text)
        assert {*urls} <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}, name
        # No HTML is built of strings, and nothing is read from the page's own address.
        sinks = (
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|location\b|\.search\b"
        )
        assert not re.search(sinks, text), name


def test_the_page_is_bound_to_its_server(client: TestClient) -> None:
    answer = client.get("/")
    policy = dict(
        each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; ")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "starchat",
    }
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert "<noscript>" in answer.text and "style=" not in answer.text
    assert not re.search(r"<script(?! type=\"module\" src=)|\son\w+=", answer.text)


def test_files_are_compressed_and_asked_for_again_only_when_they_change(client: TestClient) -> None:
    for path, file in static_files().items():
        plain = client.get(path, headers={"Accept-Encoding": "identity"})
        assert (plain.content, plain.headers["content-type"]) == (file.content, file.type)
        assert "content-encoding" not in plain.headers
        assert gzip.decompress(file.compressed) == file.content
        small = client.head(path, headers={"Accept-Encoding": "gzip"})
        assert small.headers["content-encoding"] == "gzip"
        again = client.get(path, headers={"If-None-Match": plain.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for path in (
        "/ui/",
        "/ui/index.html",
        "/ui/x.js",
        "/ui/../service.py",
        "/ui/%2e%2e/service.py",
    ):
        assert client.get(path).status_code == 404


def test_files_are_public_and_replies_are_not(server_model: StarChat) -> None:
    app = create_app(ServerSettings(api_key=("key",)), server_model)
    with TestClient(app, "http://localhost") as client:
        for path in static_files():
            assert client.get(path).status_code == 200
        assert client.get("/ui/info").status_code == 401
        for path in ("/ui/chat", "/ui/render"):
            assert client.post(path, json={}).status_code == 401
        key = {"Authorization": "Bearer key"}
        assert client.get("/ui/info", headers=key).json()["n_ctx"] == 2_048


def test_the_page_can_be_switched_off(server_model: StarChat) -> None:
    with TestClient(
        create_app(ServerSettings(ui=False), server_model), "http://localhost"
    ) as client:
        for path in ("/", "/ui/app.js", "/ui/info"):
            assert client.get(path).status_code in (404, 405)  # POST / is another face's


def test_the_page_is_told_what_can_be_set(client: TestClient) -> None:
    info = client.get("/ui/info").json()
    parameters = {each["name"]: each for each in info["parameters"]}
    assert parameters["max_tokens"]["default"] == 1_024
    assert (parameters["temperature"]["kind"], parameters["temperature"]["default"]) == (
        "number",
        0.2,
    )
    assert [parameters[name]["kind"] for name in ("top_k", "seed", "stop")] == ["integer"] * 2 + [
        "texts"
    ]


# ---- the stream -----------------------------------------------------------------------------


def events(client: TestClient, messages: list[Any], **options: Any) -> list[dict[str, Any]]:
    answer = client.post("/ui/chat", json={"messages": messages, "options": options})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: ")]


def blocks_of(events: list[dict[str, Any]]) -> list[Block]:
    return [Block(**block) for event in events for block in event.get("blocks", ())]


def test_a_reply_comes_rendered_with_its_text_and_figures(
    client: TestClient, server_model: StarChat
) -> None:
    reply = server_model.chat(QUESTION, temperature=0)
    sent = events(client, QUESTION, temperature=0)
    assert "".join(event.get("text", "") for event in sent) == reply.text
    assert blocks_of(sent) == render(reply.text)
    end = sent[-1]["end"]
    assert (end["reason"], tuple(end["token_ids"])) == (reply.finish_reason, reply.token_ids)
    assert end["usage"]["prompt_tokens"] == reply.usage.prompt_tokens
    assert {"cached_tokens", "decode_seconds"} <= end["usage"].keys()
    assert [event for event in sent if "end" in event] == sent[-1:]


def test_a_cut_reply_goes_on_as_one_text(client: TestClient) -> None:
    whole = events(client, QUESTION, temperature=0)
    text = "".join(event.get("text", "") for event in whole)
    n = text.index("sort(") + 3
    begun = [*QUESTION, {"role": "assistant", "content": text[:n]}]
    rest = events(client, begun, temperature=0, continue_final_message=True)
    added = "".join(event.get("text", "") for event in rest)
    assert added and blocks_of(rest) == render(text[:n] + added)


def test_calls_of_tools_come_in_pieces_and_whole(client: TestClient) -> None:
    options = {"tools": [ADD], "tool_choice": "any", "parallel_tool_calls": False, "temperature": 0}
    sent = events(client, QUESTION, **options)
    end = sent[-1]["end"]
    pieces = [piece for event in sent for piece in event.get("calls", ())]
    assert (end["reason"], end["calls"][0]["name"], pieces[0]["name"]) == (
        "tool_calls",
        "add",
        "add",
    )
    assert (
        json.loads("".join(piece["arguments"] for piece in pieces)) == end["calls"][0]["arguments"]
    )
    messages = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": end["calls"]},
        {"role": "tool", "content": "3", "tool_call_id": end["calls"][0]["id"], "name": "add"},
    ]
    assert events(client, messages, max_tokens=8)[-1]["end"]["reason"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": QUESTION, "options": {"n": 2}}, "n"),
        ({"messages": QUESTION, "options": {"prompt_progress": 1}}, "prompt_progress"),
        ({"messages": QUESTION, "options": {"cache_salt": "x"}}, "cache_salt"),
        ({"messages": QUESTION, "options": {"temperature": "hot"}}, "temperature"),
        ({"messages": [{"role": "pirate", "content": ""}]}, "messages[0].role"),
        ({"messages": QUESTION, "options": {"json_schema": {"type": "pirate"}}}, "json_schema"),
    ],
)
def test_a_wrong_request_is_refused_before_the_stream(
    client: TestClient, body: dict[str, Any], param: str
) -> None:
    answer = client.post("/ui/chat", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_texts_are_rendered_as_replies_are(client: TestClient) -> None:
    texts = ["- a\n- b\n", "", "<b>x</b>"]
    answer = client.post("/ui/render", json={"texts": texts}).json()
    assert answer["replies"] == [[block._asdict() for block in render(text)] for text in texts]
    assert client.post("/ui/render", json={"texts": ["x"] * 501}).status_code == 400
    assert client.post("/ui/render", json={"texts": ["x" * 600_000] * 2}).status_code == 413


async def data_of(text: str, wait_s: float = 0.0) -> list[dict[str, Any]]:
    replies: Any = FakeReplies(text, wait_s=wait_s)
    return [json.loads(event[6:]) async for event in ReplyEvents().of(replies)]


LONG = {
    "code": "```python\n" + "value = compute(value)\n" * 1_450 + "```\n",
    "list": "- an item of a list\n" * 1_600,
    "paragraph": "word " * 6_400,
    "mixed": "Look at this:\n\n```python\nx = 1\n```\n\n- a\n- b\n\n" * 640,
}


@pytest.mark.parametrize("kind", LONG)
async def test_a_reply_of_8000_tokens_stays_cheap_and_leaves_the_event_loop_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, rendered, threads = LONG[kind], [0], set()
    original = BlockRenderer._rendered

    def counted(self: Any, piece: str, *, highlighted: bool) -> Any:
        rendered[0] += len(piece)
        threads.add(threading.current_thread())
        return original(self, piece, highlighted=highlighted)

    monkeypatch.setattr(BlockRenderer, "_rendered", counted)
    sent = await data_of(text)
    assert "".join(event.get("text", "") for event in sent) == text
    assert blocks_of(sent)
    assert threading.main_thread() not in threads
    n_sent = len(json.dumps(sent))
    assert rendered[0] < 4 * len(text)
    assert n_sent < 30 * len(text)


async def test_a_prompt_shows_how_far_it_is() -> None:
    sent = await data_of("Hello", wait_s=0.15)
    assert sent[0] == {"progress": [32, 64]}
    assert sent[-1]["end"]["reason"] == "stop"


async def test_a_reply_that_fails_has_shown_its_text() -> None:
    replies: Any = FakeReplies("Some text.", error=ApiError(504, "too late"))
    sent = []
    with pytest.raises(ApiError, match="too late"):
        async for event in ReplyEvents().of(replies):
            sent.append(json.loads(event[6:]))
    assert "".join(event.get("text", "") for event in sent) == "Some text."


async def test_a_client_that_goes_ends_the_reply(app: FastAPI) -> None:
    from starchat.server.service import Prompt, Service

    service: Service = app.state.service
    options = {"ignore_eos": True, "max_tokens": 1_500}
    replies = await service.stream(Prompt(messages=QUESTION), options)
    async with replies:
        stream = ReplyEvents().of(replies)
        assert await stream.__anext__()
        await stream.aclose()
    assert service.admission.running == 0
