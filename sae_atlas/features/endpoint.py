"""A language model behind an OpenAI-compatible chat endpoint: retries with back-off, answers kept on disk.

The key comes from the environment and goes only into the request's header, never into logs, errors or the answers on
disk. An answer is paid for once: the same question to the same model is read from disk.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.io.files import read_json, write_json
from sae_atlas.io.log import logger

ATTEMPTS = 6
LONGEST_WAIT = 60  # seconds between two attempts, whatever the server asks for
TIMEOUT = 120  # seconds for an answer
TRANSIENT = (408, 409, 425, 429)  # and all from 500: worth another attempt


class Transient(Exception):
    """A failure that may pass with another attempt. `wait`: seconds the server asks for, None if it does not say."""

    def __init__(self, text: str, wait: float | None = None):
        super().__init__(text)
        self.wait = wait


class Endpoint:
    """`ask(messages)` gives the model's answer; `paid` counts the tokens that answers not on disk took.

    backoff: seconds before the second attempt, doubled for each further one. Raises AtlasError if the environment has no
    key.
    """

    def __init__(self, url: str, model: str, cache: str | Path, key_variable: str | None = None, backoff: float = 1.0):
        self.url, self.model, self.cache = url.rstrip("/") + "/chat/completions", model, Path(cache)
        self.backoff, self.paid = backoff, {"prompt_tokens": 0, "completion_tokens": 0}
        self._key = os.environ.get(key_variable, "").strip() if key_variable else None
        if key_variable and not self._key:
            raise AtlasError(
                f"features.names.endpoint.key_variable: the environment has no {key_variable}; export it and run again"
            )

        if self._key and not re.fullmatch("[!-~]+", self._key):  # an error of the HTTP library would show it
            raise AtlasError(f"features.names.endpoint.key_variable: what {key_variable} holds is no key; look at it")

    def known(self, messages: list[dict]) -> bool:
        """Is the answer on disk?"""
        return self._file(messages).is_file()

    def ask(self, messages: list[dict], again: int = 0) -> str:
        """The answer to messages ({role, content}). again: number of another answer to the same question.

        Raises AtlasError if the server refuses, or fails at every attempt.
        """
        file = self._file(messages, again)
        if file.is_file():
            return read_json(file)["answer"]
        attempts = Retrying(
            retry=retry_if_exception_type(Transient),
            stop=stop_after_attempt(ATTEMPTS),
            wait=self._wait,
            before_sleep=lambda state: logger.info(
                "%s; attempt %d", state.outcome.exception(), state.attempt_number + 1
            ),
            reraise=True,
        )
        try:
            answer, usage = attempts(self._post, messages)
        except Transient as error:
            raise AtlasError(
                f"features.names.endpoint: {error}, {ATTEMPTS} times; run again later, what was answered is kept"
            ) from None
        for kind in self.paid:
            self.paid[kind] += int(usage.get(kind) or 0)
        write_json(file, {"model": self.model, "messages": messages, "answer": answer, "usage": usage})
        return answer

    def _file(self, messages: list[dict], again: int = 0) -> Path:
        question = json.dumps([self.url, self.model, messages, again], sort_keys=True)
        return self.cache / f"{hashlib.sha256(question.encode()).hexdigest()[:32]}.json"

    def _wait(self, state: RetryCallState) -> float:
        asked = state.outcome.exception().wait
        return min(LONGEST_WAIT, self.backoff * 2 ** (state.attempt_number - 1) if asked is None else asked)

    def _post(self, messages: list[dict]) -> tuple[str, dict]:
        body = {"model": self.model, "messages": messages, "temperature": 0}
        try:
            reply = requests.post(self.url, json=body, auth=self._sign, timeout=TIMEOUT, allow_redirects=False)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise Transient(f"{self.url} gives no answer ({self._safe(reason(error))})") from None
        except (requests.RequestException, UnicodeError, ValueError) as error:  # a url or a key that cannot be sent
            raise AtlasError(f"features.names.endpoint: {self._safe(reason(error))}; check url and key") from None
        if reply.status_code in TRANSIENT or reply.status_code >= 500:
            raise Transient(f"{self.url} answers {reply.status_code}", _seconds(reply.headers.get("Retry-After")))
        if reply.status_code != 200:
            said = self._safe(" ".join(reply.text.split())[:200])
            raise AtlasError(
                f"features.names.endpoint: {self.url} answers {reply.status_code} ({said}); check url, model and key"
            )
        try:
            value = reply.json()
            answer, usage = value["choices"][0]["message"]["content"], value.get("usage")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise Transient(f"{self.url} answers what is no chat completion") from None
        if not isinstance(answer, str):
            raise Transient(f"{self.url} answers without text")
        return self._safe(answer), usage if isinstance(usage, dict) else {}

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the key into the header; as `auth` it comes before what a .netrc may hold for the host."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _safe(self, text: str) -> str:
        """The text without the key, should a server send it back."""
        return text.replace(self._key, "***") if self._key else text


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; None for its other form, a date."""
    return float(header) if header and header.isdigit() else None
