"""More example requests from a teacher: what of its answers is read, what is kept, and that the test stays ours."""

import json
import re

import pytest

import tools as toolbox
from playground.data import examples, sources
from playground.data.teacher import endpoint, self_instruct
from playground.run import recipe
from playground.run.errors import UserError
from tests.conftest import ROOT
from tests.data.teacher.server import Server, choices

TOOL_FILE, EXAMPLES = ROOT / "configs/own_tools.json", ROOT / "configs/own_tools.jsonl"
TOOLS, _ = sources._with_default(toolbox.load_tools(TOOL_FILE))
FOUND = examples.read(EXAMPLES, TOOLS)
SAID = '{"tool": "respond", "args": {"message": "Hi"}}'
LIMITS = {"agree": 2, "samples": 3}


def settings(tmp_path, **teacher):
    chosen = {"dataset.examples": str(EXAMPLES), "tools.file": str(TOOL_FILE), "output_dir": str(tmp_path)}
    chosen |= {"model.name": "embedded"} | {f"teacher.{key}": value for key, value in teacher.items()}
    return recipe.load(None, list(chosen.items()))


def thermostat(room, degrees):
    return json.dumps({"tool": "set_thermostat", "args": {"room": room, "degrees": degrees}})


# ---- what a teacher writes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"requests": ["Heat the hall", "Cool it"]}', ["Heat the hall", "Cool it"]),
        ('["Heat the hall"]', ["Heat the hall"]),
        ('Sure, here you go:\n1. Heat the hall\n- Cool it\n\n* "Warm it"\n', ["Heat the hall", "Cool it", "Warm it"]),
        ("```json\n[\n", []),
        ('{"requests": 3}', []),
        ('{"requests": [3, null, {"a": 1}, "ok?", "x", "' + "y" * 400 + '", "\\ud800 hello", "a\\u0000bcd"]}', []),
        ("[" * 100_000, []),
        ("", []),
    ],
)
def test_requests_are_read_from_json_and_from_lines(text, expected):
    assert self_instruct.requests_in(text) == expected


def test_no_more_requests_are_read_than_one_answer_may_bring():
    assert len(self_instruct.requests_in("Heat the hall\n" * 100_000)) == self_instruct.MOST


@pytest.mark.parametrize(
    ("request_", "samples", "reason"),
    [
        ("Our kitchen feels best at 22 degrees", [thermostat("kitchen", 22)] * 3, None),
        ("Our kitchen feels best at 22 degrees", [thermostat("kitchen", 22)] * 2 + ["no"], None),
        ("Our kitchen feels best at 22 degrees", [thermostat("kitchen", n) for n in (22, 23, 24)], "the same call"),
        ("Our kitchen feels best at 22 degrees", [thermostat("kitchen", 90)] * 3, "no sampled call"),
        ("Our kitchen feels best at 22 degrees", ["Heating.", "[" * 9000, "{}"], "no sampled call"),
        (
            "Our kitchen feels best at 22 degrees",
            ['{"tool": "respond", "args": {"message": "Hi"}}'] * 3,
            "no sampled call",
        ),
        ("Our kitchen feels best when warm", [thermostat("kitchen", 22)] * 3, "every value"),
        ("22 degrees in the kitchen at 22", [thermostat("kitchen", 22)] * 3, "every value"),
        ("Set the office to 12 degrees", [thermostat("office", 12)] * 3, "in the words of another"),
    ],
)
def test_a_request_is_kept_with_a_call_that_is_valid_agreed_on_and_said(request_, samples, reason):
    kept, left_out = self_instruct.keep([("set_thermostat", request_)], [samples], FOUND, TOOLS, LIMITS)
    if reason is None:
        assert [row["prompt"] for row in kept] == [request_] and not left_out
        assert kept[0]["call"] == json.loads(samples[0])
    else:
        assert not kept and reason in next(iter(left_out))


def test_a_teacher_is_asked_for_requests_only_where_one_is_named(tmp_path):
    assert not self_instruct.wanted(settings(tmp_path))
    assert self_instruct.wanted(settings(tmp_path, url="http://127.0.0.1:9/v1"))
    assert self_instruct.wanted(settings(tmp_path, model="smollm2"))


# ---- with an endpoint


def answer(body):
    """A teacher that writes two new requests about a thermostat, and one that is an example, and labels them all."""
    asked = body["messages"][-1]["content"]
    if "more such requests" in asked:
        about = re.search(r"requests for (\w+):", asked)[1]
        rows = [f"Our kitchen feels best at {n} degrees {w}" for n, w in ((21, "by day"), (16, "overnight"))]
        return 200, choices(json.dumps({"requests": [*rows, FOUND[0]["prompt"]] if about == "set_thermostat" else []}))
    return 200, choices(*[thermostat("kitchen", int(re.search(r"\d+", asked)[0]))] * body["n"])


def test_what_an_endpoint_writes_joins_training_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "BACKOFF", 0.01)
    with Server(answer) as server:
        dataset = sources.build(settings(tmp_path, url=server.url))
    shown = server.bodies[0]["messages"][-1]["content"]
    assert sum(f"- {row['prompt']}" in shown for row in FOUND) == self_instruct.SHOWN and "minimum" in shown
    assert server.bodies[0]["response_format"]["json_schema"]["schema"] == self_instruct.SCHEMA
    asked = [body for body in server.bodies if "more such requests" not in body["messages"][-1]["content"]]
    assert len(asked) == 2  # the example is not asked again, nor what was written twice
    written = {
        split: [row for row in rows if re.search(r"own/\w+/t\d", row["meta"].get("phrasing", ""))]
        for split, rows in dataset.splits.items()
    }
    assert len(written["train"]) > 4 and not written["val"] and not written["test"]
    assert any(re.search(r"(?i)feels best at \d+ degrees overnight", row["prompt"]) for row in written["train"])


def test_a_teacher_that_writes_nothing_of_use_is_one_sentence(tmp_path):
    with Server(lambda body: (200, choices("I would rather not."))) as server, pytest.raises(UserError) as error:
        sources.build(settings(tmp_path, url=server.url))
    assert "the teacher adds no example (" in str(error.value) and "\n" not in str(error.value)


def test_a_model_on_this_machine_is_asked_too(tmp_path, monkeypatch):
    monkeypatch.setattr(self_instruct, "ROUNDS", 1)
    monkeypatch.setattr(self_instruct, "LONGEST", 20)
    with pytest.raises(UserError, match="the teacher adds no example"):  # the base model writes nothing of use
        sources.build(settings(tmp_path, model="embedded", samples=2))
    assert (tmp_path / "02_create_dataset.asked.jsonl").read_text(encoding="utf-8").strip()
