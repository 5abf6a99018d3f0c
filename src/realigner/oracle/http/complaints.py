"""What is said when no request to a server can succeed."""

from __future__ import annotations

from realigner.endpoint import Endpoint
from realigner.errors import JudgeError, OracleError, RealignerError
from realigner.oracle.http.exchange import Reply


def unreachable(endpoint: Endpoint, why: str) -> OracleError:
    """Return the error for a server that there is no connection to."""
    remedy = "Start the server, or correct the url"
    return OracleError(f"judge at {endpoint.url}", f"it cannot be reached: {why}", remedy)


def gone(endpoint: Endpoint, tried: str, why: str, *, was_there: bool) -> RealignerError:
    """Return the error for a server that answers nothing, or nothing any more."""
    given, rule = f"judge at {endpoint.url}", f"{tried} without one answer; the last: {why}"
    if was_there:
        return JudgeError(given, rule, "What was answered is kept; give the same command when it works again")
    return OracleError(given, rule, "Check that url is the base of an OpenAI-compatible API (often …/v1)")


def too_long(endpoint: Endpoint, why: str, wait: float, patience: float, budget: float) -> JudgeError:
    """Return the error for a server that asks for more patience than there is.

    Args:
        endpoint: the server.
        why: what it said.
        wait: seconds that it asks for.
        patience: seconds that there are for this question; fewer than `budget` for the trivial one before the first.
        budget: the setting.
    """
    there_is = f"the budget of {budget:.0f} s for one question"
    remedy = "What was answered is kept; give the same command later, or raise budget"
    if patience < budget:
        there_is = f"the {patience:.0f} s that a server has to show that it is there"
        remedy = "What was answered is kept; give the same command later"
    return JudgeError(f"judge at {endpoint.url}", f"{why}; it asks to wait {wait:.0f} s, more than {there_is}", remedy)


def hopeless(endpoint: Endpoint, reply: Reply, why: str) -> OracleError:
    """Return the error for a status that no request will change: key, model, money, place."""
    given = f"judge at {endpoint.url}, {why}"
    if reply.status in (401, 403, 407):
        key = (
            f"with the key from {endpoint.key_env}" if endpoint.key is not None else "without a key (no key_env is set)"
        )
        return OracleError(given, f"the server refuses requests {key}", "Give the right key, or ask for access")
    if reply.status in (402, 429):
        return OracleError(given, "the account has no credit left", "Settle that with the vendor")
    if 300 <= reply.status < 400:
        there = endpoint.scrub((reply.location or "").partition("?")[0])[:200]
        rule = f"the server redirects{f' to {there}' if there else ''}, and the key is sent nowhere else"
        return OracleError(given, rule, "Set url to where the API is")
    return OracleError(
        given,
        "the server has no such model, or no API at this url",
        "Correct model, or url: most base URLs end in /v1",
    )
