"""Prompt and response to tokens and response mask. This is the only place that decides which tokens are scored.

A response is tokenised together with its prompt, as the model will meet it, and split by character offsets; its
end-of-turn token is scored, its header (`<|im_start|>assistant` and the like) is not, and nothing follows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from realigner.errors import TemplateError
from realigner.model.rows import Row
from realigner.recipe import RoleFormat, TextSettings
from realigner.records import Message, Prompt

DEFAULT_MAX_LENGTH = 2048
_PROBE = "realigner probe"


@dataclass(frozen=True)
class TurnEnd:
    """What follows a response: `lead` stands between header and response, `ids` end the turn and are scored."""

    lead: str
    hidden_lead: str
    """A lead that is no white space (an empty thinking block): part of the header, given, never scored."""
    ids: tuple[int, ...]
    trims: bool
    """Whether the template strips white space around a response."""


@dataclass
class Encoder:
    """Turns prompts and responses into `Row`s for one tokenizer, and counts what it had to cut.

    Args:
        tokenizer: a fast tokenizer (character offsets are needed).
        settings: the recipe's `text` section.
        context: the model's context length in tokens.

    Raises:
        TemplateError: no chat template, no end-of-turn token, a tokenizer without offsets, or a `max_length` that
            exceeds the context.
    """

    tokenizer: Any
    settings: TextSettings
    context: int
    tally: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        name = getattr(self.tokenizer, "name_or_path", "") or "the tokenizer"
        if not getattr(self.tokenizer, "is_fast", False):
            raise TemplateError(
                f"tokenizer {name}",
                "it gives no character offsets, without which responses cannot be masked exactly",
                "Use the model's fast tokenizer (tokenizer.json)",
            )
        if self.settings.format == "chat" and not getattr(self.tokenizer, "chat_template", None):
            raise TemplateError(
                f"tokenizer {name} has no chat template",
                "text.format 'chat' takes the template from the tokenizer and never guesses one",
                "Set text.format: plain with the roles' markers for a base model, or save the right template with "
                "the tokenizer",
            )
        self.max_length = self.settings.max_length or min(DEFAULT_MAX_LENGTH, self.context)
        if self.max_length > self.context:
            raise TemplateError(
                f"text.max_length = {self.max_length}",
                f"the model's context is {self.context} tokens",
                f"Set text.max_length to at most {self.context}",
            )
        self.max_response = self.settings.max_response or self.max_length * 3 // 4
        if self.max_response >= self.max_length:
            raise TemplateError(
                f"text.max_response = {self.max_response}",
                f"prompt and response together may have {self.max_length} tokens (text.max_length)",
                f"Set text.max_response below {self.max_length}",
            )
        self._bos = self._bos_ids()
        self._control = sorted(
            {t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special},
            key=len,
            reverse=True,
        )
        self.end = self._find_end()

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end a generated response."""
        ids = {self.end.ids[-1]}
        if self.tokenizer.eos_token_id is not None:
            ids.add(self.tokenizer.eos_token_id)
        return sorted(ids)

    # -- public: rows -------------------------------------------------------------------------------------------

    def encode(self, pair_id: str, prompt: Prompt, responses: Mapping[str, str]) -> dict[str, Row] | None:
        """Return one row for each response to the same prompt, or None where the pair was dropped (and counted).

        The prompt is cut for the longest response, so that all responses of a pair follow the same prompt.

        Raises:
            TemplateError: a text holds a control token, or is too long and `text.overflow` is `error`.
        """
        if token := self.control_token([*(m["content"] for m in prompt), *responses.values()]):
            self._refuse(
                "control_token",
                f"pair {pair_id} holds the text {token!r}",
                "it is a control token of the tokenizer and would be read as structure, not as text",
                "Remove it from the data, or set text.overflow: drop to leave such pairs out, counted",
            )
            return None
        try:
            header = self._header(prompt)
            parts = {name: self._tokenize(header, text) for name, text in responses.items()}
        except TemplateError as error:
            raise TemplateError(f"pair {pair_id}: {error.given}", error.rule, error.remedy) from error
        answers = {}
        for name, (_, ids, _) in parts.items():
            whole = (*ids, *self.end.ids)
            if len(whole) > self.max_response:
                if self.settings.overflow != "cut":
                    self._refuse(
                        "long_response",
                        f"pair {pair_id}: the {name} response has {len(whole)} tokens",
                        f"a response may have {self.max_response} (text.max_response)",
                        "Raise text.max_response, or set text.overflow to cut (its end) or drop; both are counted",
                    )
                    return None
                self.tally["cut_responses"] += 1
                whole = whole[: self.max_response]
            answers[name] = whole
        if len(set(answers.values())) < len(answers):
            # A loss between equal rows would say nothing, and suppressing both would say it twice.
            self.tally["dropped_identical"] += 1
            return None
        room = self.max_length - max(len(ids) for ids in answers.values())
        if max(len(ids) for ids, _, _ in parts.values()) > room:
            if self.settings.overflow != "cut":
                longest = max(len(ids) for ids, _, _ in parts.values())
                self._refuse(
                    "long_prompt",
                    f"pair {pair_id}: prompt of {longest} tokens and response of {self.max_length - room}",
                    f"together they may have {self.max_length} (text.max_length; the context is {self.context})",
                    "Raise text.max_length where the model allows it, or set text.overflow to cut (the oldest turns, "
                    "then the start of the prompt) or drop; both are counted",
                )
                return None
            self.tally["cut_prompts"] += 1
            prompt_ids = self._cut_prompts(prompt, room, responses)
        else:
            prompt_ids = {name: ids for name, (ids, _, _) in parts.items()}
        if merged := sum(merged for _, _, merged in parts.values()):
            self.tally["merged_boundaries"] += merged
        self.tally["pairs"] += 1
        return {name: Row((*prompt_ids[name], *ids), len(prompt_ids[name])) for name, ids in answers.items()}

    def control_token(self, texts: Iterable[str]) -> str | None:
        """Return a control token that stands in one of the texts, if there is one."""
        texts = list(texts)
        return next((token for token in self._control if any(token in text for text in texts)), None)

    def prompt_ids(self, prompt: Prompt, new_tokens: int) -> list[int]:
        """Return the tokens to generate from, cut like a training prompt if `new_tokens` would not fit behind them."""
        header = self._header(prompt)
        ids = self._tokenize(header, "")[0]
        room = max(self.max_length - new_tokens, 1)
        if len(ids) > room:
            self.tally["cut_generation_prompts"] += 1
            ids = self._cut_prompts(prompt, room, {"generated": ""})["generated"]
        return list(ids)

    def header(self, prompt: Prompt, *, fold_system: bool = False) -> str:
        """Return the text that a response to a prompt follows.

        Args:
            prompt: turns; answers that are given already may be among them.
            fold_system: where the template refuses a system turn, put its text before the first user turn.

        Raises:
            TemplateError: the template refuses the turns.
        """
        try:
            return self._header(prompt)
        except TemplateError:
            system, turns = _leading_system(prompt)
            if not (fold_system and system and turns):
                raise
        first = Message(role=turns[0]["role"], content=f"{system[0]['content'].strip()}\n\n{turns[0]['content']}")
        return self._header((first, *turns[1:]))

    def split(self, header: str, response: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens of a header and of the response to it, as `encode` makes them, without end and uncut."""
        prompt, ids, _ = self._tokenize(header, response)
        return prompt, ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a generated response: up to its end-of-turn, without control tokens."""
        stops = set(self.stop_ids)
        end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
        text: str = self.tokenizer.decode(list(ids[:end]), skip_special_tokens=True)
        if self.end.trims:
            return text.strip()
        # Plain text without markers goes on after a space, which some tokenizers decode and some do not.
        lead = self.end.lead or (" " if self.settings.format == "plain" else "")
        return text.removeprefix(lead)

    # -- private: text to tokens --------------------------------------------------------------------------------

    def _refuse(self, reason: str, given: str, rule: str, remedy: str) -> None:
        """Raise, or count the pair as dropped where the recipe says so."""
        drops = ("drop", "cut") if reason == "control_token" else ("drop",)
        if self.settings.overflow not in drops:
            raise TemplateError(given, rule, remedy)
        self.tally[f"dropped_{reason}"] += 1

    def _header(self, prompt: Prompt) -> str:
        """Return the text before the response, header included."""
        if self.settings.format == "plain":
            turns = "".join(_plain_turn(self._role(m["role"]), m["content"]) for m in prompt)
            return turns + self.settings.assistant.before.rstrip(" ")
        return self._render(list(prompt), add_generation_prompt=True) + self.end.hidden_lead

    def _render(self, messages: list[Message], *, add_generation_prompt: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.settings.template_arguments,
            )
        except Exception as error:
            # Templates are programs of the model's maker and refuse what they do not know, e.g. Gemma a system turn.
            roles = ", ".join(m["role"] for m in messages)
            raise TemplateError(
                f"a prompt with the turns ({roles})",
                f"the chat template refuses it ({type(error).__name__}: {error})",
                "Change the data's turns (e.g. fold the system turn into the first user turn), or the template",
            ) from error
        return text

    def _role(self, role: str) -> RoleFormat:
        roles = {
            "system": self.settings.system,
            "user": self.settings.user,
            "assistant": self.settings.assistant,
        }
        return roles[role]

    def _tokenize(self, header: str, response: str) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
        """Return prompt tokens, response tokens without its end, and whether plain text merged over the boundary.

        Both are tokenised as one text and split by character offset. A chat header keeps its own tokens even where
        the response's first token would take them in (line breaks on both sides), since generation starts after
        them; in plain text such a token counts as the response's.
        """
        text = response.strip() if self.end.trims else response
        # An empty response is a prompt to generate from: a trailing space there would split the first word's token.
        whole = header + (self.end.lead + text if text else "")
        encoded = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        split = next((i for i, (_, end) in enumerate(offsets) if end > len(header)), len(ids))
        merged = bool(text) and split < len(ids) and offsets[split][0] < len(header)
        if merged and self.settings.format == "chat":
            ids = self.tokenizer(header, add_special_tokens=False)["input_ids"]
            split, merged = len(ids), False
            ids = [*ids, *self.tokenizer(whole[len(header) :], add_special_tokens=False)["input_ids"]]
        bos = () if self._bos == tuple(ids[:1]) else self._bos  # a plain marker may begin with it
        prompt = (*bos, *ids[:split])
        if not prompt:
            raise TemplateError(
                "a prompt of no tokens",
                "the first token of a response is scored from the token before it",
                "Give text.user.before a marker, or use a tokenizer with a beginning-of-text token",
            )
        return prompt, tuple(ids[split:]), merged

    def _cut_prompts(self, prompt: Prompt, room: int, responses: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
        """Drop the oldest turns until the prompt of every response has `room` tokens, a leading system turn never.

        Where the last question alone is too long, the start of the text goes, but for a beginning-of-text token.
        """
        system, turns = _leading_system(prompt)
        while True:
            header = self._header((*system, *turns))
            ids = {name: self._tokenize(header, text)[0] for name, text in responses.items()}
            later = next((i for i, m in enumerate(turns) if i > 0 and m["role"] == "user"), None)
            if later is None or all(len(prompt_ids) <= room for prompt_ids in ids.values()):
                return {name: self._keep_end(prompt_ids, room) for name, prompt_ids in ids.items()}
            turns = turns[later:]

    def _keep_end(self, ids: tuple[int, ...], room: int) -> tuple[int, ...]:
        if len(ids) <= room:
            return ids
        bos = ids[:1] if ids[0] == self.tokenizer.bos_token_id and room > 1 else ()
        return (*bos, *ids[len(ids) - room + len(bos) :])

    # -- private: what the tokenizer and its template do --------------------------------------------------------

    def _bos_ids(self) -> tuple[int, ...]:
        """Plain text gets what the tokenizer itself puts before text; a chat template brings its own."""
        if self.settings.format == "chat":
            return ()
        bos = self.tokenizer.bos_token_id
        return (bos,) if bos is not None and bos in self.tokenizer("").input_ids else ()

    def _find_end(self) -> TurnEnd:
        if self.settings.format == "plain":
            if self.tokenizer.eos_token_id is None:
                raise TemplateError(
                    "a tokenizer without an end-of-text token",
                    "a response must end in a token that can be scored and generated",
                    "Set tokenizer.eos_token and save the tokenizer",
                )
            before = self.settings.assistant.before
            return TurnEnd(before[len(before.rstrip(" ")) :], "", (self.tokenizer.eos_token_id,), False)
        user = Message(role="user", content="realigner question")
        header = self._render([user], add_generation_prompt=True)
        full = self._render([user, Message(role="assistant", content=f"  {_PROBE}  ")], add_generation_prompt=False)
        if _PROBE not in full or not full.startswith(header):
            raise TemplateError(
                "the chat template",
                "its generation prompt is not the beginning of the same conversation with an answer",
                "Set text.template_arguments (e.g. enable_thinking: false), or mend the template",
            )
        lead, _, tail = full[len(header) :].partition(_PROBE)
        trims = not lead.endswith("  ")
        if not trims:
            lead, tail = lead.removesuffix("  "), tail.removeprefix("  ")
        special = {id_ for id_, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        tail_ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        stop = next((i for i, token in enumerate(tail_ids) if token in special), None)
        if stop is not None:
            ids = tuple(tail_ids[: stop + 1])
        elif self.tokenizer.eos_token_id is not None:
            ids = (self.tokenizer.eos_token_id,)
        else:
            raise TemplateError(
                "the chat template ends a turn without a control token, and the tokenizer has no eos_token",
                "a response must end in a token that can be scored and generated",
                "Set tokenizer.eos_token and save the tokenizer",
            )
        hidden = lead if lead.strip() else ""
        return TurnEnd("" if hidden else lead, hidden, ids, trims)


def _plain_turn(role: RoleFormat, text: str) -> str:
    return role.before + text + role.after


def _leading_system(prompt: Prompt) -> tuple[Prompt, Prompt]:
    n = 1 if prompt and prompt[0]["role"] == "system" else 0
    return prompt[:n], prompt[n:]
