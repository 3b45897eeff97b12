"""``dlm trace html``: one file with everything in it, and no text in it that is taken for markup."""

from __future__ import annotations

import html.parser
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dlm.commands.trace import run
from dlm.trace.page import page
from tests.traces.made import EVIL, by_hand, decoded, saved


class Elements(html.parser.HTMLParser):
    """The tags of a page, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


def test_the_traces_are_in_the_page_and_nothing_is_fetched() -> None:
    rows = [by_hand(), *decoded()]
    found = Elements(page(rows, "<b>{{ data }}</b>"))
    (data, script) = [s for s in found.scripts if s.strip()]
    assert json.loads(data)["rows"] == json.loads(json.dumps([row.as_dict() for row in rows]))
    assert EVIL not in data
    assert "b" not in [tag for tag, _ in found.tags if tag != "b"]
    links = [value for _, attributes in found.tags for key, value in attributes.items() if key in ("src", "href")]
    assert links == ["data:,"]
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|innerHTML|eval\(", script)
    policy = next(a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_title_is_text() -> None:
    found = page([by_hand()], "<b>{{ data }}</b>")
    assert "<title>&lt;b&gt;{{ data }}&lt;/b&gt;</title>" in found
    assert "{{ file(" not in found


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "]]>", "\u2028", "&lt;", "{{ file }}", "é\ud800"])
def test_no_text_can_end_the_script(text: str) -> None:
    written = page([replace(by_hand(), about={"text": text})], "made")
    written.encode()
    (data, _) = [s for s in Elements(written).scripts if s.strip()]
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data)["rows"][0]["about"] == {"text": text}


def test_a_page_beside_the_traces_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "run.jsonl", *[by_hand()] * 1203)
    assert run(["html", str(path)]) == 0
    assert "50 rows (the first 50 of 1,203; limit= takes more)" in capsys.readouterr().out
    (data, _) = [s for s in Elements((tmp_path / "run.html").read_text(encoding="utf-8")).scripts if s.strip()]
    told = json.loads(data)
    assert (len(told["rows"]), told["total"]) == (50, 1203)
    assert run(["html", str(path), "limit=2", f"out={tmp_path}/two.html"]) == 0
    assert "two.html: 2 rows (the first 2 of 1,203" in capsys.readouterr().out


def test_a_run_folder_gets_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "traces.jsonl", by_hand())
    assert run(["html", str(tmp_path)]) == 0
    assert f"{tmp_path}/traces.html: 1 row, " in capsys.readouterr().out
