from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

from runner.events import Check
from runner.fidelity_checks import check_rate
from runner.report import html_page, write_report
from runner.results import RunFolder
from runner.summary import summarize
from runner.verdict import judge
from testbed.serving.events import Event, PlanAdopted
from tests.runner.story import judged

VOID = {"meta", "img", "br", "wbr"}


class Page(HTMLParser):
    """Checks that tags are balanced, and collects what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Page:
    parser = Page()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_the_report_is_one_page_without_the_outside(
    tmp_path: Path, quickstart: tuple[Event, ...], network: object
) -> None:
    folder = RunFolder(tmp_path, "quickstart", 1, datetime.now(UTC))
    checks = [event for event in quickstart if isinstance(event, Check)]
    write_report(folder, quickstart, summarize(quickstart), judged(quickstart), judge(checks), network)  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "timeline.png", "topology.png"}
    text = (tmp_path / "report.html").read_text()
    page = read(text)
    assert len(page.links) == 2
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not page.tags & {"script", "iframe", "link", "object"}
    for words in ("recover from kill node2", "throttle", "fault_lateness_ms", "129 / 129"):
        assert words in text


def test_what_a_run_says_is_escaped(quickstart: tuple[Event, ...]) -> None:
    evil = '<script>alert("x")</script>'
    events = [
        dataclasses.replace(e, reason=evil, bottleneck=evil) if isinstance(e, PlanAdopted) else e for e in quickstart
    ]
    bad = dataclasses.replace(check_rate(0.0, "before", evil, 1e6, 9e6), detail=evil)
    facts = {"git": {"commit": evil, "dirty": True}, "machine": {"cpu_model": evil}}
    page = html_page(evil, [*events, bad], summarize(events), judged(events), judge([bad]), b"", b"", facts)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    read(page)
    assert len(re.findall("<tr class=off>", page)) == 1


def test_an_empty_run_has_a_report() -> None:
    page = html_page("empty", [], summarize([]), judged([]), judge([]), b"", b"", {})
    read(page)
    assert "nothing was checked" in page
    assert "no fault was asked for" in page
