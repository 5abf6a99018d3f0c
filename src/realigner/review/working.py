"""Routes of working: the step to answer, saving, undoing, looking at the judge, and one's own answers."""

from __future__ import annotations

from dataclasses import replace

from starlette.responses import Response

from realigner.review.answers import AnswerFault, Fields, read_value
from realigner.review.desk import Ask, go
from realigner.review.history import Closed, Stale, Step
from realigner.review.study import Task
from realigner.review.views import item_page, places_of, progress_of, says, starting_text, with_numbers

CLOSED = "The systems behind the responses have been made known, so no vote is taken any more. Nothing was changed."
FIELDS = ("label", "rules", "choice", "text", "skip", "note")


def work(ask: Ask) -> Response:
    """Go to the step to answer now."""
    task, person = ask.task, ask.person
    step = ask.store.current_step(task, person)
    if step is not None:
        return go(f"/task/{task.id}/{step.number}")
    return ask.show("done", task=task, progress=progress_of(ask.store, task, person.id))


def item(ask: Ask) -> Response:
    """Show a step."""
    task, step = ask.task, ask.step
    start = ask.request.query_params.get("from", "")
    fields: Fields | None = None
    if task.kind == "correction" and start in ("1", "2"):
        fields = {"text": [starting_text(task.by_id[step.item].texts[int(start) - 1])]}
    return _show(ask, task, step, fields)


def _show(ask: Ask, task: Task, step: Step, fields: Fields | None, fault: AnswerFault | None = None) -> Response:
    page = item_page(ask.store, task, step, fields, ask.visitor.unfold)
    return ask.show(
        "item",
        status=422 if fault else 200,
        task=task,
        page=page,
        fault=fault,
        ticket=ask.make_ticket(step),
        undo_ticket=ask.make_ticket(page.before) if page.before else "",
        closed=_closed(ask, task),
    )


def save(ask: Ask) -> Response:
    """Keep an answer, once, unless the step changed since its page was made."""
    task, step = ask.task, ask.step
    ticket, order = ask.ticket(step), places_of(ask.store, task, step)
    try:
        value = read_value(task, task.by_id[step.item], ask.desk.study.wording, with_numbers(task, ask.fields, order))
    except AnswerFault as fault:
        # The new form stands for the revision that the old one was made from: it is no less stale than that.
        return _show(ask, task, replace(step, revision=ticket.revision), ask.fields, fault)
    places = order if task.kind == "preference" else ()
    seconds = max(0.0, ask.desk.clock() - ticket.made)
    try:
        ask.store.save(step, value, revision=ticket.revision, once=ticket.once, places=places, seconds=seconds)
    except Stale as stale:
        return _conflict(ask, task, stale.step, says(value, order))
    except Closed:
        return ask.say(409, "This vote is closed", CLOSED)
    return go(f"/task/{task.id}")


def _conflict(ask: Ask, task: Task, now: Step, entered: str) -> Response:
    """Show what is stored and what was entered, and let the person choose."""
    return ask.show(
        "conflict",
        status=409,
        task=task,
        step=now,
        stored=says(now.value, places_of(ask.store, task, now)) if now.answered else "",
        entered=entered,
        kept=[(name, value) for name in FIELDS for value in ask.fields.get(name, ())],
        text=ask.field("text"),
        ticket=ask.make_ticket(now),
    )


def undo(ask: Ask) -> Response:
    """Take an answer back and show its step again, with what was answered filled in."""
    task, step = ask.task, ask.step
    ticket = ask.ticket(step)
    try:
        # A page's buttons for one step share its ticket, and are different acts.
        ask.store.withdraw(step, revision=ticket.revision, once=f"{ticket.once}:undo")
    except Stale:
        pass  # another tab was faster; the page that follows shows how it stands
    except Closed:
        return ask.say(409, "This vote is closed", CLOSED)
    return go(f"/task/{task.id}/{step.number}")


def reveal(ask: Ask) -> Response:
    """Note that the judge's verdict is looked at, which is possible once the step is answered."""
    task, step = ask.task, ask.step
    ticket = ask.ticket(step)
    if step.answered and _has_judge(task, step):
        ask.store.reveal(step, once=f"{ticket.once}:reveal")
    return go(f"/task/{task.id}/{step.number}/judge")


def judge(ask: Ask) -> Response:
    """Show the judge's verdict beside one's own, to who has asked for it."""
    task, step = ask.task, ask.step
    if not (step.answered and _has_judge(task, step) and ask.store.is_revealed(step)):
        return go(f"/task/{task.id}/{step.number}")
    page = item_page(ask.store, task, step, None, ask.visitor.unfold)
    said = task.by_id[step.item].judge[0]
    return ask.show("judge", task=task, page=page, said=said, mine=says(step.value, ()))


def mine(ask: Ask) -> Response:
    """Show what this person has answered so far."""
    task = ask.task
    rows = []
    for step in ask.store.steps(task, ask.person):
        answer = says(step.value, places_of(ask.store, task, step)) if step.answered else ""
        rows.append((step, task.by_id[step.item].prompt[-1]["content"], answer))
    return ask.show("mine", task=task, rows=rows, closed=_closed(ask, task))


def _closed(ask: Ask, task: Task) -> bool:
    return task.kind == "preference" and ask.store.unblinded is not None


def _has_judge(task: Task, step: Step) -> bool:
    return task.kind in ("audit", "undecided") and bool(task.by_id[step.item].judge)
