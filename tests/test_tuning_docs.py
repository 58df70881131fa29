"""docs/tuning.md says what the code does."""

import re
from pathlib import Path

from rlgen.config import ModelArguments
from rlgen.strategies import STRATEGIES, strategy_table

TEXT = (Path(__file__).parent.parent / "docs" / "tuning.md").read_text(encoding="utf-8")


def test_the_table_of_strategies_is_that_of_the_code() -> None:
    found = re.search(r"<!-- strategies:.*?-->\n(.*?)\n<!-- end -->", TEXT, re.DOTALL)
    assert found is not None
    assert found[1] == strategy_table(), (
        "write the new table: python -c 'import rlgen.strategies as s; print(s.strategy_table())'"
    )


def test_every_setting_of_a_strategy_is_a_flag_and_every_strategy_stands_in_its_help() -> None:
    flags = ModelArguments.__dataclass_fields__
    for strategy in STRATEGIES.values():
        assert set(strategy.settings) <= set(flags)
        assert strategy.name in re.findall(r"\w+", flags["tuning"].metadata["help"])
