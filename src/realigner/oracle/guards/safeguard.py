"""gpt-oss-safeguard (20B, 120B): a reasoning model that is told the policy, and answers in harmony channels.

The prompt is the one of every judge that reads wording (`policy/prompt.py`): the rules as the system message, the
material between fences as the user's. The answer is the JSON object of the final channel; what it thinks aloud is in
the analysis channel and is never taken for the answer. It was made for one policy of some 400 to 600 tokens a call.
English at its best; other languages as far as gpt-oss has them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from realigner.oracle.guards.family import Family, GuardPrompt, Reading, unreadable
from realigner.oracle.http.parse import Unreadable, read_answer
from realigner.oracle.local_prompt import without_control_tokens
from realigner.policy import Rule
from realigner.policy.prompt import judge_messages
from realigner.records import Judgement, Message, prompt_key, text_hash

_CONTROL = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")
_SEGMENT = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(.*?)"
    r"(?:<\|end\|>|<\|return\|>|<\|call\|>|(?=<\|start\|>)|\Z)",
    re.DOTALL,
)
_BARE = re.compile(r"\A\s*analysis.*?assistantfinal(?:json)?(.*)\Z", re.DOTALL)


def _by_policy(rules: Sequence[Rule], question: Judgement) -> GuardPrompt:
    prompt = tuple(
        Message(role=t["role"], content=without_control_tokens(t["content"], _CONTROL)) for t in question.prompt
    )
    clean = Judgement(prompt, without_control_tokens(question.response, _CONTROL))
    # As for a local judge: no response can hold its own hash, and the same question has the same words.
    nonce = text_hash(*(rule.hash for rule in rules), prompt_key(prompt), clean.response)
    return GuardPrompt(tuple(judge_messages(rules, clean, nonce)))


def final_channel(text: str) -> str | None:
    """Return what stands in the final channel of a harmony answer; None if there is none.

    Servers return the final channel alone; a local model's tokens come with their marks, or, where special tokens were
    dropped on the way, as `analysis…assistantfinal…`.
    """
    if "<|channel|>" in text or "<|message|>" in text:
        finals = [body for channel, body in _SEGMENT.findall(text) if channel == "final"]
        return finals[-1] if finals else None
    bare = _BARE.match(text)
    if bare:
        return bare.group(1)
    return None if text.lstrip().startswith("analysis") else text


def read(text: str, rules: Sequence[Rule]) -> Reading:
    """Read an answer by the strict parser of all judges."""
    final = final_channel(text)
    if final is None:
        return unreadable("it has no final channel: it was still thinking")
    try:
        verdicts = read_answer(final, rules, alone=False)
    except Unreadable as error:
        return unreadable(str(error))
    return Reading({f"S{number}": (found.label, found.reason) for number, found in enumerate(verdicts, start=1)})


SAFEGUARD = Family("gpt-oss-safeguard", {}, read, None, _by_policy, control=_CONTROL, max_tokens=2048)
