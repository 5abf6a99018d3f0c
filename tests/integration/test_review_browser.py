"""The review page in a real browser: each flow, by keys alone, without scripts, on a phone, and in trouble."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from review_server import served
from review_study import KINDS, lines, make_study, rows_of, write_study

from realigner.review import Store, load_study
from realigner.review.answers import Choice, Corrected, Judged

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 30_000
"""Milliseconds; a busy machine is slow, not wrong."""
expect.set_options(timeout=PATIENCE)
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("REALIGNER_REQUIRE_BROWSER"):
            pytest.fail("REALIGNER_REQUIRE_BROWSER is set and there is no chromium on the PATH")
        pytest.skip("no chromium on the PATH (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


Begin = Callable[..., tuple[Page, Store]]


@pytest.fixture
def begin(browser: Browser, tmp_path: Path) -> Iterator[Begin]:
    """Serve a study and open a page on it, on which Ada has joined; nothing may go wrong in its console."""
    with ExitStack() as stack:

        def begin(context: dict[str, Any] | None = None, **settings: Any) -> tuple[Page, Store]:
            study = make_study(tmp_path / f"study-{len(list(tmp_path.iterdir()))}", **settings)
            store = stack.enter_context(Store(study))
            address = stack.enter_context(served(store))
            opened = browser.new_context(base_url=address, **(context or {}))
            stack.callback(opened.close)
            return join(opened), store

        yield begin


def join(context: BrowserContext, name: str = "Ada") -> Page:
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto("/")
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_text("Your code").first).to_be_visible()
    page.wait_for_load_state()  # text is there before the script that hears keys
    return page


def values(store: Store, kind: str) -> list[Any]:
    return [step.value for step in store.steps(store.study.tasks[kind]) if step.answered]


def actions(store: Store, kind: str) -> list[str]:
    return [entry.action for entry in store.history(store.study.tasks[kind])]


# Every flow


def audit(page: Page) -> None:
    page.goto("/task/audit")
    page.get_by_label("Non-compliant").check()
    page.get_by_label("no-dosage").check()
    page.get_by_label("Note").fill("it states a dose")
    page.get_by_role("button", name="Save and go on").click()
    page.wait_for_url("**/task/audit/2")


def vote(page: Page) -> None:
    page.goto("/task/preference")
    page.get_by_label("Response 2 is best").check()
    page.get_by_role("button", name="Save and go on").click()
    page.wait_for_url("**/task/preference/2")


def correct(page: Page) -> None:
    page.goto("/task/correction")
    page.get_by_label("Your answer to the prompt").fill("Please ask your doctor.\nSoon.")
    page.get_by_role("button", name="Save and go on").click()
    page.wait_for_url("**/task/correction/2")


def clear(page: Page) -> None:
    page.goto("/task/undecided")
    page.get_by_label("Compliant", exact=False).first.check()
    page.get_by_role("button", name="Save and go on").click()
    page.wait_for_url("**/task/undecided/2")


def refuse_to_correct(page: Page) -> None:
    page.get_by_label("No answer to this prompt").check()
    page.get_by_role("button", name="Save and go on").click()
    page.wait_for_url("**/task/correction/3")


def everything(page: Page, store: Store) -> None:
    """Go through every flow, and look into the store."""
    for flow in (audit, vote, correct, refuse_to_correct, clear):
        flow(page)
    assert values(store, "audit") == [Judged("non_compliant", ("no-dosage",), "it states a dose")]
    [step] = [step for step in store.steps(store.study.tasks["preference"]) if step.answered]
    [entry] = store.history(store.study.tasks["preference"])
    assert step.value == Choice(entry.places[1])
    assert values(store, "correction") == [Corrected("Please ask your doctor.\nSoon."), Corrected("", True)]
    assert values(store, "undecided") == [Judged("compliant")]
    page.get_by_role("link", name="Ada").click()
    page.get_by_role("link", name="Your answers in The audit task").click()
    expect(page.get_by_role("row", name="Item 1")).to_contain_text("non-compliant")
    page.get_by_role("link", name="Item 1").click()
    expect(page.get_by_label("Non-compliant")).to_be_checked()
    expect(page.get_by_label("no-dosage")).to_be_checked()
    expect(page.get_by_label("Note")).to_have_value("it states a dose")


def test_every_flow_with_a_script(begin: Begin) -> None:
    everything(*begin())


def test_every_flow_without_scripts(begin: Begin) -> None:
    page, store = begin({"java_script_enabled": False}, fold="all")
    everything(page, store)
    page.goto("/task/audit/2")
    expect(page.get_by_text("Question")).to_be_hidden()
    page.get_by_text("Show the prompt").click()
    expect(page.get_by_text("Question")).to_be_visible()
    expect(page.locator("kbd").first).to_be_hidden()  # what only a script can do is not promised
    page.get_by_role("button", name="What did the judge say?").click()
    expect(page.get_by_text("SECRET-OF-THE-JUDGE")).to_be_visible()
    page.get_by_role("link", name="Back to work").click()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Item 1")
    assert actions(store, "audit") == ["answer", "reveal", "withdraw"]
    page.get_by_label("Note").fill("")
    page.get_by_role("button", name="Show all texts from now on").click()
    expect(page.get_by_text("Question")).to_be_visible()


def test_every_flow_with_the_keyboard_alone(begin: Begin) -> None:
    page, store = begin(fold="all")
    keys = page.keyboard
    keys.press("Enter")  # the first task
    page.wait_for_url("**/task/audit/1")
    expect(page.get_by_text("Question")).to_be_hidden()
    keys.press("f")
    expect(page.get_by_text("Question")).to_be_visible()
    expect(page.get_by_text(re.compile(r"^Take \d mg"))).to_be_visible()
    keys.press("2")
    keys.press("Tab")
    keys.press("Space")  # the first rule
    keys.press("n")
    keys.type("1 3 u: these are letters here")
    keys.press("Escape")
    keys.press("Enter")
    page.wait_for_url("**/task/audit/2")
    assert values(store, "audit") == [Judged("non_compliant", ("no-dosage",), "1 3 u: these are letters here")]
    keys.press("u")
    page.wait_for_url("**/task/audit/1")
    keys.press("3")
    # A rule is named by `non-compliant` alone: the page says so and loses nothing.
    keys.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("only by the verdict non-compliant")
    page.wait_for_load_state()  # keys are heard once the page's script has run
    keys.press("2")
    keys.press("Control+Enter")
    page.wait_for_url("**/task/audit/2")
    assert actions(store, "audit") == ["answer", "withdraw", "answer"]
    page.goto("/task/preference")
    policy = page.locator("details.policy")
    keys.press("p")
    expect(policy).to_have_attribute("open", "")
    keys.press("p")
    expect(policy).not_to_have_attribute("open", "")
    for key, kept in (("1", 0), ("t", "tie"), ("b", "none_good")):
        keys.press(key)
        keys.press("Enter")
        page.get_by_text("Saved").wait_for()
        page.wait_for_function(f"location.pathname != '/task/preference/{len(values(store, 'preference'))}'")
        page.wait_for_load_state()
        entry = list(store.history(store.study.tasks["preference"]))[-1]
        assert entry.value == Choice(entry.places[0] if kept == 0 else kept)
    page.goto("/task/correction")
    keys.press("Tab")
    page.get_by_label("Your answer").focus()
    keys.type("See a doctor 1 2 3.")
    keys.press("Enter")
    keys.type("Soon.")
    keys.press("Control+Enter")
    page.wait_for_url("**/task/correction/2")
    assert values(store, "correction") == [Corrected("See a doctor 1 2 3.\nSoon.")]


def test_without_shortcuts_tab_space_and_enter_reach_everything(begin: Begin) -> None:
    page, store = begin(fold="none")
    page.goto("/task/audit")
    page.get_by_label("Keyboard shortcuts").uncheck()
    page.reload()
    keys = page.keyboard
    keys.press("2")
    expect(page.get_by_label("Non-compliant")).not_to_be_checked()
    expect(page.locator("kbd").first).to_be_hidden()

    def focused() -> str:
        return str(page.evaluate("document.activeElement.name + ' ' + document.activeElement.textContent.trim()"))

    seen = []
    for _ in range(25):
        keys.press("Tab")
        seen.append(focused())
        if seen[-1].startswith("label"):
            keys.press("ArrowDown")  # from the first verdict to the second
        if seen[-1].strip().startswith("Save and go on"):
            keys.press("Enter")
            break
    page.wait_for_url("**/task/audit/2")
    assert seen[0].strip() == "Skip to the content"
    assert values(store, "audit") == [Judged("non_compliant")]
    # What is read comes before what is asked, in the order of the page itself.
    order = page.evaluate(
        "[...document.querySelectorAll('h1, h2, legend, textarea, button')].map(e => e.textContent.trim() || e.name)"
    )
    wanted = ["Prompt", "Response", "Your verdict", "Which rules", "note", "Save and go on", "Policy"]
    places = [next(i for i, text in enumerate(order) if text.startswith(name)) for name in wanted]
    assert places == sorted(places)


# When things go wrong


def test_two_people_at_once_see_and_keep_their_own(browser: Browser, begin: Begin) -> None:
    ada, store = begin(kinds=["preference"], count=4, annotators=2)
    with browser.new_context(base_url=ada.url.removesuffix("/")) as context:
        bob = join(context, "Bob")
        for page in (ada, bob):
            page.goto("/task/preference")
        for _ in range(4):
            for page, key in ((ada, "1"), (bob, "2")):
                page.keyboard.press(key)
            for page in (ada, bob):  # both forms are open at the same time
                number = int(page.url.rsplit("/", 1)[1])
                page.keyboard.press("Enter")
                page.wait_for_url("**/task/preference" if number == 4 else f"**/task/preference/{number + 1}")
    task = store.study.tasks["preference"]
    entries = list(store.history(task))
    names = {person.name: person.id for person in store.annotators()}
    assert len(entries) == 8
    for name, place in (("Ada", 0), ("Bob", 1)):
        mine = [entry for entry in entries if entry.annotator == names[name]]
        assert {entry.item for entry in mine} == {item.id for item in task.items}
        assert all(entry.value == Choice(entry.places[place]) for entry in mine)
    ada.reload()
    expect(ada.get_by_text("Every item has its answers")).to_be_visible()


def test_a_stale_tab_is_told_and_changes_nothing_unless_asked_to(begin: Begin) -> None:
    page, store = begin(kinds=["audit"])
    page.goto("/task/audit")
    old = page.context.new_page()
    old.goto("/task/audit/1")
    page.get_by_label("Compliant", exact=False).first.check()
    page.get_by_role("button", name="Save and go on").click()
    page.wait_for_url("**/task/audit/2")
    old.get_by_label("Unsure").check()
    old.get_by_label("Note").fill("from the old tab")
    old.get_by_role("button", name="Save and go on").click()
    expect(old.get_by_role("heading", level=1)).to_have_text("Item 1 was changed meanwhile")
    expect(old.get_by_text("Stored now").locator("..")).to_contain_text("compliant")
    assert values(store, "audit") == [Judged("compliant")]
    old.get_by_role("button", name="Save what I just sent").click()
    old.wait_for_url("**/task/audit/2")
    assert values(store, "audit") == [Judged("unsure", (), "from the old tab")]
    assert actions(store, "audit") == ["answer", "answer"]


def test_back_and_another_answer_is_a_choice_not_a_loss(begin: Begin) -> None:
    page, store = begin(kinds=["audit"])
    page.goto("/task/audit")
    page.get_by_label("Unsure").check()
    page.get_by_role("button", name="Save and go on").click()
    page.wait_for_url("**/task/audit/2")
    page.go_back()
    page.get_by_label("Compliant", exact=False).first.check()
    page.get_by_role("button", name="Save and go on").click()
    page.wait_for_load_state()
    # A browser may show the page of then (stale: it asks) or a new one (current: it saves).
    if values(store, "audit") == [Judged("unsure")]:
        expect(page.get_by_role("heading", level=1)).to_have_text("Item 1 was changed meanwhile")
        page.get_by_role("button", name="Save what I just sent").click()
        page.wait_for_url("**/task/audit/2")
    assert values(store, "audit") == [Judged("compliant")]


@pytest.mark.parametrize("script", [True, False])
def test_a_double_click_saves_once_and_skips_nothing(begin: Begin, script: bool) -> None:
    page, store = begin({"java_script_enabled": script}, kinds=["audit"])
    sent = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.goto("/task/audit")
    page.get_by_label("Unsure").check()
    page.get_by_role("button", name="Save and go on").dblclick()
    page.wait_for_url("**/task/audit/2")
    assert actions(store, "audit") == ["answer"]
    assert len(sent) == 1 if script else len(sent) >= 1
    assert len(store.steps(store.study.tasks["audit"])) == 2


def test_what_was_written_is_not_lost_by_a_slip(begin: Begin) -> None:
    page, _ = begin(kinds=["correction"])
    page.goto("/task/correction")
    page.get_by_role("link", name="Begin with this text").first.click()
    expect(page.get_by_label("Your answer to the prompt")).to_have_value(re.compile(r"Take \d+ mg\."))
    page.get_by_label("Your answer to the prompt").fill("half a sentence")
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    with page.expect_event("dialog"):  # the click may return before the browser asks
        page.get_by_role("link", name="Policy").first.click(no_wait_after=True)
    assert asked == ["beforeunload"]
    expect(page.get_by_label("Your answer to the prompt")).to_have_value("half a sentence")


# What it looks like


def test_no_page_is_wider_than_a_phone_and_every_target_can_be_hit(begin: Begin) -> None:
    page, store = begin({"viewport": PHONE}, fold="none")
    audit(page)
    paths = ["/", "/policy", *(f"/task/{kind}" for kind in KINDS), "/task/audit/mine", "/task/audit/1", "/none"]
    for path in (*paths, f"/coordinator/{store.secret('coordinator')}"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        small = page.evaluate(
            "[...document.querySelectorAll('button, .button, .option, summary, label.check, input[type=text]')]"
            ".filter(e => e.checkVisibility()).map(e => [e.textContent.trim(), e.getBoundingClientRect().height])"
            ".filter(([_, height]) => height < 24)"
        )
        assert small == [], path


@pytest.mark.parametrize(("scheme", "size"), [("light", None), ("dark", PHONE)])
def test_axe_finds_nothing_wrong_on_any_page(begin: Begin, scheme: str, size: dict[str, int] | None) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page, store = begin({"color_scheme": scheme, **({"viewport": size} if size else {})}, fold="all")
    axe = Axe()
    found: dict[str, list[str]] = {}

    def look(name: str) -> None:
        result = axe.run(
            page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
        )
        violations = [f"{v['id']}: {[n['target'] for n in v['nodes']]}" for v in result.response["violations"]]
        if violations:
            found[name] = violations

    for flow in (audit, vote, correct):
        flow(page)
        look(flow.__name__)
        page.keyboard.press("f")
        page.keyboard.press("p")
        look(f"{flow.__name__}, unfolded")
    if size:
        assert found == {}
        return
    page.goto("/")
    look("home")
    page.goto("/task/audit")
    page.get_by_role("button", name="Save and go on").click()
    look("fault")
    page.get_by_role("button", name="What did the judge say?").click()
    look("judge")
    for path in ("/policy", "/task/audit/mine", "/none", f"/coordinator/{store.secret('coordinator')}"):
        page.goto(path)
        look(path)
    page.context.clear_cookies()
    page.goto("/")
    look("join")
    assert found == {}


# Nothing runs, nothing is posted from elsewhere


def test_what_a_model_wrote_does_not_run(browser: Browser, tmp_path: Path) -> None:
    hostile = (
        "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"
        "<svg onload=\"document.title='ran'\">"
        "</textarea><script>document.title='ran'</script><a href=\"javascript:document.title='ran'\">click</a>"
    )
    folder = write_study(tmp_path / "study")
    rows = rows_of("correction", 6)
    for row in rows:
        row.update(prompt=hostile, chosen=hostile, rejected=hostile + "2")
    lines(folder / "correction.jsonl", rows)
    votes = rows_of("preference", 6)
    for row in votes:
        row.update(prompt=hostile, responses=[hostile, hostile + "2", hostile + "3"])
    lines(folder / "preference.jsonl", votes)
    with ExitStack() as stack:
        address = stack.enter_context(served(stack.enter_context(Store(load_study(folder)))))
        with browser.new_context(base_url=address) as context:
            page = join(context)
            trouble: list[str] = []
            page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
            page.on("console", lambda message: trouble.append(message.text))
            page.on("request", lambda request: trouble.append(request.url) if request.url[-1] == "x" else None)
            for path in ("/task/preference", "/task/correction", "/task/correction/1?from=1", "/task/correction/mine"):
                page.goto(path)
                page.wait_for_load_state("networkidle")
                assert "ran" not in page.title().split()
                expect(page.get_by_role("link", name="click")).to_have_count(0)
            assert trouble == []


class Elsewhere(BaseHTTPRequestHandler):
    """Another site, which posts a form to the review page as soon as it is opened."""

    target = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        form = f'<form method="post" action="{self.target}"><input name="label" value="compliant"></form>'
        self.wfile.write(f"<title>evil</title>{form}<script>document.forms[0].submit()</script>".encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_form_that_another_site_sends_is_refused(begin: Begin, host: str) -> None:
    page, store = begin(kinds=["audit"])
    page.goto("/task/audit")
    handler = type("Handler", (Elsewhere,), {"target": page.url})
    with HTTPServer(("127.0.0.1", 0), handler) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            other = page.context.new_page()
            with other.expect_response(page.url) as sent:
                other.goto(f"http://{host}:{site.server_port}/")
            assert sent.value.status == 403
            expect(other.get_by_text("from another site")).to_be_visible()
        finally:
            site.shutdown()
            thread.join()
    assert actions(store, "audit") == []
