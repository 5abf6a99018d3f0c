"""`realigner correct`: a file of accepted corrections, to be read, mended, and named in `corrections.path`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from realigner import atomic
from realigner.corrections.leakage import lines as leakage_lines
from realigner.corrections.stage import ACCEPTED, CANDIDATES, correcting
from realigner.data import DataTally, read_pairs
from realigner.errors import RecipeError, RunDirError
from realigner.oracle import open_oracle
from realigner.oracle.build import asked_facts, judged_by
from realigner.policy import Policy
from realigner.progress import SILENT, Progress
from realigner.recipe import Recipe
from realigner.spent import Spent
from realigner.triaging.corrections import CorrectionIndex
from realigner.triaging.human import read_human_verdicts
from realigner.triaging.plan import plan_triage, proposed, writer_lines
from realigner.triaging.stream import triage
from realigner.triaging.tally import TriageTally


def beside(output: Path) -> tuple[Path, Path]:
    """Return where every candidate and the value-leakage report go."""
    return output.with_suffix(".candidates.jsonl"), output.with_suffix(".leakage.json")


def correct(recipe: Recipe, output: Path, progress: Progress = SILENT, redo: bool = False) -> dict[str, Any]:
    """Triage the data, have PUNISH pairs corrected, and write the accepted corrections.

    Nothing is trained and no run directory is made. Stopped, the same call goes on where it was: candidates are in the
    journal, verdicts in the store.

    Args:
        recipe: with `corrections.generate`.
        output: JSON Lines, in the form that `corrections.path` takes; candidates and report go beside it.
        progress: counts pairs and candidates.
        redo: replace an output that is there.

    Raises:
        RecipeError: the recipe has no writer.
        RunDirError: the output is there.
        LimitReached: a limit on calls or money.
    """
    if recipe.corrections is None or recipe.corrections.generate is None:
        raise RecipeError(
            "corrections.generate is not set", "without a writer there is nobody to write", "Set it; see corrections.md"
        )
    if output.exists() and not redo:
        raise RunDirError(f"output {output}", "it is there already", "Choose another --output, or pass --redo")
    output.parent.mkdir(parents=True, exist_ok=True)
    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    spent, read, found = Spent(), DataTally(), TriageTally()
    candidates, leakage = beside(output)
    with ExitStack() as stack:
        oracle = stack.enter_context(open_oracle(recipe.oracle, policy, recipe.output, spent))
        judged = judged_by(oracle)
        if judged is not None:
            plan = plan_triage(recipe, judged, progress)
            for line in plan.lines():
                progress.say(line)
            plan.refuse_over(judged.meter)
            stack.enter_context(judged.asking(plan.calls, progress))
        for line in writer_lines(recipe):
            progress.say(line)
        index = stack.enter_context(CorrectionIndex(proposed(recipe)))
        files = {ACCEPTED: output, CANDIDATES: candidates}
        out = {name: stack.enter_context(atomic.writing(path)) for name, path in files.items()}
        made = stack.enter_context(correcting(recipe, policy, oracle, spent=spent, out=out, progress=progress))
        assert made is not None
        triaged = triage(
            read_pairs(recipe.data, read),
            oracle,
            corrections=index if len(index) else None,
            correct=made.corrector,
            over=recipe.corrections.over if recipe.corrections else "chosen",
            human=read_human_verdicts(recipe.human.path, policy) if recipe.human else None,
            seed=recipe.seed,
            eval_fraction=recipe.data.eval_fraction,
            batch_size=recipe.oracle.questions_at_a_time,
            tally=found,
            progress=progress,
        )
        for _ in made.passing(triaged):
            pass
        report = made.report()
    atomic.write_text(leakage, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return {
        "corrections": str(output),
        "candidates": str(candidates),
        "leakage": str(leakage),
        "accepted": found.corrections_accepted + found.corrections_written,
        **asked_facts(oracle),
        "corrections_written": made.facts(),
        "triage": found.as_dict(),
        "report": report,
        "lines": [*made.corrector.tally.lines(), *leakage_lines(report)],
    }
