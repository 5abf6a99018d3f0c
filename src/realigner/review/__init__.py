"""Human review on a local page: oracle audits, blind votes, corrections, and the pairs that no judge could decide."""

from __future__ import annotations

from realigner.review.store import Store
from realigner.review.study import Study, load_study

__all__ = ["Store", "Study", "load_study"]
