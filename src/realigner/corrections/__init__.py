"""Compliant answers y_c for PUNISH pairs: written under the new policy, checked as text, judged, and accounted for."""

from __future__ import annotations
