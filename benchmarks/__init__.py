"""Benchmarks: `python -m benchmarks.NAME --json FILE [--quick]`; each measures ratios side by side in one run."""
