"""The example study: the paper's design, made by the command it names, and walked through by three people."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from review_server import Client, served

from realigner.review import Store, load_study
from realigner.review.make import Wanted, new_study
from realigner.review.results import score_task, unblind_study
from realigner.review.study import StudySettings, TaskSettings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "review"


def test_its_items_and_systems_are_what_the_command_makes(tmp_path: Path) -> None:
    wanted = Wanted(responses=EXAMPLE / "responses.jsonl")
    made = new_study(tmp_path / "triplets", wanted, policy=Path("realigner:medical-information"))
    for name in ("preference.jsonl", "systems.jsonl"):  # the policy is a copy, and stays as it was
        assert (EXAMPLE / "triplets" / name).read_text() == (made.directory / name).read_text()
    assert made.self_naming == 0


def test_three_people_choose_the_best_of_three_blind_and_agree(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLE / "triplets", tmp_path / "triplets"))
    rows = [json.loads(line) for line in (EXAMPLE / "responses.jsonl").read_text().splitlines()]
    best = {row["prompt"]: max(row["responses"].values(), key=len) for row in rows}
    with Store(load_study(folder)) as store:
        task = store.study.tasks["triplets"]
        assert {len(item.texts) for item in task.items} == {3}
        with served(store) as address:
            for name in ("Ada", "Bob", "Cy"):
                client = Client(address).join(name)
                orders = set()
                for _ in task.items:
                    page = client.get("/task/triplets")
                    step = store.steps(task, next(p for p in store.annotators() if p.name == name))[-1]
                    item = task.by_id[step.item]
                    text = best[item.prompt[0]["content"]]
                    shown = sorted(item.texts, key=page.text.replace("&#39;", "'").index)
                    orders.add(tuple(item.texts.index(text) for text in shown))
                    place = shown.index(text) + 1
                    done = client.submit(page.form(r"/task/triplets/\d+"), {"choice": str(place)})
                    assert done.status == 303, done.text
                assert len(orders) > 2  # an order of its own for each item
                assert "nothing is left for you" in client.get("/task/triplets").text
        assert [found.id for found in unblind_study(store)] == ["triplets"]
        score = score_task(store, task).preference
    assert score is not None
    assert (score.items, score.votes, score.no_majority) == (12, 36, 0)
    assert score.alpha is not None
    assert score.alpha.value >= 0.75
    shares = {name: round(system.best["value"] * 12) for name, system in score.systems.items()}
    wanted = {name: sum(row["responses"][name] == best[row["prompt"]] for row in rows) for name in shares}
    assert shares == wanted


@pytest.mark.parametrize("model", [StudySettings, TaskSettings])
def test_every_key_of_a_study_is_on_its_page(model: type[StudySettings] | type[TaskSettings]) -> None:
    page = (ROOT / "docs" / "review.md").read_text()
    missing = [name for name in model.model_fields if f"{name}:" not in page and f"`{name}`" not in page]
    assert missing == []
