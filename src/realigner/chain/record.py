"""The policy that a stored run was triaged by."""

from __future__ import annotations

from realigner.errors import PolicyError, RunDirError
from realigner.policy import Policy
from realigner.policy.record import PolicyRecord
from realigner.runs import StoredRun


def policy_of(run: StoredRun) -> PolicyRecord:
    """Return the policy that a run was triaged by: from its manifest, or from its file if that is unchanged.

    Raises:
        RunDirError: the run was not triaged, or it records no rules and its policy file is not what it was.
    """
    stored = run.facts("triage")["policy"]
    if "rules" in stored:
        return PolicyRecord.read(stored)
    settings = run.recipe.policy
    try:
        policy = Policy.load(settings.path, allow_code=settings.allow_code)
    except PolicyError:
        policy = None
    if policy is None or policy.hash != stored["hash"]:
        raise RunDirError(
            f"run {run.directory}",
            "its manifest does not record the rules of its policy, and its policy file is not what it was",
            f"Triage it again: realigner triage {run.directory} --redo",
        )
    return PolicyRecord.of(policy)
