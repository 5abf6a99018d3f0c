"""The demo: a small aligned model, the old preference set it was aligned with, a new policy, and the recipe to run.

Everything is made on the spot and decided by the seed: no download, no judge, no key. The model first learns to
answer from a corpus in which sensitive questions are refused about as often as answered, then learns the OLD
preferences by DPO, so that it refuses: aligned, and still movable.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from shutil import copyfile
from typing import Any, get_args

import yaml

from realigner import __version__
from realigner.atomic import writing_directory
from realigner.errors import RunDirError
from realigner.lab.small_model import Size
from realigner.lab.world import Era, LabPair, Mix, draw_corpus, draw_held_out, draw_pairs
from realigner.progress import SILENT, Progress
from realigner.recipe import Recipe, TextSettings
from realigner.records import user_prompt

log = logging.getLogger(__name__)

HOME = Path(__file__).parent
POLICIES: dict[Era, Path] = {era: HOME / "policies" / f"demo-{era}.yaml" for era in get_args(Era)}
INPUTS, RUN, FACTS = "inputs", "run", "demo.json"
ASPIRED_AGREEMENT = 0.9
"""Below this agreement with the old policy the model cannot be called aligned, and a warning says so."""


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What decides the demo's inputs. The defaults take about 40 seconds on two cores."""

    seed: int = 0
    size: Size = field(default_factory=Size)
    corpus: int = 6000
    """Prompts with an answer, for supervised training."""
    movable: float = 0.6
    """Share of them that help where the old policy wants a refusal."""
    steps: int = 900
    batch: int = 16
    learning_rate: float = 4e-3
    pairs: int = 1000
    """Old preference pairs."""
    mix: Mix = field(default_factory=Mix)
    corrected: float = 0.8
    """Share of the PUNISH pairs that get a correction; the others are trained by suppressing both responses, of which a
    model of this size does not stand much more before it stutters."""
    preference_steps: int = 32
    preference_batch: int = 32
    preference_learning_rate: float = 2e-4
    beta: float = 0.1
    held_out: int = 200
    """Prompts on which the finished model is measured."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Sections that replace those of `DEMO_RECIPE`."""


DEMO_RECIPE: dict[str, Any] = {
    "output": f"../{RUN}",
    "model": {"path": "model", "lora": None},
    "data": {"path": "pairs.jsonl", "format": "trl", "eval_fraction": 0.2},
    "policy": {"path": "policy.yaml"},
    "corrections": {"path": "corrections.jsonl"},
    "impact": {"gold": {"kind": "corrected", "size": 24}},
    "train": {"epochs": 2, "batch_size": 32, "micro_batch": 32, "learning_rate": 3e-4, "warmup_steps": 5},
    "generate": {"prompts": 150, "max_new_tokens": 64, "batch_size": 75},
    "evaluate": {"retained": 100},
    "report": {"title": "Demo: from refusing to careful help"},
}


def build_demo(
    directory: str | Path, *, seed: int = 0, progress: Progress = SILENT, settings: DemoSettings | None = None
) -> Recipe:
    """Make the demo's inputs, or take those that lie there already, and return the recipe that realigns them.

    Args:
        directory: gets `inputs/` (model/, pairs.jsonl, corrections.jsonl, policy.yaml, old-policy.yaml, recipe.yaml
            and demo.json with what was measured) and, by the recipe's run, `run/`.
        seed: decides the world, the model and the run.
        progress: where to show how far it is.
        settings: sizes and rates; their seed gives way to `seed`.

    Returns:
        the recipe, with its paths resolved.

    Raises:
        RunDirError: `directory/inputs` holds something else.
    """
    settings = replace(settings or DemoSettings(), seed=seed)
    inputs = Path(directory) / INPUTS
    key = settings_key(settings)
    if _stored_key(inputs) != key:
        inputs.parent.mkdir(parents=True, exist_ok=True)
        with writing_directory(inputs) as path:
            facts = _build(path, settings, progress)
            _write_json(path / FACTS, {"key": key, "settings": asdict(settings), **facts})
    return Recipe.load(inputs / "recipe.yaml")


def settings_key(settings: DemoSettings) -> str:
    """Return the identity of what would be built: the settings, and the code and policies of the lab."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    digest.update(__version__.encode())
    for path in sorted([*HOME.glob("*.py"), *POLICIES.values()]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_pairs(path: Path, pairs: Sequence[LabPair]) -> None:
    """Write pairs in TRL's conversational format with an explicit prompt; nothing in it tells the truth."""
    _write_jsonl(
        path,
        (
            {
                "prompt": list(user_prompt(pair.prompt)),
                "chosen": [{"role": "assistant", "content": pair.chosen}],
                "rejected": [{"role": "assistant", "content": pair.rejected}],
            }
            for pair in pairs
        ),
    )


def write_corrections(path: Path, pairs: Sequence[LabPair]) -> None:
    """Write `{id, correction}` for every pair that has one."""
    _write_jsonl(path, ({"id": p.id, "correction": p.correction} for p in pairs if p.correction is not None))


def _stored_key(inputs: Path) -> str | None:
    """Return the key of the inputs that lie there, or None where there are none."""
    if not inputs.exists():
        return None
    try:
        return str(json.loads((inputs / FACTS).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError):
        raise RunDirError(
            f"directory {inputs}", f"it holds no {FACTS}, so the demo did not make it", "Choose another --output"
        ) from None


def _build(path: Path, settings: DemoSettings, progress: Progress) -> dict[str, Any]:
    """Write all inputs into `path`; return what was measured."""
    seconds: dict[str, float] = {}
    with _timed(seconds, "data"):
        pairs = draw_pairs(settings.pairs, settings.seed, settings.mix, corrected=settings.corrected)
        write_pairs(path / "pairs.jsonl", pairs)
        write_corrections(path / "corrections.jsonl", pairs)
        copyfile(POLICIES["new"], path / "policy.yaml")
        copyfile(POLICIES["old"], path / "old-policy.yaml")
        recipe = {**DEMO_RECIPE, "seed": settings.seed, **settings.recipe}
        (path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    facts = _build_model(path / "model", settings, pairs, seconds, progress)
    return {**facts, "seconds": {name: round(value, 2) for name, value in seconds.items()}}


def _build_model(
    path: Path, settings: DemoSettings, pairs: Sequence[LabPair], seconds: dict[str, float], progress: Progress
) -> dict[str, Any]:
    """Train the aligned model and write it with its tokenizer."""
    from realigner.lab.measure import measure
    from realigner.lab.small_model import make_model, make_tokenizer
    from realigner.lab.teach import Schedule, teach_answers, teach_preferences
    from realigner.model.chat import Encoder

    with _timed(seconds, "tokenizer"):
        corpus = list(draw_corpus(settings.corpus, settings.seed, movable=settings.movable))
        tokenizer = make_tokenizer(text for row in corpus for text in row)
        encoder = Encoder(tokenizer, TextSettings(), settings.size.context)

        def rows(prompt: str, *answers: str) -> Any:
            encoded = encoder.encode(prompt, user_prompt(prompt), {str(i): a for i, a in enumerate(answers)})
            assert encoded is not None  # nothing of this world is too long
            return tuple(encoded.values())

        answers = [rows(prompt, answer)[0] for prompt, answer in corpus]
        preferences = [rows(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
    with _timed(seconds, "answers"):
        model = make_model(tokenizer, settings.size, settings.seed)
        schedule = Schedule(settings.steps, settings.batch, settings.learning_rate)
        teach_answers(model, answers, schedule, settings.seed, progress)
    with _timed(seconds, "preferences"):
        schedule = Schedule(settings.preference_steps, settings.preference_batch, settings.preference_learning_rate)
        teach_preferences(model, preferences, schedule, settings.seed, beta=settings.beta, progress=progress)
    with _timed(seconds, "measure"):
        model.eval()
        behaviour = measure(model, encoder, draw_held_out(settings.held_out, settings.seed), settings.seed)
    if behaviour.old_agreement < ASPIRED_AGREEMENT:
        log.warning(
            "the demo's model agrees with the old policy on %.0f %% of held-out prompts only",
            100 * behaviour.old_agreement,
        )
    model.save_pretrained(path, safe_serialization=True)
    tokenizer.save_pretrained(path)
    return {"parameters": model.num_parameters(), "behaviour": asdict(behaviour)}


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
