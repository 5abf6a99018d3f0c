"""The neighbours of TRACE and its ablations, on equal terms: same model, pairs, verdicts, steps and batch."""

from realigner.baselines.arms import ARMS, BY_ANSWER, UNTRAINED, Arm
from realigner.baselines.task import Budget, JudgedPair, Task
from realigner.baselines.terms import Term
from realigner.baselines.training import Training

__all__ = ["ARMS", "BY_ANSWER", "UNTRAINED", "Arm", "Budget", "JudgedPair", "Task", "Term", "Training"]
