"""`realigner check`: everything that can be known in seconds before a run, all findings at once. Changes nothing."""

from __future__ import annotations

import fcntl
import heapq
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from realigner import atomic
from realigner.chain.previous import chain_of, load_previous
from realigner.data import DataTally, read_pairs, split_of
from realigner.discover.use import OldPolicy
from realigner.errors import GateNotMet, GoldError, ModelError, RealignerError, RunDirError
from realigner.evaluate.parts import configured, parts_inputs
from realigner.manifest import MANIFEST
from realigner.oracle import Oracle, build_oracle
from realigner.oracle.build import judged_by, look_into_oracle
from realigner.oracle.plan import Planner
from realigner.pipeline import stage_inputs
from realigner.policy import Policy
from realigner.progress import SILENT, Progress
from realigner.recipe import ModelSettings, Recipe
from realigner.records import Judgement, Outcome, Pair, TriagedPair, prompt_text
from realigner.report.gate import read_gate
from realigner.runs import LOCK, finished_stages, load_run
from realigner.triaging import CorrectionIndex, TriageTally, triage
from realigner.triaging.human import HumanVerdicts, read_human_verdicts
from realigner.triaging.plan import proposed

Level = Literal["ok", "warning", "error"]

SECONDS = 5.0
"""How long the data are read; what is not reached is said."""
SAMPLE = 2000
"""Pairs that are judged."""
LONGEST = 64
"""Pairs that are turned into tokens: the longest by characters."""
RARE = 0.01
"""Share of the pairs under which a class is pointed out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    topic: str
    """The section of the recipe."""
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.topic:<7} {self.text}"

    def as_dict(self) -> dict[str, str]:
        """Return plain JSON types."""
        return {"level": self.level, "topic": self.topic, "text": self.text}


@dataclass
class _Seen:
    """What the data showed: a fair sample, and the longest pairs."""

    whole: bool = False
    sample: list[Pair] = field(default_factory=list)
    longest: list[Pair] = field(default_factory=list)
    human: HumanVerdicts | None = None
    """What people decided, where the recipe names such a file."""


class _Findings(list[Finding]):
    def ok(self, topic: str, text: str) -> None:
        self.append(Finding("ok", topic, text))

    def warn(self, topic: str, text: str) -> None:
        self.append(Finding("warning", topic, text))

    def error(self, topic: str, text: str) -> None:
        self.append(Finding("error", topic, text))

    @contextmanager
    def about(self, topic: str) -> Iterator[None]:
        """Turn a user's mistake into a finding, and go on with the next topic."""
        try:
            yield
        except RealignerError as error:
            self.error(topic, str(error))


def check(recipe: Recipe, progress: Progress = SILENT) -> list[Finding]:
    """Look at everything that a run of this recipe needs; every fault is listed, not only the first."""
    findings = _Findings()
    seen: _Seen | None = None
    policy: Policy | None = None
    with progress.task("checking", 5) as advance:
        with findings.about("data"):
            seen = _check_data(recipe, findings)
        advance(1)
        with findings.about("policy"):
            policy = _check_policy(recipe, findings)
        advance(1)
        if policy is not None and seen is not None and recipe.human is not None:
            with findings.about("human"):
                seen.human = read_human_verdicts(recipe.human.path, policy)
                findings.ok("human", f"{len(seen.human):,} responses were decided by people")
        if recipe.old_policy is not None:
            with findings.about("old_policy"):
                old = OldPolicy.load(recipe.old_policy.path, recipe.old_policy.allow_code)
                unjudged = f", without {', '.join(old.not_judged)}" if old.not_judged else ""
                findings.ok("old_policy", f"{old.policy.id} {old.policy.version}: {len(old.rules)} rules{unjudged}")
        with findings.about("evaluate"):
            parts = parts_inputs(recipe.evaluate)
            findings.ok("evaluate", f"measures {', '.join(parts) or 'nothing beyond agreement, KL and perplexity'}")
            for part, section in configured(recipe.evaluate):
                for line in part.check(section):
                    (findings.warn if "WARNING" in line else findings.ok)("evaluate", f"{part.name}: {line}")
        if policy is not None:
            with findings.about("oracle"), look_into_oracle(recipe.oracle, policy, recipe.output) as oracle:
                _check_oracle(recipe, oracle, seen, findings)
            _check_writer(recipe, policy, findings)
        advance(1)
        _check_model(recipe, seen, findings)
        advance(1)
        if recipe.report.gate is not None:
            with findings.about("report"):
                findings.ok("report", f"the gate has {len(read_gate(recipe.report.gate))} conditions")
        with findings.about("output"):
            _check_output(recipe, findings)
            _check_audit(recipe, findings)
        advance(1)
    return findings


def _check_data(recipe: Recipe, findings: _Findings) -> _Seen:
    tally, seen, draw = DataTally(), _Seen(), random.Random(recipe.seed)
    end = time.monotonic() + SECONDS
    longest: list[tuple[int, int, Pair]] = []
    sides = {"train": 0, "eval": 0}
    for number, pair in enumerate(read_pairs(recipe.data, tally)):
        sides[split_of(pair.prompt, recipe.seed, recipe.data.eval_fraction)] += 1
        _keep_fairly(seen.sample, pair, number, draw)
        length = len(prompt_text(pair.prompt)) + max(len(pair.chosen), len(pair.rejected))
        _keep_longest(longest, (length, number, pair))
        if time.monotonic() > end:
            break
    else:
        seen.whole = True
    seen.longest = [pair for _, _, pair in sorted(longest, reverse=True)]
    so_far = "" if seen.whole else f" (the first ones: reading stopped after {SECONDS:.0f} s)"
    findings.ok("data", f"{tally.summary()}{so_far}; format {tally.format}")
    for side, name in (("train", "training"), ("eval", "held-out")):
        if not sides[side]:
            findings.error("data", f"no pair on the {name} side: change data.eval_fraction, or give more prompts")
    return seen


def _keep_fairly(sample: list[Pair], pair: Pair, number: int, draw: random.Random) -> None:
    """Reservoir sampling: each pair read so far is in the sample with the same chance."""
    if len(sample) < SAMPLE:
        sample.append(pair)
    elif (place := draw.randrange(number + 1)) < SAMPLE:
        sample[place] = pair


def _keep_longest(longest: list[tuple[int, int, Pair]], entry: tuple[int, int, Pair]) -> None:
    if len(longest) < LONGEST:
        heapq.heappush(longest, entry)
    else:
        heapq.heappushpop(longest, entry)


def _check_policy(recipe: Recipe, findings: _Findings) -> Policy:
    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    _say_policy(recipe, policy, findings)
    if recipe.evaluate.oracle is not None:
        with findings.about("oracle"):
            findings.ok("oracle", f"evaluation: {build_oracle(recipe.evaluate.oracle, policy).identity}")
    if recipe.previous is not None:
        with findings.about("previous"):
            before = load_previous(recipe)
            links = [] if before is None else chain_of(before)
            names = ", ".join(f"{link['policy']['id']} {link['policy']['version']}" for link in links)
            findings.ok("previous", f"follows {len(links)} runs: {names}")
    return policy


def _check_oracle(recipe: Recipe, oracle: Oracle, seen: _Seen | None, findings: _Findings) -> None:
    """See whether judges can be asked and what that takes; judge a sample where it costs nothing."""
    calls = 0
    judged = judged_by(oracle)
    if judged is not None:
        for line in judged.check():  # before the identity is asked for: this finds out the output mode
            (findings.warn if "WARNING" in line else findings.ok)("oracle", line)
    findings.ok("oracle", oracle.identity)
    if judged is not None and seen is not None:
        with Planner(judged) as planner:
            planner.add([Judgement(p.prompt, text) for p in seen.sample for text in (p.chosen, p.rejected)])
            plan = planner.plan()
        calls = plan.calls
        of = "all" if seen.whole and len(seen.sample) < SAMPLE else "a sample of"
        for line in plan.lines():
            findings.ok("oracle", f"for {of} {len(seen.sample):,} pairs, {line}")
    if calls:
        findings.ok("triage", "not tried on a sample, because its judge is not free; see realigner triage --dry-run")
    elif seen is not None:
        _check_triage(recipe, oracle, seen, findings)


def _say_policy(recipe: Recipe, policy: Policy, findings: _Findings) -> None:
    """Say what the policy is, what of it is tested, and what lint finds."""
    from realigner.policy.lint import lint

    held = sum(len(rule.examples) for rule in policy.rules if rule.by == "rules")
    told = f"{policy.id} {policy.version}: {len(policy.rules)} rules, {held} examples hold"
    if policy.wording_rules:
        shown = sum(len(rule.examples) for rule in policy.wording_rules)
        told += f"; {len(policy.wording_rules)} rules need a judge, who is shown {shown} examples that nothing checks"
    findings.ok("policy", f"{told}, {policy.hash}")
    for rule in policy.rules:
        if not rule.examples:
            findings.warn("policy", f"rule {rule.id} has no example, so nothing tests what it says")
    weighed = [finding for finding in lint(policy) if finding.code != "no-example"]
    for finding in weighed:
        if finding.level == "error" or finding.code == "never-decides":
            findings.warn("policy", f"{', '.join(finding.rules)}: {finding.text}. {finding.remedy}")
    lesser = sum(finding.level == "warning" for finding in weighed)
    if lesser:
        findings.ok("policy", f"{lesser} lint warnings; see: realigner policy lint {recipe.policy.path}")
    if policy.wording_rules and any(
        used is not None and used.fallbacks for used in (recipe.oracle, recipe.evaluate.oracle)
    ):
        rules = ", ".join(rule.id for rule in policy.wording_rules)
        findings.warn(
            "oracle", f"deterministic fallbacks stand in for the judge of {rules}: they see wording, not meaning"
        )


def _check_triage(recipe: Recipe, oracle: Oracle, seen: _Seen, findings: _Findings) -> None:
    """Judge a sample, and see whether the gold batch can be drawn."""
    whole = seen.whole and len(seen.sample) < SAMPLE
    tally = TriageTally()
    triaged: list[TriagedPair] = []
    with findings.about("oracle"), CorrectionIndex(proposed(recipe)) as corrections:
        triaged = list(
            triage(
                seen.sample,
                oracle,
                corrections=corrections,
                human=seen.human,
                seed=recipe.seed,
                eval_fraction=recipe.data.eval_fraction,
                batch_size=recipe.oracle.questions_at_a_time,
                tally=tally,
            )
        )
        if recipe.corrections and recipe.corrections.path:
            _say_corrections(tally, whole, findings)
    if not triaged:
        return
    of = f"all {len(triaged):,} pairs" if whole else f"a sample of {len(triaged):,} pairs"
    shares = ", ".join(f"{outcome} {tally.count(outcome) / len(triaged):.1%}" for outcome in Outcome)
    train = [item for item in triaged if item.split == "train"]
    findings.ok("triage", f"of {of}: {shares}")
    if not any(item.outcome.is_conflict for item in train):
        report = findings.error if whole else findings.warn
        report("triage", "no conflicts: nothing to re-align. Check the policy's rules, or give data that it changes")
        return
    rare = [outcome for outcome in Outcome if outcome.is_conflict and 0 < tally.count(outcome) < RARE * len(triaged)]
    for outcome in rare:
        findings.warn("triage", f"{outcome} is rare ({tally.count(outcome)} of {of})")
    if recipe.impact.gold.kind == "corrected" and recipe.corrections is not None and recipe.corrections.generate:
        findings.ok("gold", "corrected: its corrections will be written in triage, so it is not tried here")
    elif recipe.impact.weighting == "impact":
        _check_gold(recipe, train, whole, findings)


def _check_writer(recipe: Recipe, policy: Policy, findings: _Findings) -> None:
    """Ask the writer of corrections, if there is one, whether it can write; build the second judge."""
    from realigner.corrections.stage import writer_identities
    from realigner.corrections.writers import build_writer

    generate = None if recipe.corrections is None else recipe.corrections.generate
    if generate is None:
        return
    with findings.about("corrections"):
        line = build_writer(generate).check()
        (findings.warn if "WARNING" in line else findings.ok)("corrections", f"writer: {line}")
        second = (writer_identities(recipe, policy) or {})["second"]
        if second is not None:
            findings.ok("corrections", f"second judge: {second}")


def _say_corrections(tally: TriageTally, whole: bool, findings: _Findings) -> None:
    refused = ", ".join(f"{count} {reason}" for reason, count in tally.corrections_refused.items() if count)
    text = f"{tally.corrections_accepted} accepted, {tally.corrections_refused.total()} refused"
    text += f" ({refused})" if refused else ""
    unknown = tally.corrections_unknown
    if whole and unknown:
        findings.warn("corrections", f"{text}; {unknown} belong to no pair")
    else:
        findings.ok("corrections", text if whole else f"{text}, for the pairs of the sample")


def _check_gold(recipe: Recipe, train: list[TriagedPair], whole: bool, findings: _Findings) -> None:
    from realigner.impact.gold import draw_gold

    gold = recipe.impact.gold
    with findings.about("gold"):
        try:
            batch = draw_gold(train, gold, recipe.seed)
        except GoldError as error:
            if whole or gold.kind == "file":
                raise
            findings.warn("gold", f"not enough in the sample; the whole data may have enough. {error}")
            return
        findings.ok("gold", f"{gold.kind}: {len(batch.pairs)} pairs, {len(batch.held_out)} of the data held out")


def _check_model(recipe: Recipe, seen: _Seen | None, findings: _Findings) -> None:
    from realigner.model.hub import refuse_unreachable

    with findings.about("train"):
        from realigner.model.extras import refuse_absent_extras
        from realigner.train.config import refuse_impossible

        refuse_absent_extras(recipe)
        refuse_impossible(recipe.train)
    with findings.about("impact"):
        from realigner.impact.stage import refuse_impossible as refuse_scoring

        refuse_scoring(recipe)
    try:
        refuse_unreachable(recipe.model)
    except ModelError as error:  # text and weights would each say so again, after a minute of asking
        findings.error("model", str(error))
        with findings.about("reference"):
            if recipe.reference is not None:
                refuse_unreachable(recipe.reference_model)
        return
    with findings.about("text"):
        _check_text(recipe, seen, findings)
    if recipe.reference is not None:
        with findings.about("reference"):
            _check_reference(recipe, findings)
    with findings.about("model"):
        trainable = _check_weights(recipe, findings)
        _check_room(recipe, trainable, findings)


def _check_text(recipe: Recipe, seen: _Seen | None, findings: _Findings) -> None:
    """Load the tokenizer, and turn the longest pairs into tokens as training will."""
    from realigner.model.load import load_model_config
    from realigner.model.stage import recipe_encoder

    encoder = recipe_encoder(recipe, load_model_config(recipe.model))
    findings.ok(
        "text",
        f"format {recipe.text.format}; at most {encoder.max_length} tokens a pair, {encoder.max_response} of them "
        f"in the response (context {encoder.context})",
    )
    if seen is None:
        return
    longest = 0
    for pair in seen.longest:
        rows = encoder.encode(pair.id, pair.prompt, {"chosen": pair.chosen, "rejected": pair.rejected})
        longest = max([longest, *(len(row.ids) for row in (rows or {}).values())])
    lost = {name: count for name, count in encoder.tally.items() if name != "pairs"}
    said = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in lost.items())
    report = findings.warn if lost else findings.ok
    report("text", f"the {len(seen.longest)} longest pairs have up to {longest} tokens{f'; {said}' if said else ''}")


def _check_reference(recipe: Recipe, findings: _Findings) -> None:
    """Look whether a reference of its own can be had, and reads the model's tokens."""
    from realigner.model.hub import refuse_unreachable
    from realigner.model.stage import refuse_other_tokens

    refuse_unreachable(recipe.reference_model)
    _refuse_no_weights(recipe.reference_model)
    refuse_other_tokens(recipe)
    findings.ok("reference", f"{recipe.reference_model.path}, with the model's tokens")


def _refuse_no_weights(settings: ModelSettings) -> None:
    path = Path(settings.path)
    if path.is_dir() and not any(path.glob("*.safetensors")):
        raise ModelError(
            f"{settings.called} = {str(path)!r}", "it holds no safetensors file", "Save the model with save_pretrained"
        )


def _check_weights(recipe: Recipe, findings: _Findings) -> int:
    """Build the model without its weights, attach the adapter, and return the number of trainable parameters."""
    import torch
    from transformers import AutoModelForCausalLM

    from realigner.model.load import attach_lora, load_model_config
    from realigner.model.sharded import layers_of

    _refuse_no_weights(recipe.model)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_model_config(recipe.model), trust_remote_code=False)
        total = sum(parameter.numel() for parameter in model.parameters())
        if recipe.model.lora is not None:
            model.requires_grad_(False)
            model = attach_lora(model, recipe.model.lora, recipe.seed)
    if recipe.model.shard:
        layers_of(model)
    trainable: int = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    findings.ok("model", f"{type(model).__name__}: {total:,} parameters, {trainable:,} of them trained")
    return trainable


def _check_room(recipe: Recipe, trainable: int, findings: _Findings) -> None:
    """Estimate what the run will write: three checkpoints of weights and two moments in fp32, the model, the data."""
    weights = 4 * trainable
    data = max(atomic.size_of(Path(recipe.data.path)), 0)
    needed = 3 * 3 * weights + weights + 3 * data
    output = Path(recipe.output)
    atomic.check_room(output, needed, "the run")
    free = atomic.readable(atomic.free_bytes(output))
    findings.ok("output", f"needs about {atomic.readable(needed)} of disk; {free} are free")


def _check_audit(recipe: Recipe, findings: _Findings) -> None:
    """Say whether training will wait for people."""
    from realigner.audit.gate import needs_audit, refuse_unaudited

    if not needs_audit(recipe):
        return
    try:
        refuse_unaudited(recipe)
        findings.ok("audit", "the judge's audit permits training")
    except GateNotMet as error:
        findings.warn("audit", f"the run will stop after triage. {error}")


def _check_output(recipe: Recipe, findings: _Findings) -> None:
    """Say whether the run directory is free, resumable or in the way."""
    output = Path(recipe.output)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        findings.ok("output", f"{output} is free")
        return
    if not output.is_dir() or not (output / MANIFEST).is_file():
        raise RunDirError(f"output {output}", "it exists and is no run directory", "Choose another `output`")
    _refuse_in_use(output)
    done = finished_stages(output)
    if not done:
        findings.ok("output", f"{output} holds a run that finished no stage")
        return
    if any(finding.level == "error" for finding in findings):
        findings.warn("output", f"{output} holds a run; whether it can be resumed shows when the errors are mended")
        return
    load_run(output).refuse_stale(stage_inputs(recipe, done[-1]))
    findings.ok("output", f"{output} will be resumed after '{done[-1]}'")


def _refuse_in_use(output: Path) -> None:
    lock = output / LOCK
    if not lock.is_file():
        return
    with lock.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunDirError(
                f"run {output}", f"it is in use by process {file.read()}", "Wait, or choose another `output`"
            ) from None
