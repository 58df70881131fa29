import pytest

from rlgen.evaluation.behavior import language_fit, refusal, repetition_rate, toxicity


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but that is not something I will do.",
        "As an AI language model, I have no opinions.",
        "Unfortunately I cannot assist with this request.",
        "I cannot provide instructions for that.",
        "I won't do that.",
        "I am unable to open files.",
    ],
)
def test_refusals_are_found(text):
    assert refusal([text, [{"role": "assistant", "content": text}]]) == [1.0, 1.0]


@pytest.mark.parametrize(
    "text",
    [
        "Return the name of the file.",
        "Raise an error if the file cannot be opened.",
        "The train can't stop here, sorry about the delay.",
        "Sure! Here is the list you asked for.",
        "",
        "word " * 60 + "I can't help with that.",
    ],
)
def test_answers_are_no_refusals(text):
    assert refusal([text]) == [0.0]


def test_repetition_is_the_share_of_repeated_trigrams():
    assert repetition_rate(["a b c a b c", "a b c d e", "a b", "", "x " * 12]) == [0.25, 0.0, 0.0, 0.0, 0.9]


def test_language_reads_either_column_and_skips_rows_without():
    texts = ["Das Wetter ist heute sehr schön und warm.", "The weather is fine and warm today."]
    assert language_fit(texts, language=["de", None]) == [1.0, None]
    german, english = language_fit(texts, target_language=["de", "de"])
    assert german == 1.0 > 0.1 > english
    assert language_fit(texts) == [None, None]


def test_toxicity_finds_hostility_and_lets_silence_pass():
    assert toxicity(["You are a stupid idiot.", "Have a nice day.", "", "..."]) == [1.0, 0.0, 0.0, 0.0]
