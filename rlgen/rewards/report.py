"""What a check of a reward found, as data, as JSON and as text for a terminal."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rlgen.rewards.check import shortened

Kind = Literal["violation", "weakness", "note"]
Verdict = Literal["resisted", "ties", "beats", "not scored"]

Standing = Literal["new", "documented", "resisted", "shared"]

# How weaknesses against hacks are introduced, by standing.
GROUPS: dict[Standing, tuple[str, str]] = {
    "new": ("weakness", "a policy gains, or loses nothing, by"),
    "shared": ("weakness", "documented, but the module's composite does not resist"),
    "resisted": ("documented", "the module's composite resists"),
    "documented": ("documented", ""),
}
STYLES = {"violation": "bold red", "weakness": "yellow", "note": "dim", "documented": "dim", "ok": "green"}


@dataclass(frozen=True)
class Finding:
    """One thing to know about a reward."""

    kind: Kind
    about: str
    """The check or the hack."""
    text: str
    standing: Standing = "new"
    """Whether the reward's module documents it, and whether the module's composite resists it or shares it."""

    @property
    def documented(self) -> bool:
        """Whether the module says so itself, and its composite, if it has one, resists."""
        return self.standing in ("documented", "resisted")


@dataclass(frozen=True)
class Case:
    """One row with its reference and another completion, and what they score."""

    row: int
    prompt: str
    reference_text: str
    reference: float
    completion: str
    score: float


@dataclass(frozen=True)
class Separation:
    """References against other completions of the same rows."""

    name: str
    what: str
    pairs: int
    """Rows in which both have a score."""
    unscored: int
    """Rows in which the reference has a score and the other completion has none."""
    reference: float
    score: float
    """Means over the pairs; NaN where there are none."""
    wins: float
    ties: float
    """Shares of pairs in which the reference scores higher, and the same."""
    p_value: float
    """One-sided, for the reference being higher: Wilcoxon's signed-rank test over rows."""
    verdict: Verdict
    disguise: bool = False
    examples: tuple[Case, ...] = ()
    """The rows where the other completion does best against the reference, best first."""

    @property
    def weak(self) -> bool:
        """Whether a policy would gain, or not lose, by writing this."""
        return self.verdict == "beats" or (self.verdict == "ties" and not self.disguise)


@dataclass
class Report:
    """What a check found out about one reward."""

    reward: str
    rows: int
    contract: dict[str, str] = field(default_factory=dict)
    """Check to "ok", or to what is wrong."""
    lowest: float | None = None
    highest: float | None = None
    none_share: float | None = None
    tie_share: float | None = None
    rewards_per_second: float | None = None
    length_correlation: float | None = None
    hacks: list[Separation] = field(default_factory=list)
    samples: Separation | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def violations(self) -> list[Finding]:
        """Breaches of the contract."""
        return [finding for finding in self.findings if finding.kind == "violation"]

    @property
    def weaknesses(self) -> list[Finding]:
        """Weaknesses that nobody has documented, or that the module's composite shares."""
        return [finding for finding in self.findings if finding.kind == "weakness" and not finding.documented]

    @property
    def best_hack(self) -> Separation | None:
        """The hack that comes closest to the references, or goes furthest beyond."""
        scored = [hack for hack in self.hacks if hack.pairs]
        return max(scored, key=lambda hack: hack.score - hack.reference, default=None)

    def worst_cases(self, count: int = 3) -> list[tuple[str, Case]]:
        """Hacks of the weaknesses with rows where they do best, each hack once before any comes again."""
        names = {finding.about for finding in self.weaknesses}
        ranked = [
            (rank, case.reference - case.score, hack.name, case)
            for hack in self.hacks
            if hack.name in names
            for rank, case in enumerate(hack.examples)
            if case.score >= case.reference
        ]
        ranked.sort(key=lambda item: item[:3])
        return [(name, case) for *_, name, case in ranked[:count]]

    def to_dict(self) -> dict[str, Any]:
        """Everything, in plain types for JSON."""
        best = self.best_hack
        verdict = "violation" if self.violations else "weakness" if self.weaknesses else "ok"
        return _plain({**asdict(self), "best_hack": best.name if best else None, "verdict": verdict})


def report_view(report: Report) -> RenderableType:
    """The report for a terminal: the contract, the numbers, the hacks with the closest first, the findings."""
    parts: list[RenderableType] = [Text(f"{report.reward} on {report.rows} rows", style="bold"), _facts(report)]
    if report.hacks:
        parts.append(_hack_table(report))
    hacks = {hack.name for hack in report.hacks}
    grouped = [finding for finding in report.findings if finding.kind == "weakness" and finding.about in hacks]
    parts += [_line(finding.kind, finding.about, finding.text) for finding in report.violations]
    for standing, (kind, introduction) in GROUPS.items():
        names = [finding.about for finding in grouped if finding.standing == standing]
        if names:
            parts.append(_line(kind, "hacks", f"{introduction} {', '.join(names)}".strip()))
    parts += [_case(name, case) for name, case in report.worst_cases()]
    for finding in report.findings:
        if finding not in grouped and finding.kind != "violation":
            parts.append(_line("documented" if finding.documented else finding.kind, finding.about, finding.text))
    parts.append(Text(verdict_line(report), style=STYLES[_state(report)]))
    return Group(*parts)


def verdict_line(report: Report) -> str:
    """One sentence for the whole report."""
    documented = sum(finding.documented for finding in report.findings)
    known = f", {documented} documented" if documented else ""
    best = report.best_hack
    nearest = (
        f"; best hack: {best.name} ({short_number(best.score)} against {short_number(best.reference)})" if best else ""
    )
    if report.violations:
        return f"{report.reward} breaks the contract: {', '.join(found.about for found in report.violations)}{nearest}"
    if report.weaknesses:
        return f"{report.reward} keeps the contract and has {_count(len(report.weaknesses))}{known}{nearest}"
    if documented:
        return f"{report.reward} keeps the contract; its weaknesses are documented ({documented}){nearest}"
    return f"{report.reward} keeps the contract, and no hack reaches the references{nearest}"


def short_number(value: Any) -> str:
    """A number with three digits that count; other things as they are."""
    return f"{value:.3g}" if isinstance(value, (int, float)) else str(value)


def _line(kind: str, about: str, text: str) -> Text:
    return Text.assemble((kind, STYLES[kind]), f" {about}: {text}")


def _case(name: str, case: Case) -> Text:
    lines = (
        f"  example: row {case.row}, {shortened(case.prompt, 80)}",
        f"    {short_number(case.reference):>8}  reference  {shortened(case.reference_text, 80)}",
        f"    {short_number(case.score):>8}  {name}  {shortened(case.completion, 80)}",
    )
    return Text("\n".join(lines))


def _state(report: Report) -> str:
    return "violation" if report.violations else "weakness" if report.weaknesses else "ok"


def _count(weaknesses: int) -> str:
    return "1 weakness" if weaknesses == 1 else f"{weaknesses} weaknesses"


def _facts(report: Report) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("contract", ", ".join(f"{k} {'ok' if v == 'ok' else 'NO'}" for k, v in report.contract.items()))
    if report.lowest is not None:
        grid.add_row("range", f"{short_number(report.lowest)} to {short_number(report.highest)}")
    shares = (
        ("None", report.none_share, "references"),
        ("ties", report.tie_share, "pairs of completions of one row"),
    )
    for label, share, whole in shares:
        if share is not None:
            grid.add_row(label, f"{share:.0%} of {whole}")
    if report.length_correlation is not None:
        grid.add_row("length", f"Spearman {report.length_correlation:+.2f} with the score")
    if report.rewards_per_second is not None:
        grid.add_row("speed", f"{report.rewards_per_second:,.0f} rewards/s")
    if report.samples is not None and report.samples.pairs:
        drawn = report.samples
        means = f"mean {short_number(drawn.score)} against {short_number(drawn.reference)}"
        grid.add_row("samples", f"{means}; references win {drawn.wins:.0%}, tie {drawn.ties:.0%}")
    return grid


def _hack_table(report: Report) -> Table:
    # On a narrow terminal only the last column gives way.
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", expand=True)
    for name in ("hack", "score", "reference", "wins", "ties", "p", "verdict", "what it is"):
        left = name in ("hack", "verdict", "what it is")
        ratio = 1 if name == "what it is" else None
        table.add_column(name, justify="left" if left else "right", no_wrap=True, overflow="ellipsis", ratio=ratio)
    nearest_first = sorted(report.hacks, key=lambda hack: (not hack.pairs, hack.reference - hack.score, hack.name))
    weak = {finding.about: finding for finding in report.findings if finding.kind == "weakness"}
    for hack in nearest_first:
        if not hack.pairs:
            table.add_row(hack.name, "", "", "", "", "", Text("not scored", style="dim"), hack.what)
            continue
        finding = weak.get(hack.name)
        style = STYLES["note" if hack.weak and finding and finding.documented else "weakness" if hack.weak else "ok"]
        numbers = (short_number(hack.score), short_number(hack.reference), f"{hack.wins:.0%}", f"{hack.ties:.0%}")
        p_value = "<0.001" if hack.p_value < 0.001 else f"{hack.p_value:.3f}"
        table.add_row(hack.name, *numbers, p_value, Text(hack.verdict, style=style), hack.what)
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
