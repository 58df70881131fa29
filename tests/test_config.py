"""Flags and YAML: what is accepted, what is refused and in which words."""

import dataclasses
import errno
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rlgen.config import ModelArguments, TaskArguments, parse_arguments, recipe, resolved_config
from rlgen.errors import ConfigError
from rlgen.frame import is_disk_full


@dataclass
class Arguments:
    """A recipe's own settings."""

    output_dir: str = field(default="runs/x", metadata={"help": "Where to go."})
    learning_rate: float = field(default=1e-3, metadata={"help": "How fast, 100% of it."})
    max_steps: int = field(default=-1, metadata={"help": "How long."})
    reward: list[str] | None = field(default=None, metadata={"help": "What for."})
    reward_weights: list[float] | None = field(default=None, metadata={"help": "How much."})
    merge: bool = field(default=True, metadata={"help": "Whether to merge."})
    mode: Literal["fast", "slow"] = field(default="fast", metadata={"help": "How."})
    options: dict | str | None = field(default=None, metadata={"help": "More."})
    limit: int | None = field(default=None, metadata={"help": "How many."})
    report_to: str | list[str] | None = field(default="none", metadata={"help": "Whom to tell."})

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError("learning_rate must be\npositive")


def parse(*argv: str) -> Arguments:
    return parse_arguments([Arguments], description="A test.", argv=argv)[0]


def parse_yaml(tmp_path: Path, text: str, *argv: str) -> Arguments:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return parse("--config", str(file), *argv)


def test_defaults_and_flags() -> None:
    assert parse() == Arguments()
    args = parse("--learning_rate", "1e-5", "--reward", "a", "b", "--merge", "false", "--limit", "none")
    assert (args.learning_rate, args.reward, args.merge, args.limit) == (1e-5, ["a", "b"], False, None)
    assert parse("--learning-rate=0.5").learning_rate == 0.5
    assert parse("--no_merge").merge is False


def test_yaml_values_get_the_types_of_their_flags(tmp_path: Path) -> None:
    args = parse_yaml(
        tmp_path,
        "learning_rate: 1e-5\nreward: pep257\nreward_weights: 1\nmerge: 'no'\nmax_steps: '3'\nmode: slow\nlimit: null",
    )
    assert args == Arguments(
        learning_rate=1e-5, reward=["pep257"], reward_weights=[1.0], merge=False, max_steps=3, mode="slow"
    )
    assert isinstance(args.reward_weights[0], float)


def test_a_mapping_in_yaml_stays_one(tmp_path: Path) -> None:
    assert parse_yaml(tmp_path, "options: {a: 1}").options == {"a": 1}


def test_flags_win_over_yaml_and_both_spellings_of_config_work(tmp_path: Path) -> None:
    assert parse_yaml(tmp_path, "max_steps: 3\nmode: slow", "--max_steps", "4").max_steps == 4
    assert parse(f"--config={tmp_path / 'config.yaml'}", "--limit", "1").mode == "slow"


def test_dashes_in_yaml_keys_are_accepted(tmp_path: Path) -> None:
    assert parse_yaml(tmp_path, "max-steps: 3").max_steps == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning_rat", "1"], "unknown flag --learning_rat: did you mean --learning_rate?"),
        (["--learning_rat=1"], "unknown flag --learning_rat: did you mean --learning_rate?"),
        (["--max_step", "1"], "did you mean --max_steps?"),  # an abbreviation that argparse would take
        (["--zzzz"], "unknown flag --zzzz: --help-all lists all flags"),
        (["stray"], "unexpected argument 'stray'"),
        (["--max_steps", "x"], "--max_steps: invalid int value: 'x'"),
        (["--mode", "medium"], "--mode: invalid choice: 'medium'"),
        (["--learning_rate", "-1"], "learning_rate must be positive"),
        (["--merge", "perhaps"], "--merge: Truthy value expected"),
        (["--config"], "--config"),
        (["--config", "missing.yaml"], "there is no config file missing.yaml"),
        (["--config", "quickstart/smok.yaml"], "did you mean quickstart/smoke.yaml?"),
    ],
)
def test_bad_flags_are_one_clear_line(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate: 1", "unknown key lerning_rate: did you mean learning_rate?"),
        ("config: x.yaml", "unknown key config"),
        ("max_steps: many", "--max_steps: invalid int value: 'many'"),
        ("max_steps: 1.5", "--max_steps: invalid int value: '1.5'"),
        ("max_steps: [1, 2]", "max_steps takes one value, not a list"),
        ("mode: medium", "--mode: invalid choice"),
        ("reward_weights: [1, heavy]", "--reward_weights: invalid float value: 'heavy'"),
        ("- a\n- b", "must hold `flag: value` lines"),
        ("a: b: c", "cannot be read"),
    ],
)
def test_bad_yaml_is_one_clear_line_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(tmp_path, text)
    assert message in str(caught.value)
    assert "config.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shipped_configs_are_found_by_their_place_below_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlgen.parser import SHIPPED_CONFIGS, find_config

    monkeypatch.chdir(tmp_path)
    assert find_config("quickstart/smoke.yaml") == SHIPPED_CONFIGS / "quickstart" / "smoke.yaml"
    assert find_config("recipes/configs/quickstart/smoke.yaml") == SHIPPED_CONFIGS / "quickstart" / "smoke.yaml"
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "smoke.yaml").touch()
    assert find_config("quickstart/smoke.yaml") == Path("quickstart/smoke.yaml")


def test_env_in_yaml_reaches_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLGEN_TEST", "before")
    parse_yaml(tmp_path, "env: {RLGEN_TEST: 1}")
    import os

    assert os.environ["RLGEN_TEST"] == "1"


def test_help_is_short_and_help_all_complete(capsys: pytest.CaptureFixture[str]) -> None:
    types = [Arguments, ModelArguments, TaskArguments]
    for flag, shows_inherited in (("--help", False), ("--help-all", True)):
        with pytest.raises(SystemExit) as left:
            parse_arguments(types, description="A test.", argv=[flag])
        assert left.value.code == 0
        text = capsys.readouterr().out
        assert "A test." in text
        assert "How fast, 100% of it. (default: 0.001)" in text
        assert "--top_layers INT" in text
        assert "--no_merge" not in text
        assert ("--use_dora" in text) == shows_inherited


@given(
    st.fixed_dictionaries(
        {
            "learning_rate": st.floats(1e-12, 1e3),
            "max_steps": st.integers(-1, 10**6),
            "merge": st.booleans(),
            "mode": st.sampled_from(["fast", "slow"]),
            "reward_weights": st.none() | st.lists(st.floats(-5, 5), min_size=1, max_size=3),
            "limit": st.none() | st.integers(0, 99),
        }
    )
)
def test_the_resolved_configuration_read_back_is_the_same(tmp_path_factory: pytest.TempPathFactory, values) -> None:
    args = Arguments(**values)
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    file.write_text(yaml.safe_dump(resolved_config(args)))
    assert parse("--config", str(file)) == args


def test_resolved_config_is_plain_and_without_secrets() -> None:
    @dataclass
    class Odd:
        path: Path = Path("a/b")
        nested: ModelArguments = field(default_factory=ModelArguments)
        hub_token: str = "secret"
        pair: tuple[int, int] = (1, 2)

    resolved = resolved_config(Odd())
    assert json.loads(json.dumps(resolved)) == resolved
    assert resolved["path"] == "a/b"
    assert resolved["pair"] == [1, 2]
    assert "secret" not in json.dumps(resolved)


def test_shared_arguments_have_the_documented_defaults() -> None:
    model, task = parse_arguments([ModelArguments, TaskArguments], description="A test.", argv=[])
    assert (model.model_name_or_path, model.use_peft, model.dtype) == ("embedded", True, "auto")
    assert model.lora_target_modules == ["all-linear"]
    assert (task.task, task.dataset_name) == ("docstring", None)
    assert all(f.metadata.get("help") for f in dataclasses.fields(TaskArguments))


@pytest.mark.parametrize("argv", [["--top_layers", "0"], ["--max_train_rows", "0"], ["--max_eval_rows", "-3"]])
def test_counts_that_leave_nothing_are_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        parse_arguments([ModelArguments, TaskArguments], description="A test.", argv=argv)


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def wrapped_full_disk() -> Exception:
    try:
        try:
            raise full_disk()
        except OSError as error:
            raise RuntimeError("saving failed") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("that is wrong"), 2, "error: that is wrong\n"),
        (KeyboardInterrupt(), 130, "interrupted: rerun the same command to go on\n"),
        (full_disk(), 2, "error: the disk is full"),
        (wrapped_full_disk(), 2, "error: the disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "error: the disk is full"),
    ],
)
def test_a_recipe_leaves_with_one_line(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @recipe
    def main(argv: object = None) -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == code
    written = capsys.readouterr().err
    assert written.startswith(message)
    assert written.count("\n") == 1
    with pytest.raises(type(error)):
        main.__wrapped__([])  # type: ignore[attr-defined]


def test_a_bug_keeps_its_traceback() -> None:
    @recipe
    def main(argv: object = None) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def test_other_system_errors_are_no_full_disk() -> None:
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(None)
