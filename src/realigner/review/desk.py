"""What every route of the page works with: who asks, what they sent, and how a page is answered."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from realigner.review.answers import Fields
from realigner.review.history import Annotator, Step
from realigner.review.security import Seal, Ticket
from realigner.review.store import Store
from realigner.review.study import Task
from realigner.review.views import pages

MOST_STEPS = 10**9
"""No person is shown more; greater numbers do not fit into the database."""
COOKIE_SECONDS = 30 * 24 * 3600
OUT_OF_DATE = "This page was made for another visit. Open the item again and answer there; nothing was changed."


class SignIn(Exception):
    """The page is for people who joined."""


@dataclass(frozen=True)
class Visitor:
    """Who sends a request, as their cookies say."""

    visit: str
    """What forms are bound to: the person's token, or a random text before they have one."""
    person: Annotator | None
    unfold: bool
    """Whether they want to see all texts at once."""


class Desk:
    """The store, and what pages are sealed with."""

    def __init__(self, store: Store, *, invitation: str | None = None, clock: Callable[[], float] = time.time) -> None:
        """Take the store; with an invitation, only who knows it may join."""
        self.store, self.study, self.invitation = store, store.study, invitation
        self.seal, self.clock = Seal(store.key, clock), clock

    @cached_property
    def coordinator(self) -> str:
        """What opens the coordinator's page."""
        return self.store.secret("coordinator")

    @cached_property
    def cookie(self) -> str:
        """Prefix of cookie names: two studies on one machine must not mix, and cookies do not tell ports apart."""
        return f"review-{self.seal.form_token('cookie')[:8]}"

    def visitor(self, request: Request) -> Visitor:
        """Return who asks."""
        token = request.cookies.get(self.cookie, "")
        person = self.store.who(token) if token else None
        visit = token if person else request.cookies.get(f"{self.cookie}-visit", "")
        return Visitor(visit or secrets.token_hex(16), person, request.cookies.get(f"{self.cookie}-texts") == "open")


@dataclass(frozen=True)
class Ask:
    """One request: where it goes, who sends it, and the form that it brings."""

    desk: Desk
    request: Request
    visitor: Visitor
    fields: Fields

    @property
    def store(self) -> Store:
        """The answers."""
        return self.desk.store

    @property
    def person(self) -> Annotator:
        """Who asks.

        Raises:
            SignIn: nobody who has joined.
        """
        if self.visitor.person is None:
            raise SignIn
        return self.visitor.person

    @property
    def task(self) -> Task:
        """The task that the address names."""
        task = self.desk.study.tasks.get(self.request.path_params["task"])
        if task is None:
            raise HTTPException(404)
        return task

    @property
    def step(self) -> Step:
        """The step that the address names, one of the person's own."""
        number: int = self.request.path_params["number"]
        step = self.store.step(self.task, self.person, number) if number <= MOST_STEPS else None
        if step is None:
            raise HTTPException(404)
        return step

    def field(self, name: str) -> str:
        """Return the first value of a field, or an empty text."""
        return next(iter(self.fields.get(name, ())), "")

    def make_ticket(self, step: Step) -> str:
        """Return a fresh ticket for a form of a step, as it is shown."""
        return self.desk.seal.ticket(_place(step), step.revision)

    def ticket(self, step: Step) -> Ticket:
        """Return the ticket that the form brings, which must have been made for this step."""
        ticket = self.desk.seal.read_ticket(_place(step), self.field("ticket"))
        if ticket is None:
            raise HTTPException(403, "This page is out of date")
        return ticket

    def show(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """Return a page."""
        common = {
            "study": self.desk.study,
            "visitor": self.visitor,
            "token": self.desk.seal.form_token(self.visitor.visit),
        }
        html = pages().get_template(f"{template}.html.j2").render({**common, **values})
        response = Response(html, status, media_type="text/html")
        if self.visitor.person is None:
            self.set_cookie(response, "-visit", self.visitor.visit)
        return response

    def say(self, status: int, heading: str, text: str) -> Response:
        """Return a page that only says something."""
        return self.show("message", status=status, heading=heading, text=text)

    def set_cookie(self, response: Response, name: str, value: str) -> None:
        """Set a cookie that no script reads and no form of another site sends along."""
        # Not "strict": who follows a link to this page from a chat or a mail would seem to be nobody.
        response.set_cookie(
            f"{self.desk.cookie}{name}",
            value,
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="lax",
            secure=self.request.url.scheme == "https",  # behind a proxy that speaks TLS
        )


def go(address: str) -> Response:
    """Return a redirect that a browser follows with GET."""
    return RedirectResponse(address, 303)


def _place(step: Step) -> str:
    return f"{step.task}/{step.annotator}/{step.number}"
