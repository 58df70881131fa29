"""TRL's dataclass parser made strict, with a help text for people who see it for the first time."""

import argparse
import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from trl import TrlParser

import rlgen
from rlgen.errors import ConfigError

# Inherited training flags that a newcomer meets first, in plain words; the other two hundred wait behind --help-all.
COMMON_FLAGS = {
    "output_dir": "Folder of this run; the same command goes on with what is there.",
    "seed": "Seed of all random choices.",
    "max_steps": "Stop after this many optimizer steps; -1 leaves it to the epochs.",
    "num_train_epochs": "Passes over the training rows.",
    "learning_rate": "Learning rate at its highest.",
    "per_device_train_batch_size": "Rows per device and step.",
    "gradient_accumulation_steps": "Batches that are added up before each optimizer step.",
    "max_length": "Longest sequence in tokens; what is longer is cut.",
    "logging_steps": "Log every so many steps; below 1 it is a share of the whole run.",
    "eval_steps": "Evaluate every so many steps; below 1 it is a share of the whole run.",
    "save_steps": "Save a checkpoint every so many steps; below 1 it is a share of the whole run.",
    "save_total_limit": "How many checkpoints to keep.",
    "report_to": "Where to send logs besides metrics.jsonl: none, tensorboard, wandb, trackio.",
    "trust_remote_code": "Allow a model from the hub to bring its own Python code.",
}
SHIPPED_CONFIGS = Path(rlgen.__file__).parent.parent / "recipes" / "configs"
LIBRARY_MODULES = ("trl.", "transformers.")


class StrictParser(TrlParser):
    """TRL's parser without its leniency: nothing is abbreviated, ignored or left as a string."""

    def __init__(self, types: Sequence[type], *, description: str) -> None:
        super().__init__(
            types,
            description=description,
            prog=Path(sys.argv[0]).name,
            usage="%(prog)s [--config FILE] [--FLAG VALUE ...]",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        # A recipe that runs another one may take --config for that one: it names the field that gets the file.
        self.config_field = next((kind.config_field for kind in types if hasattr(kind, "config_field")), None)
        shown = f"As --{self.config_field}." if self.config_field else "YAML file that sets any of these flags."
        self.add_argument("--config", metavar="FILE", help=shown)
        self.add_argument("--help", "-h", action="store_true", help="Show the flags that matter most, and exit.")
        self.add_argument("--help-all", action="store_true", help="Show every flag, and exit.")

    @staticmethod
    def _parse_dataclass_field(parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
        # TRL's parser takes `None | str | list[str]`, but stumbles over the same type in another order.
        choices = set(get_args(field.type))
        if {str, type(None)} < choices:
            field.type = str | None
        TrlParser._parse_dataclass_field(parser, field)

    def parse_strictly(self, argv: list[str]) -> tuple[Any, ...]:
        """Parse, or raise ConfigError with one line."""
        if {"--help", "-h", "--help-all"} & set(argv):
            self._show_help(everything="--help-all" in argv)
        argv = self._without_config(argv)
        namespace, unknown = self.parse_known_args(argv)
        if unknown:
            raise ConfigError(self._unknown("flag", next((u for u in unknown if u.startswith("--")), unknown[0])))
        return tuple(_build(kind, namespace) for kind in self.dataclass_types)

    def _without_config(self, argv: list[str]) -> list[str]:
        """Take --config FILE out of the flags and make its values the defaults, or name it another flag."""
        own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        own.add_argument("--config")
        try:
            given, argv = own.parse_known_args(argv)
        except argparse.ArgumentError as error:
            raise ConfigError(f"{error}: write --config FILE") from error
        if given.config is not None and self.config_field:
            return [*argv, f"--{self.config_field}", given.config]
        if given.config is not None:
            self._apply_file(given.config)
        return argv

    def error(self, message: str) -> NoReturn:
        """Replace argparse's usage dump and exit."""
        raise ConfigError(_plain_message(message))

    def _apply_file(self, name: str) -> None:
        file = find_config(name)
        loaded = _mapping(file)
        for key, value in (loaded.pop("env", None) or {}).items():
            os.environ[str(key)] = str(value)
        actions = {action.dest: action for action in reversed(self._actions)}
        for key, value in loaded.items():
            action = actions.get(str(key).replace("-", "_"))
            if action is None or action.dest in ("config", "help", "help_all"):
                raise ConfigError(f"{file}: {self._unknown('key', str(key))}")
            self.set_defaults_with_config(**{action.dest: self._coerced(action, value, file)})

    def _coerced(self, action: argparse.Action, value: Any, file: Path) -> Any:
        """The value with the type that the flag would give it: YAML reads 1e-5 as text and one item as no list."""
        if value is None or isinstance(value, dict):
            return value
        many = action.nargs == "+"
        if isinstance(value, list) and not many:
            raise ConfigError(f"{file}: {action.dest} takes one value, not a list")
        items = value if isinstance(value, list) else [value]
        try:
            converted = [self._get_value(action, str(item)) for item in items]
            for item in converted:
                self._check_value(action, item)
        except argparse.ArgumentError as error:
            raise ConfigError(f"{file}: {_plain_message(str(error))}") from error
        return converted if many else converted[0]

    def _unknown(self, kind: str, given: str) -> str:
        name = given.split("=", 1)[0]
        if kind == "flag" and not name.startswith("-"):
            return f"unexpected argument '{given}': values belong behind a --flag"
        prefix = "--" if kind == "flag" else ""
        known = [action.dest for action in self._actions]
        near = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), known, n=1)
        hint = f"did you mean {prefix}{near[0]}?" if near else "--help-all lists all flags"
        return f"unknown {kind} {name}: {hint}"

    def _show_help(self, everything: bool) -> NoReturn:
        own = {"config", "help", "help_all"} | self._own_flags()
        for action in self._actions:
            action.option_strings = action.option_strings[:1]
            is_complement = action.option_strings[0].startswith("--no_")
            if is_complement or not (everything or action.dest in own or action.dest in COMMON_FLAGS):
                action.help = argparse.SUPPRESS
            elif action.dest in COMMON_FLAGS and action.dest not in own:
                action.help = COMMON_FLAGS[action.dest]
        if not everything:
            self._optionals._group_actions.sort(key=lambda action: action.dest not in own)
            self.epilog = "--help-all shows every flag of the trainer, too."
        sys.stdout.write(self.format_help())
        raise SystemExit(0)

    def _own_flags(self) -> set[str]:
        """Flags that are declared by rlgen or a recipe, not by TRL or transformers."""
        bases = {base for kind in self.dataclass_types for base in kind.__mro__}
        ours = [base for base in bases if not base.__module__.startswith(LIBRARY_MODULES)]
        return {name for base in ours for name in getattr(base, "__annotations__", {})}


class _HelpFormatter(argparse.HelpFormatter):
    """Flags with the kind of value they take and their default."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.metavar is None and action.choices is None:
            action.metavar = getattr(action.type, "__name__", "value").replace("string_to_bool", "bool").upper()
        return super()._format_args(action, default_metavar).replace("[BOOL]", "BOOL")

    def _expand_help(self, action: argparse.Action) -> str:
        # Not argparse's % formatting: a help text of a library may hold a bare percent sign.
        text = (action.help or "").replace("%%", "%")
        default = action.default
        if default in (None, argparse.SUPPRESS, [], "") or action.nargs == 0:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(getattr(default, "value", default))
        return f"{text} (default: {shown})"


def _build(kind: type, namespace: argparse.Namespace) -> Any:
    """One dataclass from parsed flags; what its own checks refuse becomes a ConfigError."""
    values = {f.name: getattr(namespace, f.name) for f in dataclasses.fields(kind) if f.init}
    try:
        return kind(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(" ".join(str(error).split())) from error


def _plain_message(message: str) -> str:
    """Argparse's text without the word "argument" and without a flag's second spelling."""
    return re.sub(r"argument (--[\w-]+)(/--[\w-]+)*", r"\1", message, count=1)


def spelled_settings(file: Path) -> dict[str, Any]:
    """What a YAML file sets, for a recipe that hands it on as flags: underscores in names, null as `none`.

    Raises:
        ConfigError: the file cannot be read, holds no mapping, or sets environment variables.
    """
    loaded = _mapping(file)
    if "env" in loaded:
        raise ConfigError(f"{file} sets environment variables (env), which are no flags: export them instead")
    return {str(key).replace("-", "_"): "none" if value is None else value for key, value in loaded.items()}


def _mapping(file: Path) -> dict[Any, Any]:
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{file} must hold `flag: value` lines")
    return loaded


def find_shipped(name: str) -> Path | None:
    """A file by its path, or by its place below the recipes' shipped configs; None if there is none."""
    files = (Path(name).expanduser(), SHIPPED_CONFIGS / name.removeprefix("recipes/configs/"))
    return next((file for file in files if file.is_file()), None)


def find_config(name: str) -> Path:
    """A YAML file by its path, or by its place below the recipes' shipped configs ("docstring/sft.yaml").

    Raises:
        ConfigError: there is no such file.
    """
    found = find_shipped(name)
    if found is not None:
        return found
    below = name.removeprefix("recipes/configs/")
    known = [file.relative_to(SHIPPED_CONFIGS).as_posix() for file in SHIPPED_CONFIGS.rglob("*.yaml")]
    near = difflib.get_close_matches(below, known, n=1)
    raise ConfigError(f"there is no config file {name}" + (f": did you mean {near[0]}?" if near else ""))
