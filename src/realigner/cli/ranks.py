"""What the processes of torchrun do at the command line: the first runs the command, the others help it."""

from __future__ import annotations

from collections.abc import Sequence

from realigner.ranks import rank

JUDGING = ("triage", "calibrate", "correct")
"""Verbs that ask a judge and compute nothing else that torchrun could share: the others score for its local judge."""
RUNNING = ("run", "demo", "reference", "weigh", "train", "generate", "evaluate", "measure")
"""Verbs whose stages all processes compute together."""


def helps_only(arguments: Sequence[str]) -> bool:
    """Help the first process and return True, in the others; return False where this process runs the command."""
    verb = arguments[0] if arguments else ""
    if rank() > 0:
        from realigner.cli.console import silence_libraries

        silence_libraries()
    if verb in RUNNING and rank() > 0:
        from realigner.pipeline import follow

        follow()
        return True
    if verb in JUDGING:
        from realigner.oracle.local_parallel import lead, serve

        if rank() > 0:
            serve()
            return True
        lead()
    return rank() > 0 and verb not in JUDGING  # of any other verb, one answer is enough


def done(arguments: Sequence[str]) -> None:
    """Let the others go, when the first process has finished its command."""
    if arguments and arguments[0] in RUNNING and rank() == 0:
        from realigner.pipeline import dismiss

        dismiss()
