"""Example rows of the generic rewards: prose in several languages, JSON after a schema, answers after a pattern."""

from __future__ import annotations

import json
from typing import Any


def _row(prompt: str, completion: str, **columns: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "language": None, "pattern": None, "schema": None, **columns}


def _schema(**properties: Any) -> str:
    return json.dumps(
        {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    )


EXAMPLES: list[dict[str, Any]] = [
    _row(
        "Why does bread dough have to rest before it is baked?",
        "While the dough rests, yeast turns sugar into gas, and the gluten relaxes and holds the bubbles. Baked at "
        "once, the loaf would stay flat and dense.",
        language="en",
    ),
    _row(
        "How can I keep my bicycle chain from rusting?",
        "Wipe it dry after every ride in the rain and put a thin film of oil on it once a month. Store the bicycle "
        "indoors if you can.",
        language="en",
    ),
    _row(
        "Explain in two sentences what a library card is for.",
        "A library card shows that you are a member and lets you take books home. The library also uses it to "
        "remember when you have to bring them back.",
        language="en",
        pattern=r"[^.!?]+[.!?]\s+[^.!?]+[.!?]",
    ),
    _row(
        "Réponds en français : pourquoi les feuilles tombent-elles en automne ?",
        "En automne, les jours raccourcissent et l'arbre cesse de nourrir ses feuilles. Il les laisse tomber afin de "
        "perdre moins d'eau pendant l'hiver.",
        language="fr",
    ),
    _row(
        "Antworte auf Deutsch: Was macht ein Lektor?",
        "Ein Lektor prüft Manuskripte, schlägt Verbesserungen vor und begleitet das Buch bis zum Druck.",
        language="de",
    ),
    _row(
        "Responde en español: ¿para qué sirve un faro?",
        "Un faro guía a los barcos durante la noche con una luz muy fuerte y les advierte que la costa está cerca.",
        language="es",
    ),
    _row(
        "Give the answer on a last line that reads 'Answer: NUMBER'. A crate holds 12 jars. How many are in 4 crates?",
        "Each crate holds twelve jars, and four times twelve makes forty-eight.\nAnswer: 48.",
        language="en",
        pattern=r"[^\n]+\nAnswer: 48\.?",
    ),
    _row(
        "Extract name, city and age as JSON: Maria Lopez, 34, moved to Lisbon last spring.",
        '{"name": "Maria Lopez", "city": "Lisbon", "age": 34}',
        schema=_schema(
            name={"type": "string", "pattern": "^[A-Z][a-z]+ [A-Z][a-z]+$"},
            city={"type": "string", "minLength": 3},
            age={"type": "integer", "minimum": 18, "maximum": 120},
        ),
    ),
    _row(
        "Rate this review as JSON with sentiment and score from 1 to 5: The soup was cold and the waiter rude.",
        '{"sentiment": "negative", "score": 1, "reasons": ["cold soup", "rude waiter"]}',
        schema=_schema(
            sentiment={"enum": ["positive", "neutral", "negative"]},
            score={"type": "integer", "minimum": 1, "maximum": 5},
            reasons={"type": "array", "items": {"type": "string", "minLength": 4}, "minItems": 1},
        ),
    ),
    _row(
        "List three European capitals with their countries as JSON.",
        '{"capitals": [{"city": "Paris", "country": "France"}, {"city": "Vienna", "country": "Austria"}, '
        '{"city": "Oslo", "country": "Norway"}]}',
        schema=_schema(
            capitals={
                "type": "array",
                "minItems": 3,
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
                    "required": ["city", "country"],
                },
            }
        ),
    ),
]
