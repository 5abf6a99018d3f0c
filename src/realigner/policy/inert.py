"""Text under judgement, made safe to stand in a judge's prompt: it can neither open a turn nor break an encoding."""

from __future__ import annotations

import re

_CONTROL = re.compile(
    r"<(?=[|｜])"  # <|im_start|>, <|eot_id|>, <|channel|>, <｜Assistant｜> …
    r"|<(?=/?(?:s|bos|eos|pad|unk|cls|sep|mask|sop|eop|start_of_turn|end_of_turn|start_of_image|think|thinking"
    r"|reserved_\d+|extra_id_\d+|unused\d+)>)"
    r"|<<(?=/?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK|gMASK|sMASK|MASK|CLS|SEP"
    r"|BOS|EOS|PAD|UNK)\])",
    re.IGNORECASE,
)
"""Where the spelling of a control token of a chat format begins. A server that turns a chat into tokens may read such
spellings inside a message as the token itself: the end of the message, or the beginning of one by the system."""


def inert(text: str) -> str:
    """Return text with a blank inside every spelling of a control token, and `?` for unpaired surrogates.

    Everything else stays as it is, so the judge sees `< |im_end|>` for `<|im_end|>`.
    """
    return _CONTROL.sub(lambda found: found.group() + " ", text.encode("utf-8", "replace").decode("utf-8"))
