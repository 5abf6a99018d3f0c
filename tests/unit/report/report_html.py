"""A strict reader of our own pages: balance, ids, links and headings, by the standard library's parser."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "br", "link", "img", "input", "hr"}
FORBIDDEN = {"iframe", "object", "embed", "img", "link", "base", "form", "foreignobject", "video"}
ONCE = {"script", "input", "select"}
"""Elements of the search among samples: once at most."""


class Page(HTMLParser):
    """What a page is made of. Faults are collected, not raised."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.labels: list[str] = []
        self.headings: list[int] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)
        if "svg" not in self.open:
            self.faults.append(f"<{tag}/> closes itself outside SVG")

    def note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag in FORBIDDEN:
            self.faults.append(f"<{tag}> is forbidden")
        if tag in ONCE and [name for name, _ in self.tags].count(tag) > 1:
            self.faults.append(f"<{tag}> is there twice")
        if tag == "script" and attrs:
            self.faults.append("<script> has attributes")
        self.faults += [f"<{tag} {name}> is an event handler" for name in found if name.startswith("on")]
        if len(found) != len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        if found.get("id"):
            self.ids.append(str(found["id"]))
        for name in ("href", "src", "xlink:href", "action", "data"):
            if name in found:
                self.targets.append(str(found[name]))
        self.labels += str(found.get("aria-labelledby") or "").split()
        if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> closes {self.open[-1:]}")
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif not {"style", "title"} & set(self.open[-1:]):
            self.text.append(data)

    @property
    def words(self) -> str:
        """All visible text, white space collapsed."""
        return " ".join(" ".join(self.text).split())
