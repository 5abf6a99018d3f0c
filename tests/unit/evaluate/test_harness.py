"""lm_eval with our tasks: scripted models score 0, 50 and 100 %, no network is touched, tokens are the encoder's."""

from __future__ import annotations

import json
import logging
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripted_lm import ScriptedLM
from tiny import tiny_model, tiny_tokenizer

from realigner.errors import DataError, RecipeError
from realigner.evaluate.harness import LoadedModel
from realigner.evaluate.harness_tasks import Ready, named_task, our_task, run_task
from realigner.evaluate.utility_docs import leaves, read_documents
from realigner.model.chat import Encoder
from realigner.recipe import RoleFormat, TextSettings
from realigner.recipe_evaluate import UtilityTask
from realigner.records import user_prompt

N = 12


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every attempt to reach another machine, or this one, is a failure."""

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a task over a local file reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    return


def rows_of(name: str) -> list[dict[str, Any]]:
    if name == "mmlu":
        return [
            {"subject": f"s{i % 2}", "question": f"q{i}?", "choices": [f"c{i}", "x", "y", "z"], "answer": i % 4}
            for i in range(N)
        ]
    if name == "hellaswag":
        return [{"ctx": f"A man {i}", "endings": ["sits", "walks far away", "eats"], "label": i % 3} for i in range(N)]
    if name == "gsm8k":
        return [{"question": f"What is {i} + 1,000?", "answer": f"Easy.\n#### {i + 1000:,}"} for i in range(N)]
    keys = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
    return [{"Question": f"Why {i}?", **{key: f"{key} {i}" for key in keys}} for i in range(N)]


def written(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(name)), encoding="utf-8")
    return path


def ready(tmp_path: Path, name: str, limit: int | None = None, **settings: Any) -> Ready:
    task = UtilityTask(name=name, path=str(written(tmp_path, name)), **settings)
    return our_task(task, leaves(task, read_documents(task), limit, seed=0), max_new_tokens=64)


@pytest.mark.parametrize("name", ["mmlu", "hellaswag", "gsm8k", "gpqa"])
@pytest.mark.parametrize("shots", [0, 2])
def test_models_that_know_none_half_and_all_answers_score_0_50_and_100_percent(
    tmp_path: Path, name: str, shots: int
) -> None:
    task = ready(tmp_path, name, shots=shots)
    numbers = {id_: n for n, id_ in enumerate(id_ for ids in task.ids.values() for id_ in ids)}
    texts = {
        str(doc["question"]): numbers[id_]
        for leaf, ids in task.ids.items()
        for doc, id_ in zip(task.tasks[leaf].eval_docs, ids, strict=True)
    }
    for share in (0.0, 0.5, 1.0):
        model = ScriptedLM(lambda doc, share=share: texts[doc["question"]] % 2 < 2 * share)
        found = run_task(task, model)
        assert len(found) == task.documents == N - shots * (2 if name == "mmlu" else 1)
        assert np.mean([scored.value for scored in found]) == share
        assert [scored.document for scored in found] == list(numbers)  # each document once, in the order of the file


def test_the_answer_is_the_last_number_whatever_its_separators(tmp_path: Path) -> None:
    class Says(ScriptedLM):
        def generate_until(self, requests: list[Any]) -> list[str]:
            return self.texts  # type: ignore[no-any-return,attr-defined]

    task = ready(tmp_path, "gsm8k", limit=5)
    right = [int(doc["number"].replace(",", "")) for doc in task.tasks["gsm8k"].eval_docs]
    model = Says(lambda _: True)
    model.texts = [  # type: ignore[attr-defined]
        f"#### {right[0]}",
        f"It costs 5 and 6, so {right[1]:,}.",
        f"{right[2]} or maybe {right[2] + 1}",
        "none",
        f"x = {right[4]}.50",
    ]
    assert [scored.value for scored in run_task(task, model)] == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_examples_stand_before_the_question_and_are_never_asked(tmp_path: Path) -> None:
    task = ready(tmp_path, "mmlu", shots=1)
    model = ScriptedLM(lambda _: True)
    found = run_task(task, model)
    for scored in found:
        assert scored.prompt.count("Answer:") == 2 and scored.prompt.endswith("Answer:")
        assert scored.prompt.startswith("q0?" if scored.leaf == "mmlu-s0" else "q1?")  # of the same subject
        assert " A\n\nq" in scored.prompt or " B\n\nq" in scored.prompt
    assert {scored.leaf for scored in found} == {"mmlu-s0", "mmlu-s1"}


def test_more_examples_than_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task mmlu has 6 documents of s0: the first 6 of a group are its examples"):
        ready(tmp_path, "mmlu", shots=6)


def test_seeds_logs_and_bars_stay_as_they_are(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    task = ready(tmp_path, "mmlu")
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.Random(1).random(), np.random.RandomState(1).rand(), torch.Generator().manual_seed(1)
    run_task(task, ScriptedLM(lambda _: True))
    assert random.random() == expected[0]
    assert np.random.rand() == expected[1]
    assert torch.rand(1) == torch.rand(1, generator=expected[2])
    assert logging.getLogger("lm_eval").level != logging.ERROR
    assert capfd.readouterr() == ("", "")


# -- a loaded model -------------------------------------------------------------------------------------------------


def encoder(text: TextSettings | None = None, family: str = "llama") -> Encoder:
    return Encoder(tiny_tokenizer(family), text or TextSettings(), 256)


@torch.no_grad()
def naive_logp(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0].double()
    logps = torch.log_softmax(logits, -1)
    return sum(float(logps[len(prompt) + i - 1, token]) for i, token in enumerate(response))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_choices_are_scored_as_answers_of_the_template_token_by_token(tmp_path: Path, family: str) -> None:
    """The letters are answers to a user turn, led in as in training, in batches as alone."""
    model, text = tiny_model(family), encoder(family=family)
    loaded = LoadedModel(model, text, batch_size=5)
    task = ready(tmp_path, "mmlu", limit=4)
    questions = [leaf.doc_to_text(doc) for leaf in task.tasks.values() for doc in leaf.eval_docs]
    for scored, question in zip(run_task(task, loaded), questions, strict=True):
        header = text.header(user_prompt(question))
        assert scored.prompt == header
        for letter, logp in zip("ABCD", json.loads(scored.said), strict=True):
            assert logp == pytest.approx(naive_logp(model, *text.split(header, letter)), abs=1e-3)
    assert loaded.cut == 0


@torch.no_grad()
def test_choices_of_a_half_precision_model_do_not_tie(tmp_path: Path) -> None:
    model, text = tiny_model("llama", dtype=torch.bfloat16), encoder()
    for scored in run_task(ready(tmp_path, "mmlu", limit=3), LoadedModel(model, text, batch_size=1)):
        prompt, response = text.split(scored.prompt, "B")
        logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1].float()
        expected = float(torch.log_softmax(logits, -1)[response[0]])
        assert json.loads(scored.said)[1] == pytest.approx(expected, abs=1e-5)  # bfloat16 would round to 1e-2


def test_plain_text_without_markers_is_scored_as_lm_eval_does(tmp_path: Path) -> None:
    model, text = tiny_model("llama"), encoder(TextSettings(format="plain"))
    for scored in run_task(ready(tmp_path, "mmlu", limit=2), LoadedModel(model, text, batch_size=8)):
        assert scored.prompt.endswith("Answer:") and "<|" not in scored.prompt
        prompt = tuple(text.tokenizer(scored.prompt)["input_ids"])
        response = tuple(text.tokenizer(" A", add_special_tokens=False)["input_ids"])
        assert json.loads(scored.said)[0] == pytest.approx(naive_logp(model, prompt, response), abs=1e-3)


def test_plain_text_with_markers_is_a_conversation(tmp_path: Path) -> None:
    text = encoder(
        TextSettings(format="plain", user=RoleFormat(before="Q: ", after="\n"), assistant=RoleFormat(before="A: "))
    )
    loaded = LoadedModel(tiny_model("llama"), text, batch_size=8)
    found = run_task(ready(tmp_path, "gpqa", limit=1, shots=1), loaded)
    assert found[0].prompt.startswith("Q: Why 0?") and found[0].prompt.endswith("\nA:")
    assert found[0].prompt.count("Q: ") == 2


def test_an_answer_ends_with_its_turn_and_ignores_the_models_sampling(tmp_path: Path) -> None:
    from scripted_model import scripted_model

    text = encoder()
    reply = [*text.tokenizer(" It is 1003", add_special_tokens=False)["input_ids"], *text.end.ids]
    model = scripted_model(text, lambda _: reply)
    model.generation_config.do_sample, model.generation_config.temperature = True, 5.0
    loaded = LoadedModel(model, text, batch_size=4)
    found = run_task(ready(tmp_path, "gsm8k"), loaded)
    assert {scored.said.strip() for scored in found} == {"It is 1003"}
    assert [scored.target for scored in found if scored.value] == ["1,003"]
    assert model.generation_config.temperature == 5.0


def test_prompts_beyond_the_context_are_counted(tmp_path: Path) -> None:
    text = Encoder(tiny_tokenizer("llama"), TextSettings(format="plain"), 24)
    loaded = LoadedModel(tiny_model("llama", max_position_embeddings=24), text, batch_size=4)
    run_task(ready(tmp_path, "mmlu", limit=3), loaded)
    assert loaded.cut == 12


def test_the_encoders_tokenizer_is_left_alone() -> None:
    text = encoder(family="mistral")
    assert text.tokenizer.pad_token is None
    loaded = LoadedModel(tiny_model("mistral"), text, batch_size=2)
    assert loaded.tokenizer.pad_token is not None and text.tokenizer.pad_token is None


# -- tasks of lm_eval's ---------------------------------------------------------------------------------------------


class Manager:
    """Stands for lm_eval's index: what it would load, and how it fails."""

    all_tasks = ("arc_easy", "humaneval", "mmlu")

    def __init__(self, loads: Any) -> None:
        self._loads = loads

    def load(self, names: list[str]) -> dict[str, Any]:
        if isinstance(self._loads, Exception):
            raise self._loads
        return {"tasks": {name: self._loads for name in names}}


def test_a_task_that_lm_eval_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match=r"task 'arc_esy': lm_eval has no task .* Did you mean 'arc_easy'\?"):
        named_task(UtilityTask(name="arc_esy"), None, 0, Manager(None))


def test_a_task_whose_data_cannot_be_had_says_so() -> None:
    failing = Manager(ConnectionError("Couldn't reach the Hub"))
    with pytest.raises(DataError, match=r"task 'arc_easy': its data cannot be had \(Couldn't reach the Hub\)"):
        named_task(UtilityTask(name="arc_easy"), None, 0, failing)


def test_a_task_that_runs_what_a_model_wrote_is_refused() -> None:
    class Unsafe:
        UNSAFE_CODE = True

    with pytest.raises(RecipeError, match="task 'humaneval': it runs code that the model wrote"):
        named_task(UtilityTask(name="humaneval"), None, 0, Manager(Unsafe()))


def test_code_from_the_hub_is_not_even_fetched() -> None:
    import evaluate

    class Loads:
        all_tasks = ("humaneval",)

        def load(self, _: list[str]) -> dict[str, Any]:
            evaluate.load("code_eval")
            raise AssertionError

    given = evaluate.load
    with pytest.raises(RecipeError, match=r"task 'humaneval': it runs code from the hub \(code_eval\)"):
        named_task(UtilityTask(name="humaneval"), None, 0, Loads())
    assert evaluate.load is given


def test_a_task_by_name_asks_a_draw_of_its_documents(tmp_path: Path) -> None:
    whole = ready(tmp_path, "gsm8k").tasks["gsm8k"]
    whole.config.num_fewshot = None
    drawn = named_task(UtilityTask(name="arc_easy"), 5, 0, Manager(whole))
    again = named_task(UtilityTask(name="arc_easy"), 5, 1, Manager(whole))
    assert drawn.documents == again.documents == 5 and drawn.chosen != again.chosen
    numbers = {str(n): doc["number"] for n, doc in enumerate(whole.eval_docs)}
    found = run_task(drawn, ScriptedLM(lambda _: True))
    assert [scored.document for scored in found] == [str(n) for n in drawn.chosen["arc_easy"]]
    assert [scored.target for scored in found] == [numbers[scored.document] for scored in found]


def test_a_score_that_the_task_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"task 'mmlu' with metric 'f1': its metrics are acc\."):
        ready(tmp_path, "mmlu", metric="f1")
    with pytest.raises(RecipeError, match=r"its filters are last-number\. .* Did you mean 'last-number'\?"):
        ready(tmp_path, "gsm8k", metric="exact_match,last-numbr")
    assert ready(tmp_path, "hellaswag", metric="acc").metric == "acc"
