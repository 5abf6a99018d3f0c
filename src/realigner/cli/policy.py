"""`realigner policy list|show|lint|diff`: policies read, checked and compared, without judging anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from realigner.cli.options import Debug, Json, Quiet
from realigner.cli.voice import DONE, GATE, Voice, write_lines

if TYPE_CHECKING:
    from realigner.policy import Policy, Rule

app = typer.Typer(
    name="policy",
    help="List, show, check and compare policies.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)

PolicyFile = Annotated[
    str, typer.Argument(metavar="POLICY", help="A policy file, or a shipped policy: realigner:house-style.")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Permit python checks: they import and run code named in the file.")
]
View = Literal["judge", "guard", "auditor"]


@app.command("list")
def list_policies(quiet: Quiet = False, as_json: Json = False, debug: Debug = False) -> int:
    """List the policies that come with realigner."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.policy import Policy
        from realigner.policy.shipped import shipped_names

        policies = {name: Policy.load(name) for name in shipped_names()}
        facts = [{"name": name, **_head(policy)} for name, policy in policies.items()]
        width = max(map(len, policies))
        lines = [f"{name:<{width}}  {policy.title} ({_counts(policy)})" for name, policy in policies.items()]
        hint = "Name one as policy.path in a recipe, or see it with: realigner policy show NAME"
        voice.answer({"policies": facts}, lambda out: write_lines(out, *lines, hint))
    return voice.code


@app.command()
def show(
    policy: PolicyFile,
    rule: Annotated[str | None, typer.Option("--rule", metavar="ID", help="Show this rule alone.")] = None,
    view: Annotated[
        View, typer.Option("--for", help="The prompt of a judge, the categories of a guard model, or human wording.")
    ] = "judge",
    allow_code: AllowCode = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Show what a policy compiles to: the prompt that a judge gets, its hash and length, rule by rule."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.policy import Policy

        loaded = Policy.load(policy, allow_code=allow_code)
        rules = [_rule(loaded, rule)] if rule is not None else list(loaded.rules)
        shown = [{**_rule_facts(item), "compiled": _compiled(loaded, item, view)} for item in rules]
        facts = {**_head(loaded), "for": view, "rules": shown}
        lines = [
            f"{loaded.id} {loaded.version}: {loaded.title}",
            f"hash {loaded.hash}; decision {loaded.decision}; {_counts(loaded)}",
        ]
        for item in shown:
            lines += ["", _rule_line(item), *str(item["compiled"]).splitlines()]
        voice.answer(facts, lambda out: write_lines(out, *lines))
    return voice.code


@app.command()
def lint(
    policy: PolicyFile, allow_code: AllowCode = False, quiet: Quiet = False, as_json: Json = False, debug: Debug = False
) -> int:
    """Look for contradictions (exit code 3) and for wording that judges will read differently (warnings)."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.policy import Policy
        from realigner.policy.lint import lint as lint_policy

        loaded = Policy.load(policy, allow_code=allow_code)
        found = lint_policy(loaded)
        errors = sum(finding.level == "error" for finding in found)
        facts = {**_head(loaded), "errors": errors, "findings": [finding.as_dict() for finding in found]}
        last = f"{loaded.id} {loaded.version}: {errors} errors, {len(found) - errors} warnings"
        voice.answer(facts, lambda out: write_lines(out, *map(str, found), last), code=GATE if errors else DONE)
    return voice.code


@app.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The old policy: a file, or realigner:NAME.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The new policy: a file, or realigner:NAME.")],
    allow_code: AllowCode = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Say which rules were added, dropped, tightened, loosened or changed, and which must be judged again."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.policy import Policy
        from realigner.policy.compare import compare

        found = compare(*(Policy.load(path, allow_code=allow_code) for path in (old, new)))
        voice.answer({"differs": bool(found), **found.as_dict()}, lambda out: write_lines(out, *found.lines()))
    return voice.code


def _head(policy: Policy) -> dict[str, Any]:
    return {
        "id": policy.id,
        "version": policy.version,
        "title": policy.title,
        "supersedes": policy.supersedes,
        "decision": policy.decision,
        "hash": policy.hash,
        "needs_judge": [rule.id for rule in policy.wording_rules],
        "without_fallback": [rule.id for rule in policy.wording_rules if not rule.has_checks],
    }


def _counts(policy: Policy) -> str:
    """Say how many rules there are, and what judging them takes."""
    wording = policy.wording_rules
    if not wording:
        return f"{len(policy.rules)} rules, all deterministic"
    backed = sum(rule.has_checks for rule in wording)
    return f"{len(policy.rules)} rules, {len(wording)} need a judge, {backed} of these have a fallback"


def _rule(policy: Policy, rule: str) -> Rule:
    from realigner.errors import PolicyError, did_you_mean

    found = next((item for item in policy.rules if item.id == rule), None)
    if found is None:
        ids = [item.id for item in policy.rules]
        raise PolicyError(
            f"--rule {rule}", f"the rules are {', '.join(ids)}", f"Name one of them.{did_you_mean(rule, ids)}"
        )
    return found


def _rule_facts(rule: Rule) -> dict[str, Any]:
    from realigner.policy.prompt import estimated_tokens, instructions, prompt_hash

    facts: dict[str, Any] = {"rule": rule.id, "tier": rule.tier, "by": rule.by, "hash": rule.hash}
    if rule.by != "rules":
        facts |= {"prompt_hash": prompt_hash([rule]), "estimated_tokens": estimated_tokens(instructions([rule]))}
    return facts


def _rule_line(facts: dict[str, Any]) -> str:
    line = f"== {facts['rule']} ({facts['tier']}, by {facts['by']}), hash {facts['hash']}"
    if "prompt_hash" in facts:
        line += f"; prompt {facts['prompt_hash']}, about {facts['estimated_tokens']} tokens"
    return line


def _compiled(policy: Policy, rule: Rule, view: View) -> str:
    from realigner.policy.guard import category_blocks
    from realigner.policy.prompt import instructions
    from realigner.policy.wording import auditor_wording

    if view == "guard":
        return next(block.render() for block in category_blocks(policy) if block.rule == rule.id)
    wording = auditor_wording(rule)
    if view == "auditor":
        return "\n".join(wording.lines())
    return "\n".join([rule.text, *wording.checks]) if rule.by == "rules" else instructions([rule])
