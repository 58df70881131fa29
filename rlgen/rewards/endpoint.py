"""An OpenAI-compatible chat endpoint: many questions at a time, retried, cached on disk, within a budget."""

import asyncio
import hashlib
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlgen.errors import RewardError
from rlgen.runs import write_atomic

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT = 60.0
LARGEST_ANSWER = 4 << 20
_spending = threading.Lock()  # of the module, since an endpoint must be picklable


class BudgetSpent(RewardError):
    """The endpoint may not be asked again."""


class EndpointFailed(RewardError):
    """The endpoint did not answer, or not in the expected form."""


@dataclass(frozen=True)
class Answer:
    """What the model wrote, and what it cost in tokens (0 from the cache)."""

    text: str
    tokens: int
    cached: bool = False
    finished: bool = True
    """Whether it ended by itself, not at a limit of its length."""


Question = str | list[dict[str, str]]


class ChatEndpoint:
    """Asks a chat model questions: texts, each one message of a user, or conversations that it goes on with.

    Args:
        base_url: up to and without `/chat/completions`, for example `http://localhost:8000/v1`.
        model: as the endpoint calls it.
        api_key_env: name of the environment variable with the key; None sends none. The key is read at each call, and
            kept, written and shown nowhere.
        request: further fields of the request, such as `temperature` and `max_tokens`.
        concurrency: questions under way at a time.
        retries: further attempts after 408, 409, 425, 429, 5xx, a timeout or a broken connection.
        backoff: seconds before the first of them, doubled each time, up to a minute; `Retry-After` counts if longer.
        timeout: seconds that one attempt may take.
        cache: folder of earlier answers, by the hash of address and request; None for no cache.
        budget_calls: questions that may be sent in all, by each process; answers from the cache are free.
        budget_tokens: likewise for tokens of questions and answers; calls under way may go beyond it.

    Raises:
        RewardError: a value that makes no sense.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        request: Mapping[str, Any] | None = None,
        concurrency: int = 8,
        retries: int = 5,
        backoff: float = 1.0,
        timeout: float = 60.0,
        cache: str | Path | None = None,
        budget_calls: int | None = None,
        budget_tokens: int | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise RewardError(f"base_url must begin with http:// or https://, not {base_url!r}")
        if concurrency < 1 or retries < 0 or backoff < 0 or timeout <= 0:
            raise RewardError("concurrency must be at least 1, retries and backoff at least 0, timeout above 0")
        for name, budget in (("budget_calls", budget_calls), ("budget_tokens", budget_tokens)):
            if budget is not None and (not isinstance(budget, int) or budget < 0):
                raise RewardError(f"{name} must be a whole number of at least 0, not {budget!r}")
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise RewardError(f"the environment variable {api_key_env} with the key for {base_url} is not set")
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.model = model
        self.api_key_env = api_key_env
        self.request = dict(request or {})
        self.concurrency = concurrency
        self.retries = retries
        self.backoff = backoff
        self.timeout = timeout
        self.cache = None if cache is None else Path(cache).expanduser()
        self.budget_calls = budget_calls
        self.budget_tokens = budget_tokens
        self.calls = 0
        self.tokens = 0

    async def ask(self, questions: Sequence[Question]) -> list[Answer | RewardError]:
        """Ask all questions, equal ones once.

        Returns:
            Per question its answer, or why there is none (`BudgetSpent` or `EndpointFailed`).
        """
        keys = [question if isinstance(question, str) else json.dumps(question) for question in questions]
        unique = dict(zip(keys, questions, strict=True))
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            answers = await asyncio.gather(
                *(loop.run_in_executor(pool, self._one, question) for question in unique.values())
            )
        by_key = dict(zip(unique, answers, strict=True))
        return [by_key[key] for key in keys]

    def _one(self, question: Question) -> Answer | RewardError:
        messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
        body = {"model": self.model, "messages": messages, **self.request}
        content = json.dumps([self.url, body], sort_keys=True)
        file = None
        if self.cache is not None:
            digest = hashlib.sha256(content.encode()).hexdigest()
            file = self.cache / digest[:2] / f"{digest}.json"
            try:
                known = json.loads(file.read_text(encoding="utf-8"))
                return Answer(str(known["answer"]), 0, cached=True, finished=bool(known.get("finished", True)))
            except (OSError, ValueError, KeyError, TypeError):
                pass  # not asked yet, or cut short: ask
        try:
            self._reserve()
            answer = self._attempts(body)
        except RewardError as error:
            return error
        with _spending:
            self.tokens += answer.tokens
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            record = {"answer": answer.text, "tokens": answer.tokens, "finished": answer.finished}
            write_atomic(file, json.dumps(record))
        return answer

    def _reserve(self) -> None:
        with _spending:
            if self.budget_calls is not None and self.calls >= self.budget_calls:
                raise BudgetSpent(
                    f"the budget of {self.budget_calls} calls to {self.url} is spent: raise budget_calls"
                )
            if self.budget_tokens is not None and self.tokens >= self.budget_tokens:
                raise BudgetSpent(
                    f"the budget of {self.budget_tokens} tokens at {self.url} is spent: raise budget_tokens"
                )
            self.calls += 1

    def _attempts(self, body: Mapping[str, Any]) -> Answer:
        problem = ""
        for attempt in range(self.retries + 1):
            wait = min(self.backoff * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
            try:
                return self._post(body)
            except urllib.error.HTTPError as error:
                with error:
                    detail = self._without_key(error.read(2000).decode(errors="replace"))
                problem = f"answered {error.code} {error.reason}: {' '.join(detail.split())[:300]}"
                if error.code not in RETRIED:
                    break
                wait = max(wait, min(_seconds(error.headers.get("Retry-After")), LONGEST_WAIT))
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
                problem = f"gave no answer: {type(error).__name__}: {self._without_key(str(error))}"
            if attempt < self.retries:
                time.sleep(wait)
        raise EndpointFailed(f"{self.url} {problem}")

    def _post(self, body: Mapping[str, Any]) -> Answer:
        headers = {"Content-Type": "application/json"}
        if self.api_key_env is not None:
            headers["Authorization"] = f"Bearer {os.environ.get(self.api_key_env, '')}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")
        with _opener.open(request, timeout=self.timeout) as response:
            loaded = json.loads(response.read(LARGEST_ANSWER))
        choice = loaded["choices"][0]
        text = choice["message"]["content"] or ""
        usage = (loaded.get("usage") or {}).get("total_tokens")
        # About four characters a token where the endpoint does not count.
        tokens = int(usage) if usage is not None else (len(json.dumps(body)) + len(text)) // 4
        return Answer(text, tokens, finished=choice.get("finish_reason") != "length")

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.api_key_env or "")
        return text.replace(key, "***") if key else text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key along to another address."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def _seconds(value: str | None) -> float:
    try:
        return max(float(value or 0), 0.0)
    except ValueError:  # a date
        return 0.0
