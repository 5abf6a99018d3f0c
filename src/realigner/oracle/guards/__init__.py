"""Guard models as judges of single rules: a prompt, a parser and a category map for each family.

A guard was trained on a taxonomy of its own. It can judge a rule in two ways: by the category of its taxonomy that is
nearest to the rule (`categories: own`), or, where its prompt can carry other categories, by the rule's own wording
(`categories: policy`). The first is only as good as the map, the second is zero-shot for all but gpt-oss-safeguard and
ShieldGemma, which were made to be told. Measure either with an audit before it decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from realigner.oracle.guards.family import Family
from realigner.oracle.guards.llama_guard import LLAMA_GUARD_3, LLAMA_GUARD_4
from realigner.oracle.guards.qwen3guard import QWEN3GUARD
from realigner.oracle.guards.safeguard import SAFEGUARD
from realigner.oracle.guards.shieldgemma import SHIELDGEMMA
from realigner.oracle.guards.wildguard import WILDGUARD

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (LLAMA_GUARD_3, LLAMA_GUARD_4, SHIELDGEMMA, QWEN3GUARD, WILDGUARD, SAFEGUARD)
}
