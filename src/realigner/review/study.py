"""A study: what people are asked, about which items, under which policy. One YAML file and the files it names.

The study's hash is over all of them, so that no answer can be taken for one to another question. What annotators see
and what they must not see lie in separate files: the program that serves the pages never reads the names of systems.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from realigner.errors import ReviewError, did_you_mean
from realigner.review.items import NONE_GOOD, TIE, Item, read_items, read_wording
from realigner.review.wording import Wording
from realigner.strict_yaml import load_yaml, yaml_fault

STUDY = "study.yaml"
QUESTIONS = {
    "audit": "Does this response keep the policy?",
    "preference": "Which response is best under the policy?",
    "correction": "Write the answer that should have been given.",
    "undecided": "Does this response keep the policy?",
}
Kind = Literal["audit", "preference", "correction", "undecided"]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Words = Annotated[str, Field(pattern=r"\S", max_length=20_000)]
FileName = Annotated[str, Field(pattern=r"\S")]


class Part(BaseModel):
    """A part of a study file: frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSettings(Part):
    """One kind of question, asked about one file of items."""

    id: Slug
    """It stands in addresses: letters a to z, digits and hyphens."""
    kind: Kind
    title: Words
    items: FileName
    """JSONL, relative to the study file."""
    question: str = ""
    """What stands above the answers. Empty: the question of the kind."""
    key: str | None = None
    """Preference only: JSONL of `{id, systems: [...]}`, whose responses are whose. Read by `unblind` alone."""
    audit: str | None = None
    """Audit only: the id of the audit that was drawn from `run`, so that its answers can be scored."""
    annotators: Annotated[int, Field(ge=1, le=100)] = 3
    """How many people answer an item of the overlap; one answers any other."""
    overlap: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the items that several people answer, so that their agreement can be measured."""
    repeat: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Share of a person's items that is shown to them again later, unannounced, for self-consistency."""
    fold: Literal["all", "flagged", "none"] = "all"
    """Which texts are folded until asked for; `flagged`: of the items with `sensitive: true`."""
    ties: bool = True
    """Preference only: whether "no difference" is an answer."""
    none_good: bool = True
    """Preference only: whether "all are bad" is an answer."""

    @model_validator(mode="after")
    def _fits_the_kind(self) -> TaskSettings:
        if self.kind == "preference" and self.key is None:
            raise ValueError("a preference task needs `key`, the file that says whose responses these are")
        if self.kind != "audit" and self.audit is not None:
            raise ValueError(f"audit: belongs to kind audit, not to {self.kind}")
        given = self.model_fields_set & {"key", "ties", "none_good"}
        if self.kind != "preference" and given:
            raise ValueError(f"{', '.join(sorted(given))}: belongs to kind preference, not to {self.kind}")
        return self

    @property
    def asks(self) -> str:
        """The question above the answers."""
        return self.question or QUESTIONS[self.kind]


class StudySettings(Part):
    """The study file."""

    format: Literal[1] = 1
    id: Slug
    title: Words
    instructions: str = ""
    """Shown before the first item. Plain text; an empty line begins a paragraph."""
    policy: str | None = None
    """A policy file. Its wording is shown; its checks are not run."""
    run: str | None = None
    """The run directory that the items come from; `score` looks there for its audit."""
    tasks: Annotated[tuple[TaskSettings, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _tasks_differ(self) -> StudySettings:
        ids = [task.id for task in self.tasks]
        twice = sorted({id_ for id_ in ids if ids.count(id_) > 1})
        if twice:
            raise ValueError(f"task id {twice[0]!r} is used twice; rename one")
        return self


@dataclass(frozen=True)
class Task:
    """A task with its items, in the order of the file."""

    settings: TaskSettings
    items: tuple[Item, ...]

    @property
    def id(self) -> str:
        """As in the study file."""
        return self.settings.id

    @property
    def kind(self) -> Kind:
        """What is asked."""
        return self.settings.kind

    @cached_property
    def by_id(self) -> dict[str, Item]:
        """The items by their ids."""
        return {item.id: item for item in self.items}


@dataclass(frozen=True)
class Study:
    """A study file with all that it names, read and checked."""

    directory: Path
    settings: StudySettings
    tasks: Mapping[str, Task]
    wording: Wording | None
    files: Mapping[str, str]
    """SHA-256 of each file that the study is made of, by its name."""

    @cached_property
    def hash(self) -> str:
        """16 hex digits over the names and contents of all files: the identity that every answer carries."""
        content = json.dumps(sorted(self.files.items()), separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def task(self, name: str) -> Task:
        """Return a task.

        Raises:
            ReviewError: there is none of that name.
        """
        if name not in self.tasks:
            known = ", ".join(self.tasks)
            raise ReviewError(
                f"task '{name}'", f"the study's tasks are {known}", f"Name one.{did_you_mean(name, self.tasks)}"
            )
        return self.tasks[name]


def load_study(path: str | Path) -> Study:
    """Read a study: a directory that holds `study.yaml`, or such a file of any name.

    Raises:
        ReviewError: a file is missing or broken; the message names the place, the rule and the remedy.
    """
    path = Path(path)
    file = path / STUDY if path.is_dir() else path
    settings = _read_settings(file)
    folder = file.resolve().parent
    named = {STUDY: file}
    for task in settings.tasks:
        named |= {name: _inside(folder, name, f"{file}, task '{task.id}'") for name in (task.items, task.key) if name}
    if settings.policy:
        named[settings.policy] = _inside(folder, settings.policy, f"{file}, policy")
    tasks = {task.id: Task(task, read_items(named[task.items], task.kind)) for task in settings.tasks}
    wording = read_wording(named[settings.policy]) if settings.policy else None
    files = {name: hashlib.sha256(where.read_bytes()).hexdigest() for name, where in named.items()}
    return Study(folder, settings, tasks, wording, files)


def _read_settings(file: Path) -> StudySettings:
    given = f"study {file}"
    try:
        content = load_yaml(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ReviewError(given, "no such file", "Make a study with: realigner review new STUDY --run RUN") from None
    except UnicodeDecodeError as error:
        raise ReviewError(f"{given}, byte {error.start}", "it is not UTF-8", "Save it as UTF-8") from None
    except yaml.YAMLError as error:
        line, fault = yaml_fault(error)
        raise ReviewError(f"{given}{line}", fault, "Correct the line") from None
    if not isinstance(content, dict):
        raise ReviewError(given, "a study is a mapping with id, title and tasks", "See docs/review.md")
    try:
        return StudySettings.model_validate(content)
    except ValidationError as error:
        raise ReviewError(given, "; ".join(_faults(error)), "docs/review.md describes every key") from None


def _faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        place = ".".join(str(part + 1) if isinstance(part, int) else part for part in fault["loc"]) or "the file"
        if fault["type"] == "extra_forbidden":
            known = [*TaskSettings.model_fields, *StudySettings.model_fields]
            hint = did_you_mean(str(fault["loc"][-1]), known).strip()
            yield f"{place}: unknown key" + (f" ({hint})" if hint else "")
        elif fault["type"] == "missing":
            yield f"{place}: missing"
        else:
            message = fault["msg"].removeprefix("Value error, ")
            value = "" if fault["type"] == "value_error" else f"{str(fault['input'])[:60]!r}: "
            yield f"{place}: {value}{message}"


def _inside(folder: Path, name: str, given: str) -> Path:
    """Return a named file, which must be there, below the study's own folder: a study is one thing to hand on."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise ReviewError(f"{given}: {name}", "files of a study lie in its folder", "Copy the file there")
    if not path.is_file():
        raise ReviewError(f"{given}: {name}", "no such file", "Check the name; it is relative to the study file")
    return path


def read_key(study: Study, task: Task) -> dict[str, tuple[str, ...]]:
    """Return the systems behind the responses of each item, in the order of the item's responses. Un-blinds.

    Raises:
        ReviewError: the file does not fit the items.
    """
    name = task.settings.key
    assert name is not None  # a preference task has one
    systems: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate((study.directory / name).read_text(encoding="utf-8").splitlines(), start=1):
        given = f"{name}:{number}"
        try:
            row: Any = json.loads(line)
            item, names = row["id"], tuple(row["systems"])
        except (ValueError, KeyError, TypeError):
            raise ReviewError(given, 'each line is {"id": …, "systems": […]}', "Mend the line") from None
        if item not in task.by_id or item in systems:
            raise ReviewError(f"{given}: id {item!r}", "each item of the task stands here once", "Mend the line")
        if len(set(names)) != len(task.by_id[item].texts) or not all(isinstance(n, str) and n for n in names):
            raise ReviewError(f"{given}: {names!r}", "an item has one system for each response", "Mend the line")
        if {TIE, NONE_GOOD} & set(names):
            raise ReviewError(f"{given}: {names!r}", f"{TIE} and {NONE_GOOD} are answers, not systems", "Rename it")
        systems[item] = names
    missing = next((item.id for item in task.items if item.id not in systems), None)
    if missing is not None:
        raise ReviewError(f"{name}: no line for item '{missing}'", "each item has its systems", "Add the line")
    return systems
