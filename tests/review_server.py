"""A review page that is really served, and a client that is no browser: sockets, cookies, forms, every byte kept."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode, urlsplit

import uvicorn

from realigner.review import Store
from realigner.review.app import make_app
from realigner.review.serve import listen, settings

FORM = "application/x-www-form-urlencoded"


@contextmanager
def served(store: Store, **options: object) -> Iterator[str]:
    """Serve a store in this process; yield the address without a slash at its end."""
    bound = listen("127.0.0.1", 0)
    server = uvicorn.Server(settings(make_app(store, **options)))  # type: ignore[arg-type]
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        bound.close()


@dataclass
class Page:
    """An answer of the server."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    @property
    def forms(self) -> list[Form]:
        parser = _Forms()
        parser.feed(self.text)
        return parser.forms

    def form(self, action: str) -> Form:
        """Return the form whose action matches."""
        [found] = [form for form in self.forms if re.fullmatch(action, form.action)]
        return found

    @property
    def location(self) -> str:
        return str(self.headers["location"])


@dataclass
class Form:
    """A form of a page: what it would send if nothing were changed."""

    action: str
    fields: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Client:
    """Somebody with cookies. `received` is every byte that the server has sent them, headers and all."""

    address: str
    cookies: dict[str, str] = field(default_factory=dict)
    received: list[bytes] = field(default_factory=list)

    def send(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Page:
        """Send one request, exactly as told; follow nothing."""
        parts = urlsplit(self.address)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        given = dict(headers or {})
        if self.cookies and "Cookie" not in given:
            given["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            connection.request(method, path, body, given)
            response = connection.getresponse()
            page = Page(response.status, response.headers, response.read())
        finally:
            connection.close()
        for cookie in response.headers.get_all("set-cookie") or []:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        self.received += [str(response.headers).encode(), page.body]
        return page

    def get(self, path: str, follow: bool = True) -> Page:
        """Ask for a page, as a browser does."""
        page = self.send("GET", path)
        while follow and page.status == 303:
            page = self.send("GET", page.location)
        return page

    def post(self, path: str, fields: Mapping[str, str | Sequence[str]], **headers: str) -> Page:
        """Send a form."""
        body = urlencode(fields, doseq=True).encode()
        return self.send("POST", path, body, {"Content-Type": FORM, "Origin": self.address, **headers})

    def submit(self, form: Form, changes: Mapping[str, str | Sequence[str]] | None = None, **headers: str) -> Page:
        """Fill in a form and send it; follow nothing."""
        return self.post(form.action, {**form.fields, **(changes or {})}, **headers)

    def join(self, name: str = "Ada") -> Client:
        """Join, and return oneself."""
        done = self.submit(self.get("/").form("/join"), {"name": name})
        assert done.status == 303, done.text
        return self

    def answer(self, task: str, **changes: str | Sequence[str]) -> Page:
        """Answer the item that is open in a task; return what the server says to that."""
        return self.submit(self.get(f"/task/{task}").form(rf"/task/{task}/\d+"), changes)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._area: str | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        name, value = found.get("name") or "", found.get("value") or ""
        if tag == "form":
            self.forms.append(Form(found["action"] or ""))
        elif tag == "input" and name:
            if found.get("type") not in ("radio", "checkbox") or "checked" in found:
                self.forms[-1].fields.setdefault(name, []).append(value)
        elif tag == "textarea" and name:
            self._area = name
            self.forms[-1].fields[name] = [""]

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = None

    def handle_data(self, data: str) -> None:
        if self._area is not None:
            held = self.forms[-1].fields[self._area]
            held[0] += data if held[0] else data.removeprefix("\n")
