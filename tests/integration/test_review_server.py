"""The server as a process: its links, killed in the middle, many people at once, stopped cleanly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from review_server import Client, served
from review_study import SYSTEMS, make_study, write_study

from realigner.review import Store, load_study
from realigner.review.answers import Choice, Judged

COMMAND = "import sys; from realigner.cli.main import main; sys.exit(main(sys.argv[1:]))"


@contextmanager
def process(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run `realigner review serve`; yield the process, and the links that it printed."""
    arguments = [sys.executable, "-c", COMMAND, "review", "serve", str(folder), "--json", *options]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as found:
        try:
            assert found.stdout is not None
            yield found, json.loads(found.stdout.readline())
        finally:
            if found.poll() is None:
                found.kill()


def test_a_server_that_is_killed_in_the_middle_loses_and_doubles_nothing(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", ["audit"], count=40, annotators=4)
    with process(folder, "--port", "0") as (killed, links):
        address = links["annotators"].rstrip("/")
        people = [Client(address).join(name) for name in ("Ada", "Bob", "Cy")]
        tabs = [person.get("/task/audit").form(r"/task/audit/\d+") for person in people]
        kept: Counter[str] = Counter()
        stopping = threading.Event()

        def work(place: int) -> None:
            try:
                while not stopping.is_set():
                    if people[place].answer("audit", label="unsure", note=str(place)).status == 303:
                        kept[str(place)] += 1
            except (OSError, AssertionError, ValueError):
                pass  # the server is gone, or all is answered

        people[0].submit(tabs[0], {"label": "compliant"})
        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(work, place) for place in (1, 2)]
            while sum(kept.values()) < 12:
                time.sleep(0.005)
            os.kill(killed.pid, signal.SIGKILL)
            killed.wait(10)
            stopping.set()
            for future in done:
                future.result()
    port = links["annotators"].rsplit(":", 1)[1].rstrip("/")
    with process(folder, "--port", port) as (_, again):
        assert again["coordinator"] == links["coordinator"]
        with Store(load_study(folder)) as store:
            task = store.study.tasks["audit"]
            entries = list(store.history(task))
            assert len({(entry.annotator, entry.item) for entry in entries}) == len(entries)
            found = Counter(entry.value.note for entry in entries if isinstance(entry.value, Judged))
            for place in ("1", "2"):
                # What was acknowledged is there; what was under way when it ended is there once, or not at all.
                assert 0 <= found[place] - kept[place] <= 1
        # Tabs, cookies and codes from before go on working; a form that was sent is not taken twice.
        assert people[0].submit(tabs[0], {"label": "compliant"}).status == 303
        assert people[0].answer("audit", label="unsure").status == 303
        with Store(load_study(folder)) as store:
            ada = next(person for person in store.annotators() if person.name == "Ada")
            answers = [step.value for step in store.steps(store.study.tasks["audit"], ada) if step.answered]
            assert answers == [Judged("compliant"), Judged("unsure")]


def test_stopped_by_ctrl_c_it_ends_cleanly_and_has_logged_nothing_of_the_study(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study")
    with process(folder, "--port", "0") as (server, links):
        client = Client(links["annotators"].rstrip("/")).join()
        client.answer("preference", choice="1")
        client.get("/none")
        os.kill(server.pid, signal.SIGINT)
        out, err = server.communicate(timeout=20)
    assert server.returncode == 0
    assert out == ""
    assert "answers.sqlite" in err
    assert not [name for name in (*SYSTEMS, "item-", "/task/") if name in out + err]


def test_200_items_by_20_people_at_50_requests_a_second(tmp_path: Path) -> None:
    """Requests leave on a clock, 50 a second, each answer by two requests: the page, then the form.

    Two people see each item, which takes 16 s. With REALIGNER_FULL_LOAD set, all 20 see all 200: 4,000 answers, 160 s.
    """
    people, seconds_apart = 20, 1 / 50
    each = people if os.environ.get("REALIGNER_FULL_LOAD") else 2
    answers = 200 * each
    study = make_study(tmp_path, ["preference"], count=200, overlap=1.0, annotators=each)
    with Store(study) as store, served(store) as address:
        clients = [Client(address).join(f"person {number}") for number in range(people)]
        begin = time.monotonic()
        place, lock = iter(range(2 * answers)), threading.Lock()

        def wait_for_turn() -> None:
            with lock:
                due = begin + next(place) * seconds_apart
            time.sleep(max(0.0, due - time.monotonic()))

        def work(client: Client) -> list[int]:
            statuses = []
            for number in range(answers // people):
                wait_for_turn()
                form = client.get("/task/preference").form(r"/task/preference/\d+")
                wait_for_turn()
                statuses.append(client.submit(form, {"choice": str(1 + number % 3)}).status)
            return statuses

        with ThreadPoolExecutor(people) as pool:
            statuses = [status for found in pool.map(work, clients) for status in found]
        entries = list(store.history(study.tasks["preference"]))
    assert statuses == [303] * answers
    assert len(entries) == answers
    assert len({(entry.annotator, entry.item) for entry in entries}) == answers
    assert set(Counter(entry.item for entry in entries).values()) == {each}
    by_person = Counter(entry.annotator for entry in entries)
    assert set(by_person.values()) == {answers // people}
    for annotator in by_person:
        mine = [entry for entry in entries if entry.annotator == annotator]
        # The n-th answer of a person is what they sent as their n-th.
        assert [entry.number for entry in mine] == list(range(1, answers // people + 1))
        assert [entry.value for entry in mine] == [Choice(entry.places[i % 3]) for i, entry in enumerate(mine)]
