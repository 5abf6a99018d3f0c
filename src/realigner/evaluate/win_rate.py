"""The part `win_rate`: the answers of both models against each other, in both orders, with length beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from realigner.evaluate.agreement import SIDES
from realigner.evaluate.evidence import Evidence, Figure, Source, Table, columns
from realigner.evaluate.length_control import length_controlled
from realigner.evaluate.pairwise import (
    Asked,
    Match,
    Winner,
    ask_both_orders,
    build_pair_judge,
    by_verdicts,
    criterion_rule,
)
from realigner.evaluate.statistics import clustered_proportion, share_interval, sign_p
from realigner.oracle.build import STORE
from realigner.oracle.meter import Meter, Prices
from realigner.oracle.policy_oracle import remembering
from realigner.oracle.remember import check_judge
from realigner.oracle.store import VerdictStore
from realigner.policy import Policy
from realigner.progress import Progress
from realigner.recipe import Recipe
from realigner.recipe_evaluate import PolicyPairSettings, ScriptedPairSettings, WinRateSettings
from realigner.records import Label, Message, Prompt, text_hash
from realigner.spent import Spent

if TYPE_CHECKING:
    from realigner.evaluate.parts import Comparison

SCORES: dict[Winner, float] = {"a": 0.0, "b": 1.0, "tie": 0.5, "invalid": 0.0}
"""What `after`, shown as `b`, gets for a comparison; of an invalid one it gets nothing, and neither does `before`."""
NAMES: dict[Winner, str] = {"a": "before", "b": "after", "tie": "tie", "invalid": "invalid"}
ROWS = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt_id", "prompt", "before", "after", "winner")),
        *((name, pa.string()) for name in ("before_first", "after_first", "reason_before_first", "reason_after_first")),
        *((name, pa.int64()) for name in ("sample", "characters_before", "characters_after")),
    ]
)


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison of `before` (as `a`) with `after` (as `b`)."""

    match: Match
    prompt_id: str
    sample: int
    winner: Winner
    asked: Asked | None
    """None where verdicts were compared and nobody was asked."""

    @property
    def longer(self) -> int:
        """Characters by which `after` is longer."""
        return len(self.match.b) - len(self.match.a)


def inputs(settings: WinRateSettings) -> dict[str, Any]:
    """Return who chooses."""
    judge = settings.judge
    return {"judge": "policy" if isinstance(judge, PolicyPairSettings) else build_pair_judge(judge).identity}


def check(settings: WinRateSettings) -> list[str]:
    """Say whether the judge can be asked.

    Raises:
        OracleError: it cannot: no server, a wrong key, no model.
    """
    if isinstance(settings.judge, PolicyPairSettings):
        return []
    return [check_judge(build_pair_judge(settings.judge))]


def asks(settings: WinRateSettings, recipe: Recipe) -> list[str]:
    """Say how many questions the judge is asked."""
    if isinstance(settings.judge, PolicyPairSettings | ScriptedPairSettings):
        return []
    prompts = min(recipe.generate.prompts, settings.prompts or recipe.generate.prompts)
    return [f"at most {2 * prompts * recipe.generate.samples:,} questions on two answers each, less those remembered"]


def measure(settings: WinRateSettings, comparison: Comparison) -> Evidence:
    """Compare the answers of responses.parquet."""
    rows = pq.read_table(comparison.directory / "responses.parquet").to_pylist()
    labels = _labels(comparison)
    before, after = ({(r["prompt_id"], r["sample"]): r for r in rows if r["model"] == side} for side in SIDES)
    keys = [key for key in before if key in after]
    drawn = _drawn(dict.fromkeys(prompt_id for prompt_id, _ in keys), settings.prompts, comparison.seed)
    keys = [key for key in keys if key[0] in drawn]
    matches = [Match(_prompt(before[key]), before[key]["response"], after[key]["response"]) for key in keys]
    facts: dict[str, Any] = {}
    asked: list[Asked | None] = [None] * len(keys)
    if isinstance(settings.judge, PolicyPairSettings):
        winners = [by_verdicts(labels[before[key]["id"]], labels[after[key]["id"]]) for key in keys]
    else:
        found, facts = choose(
            settings,
            matches,
            comparison.policy,
            Path(comparison.recipe.output).parent / STORE,
            progress=comparison.progress,
            spent=comparison.spent,
        )
        asked, winners = list(found), [each.winner for each in found]
    compared = [
        Compared(match, key[0], key[1], winner, said)
        for match, key, winner, said in zip(matches, keys, winners, asked, strict=True)
    ]
    origin = comparison.directory / "responses.parquet"
    return summarise(compared, comparison.seed, facts, (_source(origin, len(keys)),))


def choose(
    settings: WinRateSettings,
    matches: Sequence[Match],
    policy: Policy | None,
    store: Path,
    *,
    progress: Progress,
    spent: Spent,
) -> tuple[list[Asked], dict[str, Any]]:
    """Ask the judge about each match in both orders, with a memory and under the limits; return what asking took too.

    Args:
        settings: the judge, the criterion, the limits.
        matches: what is compared.
        policy: what is compared by, where there is no criterion.
        store: remembers choices, where the settings name no other file.
        progress: counts them.
        spent: what the command has spent before, and where more is added.

    Raises:
        RealignerError: as `ask_both_orders`.
    """
    prices = Prices.load(settings.prices) if settings.prices is not None else None
    meter = Meter(prices, settings.max_calls, settings.max_cost, spent)
    rule = criterion_rule(settings.criterion, policy)
    judge = build_pair_judge(settings.judge)
    path = store if settings.store is None else Path(settings.store)
    with ExitStack() as stack:
        memory = None
        if not getattr(judge, "free", False):
            memory = stack.enter_context(VerdictStore.open(path))
            progress.say(check_judge(judge))
        meter.advance = stack.enter_context(progress.task("Comparing answers", 2 * len(matches)))
        found = ask_both_orders(remembering(judge, memory, meter, 1), rule, matches)
    return found, {"judge": judge.identity, "criterion": rule.text, "asked": meter.as_dict()}


def summarise(
    compared: Sequence[Compared], seed: int, facts: Mapping[str, Any], sources: tuple[Source, ...] = ()
) -> Evidence:
    """Return the evidence of comparisons: win rates, order, length."""
    scores = [SCORES[each.winner] for each in compared]
    prompts = [each.prompt_id for each in compared]
    figures: dict[str, Figure] = {}

    def add(name: str, found: Any, **more: Any) -> None:
        if found is not None:
            figures[f"win_rate.{name}"] = cast(Figure, {**found, "unit": "share", **more})

    p = sign_p([0.0 if each.winner == "invalid" else 2 * SCORES[each.winner] - 1 for each in compared], prompts, seed)
    add("after", share_interval(scores, prompts), p=p, p_method="sign test of wins and losses", seed=seed)
    lost = [0.0 if each.winner == "invalid" else 1 - score for each, score in zip(compared, scores, strict=True)]
    add("before", share_interval(lost, prompts))
    for name, winner in (("wins", "b"), ("ties", "tie"), ("losses", "a"), ("invalid", "invalid")):
        add(name, clustered_proportion([each.winner == winner for each in compared], prompts))
    asked = [each for each in compared if each.asked is not None]
    orders = [(each, said) for each in asked if each.asked for said in (each.asked.forward, each.asked.backward)]
    clear = [(each.prompt_id, said == "first") for each, said in orders if said in ("first", "second")]
    add("first", clustered_proportion([first for _, first in clear], [prompt for prompt, _ in clear]))
    valid = [each for each in compared if each.winner != "invalid"]
    read = [each for each in asked if each.winner != "invalid"]
    add(
        "consistent",
        clustered_proportion([_same(each) for each in read], [each.prompt_id for each in read]),
    )
    controlled, why_not = length_controlled(
        [SCORES[each.winner] for each in valid], [each.longer for each in valid], [each.prompt_id for each in valid]
    )
    add("length_controlled", controlled)
    longest = [0.5 if each.longer == 0 else float(each.longer > 0) for each in compared]
    add("longest_answer_wins", share_interval(longest, prompts))
    won = [each for each in compared if each.winner in ("a", "b") and each.longer != 0]
    add(
        "won_by_the_longer",
        clustered_proportion([(each.longer > 0) == (each.winner == "b") for each in won], [e.prompt_id for e in won]),
    )
    return Evidence(
        figures,
        tables=(_results(figures), _lengths(compared)),
        sources=sources,
        warnings=_warnings(figures, len(compared), why_not),
        rows=pa.Table.from_pylist([_row(each) for each in compared], schema=ROWS),
        facts=facts,
    )


def _same(each: Compared) -> bool:
    said = each.asked
    return said is not None and (said.forward, said.backward) in (
        ("first", "second"),
        ("second", "first"),
        ("neither", "neither"),
    )


def _warnings(figures: Mapping[str, Figure], n: int, why_not: str) -> tuple[str, ...]:
    found = []
    if not n:
        return ("there is no prompt that both models answered",)
    invalid = figures["win_rate.invalid"]
    if invalid["value"] > 0:
        found.append(
            f"{round(invalid['value'] * n)} of {n} comparisons could not be read in both orders; nobody won them"
        )
    first = figures.get("win_rate.first")
    if first is not None and not first["low"] <= 0.5 <= first["high"]:
        found.append(f"the judge chose what it saw first in {first['value']:.0%} of its choices: it goes by the order")
    if why_not:
        found.append(f"no length-controlled rate: {why_not}")
    return tuple(found)


_TITLES = {
    "after": "Win rate of the model after (a tie is half)",
    "before": "Win rate of the model before (a tie is half)",
    "wins": "Won by after, in both orders",
    "ties": "Ties",
    "losses": "Won by before, in both orders",
    "invalid": "Could not be read",
    "length_controlled": "Win rate at equal length",
    "longest_answer_wins": "Win rate if the longest answer always won",
    "won_by_the_longer": "Of decided comparisons, won by the longer answer",
    "first": "Of choices, what was shown first",
    "consistent": "Both orders agree",
}


def _results(figures: Mapping[str, Figure]) -> Table:
    rows = [{"what": title, "value": figures.get(f"win_rate.{name}")} for name, title in _TITLES.items()]
    return Table(
        "win_rate.results",
        "Which answer is better",
        columns(what="", value="Share"),
        rows,
        note="A comparison is won only if both orders agree; an answer of the judge that cannot be read wins nothing.",
    )


def _lengths(compared: Sequence[Compared]) -> Table:
    rows = []
    for name, texts in (
        ("before", [each.match.a for each in compared]),
        ("after", [each.match.b for each in compared]),
    ):
        sizes, words = [len(text) for text in texts], [len(text.split()) for text in texts]
        rows.append(
            {
                "side": name,
                "characters": round(mean(sizes), 1) if sizes else None,
                "median": median(sizes) if sizes else None,
                "words": round(mean(words), 1) if words else None,
                "longest": max(sizes, default=None),
            }
        )
    titles = {"characters": "Characters, mean", "median": "median", "longest": "longest", "words": "Words, mean"}
    return Table("win_rate.lengths", "Length of answers", columns(side="", **titles), rows)


def _row(each: Compared) -> dict[str, Any]:
    said = each.asked
    return {
        "prompt_id": each.prompt_id,
        "prompt": "\n\n".join(turn["content"] for turn in each.match.prompt),
        "before": each.match.a,
        "after": each.match.b,
        "winner": NAMES[each.winner],
        "before_first": None if said is None else said.forward,
        "after_first": None if said is None else said.backward,
        "reason_before_first": None if said is None else said.reasons[0],
        "reason_after_first": None if said is None else said.reasons[1],
        "sample": each.sample,
        "characters_before": len(each.match.a),
        "characters_after": len(each.match.b),
    }


def _labels(comparison: Comparison) -> dict[str, Label]:
    rows = pq.read_table(comparison.directory / "judgements.parquet", columns=["response_id", "label"]).to_pylist()
    return {row["response_id"]: Label(row["label"]) for row in rows}


def _drawn(prompts: Mapping[str, None], count: int | None, seed: int) -> set[str]:
    ranked = sorted(prompts, key=lambda prompt: text_hash(str(seed), "win_rate", prompt))
    return set(ranked[: len(ranked) if count is None else count])


def _prompt(row: Mapping[str, Any]) -> Prompt:
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in row["prompt"])


def _source(path: Any, n: int) -> Source:
    from realigner.atomic import hash_of

    return Source("answers of both models", hash_of(path).rpartition(":")[2], n, "responses.parquet")
