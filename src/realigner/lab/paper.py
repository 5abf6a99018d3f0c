"""The figures of the TRACE paper (arXiv 2511.02623) that the study's stand beside.

Another setting altogether: models of 7 to 9 billion parameters, real data, GPT-4o as judge. They are shown for
orientation and are compared with nothing.
"""

from __future__ import annotations

LABEL = "paper: 7–9 B models, PKU-SafeRLHF and SynthValueBench, GPT-4o as judge; another setting"

MAIN: dict[str, dict[str, str]] = {
    "trace": {"win rate over U2A": "81.8 / 85.3", "agreement at 5k / 10k / 20k": "55.9 / 65.5 / 70.7"},
    "dpo-gold": {"win rate over U2A": "87.1 / 92.4"},
    "naive": {"agreement at 5k / 10k / 20k": "35.9 / 46.5 / 52.2"},
    "no-triage": {"agreement at 20k": "58.1"},
    "uniform": {"agreement at 20k": "62.8 (its scale changed too)"},
    "no-kl": {"agreement at 20k": "71.5 (MMLU 70.2 → 64.1)"},
}
ATTACKS: dict[str, tuple[float, float]] = {
    "dpo-gold": (11.3, 12.8),
    "trace": (27.3, 19.7),
    "u2a": (24.6, 21.3),
}
"""Attack success in percent: fictional nesting, refusal suppression."""
NOISE: dict[str, dict[float, float]] = {
    "trace": {0.0: 70.2, 0.1: 67.4, 0.2: 61.5},
    "dpo-gold": {0.0: 73.8, 0.1: 69.9, 0.2: 62.4},
}
"""Agreement in percent by oracle noise."""
SCALE: dict[str, dict[int, float]] = {
    "trace": {5000: 55.9, 10000: 65.5, 20000: 70.7},
    "naive": {5000: 35.9, 10000: 46.5, 20000: 52.2},
}
"""Agreement in percent by number of pairs."""
