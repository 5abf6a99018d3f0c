"""Auditing the judge: draw responses, let people say what they are, and correct every figure by it.

`draw_sample(triaged pairs, n, seed)` gives an `AuditSample`; people answer its `questions`; `score(sample, answers)`
gives an `AuditScore`. See docs/audit.md.
"""

from realigner.audit.records import Answer, AuditItem, AuditSample, Stratum, Unit
from realigner.audit.sample import draw, draw_sample
from realigner.audit.score import AuditScore, score

__all__ = ["Answer", "AuditItem", "AuditSample", "AuditScore", "Stratum", "Unit", "draw", "draw_sample", "score"]
