"""A study as a file: blocks of arms × shifts × seeds × settings, and the cells they come to.

A cell is one training and its exam. Its identity is a hash of everything that decides it, so a changed setting is
another cell and a stopped study goes on where it was. Learning rates are searched for every arm alike, on the tuning
shift and the tuning seeds, which no reported block may use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from realigner.baselines import ARMS, BY_ANSWER, UNTRAINED
from realigner.baselines.arms import PAPER_LOSS
from realigner.errors import RecipeError, did_you_mean
from realigner.lab.aligned import LabSettings, Preset, lab_key, small_settings
from realigner.lab.experiment import OVER, Setting
from realigner.lab.shifts import PRESETS, SHIFTS, TUNING
from realigner.lab.small_model import Size
from realigner.recipe_parts import PositiveFloat
from realigner.strict_yaml import load_yaml

Kind = Literal["arms", "marginal", "sequence"]
TRACE_FREE = ("dpo-gold", "naive", "npo", "ascent", "rdpo", "ipo", "sft", "retrain", *UNTRAINED)
"""Arms that neither KL anchor nor impact weights enter: another default of TRACE's leaves their cells as they are."""
PAPER = ("paper", "paper-mean", "paper-class-means", "paper-uniform")
"""Arms that set `PAPER_LOSS` themselves: another default of these settings leaves their cells as they are."""
_LOSS = ("beta", "invert", "ipo_tau", "epsilon", "alpha_kl", "kl_budget", "confirm")
_IMPACT = (
    "weighting",
    "score",
    "preconditioner",
    "damping",
    "fisher_rows",
    "cg_steps",
    "normalize",
    "per_class",
)
_SETTINGS = tuple(field.name for field in fields(Setting))
_SETTING, _LAB, _SIZE = TypeAdapter(Setting), TypeAdapter(LabSettings), TypeAdapter(Size)
Seed = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Block(_Part):
    """Cells that are tabulated together."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str = ""
    kind: Kind = "arms"
    """`marginal`: rank correlation of weights with true marginal gains; `sequence`: three shifts one after another."""
    arms: tuple[str, ...] = ("trace",)
    shifts: tuple[str, ...] = ()
    seeds: tuple[Seed, ...] = ()
    setting: dict[str, Any] = Field(default_factory=dict)
    """Over the study's own; see `realigner.lab.experiment.Setting`."""
    sweep: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Values of settings, each with each; `loss.alpha_kl` and the like reach into `loss` and `impact`."""
    rates: tuple[PositiveFloat, ...] = ()
    """Search the learning rate among these, at each of this block's numbers of pairs, and not as the study does: the
    rate that is best for 100 steps is too high for 1,000. One alone is taken without a search."""
    searched_at: Annotated[int, Field(ge=0)] = 0
    """Search at this number of pairs instead, where a search at each would cost more than the study."""

    @property
    def fixed_rate(self) -> float | None:
        """The learning rate of all arms where nothing is searched."""
        return self.rates[0] if len(self.rates) == 1 else None

    @model_validator(mode="after")
    def _known(self) -> Block:
        arms = dict.fromkeys(("moving", "fixed", "anew")) if self.kind == "sequence" else dict.fromkeys(ARMS)
        for what, names, known in (("arm", self.arms, arms), ("shift", self.shifts, SHIFTS)):
            for name in names:
                if name not in known:
                    raise ValueError(f"{what} {name!r} of block {self.name!r} is not known.{did_you_mean(name, known)}")
        for key in (*self.setting, *(name.split(".")[0] for name in self.sweep)):
            if key not in _SETTINGS:
                raise ValueError(f"setting {key!r} of block {self.name!r} is not known.{did_you_mean(key, _SETTINGS)}")
        return self


class Search(_Part):
    """The learning-rate search, the same for every arm."""

    rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (5e-5, 2e-4, 6e-4, 1.5e-3)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (100, 101)
    shifts: tuple[str, ...] = TUNING[:1]

    @field_validator("shifts")
    @classmethod
    def _for_tuning(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or not set(names) <= set(TUNING):
            raise ValueError(f"a search is on the tuning shifts ({', '.join(TUNING)}) alone")
        return names


class Study(_Part):
    """A study file."""

    name: str
    output: str
    """Where results go, relative to the file."""
    cache: str
    """Where models are kept, relative to the file."""
    preset: Preset = "small"
    model: dict[str, Any] = Field(default_factory=dict)
    """Changes to the preset's model, e.g. `steps`; `size` takes a mapping."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    shifts: tuple[str, ...] = ("safety", "style", "value", "entangled")
    setting: dict[str, Any] = Field(default_factory=dict)
    search: Search = Search()
    blocks: tuple[Block, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _apart(self) -> Study:
        tuning = set(self.search.seeds)
        for block in self.blocks:
            seeds, shifts = set(block.seeds or self.seeds), set(block.shifts or self.shifts)
            chooses = shifts <= set(TUNING) and seeds <= tuning
            reports = not shifts & set(TUNING) and not seeds & tuning
            if not chooses and not reports:
                raise ValueError(f"block {block.name!r} mixes tuning seeds or a tuning shift with reported ones")
        return self

    @model_validator(mode="after")
    def _values_hold(self) -> Study:
        try:
            self.lab(0)
        except ValidationError as error:
            raise ValueError(f"model: {_faults(error)}") from None
        except TypeError as error:  # a size that is no mapping
            raise ValueError(f"model: {error}") from None
        for shift in self.shifts:
            if shift not in SHIFTS:
                raise ValueError(f"shift {shift!r} is not known.{did_you_mean(shift, SHIFTS)}")
        for block in self.blocks:
            try:
                for setting in settings_of(self, block):
                    if setting.mix is not None and setting.mix not in PRESETS:
                        raise ValueError(f"block {block.name!r}: mix {setting.mix!r} is none of {', '.join(PRESETS)}")
                    setting.whole_loss, setting.whole_impact  # noqa: B018 - made to be validated
            except ValidationError as error:
                raise ValueError(f"block {block.name!r}: {_faults(error)}") from None
            except TypeError as error:  # a section that is no mapping
                raise ValueError(f"block {block.name!r}: {error}") from None
        return self

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """Read a study file; paths in it become absolute.

        Raises:
            RecipeError: it cannot be read, or a name or value in it is wrong.
        """
        path = Path(path)
        try:
            content = load_yaml(path.read_text(encoding="utf-8"))
            study = cls.model_validate(content)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            why = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
            raise RecipeError(f"study {path}", f"it cannot be read ({why})", "Name a YAML file") from None
        except ValidationError as error:
            raise RecipeError(f"study {path}", _faults(error), "Correct the file; docs/lab.md describes it") from None
        base = path.resolve().parent
        return study.model_copy(update={"output": str(base / study.output), "cache": str(base / study.cache)})

    def check_blocks(self, names: Sequence[str]) -> None:
        """Refuse names of blocks that are not there.

        Raises:
            RecipeError: there is none of this name.
        """
        known = [block.name for block in self.blocks]
        for name in names:
            if name not in known:
                near = did_you_mean(name, known)
                raise RecipeError(f"block {name!r}", f"the study has {', '.join(known)}", f"Name one of them.{near}")

    @property
    def own_setting(self) -> Setting:
        """The setting of cells that no block changes, searches among them."""
        return _SETTING.validate_python(self.setting)

    def lab(self, seed: int) -> LabSettings:
        """Return what decides M_ref for a seed."""
        found = asdict(small_settings(seed, self.preset))
        size = {**found.pop("size"), **self.model.get("size", {})}
        changes = {key: value for key, value in self.model.items() if key != "size"}
        return _LAB.validate_python({**found, **changes, "size": _SIZE.validate_python(asdict(Size(**size)))})


def _faults(error: ValidationError) -> str:
    """Return what is wrong, with where it is and what was given unless that is long."""
    found = []
    faults = error.errors(include_url=False)
    for fault in faults:
        if any(len(f["loc"]) > len(fault["loc"]) and f["loc"][: len(fault["loc"])] == fault["loc"] for f in faults):
            continue  # pydantic counts a list whose item is wrong as empty
        place = ".".join(map(str, fault["loc"]))
        given = fault["input"]
        shown = f"{place} = {given!r}" if isinstance(given, str | int | float) else place
        message = fault["msg"].removeprefix("Value error, ")
        found.append(f"{shown}: {message}" if place else message)
    return "; ".join(found)


@dataclass(frozen=True)
class Cell:
    """One training and its exam."""

    kind: Kind
    block: str
    shift: str
    seed: int
    arm: str
    setting: Setting
    lab: LabSettings
    learning_rate: float | None
    """None where it is still to be searched, and for arms without training."""

    @property
    def key(self) -> str:
        """Return the identity of what is computed; the block is not part of it."""
        setting = asdict(self.setting)
        if setting["noise"] == 0:
            setting["correlation"] = "independent"  # of nothing
        del setting["loss"]
        loss = self.setting.whole_loss.model_dump(mode="json")
        del setting["impact"]
        impact = self.setting.whole_impact.model_dump(mode="json")
        # Named one by one: a setting that the library gains later, and that does nothing here, changes no cell.
        if self.kind == "arms" and self.arm in TRACE_FREE:
            loss = {name: loss[name] for name in ("beta", "ipo_tau")}
            impact = {}
            setting.pop("corrected")
        elif self.kind == "arms" and self.arm == "u2a":
            loss = {"beta": loss["beta"]}
            impact = {"gold": {n: impact["gold"][n] for n in ("kind", "size")}}
        else:
            more = {"imitate": loss["imitate"]} if loss["imitate"] else {}  # cells are older than the setting
            loss = {**{name: loss[name] for name in _LOSS}, **more, "corrections_over": OVER}
            if self.kind == "arms" and self.arm in PAPER:
                loss = {name: value for name, value in loss.items() if name not in PAPER_LOSS}
            impact = {**{n: impact[n] for n in _IMPACT}, "gold": {n: impact["gold"][n] for n in ("kind", "size")}}
        if self.arm in BY_ANSWER:
            setting["answers_per_pair"] = 2  # their batches once counted an answer as a pair
        parts = [self.kind, self.shift, self.seed, self.arm, setting, loss, impact, lab_key(self.lab)]
        text = json.dumps([*parts, self.learning_rate], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def data(self) -> tuple[Any, ...]:
        """What cells must share to share scored data; they are run one after another."""
        s = self.setting
        return (self.seed, self.shift, s.pairs, s.mix or "", s.noise, s.correlation)


def settings_of(study: Study, block: Block) -> Iterator[Setting]:
    """Yield the settings of a block: its own over the study's, one for each point of its sweep."""
    names = list(block.sweep)
    for values in product(*block.sweep.values()):
        merged: dict[str, Any] = {**study.setting, **block.setting}
        for name, value in zip(names, values, strict=True):
            head, _, rest = name.partition(".")
            merged[head] = _put(merged.get(head, {}), rest.split("."), value) if rest else value
        yield _SETTING.validate_python(merged)


def _put(tree: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    head, *rest = path
    return {**tree, head: _put(tree.get(head, {}), rest, value) if rest else value}


Rates = Mapping[tuple[str, int], float]
"""The learning rate of an arm at the number of pairs at which it was searched."""


def block_cells(study: Study, block: Block, rates: Rates) -> list[Cell]:
    """Return a block's cells, those of the same data next to each other.

    Args:
        study: the file.
        block: one of its blocks.
        rates: the learning rates, by `searched`; a cell whose rate is not among them has none.
    """

    def rate(arm: str, setting: Setting) -> float | None:
        return rates.get((searched_as(block, arm), searched_at(study, block, setting)))

    return [
        Cell(block.kind, block.name, shift, seed, arm, setting, study.lab(seed), rate(arm, setting))
        for seed in block.seeds or study.seeds
        for setting in settings_of(study, block)
        for shift in block.shifts or study.shifts
        for arm in block.arms
    ]


def searched_as(block: Block, arm: str) -> str:
    """Return the arm whose learning rate a cell takes: a sequence of shifts is TRACE, several times."""
    return "trace" if block.kind == "sequence" else arm


def searched_at(study: Study, block: Block, setting: Setting) -> int:
    """Return the number of pairs at which the learning rates of a setting of a block are searched."""
    return block.searched_at or (setting if block.rates else study.own_setting).pairs


def searches_of(study: Study, block: Block) -> list[tuple[str, int]]:
    """Return each arm of a block that has a learning rate, at each number of pairs at which that is to be known."""
    arms = dict.fromkeys(searched_as(block, arm) for arm in block.arms if arm not in UNTRAINED)
    sizes = dict.fromkeys(searched_at(study, block, setting) for setting in settings_of(study, block))
    return [(arm, pairs) for pairs in sizes for arm in arms]


def search_cells(study: Study, block: Block) -> list[Cell]:
    """Return the cells of a block's learning-rate searches, on the tuning shift and seeds."""
    if block.kind == "marginal" or block.fixed_rate is not None:
        return []
    return [
        Cell("arms", "search", shift, seed, arm, replace(study.own_setting, pairs=pairs), study.lab(seed), rate)
        for shift in study.search.shifts
        for seed in study.search.seeds
        for arm, pairs in searches_of(study, block)
        for rate in block.rates or study.search.rates
    ]
