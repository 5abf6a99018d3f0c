"""Text back to attributes: what a prompt or an answer means, or nothing where it is no text of this world.

Strict on purpose: the whole answer must be one that `write_answer` could have written. A model that drops a word,
repeats itself or stops early has said something malformed, however much of it a keyword would recognise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from realigner.lab import phrases
from realigner.lab.phrases import ADVISED, SUBJECTS, ZERO_TOLERANCE, Attack, Topic
from realigner.lab.world import Answer, Ask, Stance, Value

_CACHED = 20_000


@dataclass(frozen=True, slots=True)
class Parsed:
    """What an answer means; a refusal is about nothing in particular."""

    answer: Answer
    topic: Topic | None = None
    subject: str | None = None
    source_topic: Topic | None = None
    """The topic of the source that it names."""


@lru_cache(_CACHED)
def parse_answer(text: str) -> Parsed | None:
    """Return what an answer means, or None where it is malformed."""
    rest, closing = _ending(text, phrases.CLOSINGS)
    rest, care, source_topic = _strip_care(rest)
    if _refusals().fullmatch(rest):
        if closing or care - {"source"}:
            return None
        return Parsed(Answer(Stance.REFUSE, source="source" in care), source_topic=source_topic)
    greeting = next((g for g in phrases.GREETINGS if rest.startswith(f"{g} ")), None)
    body = rest if greeting is None else rest[len(greeting) + 1 :]
    for topic, value, pattern in _bodies():
        found = pattern.fullmatch(body)
        if found is None:
            continue
        parts = found.groupdict()
        if parts.get("a") is not None and parts["a"] == parts.get("b"):
            return None
        if source_topic not in (None, topic):
            return None
        answer = Answer(
            Stance.HELP,
            doubt="doubt" in care,
            source="source" in care,
            correct=_is_true(topic, parts),
            warm=greeting is not None,
            perspective="perspective" in care,
            alternative="alternative" in care,
            closing=closing,
            value=value,
        )
        return Parsed(answer, topic, parts["s"], source_topic)
    return None


def answer_to(ask: Ask, text: str) -> Answer | None:
    """Return what a text means as an answer to a prompt; None where it is malformed or about something else."""
    parsed = parse_answer(text)
    if parsed is None or parsed.source_topic not in (None, ask.topic):
        return None
    if parsed.topic is not None and (parsed.topic, parsed.subject) != (ask.topic, ask.subject):
        return None
    return parsed.answer


@lru_cache(_CACHED)
def parse_ask(text: str) -> Ask | None:
    """Return what a prompt means, or None where `write_ask` could not have written it."""
    found = _asks().fullmatch(text)
    if found is None:
        return None
    context = next(c for c, openers in phrases.LAB_OPENERS.items() if found["opener"] in openers)
    topic, subject, attack = _questions()[found["question"]]
    if found["suppression"]:
        if attack is not Attack.NONE or topic not in phrases.DEEDS:
            return None
        attack = Attack.SUPPRESSION
    return Ask(topic, subject, context, attack)


@cache
def _questions() -> dict[str, tuple[Topic, str, Attack]]:
    """Return every question of the world and what it asks."""
    found = {}
    for topic, subjects in SUBJECTS.items():
        for subject in subjects:
            for frame in phrases.FRAMES[topic]:
                found[frame.format(s=subject)] = (topic, subject, Attack.NONE)
            if topic in phrases.DEEDS:
                for frame in phrases.NESTINGS:
                    found[frame.format(s=subject)] = (topic, subject, Attack.NESTING)
    return found


@cache
def _asks() -> re.Pattern[str]:
    openers = {opener for group in phrases.LAB_OPENERS.values() for opener in group}
    return re.compile(
        f"(?P<opener>{_one_of(openers)})(?P<question>{_one_of(_questions())})"
        f"(?P<suppression>{_one_of(phrases.SUPPRESSIONS)})?{_one_of(phrases.CLOSERS)}"
    )


@cache
def _care() -> dict[str, tuple[str, Topic | None]]:
    """Return every sentence of care with its attribute, and the topic of a source."""
    plain = {"doubt": phrases.DOUBTS, "perspective": phrases.PERSPECTIVES, "alternative": phrases.ALTERNATIVES}
    found: dict[str, tuple[str, Topic | None]] = {s: (name, None) for name, group in plain.items() for s in group}
    found.update({s: ("source", topic) for topic, group in phrases.SOURCES.items() for s in group})
    return found


def _ending(text: str, endings: Iterable[str]) -> tuple[str, bool]:
    """Take one of these sentences off the end of a text."""
    ending = next((e for e in endings if text.endswith(f" {e}")), None)
    return (text, False) if ending is None else (text[: -len(ending) - 1], True)


def _strip_care(text: str) -> tuple[str, set[str], Topic | None]:
    """Take sentences of care off the end, each kind at most once."""
    care: set[str] = set()
    source: Topic | None = None
    while (sentence := next((s for s in _care() if text.endswith(f" {s}")), None)) is not None:
        kind, topic = _care()[sentence]
        if kind in care:
            break
        care.add(kind)
        source = topic or source
        text = text[: -len(sentence) - 1]
    return text, care, source


@cache
def _refusals() -> re.Pattern[str]:
    parts = (phrases.APOLOGIES, phrases.REFUSALS, phrases.REASONS)
    return re.compile("".join(_one_of(part) for part in parts))


@cache
def _bodies() -> Sequence[tuple[Topic, Value, re.Pattern[str]]]:
    """Return one pattern for each way of saying something, with named groups for what varies."""
    found: list[tuple[Topic, Value, re.Pattern[str]]] = []

    def add(
        topic: Topic,
        templates: Iterable[str],
        choices: Mapping[str, Iterable[str]],
        tail: str = "",
        value: Value = Value.SELF,
    ) -> None:
        found.extend((topic, value, re.compile(_pattern(template, choices) + tail)) for template in templates)

    for topic in ADVISED:
        advice = phrases.ADVICE[topic]
        add(topic, phrases.LEADS, {"s": SUBJECTS[topic], "a": advice, "b": advice})
    for topic in ZERO_TOLERANCE:
        add(topic, phrases.HARM_LEADS, {"s": SUBJECTS[topic], "a": phrases.HARM_STEPS, "b": phrases.HARM_STEPS})
    for subject, steps in phrases.HOWTO_STEPS.items():
        told = {"s": (subject,), "a": steps[:1], "b": steps[1:2], "c": steps[2:]}
        add(Topic.HOWTO, phrases.HOWTO_LEADS, told, _one_of(phrases.HOWTO_CLOSERS))
    tail = f" {_one_of(phrases.STORY_EVENTS)} {_one_of(phrases.STORY_ENDS)}"
    story = {"s": SUBJECTS[Topic.STORY], "place": phrases.STORY_PLACES}
    add(Topic.STORY, phrases.STORY_STARTS, story, tail)
    capital = {"s": SUBJECTS[Topic.CAPITAL], "x": tuple(phrases.CAPITALS.values())}
    add(Topic.CAPITAL, phrases.CAPITAL_ANSWERS, capital)
    add(Topic.SUM, phrases.SUM_ANSWERS, {"s": SUBJECTS[Topic.SUM], "x": tuple(str(n) for n in range(1, 20))})
    add(Topic.DILEMMA, phrases.SELF_LEADS, {"s": SUBJECTS[Topic.DILEMMA]})
    add(Topic.DILEMMA, phrases.OTHERS_LEADS, {"s": SUBJECTS[Topic.DILEMMA]}, value=Value.OTHERS)
    return found


def _one_of(choices: Iterable[str]) -> str:
    return "(?:" + "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True)) + ")"


def _pattern(template: str, choices: Mapping[str, Iterable[str]]) -> str:
    """Turn "For {s}, {a}." into an expression with a named group for each placeholder."""
    pieces = re.split(r"\{(\w+)\}", template)
    return "".join(
        f"(?P<{piece}>{_one_of(choices[piece])})" if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)
    )


def _is_true(topic: Topic, parts: Mapping[str, str | None]) -> bool:
    if topic is Topic.CAPITAL:
        return phrases.CAPITALS[str(parts["s"])] == parts["x"]
    if topic is Topic.SUM:
        return phrases.SUMS[str(parts["s"])] == parts["x"]
    return True
