"""Checkpoints behind an endpoint, against a server of our own."""

import json

import pytest

from recipes.compare import main
from rlgen.errors import ConfigError, ModelError
from rlgen.evaluation.checkpoints import open_checkpoints
from rlgen.evaluation.generations import Sampling, Store
from rlgen.evaluation.remote import Remote, is_remote, parse_remote
from rlgen.evaluation.remote_generations import generate_remote, remote_warning

CHAT = [[{"role": "system", "content": "Be loud."}, {"role": "user", "content": f"say {i}"}] for i in range(5)]
GREEDY, SAMPLED = Sampling(0.0, 1, 8, 0), Sampling(0.7, 3, 8, 5)


def generate(server, tmp_path, prompts=CHAT, samplings=(GREEDY,), **options):
    options = {"concurrency": 1, "retries": 1, "backoff": 0.01, "advance": lambda count: None, **options}
    return generate_remote("gpt", Remote("m", server.url), prompts, samplings, Store(tmp_path / "g.jsonl"), **options)


def test_addresses_are_read():
    assert parse_remote("openai:a/b@c@http://localhost:8000/v1/") == Remote("a/b@c", "http://localhost:8000/v1")
    assert parse_remote("openai:m@https://x.org/v1#MY_KEY") == Remote("m", "https://x.org/v1", "MY_KEY")
    assert is_remote("openai:anything")
    assert not is_remote("openai/gpt-oss")


@pytest.mark.parametrize("path", ["openai:m", "openai:@http://x/v1", "openai:m@localhost/v1", "openai:m@http://x y"])
def test_a_wrong_address_is_one_clear_line(path):
    with pytest.raises(ConfigError, match="write an endpoint as openai:MODEL@http"):
        open_checkpoints({"gpt": path})


def test_the_key_does_not_change_what_is_cached():
    paths = ["openai:m@http://x/v1", "openai:m@http://x/v1/#KEY", "openai:n@http://x/v1", "openai:m@http://y/v1"]
    prints = [open_checkpoints({"gpt": path})[0].fingerprint for path in paths]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_whole_conversations_are_sent_and_cuts_are_seen(chat_server, tmp_path):
    chat_server.reply = lambda body: body["messages"][-1]["content"].upper() * (9 if "3" in str(body) else 1)
    (answers,) = generate(chat_server, tmp_path).values()
    assert [row[0].text for row in answers.completions][:3] == ["SAY 0", "SAY 1", "SAY 2"]
    assert [row[0].finished for row in answers.completions] == [True, True, True, False, True]
    assert answers.completions[0][0].token_ids == []
    assert [body["messages"] for body in chat_server.seen] == CHAT
    assert {body["temperature"] for body in chat_server.seen} == {0.0}
    assert {body["max_tokens"] for body in chat_server.seen} == {8}


def test_samples_differ_and_are_the_same_when_asked_for_again(chat_server, tmp_path):
    chat_server.reply = lambda body: f"{body['messages'][-1]['content']} {body['seed']}"
    plans = generate(chat_server, tmp_path, samplings=(GREEDY, SAMPLED))
    assert [sample.text for sample in plans["T=0.7"].completions[1]] == ["say 1 5", "say 1 6", "say 1 7"]
    assert len(chat_server.seen) == 5 + 15
    again = generate(chat_server, tmp_path, samplings=(SAMPLED, GREEDY))
    assert again["T=0.7"].completions == plans["T=0.7"].completions
    assert len(chat_server.seen) == 20


def test_a_failure_loses_no_answer(chat_server, tmp_path):
    chat_server.statuses = [200, 200, 400]
    with pytest.raises(ModelError, match=r"checkpoint gpt: .*400.*run the same command again"):
        generate(chat_server, tmp_path)
    asked = len(chat_server.seen)
    generate(chat_server, tmp_path)
    assert len(chat_server.seen) == asked + 1  # the one that failed
    assert chat_server.seen[-1]["messages"] == CHAT[2]


def test_a_busy_server_is_asked_again(chat_server, tmp_path):
    chat_server.statuses = [503]
    assert len(generate(chat_server, tmp_path)["greedy"].completions) == 5
    assert len(chat_server.seen) == 6


def test_a_key_that_is_not_set_is_one_clear_line(chat_server, tmp_path, monkeypatch):
    monkeypatch.delenv("RLGEN_TEST_KEY", raising=False)
    remote = Remote("m", chat_server.url, "RLGEN_TEST_KEY")
    store = Store(tmp_path / "g.jsonl")
    with pytest.raises(ModelError, match=r"RLGEN_TEST_KEY .*is not set"):
        generate_remote("gpt", remote, CHAT, [GREEDY], store, concurrency=1, advance=lambda count: None)
    monkeypatch.setenv("RLGEN_TEST_KEY", "sk-secret")
    generate_remote("gpt", remote, CHAT, [GREEDY], store, concurrency=1, advance=lambda count: None)
    assert set(chat_server.keys) == {"Bearer sk-secret"}
    assert "sk-secret" not in "".join(file.read_text() for file in tmp_path.rglob("*.json*"))


def test_plain_prompts_are_warned_about():
    assert "plain prompts" in remote_warning("gpt", ["say"])
    assert "plain prompts" not in remote_warning("gpt", CHAT)


@pytest.fixture
def flags(chat_server, tiny_llama, tmp_path):
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"Say {i}.", "completion": f"SAY {i}."}) + "\n" for i in range(12)))
    return [
        *("--checkpoints", f"sft={tiny_llama}", f"gpt=openai:m@{chat_server.url}", "--dataset_name", str(data)),
        *("--as_chat", "true", "--max_new_tokens", "4", "--output_dir", str(tmp_path / "compare")),
    ]


def test_a_comparison_with_an_endpoint(flags, chat_server, tmp_path, monkeypatch):
    more = ["--metrics", "rouge_l", "log_perplexity", "exact_match", "embedding_spread", "--num_samples", "2"]
    chat_server.statuses = [200] * 7 + [403]
    with pytest.raises(ModelError, match=r"checkpoint gpt: .*403"):
        main.__wrapped__([*flags, *more])
    failed = len(chat_server.seen)
    main.__wrapped__([*flags, *more])
    assert len(chat_server.seen) - failed < 12 + 24  # what was answered before is not asked again
    results = json.loads((tmp_path / "compare" / "results.json").read_text())
    gpt = results["summary"]["gpt"]["greedy"]
    assert gpt["exact_match"]["mean"] == 1.0
    assert [gpt[name]["mean"] for name in ("kl_sft", "length", "log_perplexity")] == [None, None, None]
    assert results["samples"][0]["completions"]["gpt"][0]["tokens"] is None
    assert results["heldout_check"]["unchecked"] == ["sft", "gpt"]
    assert any("gpt is behind an endpoint" in warning for warning in results["warnings"])
    assert {row["n"] for row in results["comparisons"] if row["measure"] == "kl_sft"} == {0}
    assert (tmp_path / "compare" / "report.html").is_file()

    asked = len(chat_server.seen)
    main.__wrapped__([*flags, *more])
    assert len(chat_server.seen) == asked
    assert json.loads((tmp_path / "compare" / "results.json").read_text()) == results


def test_only_endpoints_may_be_compared(chat_server, tmp_path, flags):
    named = [f"{name}=openai:{name}@{chat_server.url}" for name in ("a", "b")]
    main.__wrapped__([*flags, "--checkpoints", *named, "--metrics", "rouge_l"])
    results = json.loads((tmp_path / "compare" / "results.json").read_text())
    assert results["summary"]["b"]["greedy"]["rouge_l"]["mean"] > 0.9
    with pytest.raises(ConfigError, match=r"embedding_spread needs .*--encoder"):
        main.__wrapped__([*flags, "--checkpoints", *named, "--metrics", "embedding_spread", "--num_samples", "2"])


def test_an_endpoint_is_no_kl_reference(flags):
    with pytest.raises(ConfigError, match="gives no log-probabilities"):
        main.__wrapped__([*flags, "--kl_reference", "gpt"])
