"""The translation task: English to French, short texts of user interfaces and texts with exact references.

Two kinds of rows: messages of Django, Django REST framework, WTForms and JupyterLab with the translations that people
made of them (fetched once, 10 MB), and dates, amounts, durations and names in the words of the Unicode CLDR, through
Babel. The held-out messages are those of Wagtail (10 MB), which no other split has: similar in kind, not the same.
The sources `messages` and `cldr` take one kind alone; `cldr` fetches nothing.
"""

from __future__ import annotations

import functools
import gettext
import html
import random
import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

from reward_models import translation as rewards
from rlgen.tasks import Task
from rlgen.tasks.rows import Row, deal, digest, make_row, optional, splitter, unknown_source
from rlgen.wheels import PackageFile, package_files

KINDS = ("messages", "cldr")
INSTRUCTION = "Translate this English text into French."
CLDR_ROWS = 5000
_PURPOSE = "human translations of user interfaces"
_DJANGO = PackageFile(
    file="django-5.2.19-py3-none-any.whl",
    sha256="5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
    megabytes=9,
    purpose=_PURPOSE,
)
_REST = PackageFile(
    file="djangorestframework-3.18.3-py3-none-any.whl",
    sha256="8544bb674846731b1e3c9b309236ee1dc412905a0aa725be2ec193ca950a7d12",
    megabytes=1,
    purpose=_PURPOSE,
)
_WTFORMS = PackageFile(
    file="wtforms-3.3.2-py3-none-any.whl",
    sha256="2fac992f39102d6268b06e05cdbdf37a7e9b9a4e103916d2dff1d09a080b531d",
    megabytes=1,
    purpose=_PURPOSE,
)
_JUPYTER = PackageFile(
    file="jupyterlab_language_pack_fr_fr-4.5.post3-py2.py3-none-any.whl",
    sha256="9f6ce9d4e64b367ff084a2313af29d6ad8a02d1d08000f3e6c53e2856fa9a11f",
    megabytes=1,
    purpose=_PURPOSE,
)
_WAGTAIL = PackageFile(
    file="wagtail-8.0.1-py3-none-any.whl",
    sha256="1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c",
    megabytes=10,
    purpose=_PURPOSE,
)


def _catalogs(template: str, names: str) -> list[str]:
    return [template.format(name) for name in names.split()]


_TRAINING = (
    (
        _DJANGO,
        _catalogs(
            "django/{}/locale/fr/LC_MESSAGES/django.mo",
            "conf contrib/admin contrib/admindocs contrib/auth contrib/contenttypes contrib/flatpages contrib/gis "
            "contrib/humanize contrib/postgres contrib/redirects",
        ),
    ),
    (_REST, ["rest_framework/locale/fr/LC_MESSAGES/django.mo"]),
    (_WTFORMS, ["wtforms/locale/fr/LC_MESSAGES/wtforms.mo"]),
    (
        _JUPYTER,
        _catalogs(
            "jupyterlab_language_pack_fr_FR/locale/fr_FR/LC_MESSAGES/{}.mo",
            "jupyterlab jupyterlab_git jupyterlab_lsp jupyterlab_tour jupyter_archive jupyter_collaboration jupytext "
            "nbdime notebook retrolab spellchecker",
        ),
    ),
)
_HELD_OUT = (
    (
        _WAGTAIL,
        _catalogs(
            "wagtail/{}locale/fr/LC_MESSAGES/django.mo",
            "admin/ contrib/forms/ contrib/redirects/ contrib/search_promotions/ documents/ embeds/ images/ locales/ "
            "snippets/ users/",
        ),
    ),
)
_HELD_OUT_ONLY = {"heldout": 1.0}
_NEVER_HELD_OUT = {"sft": 0.4, "preference": 0.57, "rl": 0.93, "validation": 1.0}
_NO_PLAIN_TEXT = re.compile(r"[%{}<>&_|\\\[\]#=\n]|https?:|\w\(|\b[A-Z]{2}\w*_")


def build(source: str | None = None) -> Task:
    """Make the translation task.

    Args:
        source: None for both kinds of rows, or one of `KINDS`.

    Raises:
        ConfigError: There is no such source.
    """
    if source is not None and source not in KINDS:
        raise unknown_source("translation", source, KINDS)
    return Task(
        name="translation",
        description="Translate a short English text into French.",
        split=splitter("translation", lambda name: _splits(source)[name]),
        rewards={"translation": 1.0},
        reward_functions={"translation": rewards.composite, **rewards.REWARDS},
        metrics={"chrf": rewards.chrf, "bleu": rewards.bleu, "ter": rewards.ter, "french": rewards.target_language},
        max_prompt_tokens=160,
        max_completion_tokens=80,
        public_data="Helsinki-NLP/opus-100:en-fr (translation.en -> source and prompt, translation.fr -> completion)",
    )


@functools.lru_cache(maxsize=3)
def _splits(source: str | None) -> dict[str, list[Row]]:
    rows = list(_cldr()) if source != "messages" else []
    splits = deal(rows, "translation", unit=lambda row: str(row["source"]).casefold())
    if source != "cldr":
        held_out = list(_messages(_HELD_OUT, "wagtail"))
        theirs = {_bare(row["source"]) for row in held_out}
        ours = (row for row in _messages(_TRAINING, "messages") if _bare(row["source"]) not in theirs)
        parts = deal(ours, "translation", unit=lambda row: _bare(row["source"]), shares=_NEVER_HELD_OUT)
        parts["heldout"] = deal(held_out, "translation", shares=_HELD_OUT_ONLY)["heldout"]
        # Alternately, so that any beginning of a split has both kinds.
        splits = {name: _mixed(splits[name], parts[name]) for name in splits}
    return splits


def _mixed(first: list[Row], second: list[Row]) -> list[Row]:
    keys = [(index / max(1, len(part)), part[index]) for part in (first, second) for index in range(len(part))]
    return [row for _, row in sorted(keys, key=lambda key: key[0])]


def _row(english: str, french: str, kind: str) -> Row:
    prompt = f"{INSTRUCTION}\n\n{english}"
    return make_row(prompt, french, source=english, target_language="fr", kind=kind)


def _bare(text: str) -> str:
    return re.sub(r"\W+", " ", text.casefold()).strip()


def _messages(catalogs: Any, kind: str) -> Iterator[Row]:
    for package, members in catalogs:
        for file in package_files(package, members):
            with file.open("rb") as stream:
                # The catalog of all messages has no public name; it has had this one since Python 1.6.
                messages: dict[Any, str] = vars(gettext.GNUTranslations(stream))["_catalog"]
            for key, value in messages.items():
                english = html.unescape(str(key).rpartition("\x04")[2]) if isinstance(key, str) else ""
                french = _plain(html.unescape(value))
                if _usable(english) and _usable(french) and _bare(english) != _bare(french):
                    yield _row(_plain(english), french, kind)


def _plain(text: str) -> str:
    """Write a text with the spaces and apostrophes that keyboards have."""
    return " ".join(text.replace("’", "'").split())


def _usable(text: str) -> bool:
    return 3 <= len(text.split()) <= 30 and text[:1].isalpha() and not _NO_PLAIN_TEXT.search(text)


def _cldr() -> Iterator[Row]:
    """Texts that CLDR knows in both languages, drawn by hashed seeds."""
    optional("babel", "translation", "babel")
    makers: tuple[Callable[[random.Random], tuple[str, str]], ...] = (_date, _duration, _amount, _measure, _places)
    for index in range(CLDR_ROWS):
        rng = random.Random(digest("cldr", str(index)))
        english, french = (_plain(text) for text in makers[index % len(makers)](rng))
        if english.rpartition(": ")[2] != french.rpartition(": ")[2]:
            yield _row(english, french, "cldr")


def _date(rng: random.Random) -> tuple[str, str]:
    from babel.dates import format_date

    day = date(1950, 1, 1) + timedelta(days=rng.randrange(36000))
    style = rng.choice(("full", "long"))
    meeting, closed = ("The meeting is on {}.", "La réunion aura lieu le {}."), ("Closed on {}.", "Fermé le {}.")
    frame = rng.choice((meeting, closed, ("{}", "{}")))
    return _both(frame, format_date(day, style, "en"), format_date(day, style, "fr"))


def _duration(rng: random.Random) -> tuple[str, str]:
    from babel.dates import format_timedelta

    unit = rng.choice(("minute", "hour", "day", "week", "month", "year"))
    seconds = {"minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2629800, "year": 31557600}[unit]
    length = timedelta(seconds=rng.choice((-1, 1)) * rng.randrange(2, 60) * seconds)
    options: dict[str, Any] = {"granularity": unit, "threshold": 1000.0, "add_direction": True}
    frame = rng.choice((("The last change: {}.", "La dernière modification : {}."), ("{}", "{}")))
    if length > timedelta():
        frame = rng.choice((("The next train leaves {}.", "Le prochain train part {}."), ("{}", "{}")))
    return _both(frame, *(format_timedelta(length, locale=locale, **options) for locale in ("en", "fr")))


def _amount(rng: random.Random) -> tuple[str, str]:
    from babel.numbers import format_currency

    code = rng.choice("USD EUR GBP JPY CHF CAD AUD SEK NOK DKK PLN CZK BRL INR CNY MXN EGP MAD TND ZAR".split())
    value = rng.randrange(2, 2000)
    frame = rng.choice((("The price is {}.", "Le prix est de {}."), ("It costs {}.", "Cela coûte {}."), ("{}", "{}")))
    options: dict[str, Any] = {"format": "#,##0", "format_type": "name", "currency_digits": False}
    return _both(frame, *(format_currency(value, code, locale=locale, **options) for locale in ("en", "fr")))


def _measure(rng: random.Random) -> tuple[str, str]:
    from babel.units import format_unit

    unit = rng.choice(
        "length-kilometer length-meter length-centimeter length-mile mass-kilogram mass-gram mass-tonne volume-liter "
        "duration-hour duration-minute duration-second area-square-meter area-hectare speed-kilometer-per-hour "
        "temperature-celsius digital-megabyte digital-gigabyte energy-kilowatt-hour".split()
    )
    value = rng.randrange(2, 900)
    frame = rng.choice((("We measured {}.", "Nous avons mesuré {}."), ("At most {}.", "Au plus {}."), ("{}", "{}")))
    return _both(frame, *(format_unit(value, unit, length="long", locale=locale) for locale in ("en", "fr")))


def _places(rng: random.Random) -> tuple[str, str]:
    from babel import Locale
    from babel.lists import format_list

    english, french = Locale("en"), Locale("fr")
    table = rng.choice(("territories", "languages"))
    names = sorted(
        key
        for key, name in getattr(english, table).items()
        if re.fullmatch("[A-Z]{2}" if table == "territories" else "[a-z]{2}", key)
        and key in getattr(french, table)
        and re.fullmatch(r"[A-Za-z ]+", name)
    )
    chosen = rng.sample(names, rng.randrange(1, 4))
    texts = [format_list([getattr(in_, table)[key] for key in chosen], locale=in_) for in_ in (english, french)]
    kind = ("Countries: {}", "Pays : {}") if table == "territories" else ("Languages: {}", "Langues : {}")
    return _both(kind, *texts)


def _both(frame: tuple[str, str], english: str, french: str) -> tuple[str, str]:
    return frame[0].format(english), frame[1].format(french)
