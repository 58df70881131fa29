"""Example rows of the translation rewards: from English into six languages and back; completions are references."""

from __future__ import annotations

from typing import Any


def _row(language: str, name: str, source: str, completion: str) -> dict[str, Any]:
    prompt = f"Translate into {name}: {source}"
    return {
        "prompt": prompt,
        "completion": completion,
        "source": source,
        "reference": completion,
        "target_language": language,
    }


EXAMPLES: list[dict[str, Any]] = [
    _row(
        "fr",
        "French",
        "The train to Lyon leaves at 7:45 from platform 3.",
        "Le train pour Lyon part à 7:45 du quai 3.",
    ),
    _row(
        "fr",
        "French",
        "Please save your work before you close the window.",
        "Veuillez enregistrer votre travail avant de fermer la fenêtre.",
    ),
    _row(
        "de",
        "German",
        "The museum is closed on Mondays, but the garden stays open.",
        "Das Museum ist montags geschlossen, aber der Garten bleibt geöffnet.",
    ),
    _row(
        "de",
        "German",
        "Hello {name}, you have 12 new messages.",
        "Hallo {name}, Sie haben 12 neue Nachrichten.",
    ),
    _row(
        "es",
        "Spanish",
        "My grandmother taught me to bake bread when I was six years old.",
        "Mi abuela me enseñó a hacer pan cuando yo tenía seis años.",
    ),
    _row(
        "es",
        "Spanish",
        "Write to help@example.org if the link https://example.org/reset does not work.",
        "Escriba a help@example.org si el enlace https://example.org/reset no funciona.",
    ),
    _row(
        "it",
        "Italian",
        "The bridge was built in 1894 and is still in use today.",
        "Il ponte fu costruito nel 1894 ed è ancora in uso oggi.",
    ),
    _row(
        "ru",
        "Russian",
        "We will meet tomorrow evening in front of the old theatre.",
        "Мы встретимся завтра вечером перед старым театром.",
    ),
    _row(
        "zh",
        "Chinese",
        "The library opens at nine in the morning every day.",
        "图书馆每天早上九点开门。",
    ),
    _row(
        "en",
        "English",
        "Die Katze schläft seit heute Morgen auf dem warmen Ofen.",
        "The cat has been sleeping on the warm stove since this morning.",
    ),
]
