"""The rules of ``warmswap lint``, by subject. To add one: write a generator of findings, and name it in ``RULES``."""

from typing import Final

from warmswap_ops.lint import Rule
from warmswap_ops.lint_rules import (
    accelerator_rules,
    config_rules,
    identity_rules,
    launch_rules,
    layout_rules,
    warmup_rules,
)

RULES: Final[tuple[Rule, ...]] = (
    *identity_rules.RULES,
    *layout_rules.RULES,
    *config_rules.RULES,
    *accelerator_rules.RULES,
    *warmup_rules.RULES,
    *launch_rules.RULES,
)
