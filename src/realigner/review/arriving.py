"""Routes of arriving: the first page, joining, resuming, the policy, and the coordinator's page."""

from __future__ import annotations

import hmac
import re
from importlib import resources

from starlette.exceptions import HTTPException
from starlette.responses import Response

from realigner.review.desk import Ask, go
from realigner.review.figures import task_figures
from realigner.review.views import paragraphs, progress_of

LONGEST_NAME = 60
STATIC = {
    "review.css": "text/css; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_ITEM = re.compile(r"/task/[a-z0-9-]{1,40}/[0-9]{1,9}")
LIVE_RESAMPLES = 500
"""Of the bootstrap of α while the page is watched; `realigner review score` takes more."""


def home(ask: Ask) -> Response:
    """Show the tasks; to who has not joined, how to join."""
    if ask.visitor.person is None:
        return _join_page(ask)
    tasks = [(task, progress_of(ask.store, task, ask.person.id)) for task in ask.desk.study.tasks.values()]
    introduction = paragraphs(ask.desk.study.settings.instructions)
    return ask.show("home", introduction=introduction, tasks=tasks, code=ask.visitor.visit)


def _join_page(ask: Ask, field: str = "", fault: str = "") -> Response:
    return ask.show(
        "join",
        status=422 if fault else 200,
        introduction=paragraphs(ask.desk.study.settings.instructions),
        invited=ask.desk.invitation is not None,
        field=field,
        fault=fault,
    )


def join(ask: Ask) -> Response:
    """Give a new person their token."""
    if ask.visitor.person is not None:
        return go("/")
    if ask.desk.invitation is not None and not _same(ask.field("invitation").strip(), ask.desk.invitation):
        return _join_page(ask, "invitation", "This is not the invitation code. Ask the coordinator for it.")
    name = " ".join(ask.field("name").split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        return _join_page(ask, "name", f"Give a name of 1 to {LONGEST_NAME} characters.")
    _, token = ask.store.join(name)
    response = go("/")
    ask.set_cookie(response, "", token)
    return response


def resume(ask: Ask) -> Response:
    """Take up the work of who has this token."""
    token = "".join(ask.field("code").split()).lower()
    if ask.store.who(token) is None:
        return _join_page(ask, "code", "This code belongs to nobody here. Check it letter by letter.")
    response = go("/")
    ask.set_cookie(response, "", token)
    return response


def leave(ask: Ask) -> Response:
    """Forget on this device who is working."""
    response = go("/")
    response.delete_cookie(ask.desk.cookie, httponly=True, samesite="lax")
    return response


def texts(ask: Ask) -> Response:
    """Turn the folding of texts on or off for this device."""
    back = ask.field("back")
    response = go(back if _ITEM.fullmatch(back) else "/")
    ask.set_cookie(response, "-texts", "closed" if ask.visitor.unfold else "open")
    return response


def policy(ask: Ask) -> Response:
    """Show the policy's wording."""
    if ask.desk.study.wording is None:
        raise HTTPException(404)
    return ask.show("policy")


def static(ask: Ask) -> Response:
    """Return one of the page's own files; the address only chooses among them."""
    name = ask.request.path_params["name"]
    if name not in STATIC:
        raise HTTPException(404)
    content = (resources.files("realigner.review") / "static" / name).read_bytes()
    return Response(content, headers={"Content-Type": STATIC[name]})


def enter_coordinator(ask: Ask) -> Response:
    """Let in who has the coordinator's link."""
    if not _same(ask.request.path_params["secret"], ask.desk.coordinator):
        raise HTTPException(404)
    response = go("/coordinator")
    ask.set_cookie(response, "-desk", ask.desk.coordinator)
    return response


def coordinator(ask: Ask) -> Response:
    """Show progress and agreement, to who has the coordinator's link."""
    if not _same(ask.request.cookies.get(f"{ask.desk.cookie}-desk", ""), ask.desk.coordinator):
        raise HTTPException(404)
    figures = [task_figures(ask.store, task, LIVE_RESAMPLES) for task in ask.desk.study.tasks.values()]
    return ask.show("coordinator", figures=figures, resamples=LIVE_RESAMPLES, unblinded=ask.store.unblinded)


def _same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())
