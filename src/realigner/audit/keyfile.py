"""The key of an audit: everything that people must not see while they answer, and that scoring needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from realigner.atomic import write_text
from realigner.audit.records import AuditItem, AuditSample, FrameRow, Kind, Stratum, Subject
from realigner.errors import AuditError
from realigner.records import Label, Message, text_hash

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Key:
    """A drawn sample, and the verdicts that it was drawn from."""

    subject: Subject
    n: int
    """Responses that were asked for."""
    verdicts: str
    """Digest of all verdicts: the sample says nothing of any others."""
    output: str
    """Hash of the file that held them: the same file needs no reading to be known again."""
    oracle: str
    policy: str
    """`id version hash`."""
    answers_per_prompt: int
    """For answers of models: how many each gave to a prompt; 0 for the old data, which stand for themselves."""
    sample: AuditSample

    @property
    def id(self) -> str:
        """The identity of the audit; every row of its sheets carries it."""
        units = (part for item in self.sample.items for part in (item.id, item.unit))
        return text_hash("audit", self.subject, self.verdicts, str(self.sample.seed), self.sample.by, *units)


def write_key(key: Key, path: Path) -> None:
    """Write a key, whole or not at all."""
    sample = key.sample
    content = {
        "schema": SCHEMA,
        "audit": key.id,
        "subject": key.subject,
        "n": key.n,
        "seed": sample.seed,
        "verdicts": key.verdicts,
        "output": key.output,
        "oracle": key.oracle,
        "policy": key.policy,
        "answers_per_prompt": key.answers_per_prompt,
        "by": sample.by,
        "rules": list(sample.rules),
        "strata": [{**asdict(s), "chance": s.chance, "weight": s.weight} for s in sample.strata],
        "frame": [{"stratum": row.stratum, "size": row.size, "kind": _kind_to_json(row.kind)} for row in sample.frame],
        "items": [
            {
                "item": item.id,
                "unit": item.unit,
                "stratum": item.stratum,
                "weight": sample.strata[item.stratum].weight,
                "kind": _kind_to_json(item.kind),
                "prompt": list(item.prompt),
                "response": item.response,
            }
            for item in sample.items
        ],
    }
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_key(path: Path) -> Key:
    """Read a key.

    Raises:
        AuditError: it is no key, or was altered.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError
        key = _key_of(content)
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise AuditError(
            f"{path}", "it is not a key that this version of realigner wrote", "Draw anew: realigner audit sample"
        ) from None
    if key.id != content["audit"]:
        raise AuditError(f"{path}", "it was altered after the draw", "Restore it, or draw anew: realigner audit sample")
    return key


def _key_of(content: dict[str, Any]) -> Key:
    sample = AuditSample(
        items=tuple(
            AuditItem(
                row["item"],
                row["unit"],
                row["stratum"],
                _kind_of(row["kind"]),
                tuple(Message(role=turn["role"], content=turn["content"]) for turn in row["prompt"]),
                row["response"],
            )
            for row in content["items"]
        ),
        strata=tuple(Stratum(row["name"], row["size"], row["drawn"]) for row in content["strata"]),
        frame=tuple(FrameRow(row["stratum"], _kind_of(row["kind"]), row["size"]) for row in content["frame"]),
        seed=content["seed"],
        by=content["by"],
        rules=tuple(content["rules"]),
    )
    return Key(
        subject=content["subject"],
        n=content["n"],
        verdicts=content["verdicts"],
        output=content["output"],
        oracle=content["oracle"],
        policy=content["policy"],
        answers_per_prompt=content["answers_per_prompt"],
        sample=sample,
    )


def _kind_to_json(kind: Kind) -> dict[str, Any]:
    return {**asdict(kind), "rules": dict(kind.rules)}


def _kind_of(row: dict[str, Any]) -> Kind:
    rules = tuple((rule, Label(label)) for rule, label in row["rules"].items())
    return Kind(row["outcome"], row["group"], Label(row["label"]), rules, row["topic"])
