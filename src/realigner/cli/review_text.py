"""What `realigner review` says to people, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realigner.audit.estimate import Rate
    from realigner.evaluate.statistics import Interval
    from realigner.review.figures import TaskFigures
    from realigner.review.make import Made
    from realigner.review.preference import PreferenceScore
    from realigner.review.results import TaskScore
    from realigner.review.serve import Links


def made_lines(made: Made) -> list[str]:
    """Return what was written, and what comes next."""
    lines = [f"wrote {made.directory / 'study.yaml'}"]
    lines += [f"  {name}: {count} items" for name, count in made.items.items()]
    if made.systems:
        lines.append(f"  blind: {', '.join(made.systems)}; who is who stands in systems.jsonl alone")
    if made.self_naming:
        lines.append(f"WARNING {made.self_naming} responses hold the name of a system: they may un-blind themselves")
    return [*lines, f"Next: edit it, then  realigner review serve {made.directory}"]


def scored_lines(found: TaskScore) -> list[str]:
    """Return what a task came to."""
    lines = status_lines(found.figures)
    if found.note:
        lines.append(f"  {found.note}")
    if found.audit is not None:
        audit = found.audit
        lines += [
            f"  audit        {audit.questions - audit.missing} of {audit.questions} questions answered",
            f"  accuracy     {_rate(audit.accuracy)}",
        ]
        lines += [
            f"  {name:<12} precision {_rate(label.precision)}, recall {_rate(label.recall)}"
            for name, label in audit.labels.items()
        ]
        lines += [f"  {name:<12} ε {_rate(outcome.epsilon)}" for name, outcome in audit.outcomes.items()]
        rate = audit.rates["all"]["all"]
        lines.append(f"  compliant    {rate.raw:.1%} as the judge says, corrected {_rate(rate.corrected)}")
    if found.preference is not None:
        lines += _preference(found.preference)
    return lines


def _preference(found: PreferenceScore) -> list[str]:
    width = max(len(name) for name in (*found.systems, "none is good"))
    lines = [
        f"  {name:<{width}}  best in {_share(system.best)}; majority on {system.majority} items"
        for name, system in found.systems.items()
    ]
    lines += [
        f"  {'no difference':<{width}}  {_share(found.ties)}",
        f"  {'none is good':<{width}}  {_share(found.none_good)}",
    ]
    for duel in found.duels:
        counts = f"{duel.wins} won, {duel.losses} lost, {duel.ties} ties, {duel.both_bad} both bad"
        lines.append(f"  {duel.first} against {duel.second}: {_share(duel.win_rate)} ({counts})")
    if found.alpha is not None:
        alpha = found.alpha
        lines.append(f"  α by system {alpha.value:.3f} [{alpha.low:.3f}, {alpha.high:.3f}] on {alpha.items} items")
    return lines


def _share(share: Interval | None) -> str:
    return "not measured" if share is None else f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}]"


def _rate(rate: Rate | None) -> str:
    return "not measured" if rate is None else f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}], n {rate.n}"


def links_lines(links: Links) -> list[str]:
    """Return where the page is, for whom."""
    lines = [
        f"Annotators:   {links.annotators}",
        f"Coordinator:  {links.coordinator}",
        "The coordinator's link opens progress and agreement to whoever has it. Stop with Ctrl-C.",
    ]
    if links.invitation is not None:
        lines[1:1] = [
            f"Invitation:   {links.invitation}",
            "Other machines can reach this page, unencrypted: put TLS before it, and pass its name with --name.",
        ]
    return lines


def status_lines(task: TaskFigures) -> list[str]:
    """Return how a task stands, and each person in it."""
    answers = f"{task.given} of {task.wanted} answers, {task.complete} of {task.items} items complete"
    lines = [f"{task.task} ({task.kind}): {answers}"]
    if task.prevalence:
        lines.append("  answers      " + ", ".join(f"{name} {count}" for name, count in task.prevalence.items()))
    if task.alpha is not None:
        alpha = task.alpha
        lines.append(f"  α            {alpha.value:.3f} [{alpha.low:.3f}, {alpha.high:.3f}] on {alpha.items} items")
    for name, share in (("agreement", task.raw), ("consistency", task.consistency)):
        if share is not None:
            lines.append(f"  {name:<12} {share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}], n {share['n']}")
    if any(task.places.values()):
        lines.append("  by place     " + ", ".join(f"{place}: {count}" for place, count in task.places.items()))
    if task.withdrawn or task.after_reveal:
        lines.append(f"  taken back   {task.withdrawn}; changed after a look at the judge {task.after_reveal}")
    for person in task.people:
        median = "–" if person.median_seconds is None else f"{person.median_seconds:.0f} s"
        again = f", {person.again} repeated" if person.again else ""
        lines.append(f"  {person.name} ({person.annotator}): {person.answered} answers{again}, median {median}")
    return lines
