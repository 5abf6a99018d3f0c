"""`realigner triage` as each process of torchrun runs it; notes which prompts this process scored.

See integration/test_local_judge_ranks.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from realigner.cli.main import main
from realigner.oracle import local_parallel
from realigner.oracle.local import load_scorer
from realigner.recipe_judges import LocalJudgeSettings

if __name__ == "__main__":
    out = Path(sys.argv[1])
    scored: list[list[int]] = []

    def noting(wanted: LocalJudgeSettings) -> Any:
        own = load_scorer(wanted)

        def score(prompts: Any) -> Any:
            scored.extend(list(prompt) for prompt in prompts)
            return own(prompts)

        return score

    local_parallel.load_scorer = noting  # type: ignore[attr-defined]
    local_parallel.ROUND = 2
    number = local_parallel.rank()
    code = main(sys.argv[2:])
    (out / f"scored-{number}.json").write_text(json.dumps(scored))
    sys.exit(code)
