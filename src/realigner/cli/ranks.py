"""What the processes of torchrun do: the first runs the command, the others score for its local judge."""

from __future__ import annotations

from collections.abc import Sequence

VERBS = ("triage", "calibrate", "correct")
"""Verbs that ask a judge and compute nothing else that torchrun could share."""


def scores_only(arguments: Sequence[str]) -> bool:
    """Serve the first process and return True, in the others; return False where this process runs the command."""
    if not arguments or arguments[0] not in VERBS:
        return False
    from realigner.cli.console import silence_libraries
    from realigner.oracle.local_parallel import lead, rank, serve

    if rank() == 0:
        lead()
        return False
    silence_libraries()
    serve()
    return True
