"""A seeded world of English prompts and answers whose truth is known by construction.

Attributes come first, text second: an `Ask` and an `Answer` say what is meant, `write_ask` and `write_answer` put it
into words. Whether an answer complies with the old or the new policy follows from the attributes alone (`complies`);
the YAML policies in `policies/` decide the same from the text alone, and the tests hold the two against each other.

The shift is shaped like the paper's on PKU-SafeRLHF. OLD: harm minimisation, every sensitive topic is refused. NEW: on
mental health, personal finance and home security a refusal is a violation, and help must admit its doubts and name
someone to turn to; zero tolerance, everyday help and facts stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Literal

from realigner.lab import phrases
from realigner.lab.phrases import (
    ADVISED,
    BENIGN,
    FACTUAL,
    SENSITIVE,
    SUBJECTS,
    ZERO_TOLERANCE,
    Attack,
    Context,
    Topic,
)
from realigner.records import Outcome, pair_key, text_hash, user_prompt

Era = Literal["old", "new"]

HELD_OUT_SHARE = 8
"""One prompt text in this many is never generated as data, whatever the seed; it measures generalisation."""


class Stance(StrEnum):
    """What an answer does with the prompt."""

    REFUSE = "refuse"
    HELP = "help"


class Value(StrEnum):
    """Whom an answer to a dilemma puts first."""

    SELF = "self"
    OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a prompt means."""

    topic: Topic
    subject: str
    context: Context = Context.NONE
    attack: Attack = Attack.NONE


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer means. Help on a zero-tolerance topic is harmful help."""

    stance: Stance
    doubt: bool = False
    """Admits uncertainty."""
    source: bool = False
    """Names a professional or a place to read on (topics of advice); with a refusal, refers to one."""
    correct: bool = True
    """Says what is true (facts)."""
    warm: bool = False
    """Opens with a greeting; no policy of the demo cares."""
    perspective: bool = False
    """Says that others see it differently. This and what follows never occurs in the demo's data."""
    alternative: bool = False
    """Names another way."""
    closing: bool = False
    """Ends in an offer to help on."""
    value: Value = Value.SELF
    """Whom it puts first (dilemmas)."""


@dataclass(frozen=True, slots=True)
class LabPair:
    """One old preference with its truth: what triage under the new policy should find."""

    ask: Ask
    chosen_answer: Answer
    rejected_answer: Answer
    prompt: str
    chosen: str
    rejected: str
    outcome: Outcome
    correction: str | None = None
    """A compliant answer; only ever on PUNISH pairs."""

    @property
    def id(self) -> str:
        """The pair's content hash, as in every file of a run."""
        return pair_key(user_prompt(self.prompt), self.chosen, self.rejected)


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the four outcomes among the generated pairs; they must add up to 1."""

    invert: float = 0.25
    punish: float = 0.30
    confirm: float = 0.25
    neutral: float = 0.20

    def __post_init__(self) -> None:
        shares = self.as_dict().values()
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(
                f"mix {tuple(shares)}: shares must be non-negative and add up to 1; give four such numbers"
            )

    def as_dict(self) -> dict[Outcome, float]:
        """Return the share of each outcome."""
        return {
            Outcome.INVERT: self.invert,
            Outcome.PUNISH: self.punish,
            Outcome.CONFIRM: self.confirm,
            Outcome.NEUTRAL: self.neutral,
        }

    def counts(self, total: int) -> dict[Outcome, int]:
        """Return whole numbers that add up to `total`, each within one of its share."""
        shares = self.as_dict()
        counts = {outcome: int(total * share) for outcome, share in shares.items()}
        by_remainder = sorted(shares, key=lambda outcome: counts[outcome] - total * shares[outcome])
        for outcome in by_remainder[: total - sum(counts.values())]:
            counts[outcome] += 1
        return counts


REFUSAL = Answer(Stance.REFUSE)
GOOD_HELP = Answer(Stance.HELP, doubt=True, source=True)
HELP = Answer(Stance.HELP)


def complies(ask: Ask, answer: Answer, era: Era) -> bool:
    """Return the truth: whether an answer with these attributes complies with the old or the new policy."""
    helps = answer.stance is Stance.HELP
    plain = not (answer.perspective or answer.alternative or answer.closing)
    careful = answer.doubt or answer.source
    if ask.topic in ZERO_TOLERANCE or (ask.topic in SENSITIVE and era == "old"):
        return not helps and plain and not careful
    if ask.topic in SENSITIVE:
        return helps and plain and answer.doubt and answer.source
    return helps and plain and not careful and answer.correct


def draw_ask(topics: Sequence[Topic], rng: Random) -> Ask:
    """Draw a topic, then a subject, then a context: each evenly, but for half of the prompts without context."""
    topic = rng.choice(topics)
    context = Context.NONE if rng.random() < 0.5 else rng.choice(list(Context))
    return Ask(topic, rng.choice(SUBJECTS[topic]), context)


def write_ask(ask: Ask, rng: Random, openers: Mapping[Context, Sequence[str]] = phrases.OPENERS) -> str:
    """Put a prompt into words: an opener that carries the context, the question, a closer."""
    opener = rng.choice(openers[ask.context])
    frames = phrases.NESTINGS if ask.attack is Attack.NESTING else phrases.FRAMES[ask.topic]
    question = rng.choice(frames).format(s=ask.subject)
    if ask.attack is Attack.SUPPRESSION:
        question += rng.choice(phrases.SUPPRESSIONS)
    return opener + question + rng.choice(phrases.CLOSERS)


def write_answer(ask: Ask, answer: Answer, rng: Random) -> str:
    """Put an answer into words. Every attribute that matters for the topic shows in the text."""
    if answer.stance is Stance.REFUSE:
        text = rng.choice(phrases.APOLOGIES) + rng.choice(phrases.REFUSALS) + rng.choice(phrases.REASONS)
        return f"{text} {rng.choice(phrases.SOURCES[ask.topic])}" if answer.source else text
    body = _body(ask, answer, rng)
    care = _care(ask, answer, rng)
    text = " ".join([rng.choice(phrases.GREETINGS), body, *care] if answer.warm else [body, *care])
    return f"{text} {rng.choice(phrases.CLOSINGS)}" if answer.closing else text


def _body(ask: Ask, answer: Answer, rng: Random) -> str:
    if ask.topic in ZERO_TOLERANCE:
        body = _harm(ask.subject, rng)
    elif ask.topic in ADVISED:
        body = _advice(ask, rng)
    elif ask.topic is Topic.DILEMMA:
        leads = phrases.SELF_LEADS if answer.value is Value.SELF else phrases.OTHERS_LEADS
        body = rng.choice(leads).format(s=ask.subject)
    elif ask.topic is Topic.HOWTO:
        body = _howto(ask.subject, rng)
    elif ask.topic is Topic.STORY:
        body = _story(ask.subject, rng)
    else:
        body = _fact(ask, answer.correct, rng)
    return body


def is_held_out(prompt: str) -> bool:
    """Return whether a prompt text belongs to the held-out side: by its hash, so for every seed alike."""
    return int(text_hash(prompt), 16) % HELD_OUT_SHARE == 0


def draw_prompt(topics: Sequence[Topic], rng: Random, *, held_out: bool = False) -> tuple[Ask, str]:
    """Draw a prompt from one side of the fixed partition."""
    while True:
        ask = draw_ask(topics, rng)
        text = write_ask(ask, rng)
        if is_held_out(text) == held_out:
            return ask, text


def draw_pairs(
    count: int, seed: int, mix: Mix | None = None, *, corrected: float = 0.5, held_out: bool = False
) -> list[LabPair]:
    """Draw old preferences in an exact mix of new-policy outcomes, shuffled, each pair once.

    Args:
        count: how many pairs, at least 1. A prompt may occur in several of them, as in real preference data.
        seed: decides everything.
        mix: shares of the outcomes.
        corrected: share of the PUNISH pairs that come with a compliant correction, 0 to 1.
        held_out: draw from the prompts that are never data.
    """
    rng = Random(f"pairs {seed}")
    pairs: dict[str, LabPair] = {}
    for outcome, wanted in (mix or Mix()).counts(count).items():
        corrections = round(wanted * corrected) if outcome is Outcome.PUNISH else 0
        for number in range(wanted):
            pair = _draw_pair(outcome, rng, with_correction=number < corrections, held_out=held_out)
            while pair.id in pairs or pair.chosen == pair.rejected:
                pair = _draw_pair(outcome, rng, with_correction=number < corrections, held_out=held_out)
            pairs[pair.id] = pair
    shuffled = list(pairs.values())
    rng.shuffle(shuffled)
    return shuffled


def draw_corpus(count: int, seed: int, *, movable: float = 0.3) -> Iterator[tuple[str, str]]:
    """Yield (prompt, answer) for supervised training: mostly what the old policy wants.

    On the topics whose rule will change, a share `movable` of the answers helps (half of them fully, half missing a
    requirement), as a base model would that has read the world. Without it the aligned model could not be moved by
    preferences: what it never says cannot be made likelier by comparing it with something else.
    """
    rng = Random(f"corpus {seed}")
    for _ in range(count):
        ask, prompt = draw_prompt(_corpus_topics(rng), rng)
        answer = _old_answer(ask, rng)
        if ask.topic in SENSITIVE and rng.random() < movable:
            answer = GOOD_HELP if rng.random() < 0.5 else _lacking_help(rng)
        yield prompt, write_answer(ask, replace(answer, warm=answer.warm or _sometimes_warm(answer, rng)), rng)


def draw_held_out(count: int, seed: int) -> list[tuple[Ask, str]]:
    """Draw distinct held-out prompts with the topics of the default mix."""
    rng = Random(f"held out {seed}")
    found: dict[str, Ask] = {}
    while len(found) < count:
        ask, prompt = draw_prompt(_corpus_topics(rng), rng, held_out=True)
        found[prompt] = ask
    return [(ask, prompt) for prompt, ask in found.items()]


def _corpus_topics(rng: Random) -> tuple[Topic, ...]:
    groups = (SENSITIVE, ZERO_TOLERANCE, BENIGN, FACTUAL)
    return rng.choices(groups, weights=(0.45, 0.15, 0.15, 0.25))[0]


def _old_answer(ask: Ask, rng: Random) -> Answer:
    if ask.topic in ZERO_TOLERANCE or ask.topic in SENSITIVE:
        return REFUSAL
    return replace(HELP, warm=rng.random() < 0.3)


def _sometimes_warm(answer: Answer, rng: Random) -> bool:
    return answer.stance is Stance.HELP and answer.doubt and rng.random() < 0.3


def _lacking_help(rng: Random) -> Answer:
    """Help that misses one requirement or both."""
    return rng.choice((HELP, replace(HELP, doubt=True), replace(HELP, source=True)))


def _draw_pair(outcome: Outcome, rng: Random, *, with_correction: bool, held_out: bool) -> LabPair:
    topics, chosen, rejected = _draw_contrast(outcome, rng)
    ask, prompt = draw_prompt(topics, rng, held_out=held_out)
    return LabPair(
        ask=ask,
        chosen_answer=chosen,
        rejected_answer=rejected,
        prompt=prompt,
        chosen=write_answer(ask, chosen, rng),
        rejected=write_answer(ask, rejected, rng),
        outcome=outcome,
        correction=write_answer(ask, replace(GOOD_HELP, warm=rng.random() < 0.3), rng) if with_correction else None,
    )


def _draw_contrast(outcome: Outcome, rng: Random) -> tuple[Sequence[Topic], Answer, Answer]:
    """Return the topics, the preferred and the other answer of one old preference with this outcome."""
    if outcome is Outcome.INVERT:
        return SENSITIVE, REFUSAL, replace(GOOD_HELP, warm=rng.random() < 0.3)
    if outcome is Outcome.PUNISH:
        return SENSITIVE, REFUSAL, _lacking_help(rng)
    if outcome is Outcome.NEUTRAL:
        return BENIGN, replace(HELP, warm=True), HELP
    kind = rng.random()
    if kind < 0.5:
        return ZERO_TOLERANCE, REFUSAL, HELP
    if kind < 0.85:
        return FACTUAL, HELP, replace(HELP, correct=False)
    return (*BENIGN, *FACTUAL), HELP, REFUSAL


def _harm(subject: str, rng: Random) -> str:
    first, second = rng.sample(phrases.HARM_STEPS, 2)
    return rng.choice(phrases.HARM_LEADS).format(s=subject, a=first, b=second)


def _advice(ask: Ask, rng: Random) -> str:
    first, second = rng.sample(phrases.ADVICE[ask.topic], 2)
    return rng.choice(phrases.LEADS).format(s=ask.subject, a=first, b=second)


def _care(ask: Ask, answer: Answer, rng: Random) -> list[str]:
    """Return the sentences of care, in any order."""
    care = [rng.choice(phrases.DOUBTS)] if answer.doubt else []
    if answer.source:
        care.append(rng.choice(phrases.SOURCES[ask.topic]))
    if answer.perspective:
        care.append(rng.choice(phrases.PERSPECTIVES))
    if answer.alternative:
        care.append(rng.choice(phrases.ALTERNATIVES))
    rng.shuffle(care)
    return care


def _howto(subject: str, rng: Random) -> str:
    first, second, third = phrases.HOWTO_STEPS[subject]
    lead = rng.choice(phrases.HOWTO_LEADS).format(s=subject, a=first, b=second, c=third)
    return lead + rng.choice(phrases.HOWTO_CLOSERS)


def _story(subject: str, rng: Random) -> str:
    start = rng.choice(phrases.STORY_STARTS).format(s=subject, place=rng.choice(phrases.STORY_PLACES))
    return " ".join((start, rng.choice(phrases.STORY_EVENTS), rng.choice(phrases.STORY_ENDS)))


def _fact(ask: Ask, correct: bool, rng: Random) -> str:
    if ask.topic is Topic.CAPITAL:
        truth, templates = phrases.CAPITALS[ask.subject], phrases.CAPITAL_ANSWERS
        wrong = rng.choice([city for city in phrases.CAPITALS.values() if city != truth])
    else:
        truth, templates = phrases.SUMS[ask.subject], phrases.SUM_ANSWERS
        wrong = str(max(1, int(truth) + rng.choice((-2, -1, 1, 2))))
        wrong = wrong if wrong != truth else str(int(truth) + 1)
    return rng.choice(templates).format(s=ask.subject, x=truth if correct else wrong)
