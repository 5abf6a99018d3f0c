"""The configurations of accelerate in examples/scaling are ones that accelerate reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file

SCALING = Path(__file__).resolve().parents[3] / "examples" / "scaling"


@pytest.mark.parametrize(
    ("name", "kind", "section", "says"),
    [
        ("fsdp2", "FSDP", "fsdp_config", {"fsdp_version": 2, "fsdp_activation_checkpointing": False}),
        ("zero3", "DEEPSPEED", "deepspeed_config", {"zero_stage": 3, "zero3_init_flag": False}),
    ],
)
def test_a_configuration_is_read_by_accelerate(name: str, kind: str, section: str, says: dict[str, Any]) -> None:
    config = load_config_from_file(str(SCALING / f"{name}.yaml"))  # unknown keys raise
    assert config.distributed_type == kind
    assert config.num_processes == 8
    assert says.items() <= getattr(config, section).items()
