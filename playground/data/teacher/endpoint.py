"""A teacher behind an endpoint with OpenAI's chat completions (vLLM, llama.cpp, Ollama, OpenAI itself, ...).

Nothing that it answers is trusted: an answer has a size and a time limit, no redirect is followed (it would take the
key along), and a sample is any text until it has been parsed and validated like a model's own.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException

import tools as toolbox
from playground.model import prompting
from playground.model.loading import within
from playground.run import recipe
from playground.run.errors import UserError

DEMONSTRATIONS = 5  # for a teacher that was not trained on the labelled records
MAX_ANSWER = 4_000_000  # bytes of one answer
LOCAL = ("localhost", "127.0.0.1", "::1")
BACKOFF = 1  # seconds before the second attempt; each further wait is twice as long
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}  # HTTP's ways to say "later"
BROKEN = (ValueError, LookupError, TypeError, RecursionError)  # what reading an answer raises that is no completion
# (with a JSON schema for the answer, with several samples at once): not every server knows both. What an endpoint
# cannot be made to keep to, its samples are checked for all the same.
VARIANTS = [(True, True), (True, False), (False, True), (False, False)]
SYSTEM = """Answer each request with one call in JSON, {{"tool": name, "args": {{...}}}}, and with nothing else.
Where no tool helps, call `respond`. These are the tools:
{tools}"""


class EndpointError(Exception):
    """An endpoint cannot be used, or has not answered in the attempts that it had; the message says why."""


class _Later(Exception):
    """This attempt failed, the next may not."""


class EndpointTeacher:
    block, workers = 1, 4

    def __init__(self, settings, tools, labelled):
        self.settings, self.schema = settings["teacher"], toolbox.call_schema(tools)
        self.max_tokens, self.seed = settings["generate"]["max_new_tokens"], settings["seed"]
        self.url = self.settings["url"].rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.key = _key_for(self.url, recipe.said(settings, "teacher", "url"))
        count = self.settings["demonstrations"]
        examples = prompting.pick_examples(labelled, DEMONSTRATIONS if count is None else count, settings["seed"])
        self.shown = [{"role": "system", "content": SYSTEM.format(tools=toolbox.signatures(tools))}]
        for row in examples:
            said = {"user": row["prompt"], "assistant": row["completion"]}
            self.shown += [{"role": role, "content": content} for role, content in said.items()]
        self.variant = 0  # of VARIANTS: the first that the endpoint has not refused
        self.opener = urllib.request.build_opener(_NoRedirects)

    def question(self, prompts, index):
        return {
            "url": self.url,
            "schema": self.schema,
            "model": self.settings["model"],
            "messages": [*self.shown, {"role": "user", "content": prompts[0]}],
            "n": self.settings["samples"],
            "temperature": self.settings["temperature"],
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    def ask(self, question):
        """[[text of each sample]]. Raises EndpointError."""
        body = {key: value for key, value in question.items() if key not in ("url", "schema")}
        texts = []
        while len(texts) < question["n"]:  # some servers know no n and send one choice at a time
            wanted = {"n": question["n"] - len(texts), "seed": question["seed"] + 1_000_003 * len(texts)}
            texts += self._choices(body | wanted)[: wanted["n"]]
        return [texts]

    def _choices(self, body):
        """The texts of one answer, at least one. Raises EndpointError."""
        for attempt in range(self.settings["attempts"]):
            time.sleep(BACKOFF * 2 ** (attempt - 1) if attempt else 0)
            try:
                return self._attempt(body)
            except _Later as reason:
                why = reason
        raise EndpointError(f"no usable answer in {attempt + 1} attempts ({why})")

    def _attempt(self, body):
        variant = self.variant
        answer = within(self.settings["timeout"], lambda: self._post(body, *VARIANTS[variant]))
        match answer:
            case bytes():
                return _texts(answer)
            case urllib.error.HTTPError(code=400 | 422) if variant + 1 < len(VARIANTS):
                self.variant = max(self.variant, variant + 1)
                return self._attempt(body)
            case urllib.error.HTTPError():
                kind = _Later if answer.code in RETRIED else EndpointError
                raise kind(f"HTTP {answer.code} {_short(answer.reason)}")
            case TimeoutError():
                raise _Later(f"nothing in {self.settings['timeout']} s")
            case urllib.error.URLError():
                raise _Later(_short(answer.reason))
            case OSError() | HTTPException():
                raise _Later(_short(answer) or type(answer).__name__)
            case ValueError():  # whose message may hold the key
                raise EndpointError("that URL, or the key in OPENAI_API_KEY, cannot be sent")
        raise answer

    def _post(self, body, with_schema, with_n):
        """The bytes of the answer; runs in a thread, whose exceptions `within` returns."""
        if with_schema:
            schema = {"name": "call", "schema": self.schema}
            body = body | {"response_format": {"type": "json_schema", "json_schema": schema}}
        if not with_n:
            body = body | {"n": 1}
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with self.opener.open(request, timeout=self.settings["timeout"]) as response:
            return response.read(MAX_ANSWER + 1)


def _key_for(url, said):
    """The key that goes to an endpoint, or None, which is said; said: the endpoint's URL on the command line.

    A recipe may be anybody's, so a host that it names gets no key; nor does one that others can listen to. Raises
    UserError for what is no URL.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise UserError(f"--teacher-url {url}: give a URL such as http://localhost:8000/v1.")
    print(f"The teacher is asked at {parts.scheme}://{host}{f':{port}' if port else ''}.")
    key, named = os.environ.get("OPENAI_API_KEY"), said and urllib.parse.urlsplit(said).hostname == host
    if key and not (named and (parts.scheme == "https" or host in LOCAL)):
        why = "over http" if named else "that only a file names: give it as --teacher-url"
        print(f"OPENAI_API_KEY is not sent to a host {why}.", file=sys.stderr)
        return None
    return key


def _texts(answer):
    """The samples in the bytes of a chat completion; a sample that is no text counts as an empty one."""
    if len(answer) > MAX_ANSWER:
        raise _Later(f"an answer of over {MAX_ANSWER} bytes")
    try:
        messages = [choice["message"] for choice in json.loads(answer)["choices"]]
        contents = [_call(message) or message["content"] for message in messages]
    except BROKEN:
        raise _Later("an answer that is no chat completion") from None
    if not contents:
        raise _Later("an answer without choices")
    return [content if isinstance(content, str) else "" for content in contents]


def _call(message):
    """The one call that a server has parsed out of a message, as a model here writes it; None where there is none."""
    try:
        (call,) = message["tool_calls"]
        return toolbox.to_json({"tool": call["function"]["name"], "args": json.loads(call["function"]["arguments"])})
    except BROKEN:
        return None


def _short(text):
    return " ".join(str(text).split())[:200]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None  # so that it becomes an HTTPError
