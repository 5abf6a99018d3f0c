"""The page as an ASGI application: which address is answered by what.

It never learns whose responses it shows: the file with the systems' names is not read by this program.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from realigner.review import arriving, working
from realigner.review.desk import OUT_OF_DATE, Ask, Desk, SignIn, go
from realigner.review.security import LOOPBACK, Guard, read_form
from realigner.review.store import Store

Handler = Callable[[Ask], Response]

GET: dict[str, Handler] = {
    "/": arriving.home,
    "/policy": arriving.policy,
    "/coordinator": arriving.coordinator,
    "/coordinator/{secret}": arriving.enter_coordinator,
    "/static/{name}": arriving.static,
    "/task/{task}": working.work,
    "/task/{task}/mine": working.mine,
    "/task/{task}/{number:int}": working.item,
    "/task/{task}/{number:int}/judge": working.judge,
}
POST: dict[str, Handler] = {
    "/join": arriving.join,
    "/resume": arriving.resume,
    "/leave": arriving.leave,
    "/texts": arriving.texts,
    "/task/{task}/{number:int}": working.save,
    "/task/{task}/{number:int}/undo": working.undo,
    "/task/{task}/{number:int}/reveal": working.reveal,
}


def make_app(
    store: Store,
    *,
    hosts: Collection[str] = LOOPBACK,
    invitation: str | None = None,
    clock: Callable[[], float] = time.time,
) -> ASGIApp:
    """Return the application.

    Args:
        store: of the answers.
        hosts: names under which it may be reached.
        invitation: what people must know to join; None lets in everybody who reaches the page.
        clock: Unix time.
    """
    desk = Desk(store, invitation=invitation, clock=clock)
    routes = [_get(desk, path, handler) for path, handler in GET.items()]
    routes += [_post(desk, path, handler) for path, handler in POST.items()]

    async def sign_in(request: Request, _: Exception) -> Response:
        ask = Ask(desk, request, desk.visitor(request), {})
        return go("/") if request.method == "GET" else ask.say(403, "You have not joined", OUT_OF_DATE)

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        ask = Ask(desk, request, desk.visitor(request), {})
        heading = "There is no such page" if error.status_code == 404 else error.detail
        return ask.say(error.status_code, heading, "Nothing was changed.")

    async def fail(request: Request, _: Exception) -> Response:
        # The fault itself goes to the log of the server, never to a page.
        ask = Ask(desk, request, desk.visitor(request), {})
        return ask.say(
            500, "Something went wrong here", "What you sent may not be saved. Open the item again and look."
        )

    app = Starlette(routes=routes, exception_handlers={SignIn: sign_in, HTTPException: refuse, Exception: fail})
    app.router.redirect_slashes = False
    # Outside of everything, so that no answer leaves without the headers.
    return Guard(app, hosts)


def _get(desk: Desk, path: str, handler: Handler) -> Route:
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(lambda: handler(Ask(desk, request, desk.visitor(request), {})))

    return Route(path, endpoint, methods=["GET"])


def _post(desk: Desk, path: str, handler: Handler) -> Route:
    async def endpoint(request: Request) -> Response:
        body = await request.body()
        return await run_in_threadpool(lambda: _with_form(desk, request, body, handler))

    return Route(path, endpoint, methods=["POST"])


def _with_form(desk: Desk, request: Request, body: bytes, handler: Handler) -> Response:
    """Read a form, and refuse it unless it comes from a page that was made for this visitor."""
    fields = read_form(body)
    if fields is None:
        raise HTTPException(400, "The form cannot be read")
    ask = Ask(desk, request, desk.visitor(request), fields)
    if not desk.seal.is_form_token(ask.visitor.visit, ask.field("token")):
        return ask.say(403, "This page is out of date", OUT_OF_DATE)
    return handler(ask)
