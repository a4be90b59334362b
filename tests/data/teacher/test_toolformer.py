"""Teacher mode: what the three filters keep, and an endpoint that is down, slow, or answers nonsense."""

import json
import subprocess
import sys
import threading
import time

import pytest

import tools as toolbox
from playground.data import sources, templates
from playground.data.teacher import asking, endpoint, toolformer
from playground.model import prompting
from playground.run import artifacts, hardware, recipe
from playground.run.errors import UserError
from playground.run.files import read_records
from tests.conftest import ROOT
from tests.data.teacher.server import Server, choices

TOOLS = toolbox.load_tools()
LABELLED = list(templates.build_splits({"train": 40}, TOOLS, 0)["train"])
OSLO = {"tool": "get_weather", "args": {"city": "Oslo"}}
BERGEN = {"tool": "get_weather", "args": {"city": "Bergen"}}


def settings(**changed):
    fixed = [("dataset.source", "teacher"), ("dataset.size", 40)]
    loaded = recipe.load(None, [*fixed, *((f"teacher.{key}", value) for key, value in changed.items())])
    return loaded | {"model": loaded["model"] | {"name": "embedded"}}


def request(prompt="How is Oslo?", answer=None):
    return {"prompt": prompt, "answer": answer, "meta": {}}


# ---- unlabelled requests


def test_a_request_without_its_label_has_the_answer_but_no_call_and_no_result():
    for record in LABELLED:
        row = toolformer.drop_label(record, TOOLS)
        assert set(row) == {"prompt", "answer", "meta"} and set(row["meta"]) == {"phrasing", "entities"}
        assert "\n" not in row["prompt"] and record["prompt"].startswith(row["prompt"])
        assert row["answer"] and not row["answer"].startswith("{")


def test_requests_are_read_from_lines_of_text_and_from_json(tmp_path, capsys):
    text, rows = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text("How is Oslo?\n\n[not JSON]\n", encoding="utf-8")
    assert [row["prompt"] for row in toolformer.read_requests(text)] == ["How is Oslo?", "[not JSON]"]
    good = [{"prompt": "What is 3 + 5?", "answer": "8"}, *({"prompt": f"How is town {n}?"} for n in range(9))]
    bad = [{"answer": "8"}, {"prompt": "\ud800"}]
    rows.write_text("".join(json.dumps(row) + "\n" for row in [*good, *bad, "As text"]), encoding="utf-8")
    found = toolformer.read_requests(rows)
    assert (found[0]["answer"], found[1]["answer"], found[-1]["prompt"]) == ("8", None, "As text") and len(found) == 11
    said = capsys.readouterr().err
    assert f"{rows}:11: prompt is not a text" in said and f"{rows}:12: prompt has a lone surrogate" in said


# ---- the filters


def test_a_call_needs_to_execute_and_enough_samples_that_agree():
    failing = {"tool": "calculator", "args": {"expression": "1 / 0"}}
    samples = [
        [json.dumps(failing)] * 4,
        ["hello", '{"tool": "fly", "args": {}}', '{"tool": "get_weather", "args": {"town": "Oslo"}}', "[" * 9000],
        [json.dumps(OSLO), json.dumps(BERGEN), "", ""],
        [json.dumps(OSLO), f" {json.dumps(OSLO)}\n", json.dumps(BERGEN), json.dumps(failing)],
    ]
    limits = {"agree": 2, "samples": 4}
    candidates, left_out = toolformer.agreement([request()] * 4, samples, TOOLS, limits)
    assert [[(row["call"], row["agree"]) for row in rows] for rows in candidates] == [[(OSLO, 2)]]
    assert candidates[0][0]["result"] == toolbox.execute(OSLO, TOOLS)
    assert left_out == {toolformer.FAILED: 2, toolformer.DISAGREED.format(**limits): 1}


def test_an_answers_loss_is_that_of_its_tokens_alone_whatever_the_padding(base_model, tokenizer, monkeypatch):
    import torch

    monkeypatch.setattr(hardware, "has_bf16", lambda: False)  # whose rounding would hide a token
    pairs = [("How is Oslo?", "It is 3 °C."), ("What is the weather in Bergen tomorrow?", 'It is "sunny" in Bergen.')]
    for (prompt, answer), loss in zip(pairs, toolformer.answer_losses(base_model, tokenizer, pairs), strict=True):
        opening = prompting.encode_text(' {"tool": "respond", "args": {"message": "', tokenizer)
        said = prompting.encode_text(toolbox.to_json(answer)[1:-1], tokenizer)
        ids = [*prompting.encode_prompt(prompt, tokenizer), *opening, *said]
        labels = torch.tensor([[-100] * (len(ids) - len(said)) + said])
        with torch.inference_mode():
            assert loss == pytest.approx(base_model(torch.tensor([ids]), labels=labels).loss.item(), rel=1e-3)


def test_of_two_calls_the_one_whose_result_the_answer_tells_of_is_kept(base_model, tokenizer):
    candidates = []
    for city in ("Oslo", "Lagos", "Quito", "Hanoi", "Perth", "Sofia"):
        call = {"tool": "get_weather", "args": {"city": city}}
        answer = templates.answer(call, toolbox.execute(call, TOOLS))
        asked = request(f"How is the weather in {city}?", answer)
        candidates.append([asked | {"call": c, "result": toolbox.execute(c, TOOLS)} for c in (BERGEN, call)])
    kept, left_out = toolformer.filter_by_loss(candidates, base_model, tokenizer, {"tau": 0.0})
    right = [row["call"]["args"]["city"] in row["prompt"] for row in kept]
    assert sum(right) >= 4 and left_out.total() + len(kept) == 6  # a base model copies, if not always
    assert all(min(row["loss"]["none"], row["loss"]["call"]) >= row["loss"]["result"] for row in kept)
    assert not toolformer.filter_by_loss(candidates, base_model, tokenizer, {"tau": 50.0})[0]


def test_respond_is_kept_where_it_says_what_the_answer_says_and_where_there_is_none(base_model, tokenizer):
    candidates = []
    for answer in ("Hello there!", "It is 3 °C in Oslo.", None):
        result = {"message": "hello there!"}
        candidates.append([request("hi", answer) | {"call": {"tool": "respond", "args": result}, "result": result}])
    kept, left_out = toolformer.filter_by_loss(candidates, base_model, tokenizer, {"tau": 0.3})
    assert [row["answer"] for row in kept] == ["Hello there!", None] and left_out.total() == 1


def test_kept_calls_become_records_with_their_scores_and_some_answers():
    loss = {"none": 2.0, "call": 2.0, "result": 0.5}
    row = request(answer="It is cold.") | {"call": OSLO, "result": {"sky": "clear"}, "agree": 5, "loss": loss}
    records = toolformer.to_records([row] * toolformer.SECOND_TURN, TOOLS)
    assert [record["meta"]["turn"] for record in records] == [1] * toolformer.SECOND_TURN + [2]
    assert records[0]["completion"] == json.dumps(OSLO) and records[0]["source"] == "teacher"
    assert records[0]["meta"]["agree"] == 5 and records[0]["meta"]["loss"] == loss
    assert 'Result: {"sky": "clear"}' in records[-1]["prompt"] and "It is cold." in records[-1]["completion"]


def test_a_receipt_is_compared_with_the_answer_without_a_call_alone():
    row = {"call": OSLO, "result": {"sky": "clear"}, "loss": {"none": 2.0, "call": 1.0, "result": 0.75}}
    assert toolformer._gain(row) == 0.25
    assert toolformer._gain(row | {"result": {"status": "noted", "city": "Oslo"}}) == 1.25


# ---- an endpoint on loopback


def ask(server, cache, prompts=("How is Oslo?",), **changed):
    changed = {"url": server.url, "samples": 2, "attempts": 2, "timeout": 1} | changed
    return asking.ask_all(endpoint.EndpointTeacher(settings(**changed), TOOLS, LABELLED), list(prompts), cache)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(endpoint, "BACKOFF", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")


def test_an_endpoint_is_shown_tools_examples_and_schema_and_given_the_key(tmp_path):
    with Server(lambda body: (200, choices("a", "b"))) as server:
        assert ask(server, tmp_path / "asked", model="the-teacher") == [["a", "b"]]
    (body,) = server.bodies
    assert body["model"] == "the-teacher" and body["n"] == 2
    assert body["response_format"]["json_schema"]["schema"] == toolbox.call_schema(TOOLS)
    assert "get_weather(city: string)" in body["messages"][0]["content"] and len(body["messages"]) == 2 + 2 * 5
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize("more", [{}, {"--teacher-url": "https://other.example/v1"}, {"--teacher-url": None}])
def test_a_host_that_only_a_recipe_names_gets_no_key_and_is_named_before_it_is_asked(tmp_path, capsys, more):
    def answer(body):
        assert f"The teacher is asked at {server.url.removesuffix('/v1')}.\n" == capsys.readouterr().out
        return 200, choices("a", "b")

    with Server(answer) as server:
        (tmp_path / "theirs.json").write_text(json.dumps({"teacher": {"url": server.url, "samples": 2}}))
        loaded = recipe.load(tmp_path / "theirs.json")
        if more:  # what the command line names is another host, or none
            loaded.origin["overrides"] = [("teacher.url", more["--teacher-url"])]
        asking.ask_all(endpoint.EndpointTeacher(loaded, TOOLS, LABELLED), ["How is Oslo?"], tmp_path / "asked")
    assert server.headers[0]["Authorization"] is None


@pytest.mark.parametrize(
    ("url", "goes"),
    [
        ("https://teacher.example/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://teacher.example/v1", False),
        ("http://localhost@teacher.example/v1", False),
        ("http://localhost.teacher.example/v1", False),
    ],
)
def test_the_key_goes_over_https_or_to_this_machine_only(url, goes, capsys):
    assert endpoint.EndpointTeacher(settings(url=url), TOOLS, LABELLED).key == ("sk-secret" if goes else None)
    assert ("OPENAI_API_KEY is not sent to a host over http." in capsys.readouterr().err) != goes


def test_a_server_that_knows_neither_schema_nor_several_samples_is_asked_without(tmp_path):
    def answer(body):
        return (400, {}) if "response_format" in body or body["n"] > 1 else (200, choices(f"seed {body['seed']}"))

    with Server(answer) as server:
        ((first, second),) = ask(server, tmp_path / "asked")
    assert first != second


def test_a_call_that_the_server_has_parsed_already_is_read_and_a_broken_one_is_an_empty_sample(tmp_path):
    parsed = [
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "get_weather", "arguments": text}}]}
        for text in ('{"city":"Oslo"}', '{"city"')
    ]
    with Server(lambda body: (200, {"choices": [{"message": message} for message in parsed]})) as server:
        assert ask(server, tmp_path / "asked") == [['{"tool": "get_weather", "args": {"city": "Oslo"}}', ""]]


def test_an_endpoint_that_fails_once_is_asked_again(tmp_path):
    answers = iter([(503, {}), (200, choices("a", "b")), (200, b"<html>"), (200, choices("c", "d"))])
    with Server(lambda body: next(answers)) as server:
        assert ask(server, tmp_path / "asked") == [["a", "b"]]
        assert ask(server, tmp_path / "asked", ["How is Bergen?"]) == [["c", "d"]]


@pytest.mark.parametrize(
    ("answer", "asked", "reason"),
    [
        ((500, {}), 2, "HTTP 500"),
        ((200, b"<html>"), 2, "no chat completion"),
        ((200, b"[" * 100_000), 2, "no chat completion"),
        ((200, {"choices": []}), 2, "without choices"),
        ((200, {"choices": [{"text": "a"}]}), 2, "no chat completion"),
        ((200, b" " * (endpoint.MAX_ANSWER + 1)), 2, "an answer of over"),
        ((401, {}), 1, "HTTP 401"),
        ((302, {}), 1, "HTTP 302"),
        (None, 2, "nothing in 0.2 s"),
    ],
)
def test_what_an_endpoint_does_wrong_is_one_sentence_without_the_key(answer, asked, reason, tmp_path):
    def respond(body):
        time.sleep(0 if answer else 1)
        return answer or (200, {})

    timeout = 5 if answer else 0.2
    with Server(respond) as server, pytest.raises(UserError, match=reason) as error:
        ask(server, tmp_path / "asked", timeout=timeout)
    assert "0 of 1 requests are answered" in str(error.value) and "secret" not in str(error.value)
    assert len(server.bodies) == asked and "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "file:///etc/passwd", "http://[", "localhost:8000"])
def test_a_url_that_leads_nowhere_is_one_sentence(url, tmp_path):
    with pytest.raises(UserError, match=r"^--teacher-url \S+: "):
        ask(type("Nowhere", (), {"url": url}), tmp_path / "asked")


def test_what_was_answered_before_an_endpoint_broke_is_not_asked_again(tmp_path):
    towns, broken = [f"How is town {n}?" for n in range(6)], True

    def answer(body):
        town = body["messages"][-1]["content"]
        return (500, {}) if broken and town == towns[5] else (200, choices(town, town))

    with Server(answer) as server:
        with pytest.raises(UserError, match=r"5 of 6 requests are answered and kept in .*asked: run the same"):
            ask(server, tmp_path / "asked", towns)
        with (tmp_path / "asked").open("a") as cache:
            cache.write('\n{"question": "cut o')
        broken, before = False, len(server.bodies)
        assert ask(server, tmp_path / "asked", towns) == [[town, town] for town in towns]
        assert len(server.bodies) == before + 1
        assert ask(server, tmp_path / "asked", towns, tau=5.0, agree=1) == [[town, town] for town in towns]
        assert len(server.bodies) == before + 1


# ---- the stage


def run(output_dir, *arguments, status=0):
    sizes = ["dataset.size=40", "dataset.test_size=40", "dataset.validation_size=20", "dataset.feedback=0"]
    sizes += ["dataset.unlabelled=0", "teacher.unlabelled=8", "teacher.samples=2", "teacher.agree=1"]
    sizes += ["teacher.demonstrations=1", "generate.max_new_tokens=48"]
    flags = [word for size in [*sizes, "teacher.tau=-5"] for word in ("--set", size)]
    command = [sys.executable, "02_create_dataset.py", "--model", "embedded", "--output-dir", output_dir]
    command += ["--source", "teacher", *flags, *arguments]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def added_records(output_dir):
    records = read_records(output_dir / "02_create_dataset" / "train.jsonl")
    assert [record["source"] for record in records[:40]] == ["templates"] * 40
    assert all(toolbox.validate_call(json.loads(record["completion"]), TOOLS) == [] for record in records)
    return records[40:]


@pytest.fixture(scope="module")
def model_server(base_model, tokenizer):
    """The embedded base model behind chat completions, with the answer kept to the schema that comes with them."""
    from playground import grammar
    from playground.model import generation

    compiled, lock = {}, threading.Lock()

    def answer(body):
        schema = body["response_format"]["json_schema"]["schema"]
        system, *turns = [message["content"] for message in body["messages"]]
        shown = "".join(f"User: {turns[i]}\nCall: {turns[i + 1]}\n\n" for i in range(0, len(turns) - 1, 2))
        prompt = f"{system}\n\n{shown}User: {turns[-1]}"
        with lock:
            key = json.dumps(schema)
            compiled[key] = compiled.get(key) or grammar.compile_schema(schema, tokenizer, leading_space=True)
            done = generation.generate(
                base_model, tokenizer, [prompt] * body["n"], recipe.load(),
                grammar=compiled[key], temperature=body["temperature"], seed=body["seed"],
            )  # fmt: skip
        return 200, choices(*(completion.text for completion in done))

    with Server(answer) as server:
        yield server


def test_a_model_behind_an_endpoint_teaches_and_a_local_one_judges(model_server, tmp_path):
    # Whatever an untouched model asks of these two tools executes.
    entries = json.loads((ROOT / "configs" / "tools.json").read_text(encoding="utf-8"))
    chosen = [entry for entry in entries if entry["function"]["name"] in ("search_web", "get_weather")]
    (tmp_path / "tools.json").write_text(json.dumps(chosen), encoding="utf-8")
    asked = ("--teacher-url", model_server.url, "--teacher", "embedded-model", "--tools", tmp_path / "tools.json")
    done = run(tmp_path, *asked)
    added = added_records(tmp_path)
    assert added and "pass the filters" in done.stdout and "Traceback" not in done.stderr
    assert all(set(record["meta"]) >= {"agree", "loss", "phrasing", "entities"} for record in added)
    assert len(model_server.bodies) == 8
    inputs = artifacts.read_manifest(tmp_path, "02_create_dataset")["inputs"]
    assert any(path.endswith("model.safetensors") for path in inputs)  # the judge


def test_a_local_teacher_writes_the_same_bytes_again(tmp_path):
    requests = tmp_path / "requests.txt"
    towns = ("Oslo", "Lagos", "Quito", "Hanoi", "Perth", "Sofia", "Oslo")
    requests.write_text("".join(f"How is the weather in {town}?\n" for town in towns), encoding="utf-8")
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        done = run(folder, "--teacher", "embedded", "--requests", requests)
    assert "kept by execution and agreement alone" in done.stdout and "came before" in done.stdout
    a, b = ((folder / "02_create_dataset" / "train.jsonl").read_bytes() for folder in folders)
    assert a == b and added_records(folders[0])


def test_a_teacher_that_does_not_exist_is_one_sentence(tmp_path):
    for name, message in {"03_finetune": "run `python 03_finetune.py --", "no/model": "no/model"}.items():
        done = run(tmp_path, "--teacher", name, status=2)
        assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


def test_a_teacher_whose_calls_are_all_removed_is_an_error_that_says_why(tmp_path):
    requests = [toolformer.drop_label(record, TOOLS) for record in LABELLED[:3]]
    with Server(lambda body: (200, choices("As a language model", None))) as server:
        loaded = settings(url=server.url, samples=2) | {"output_dir": str(tmp_path)}
        with pytest.raises(UserError, match=r"adds nothing \(3 requests for which no sampled call is valid"):
            toolformer.add_records(requests, LABELLED, TOOLS, loaded)


def test_the_teacher_is_asked_no_request_that_is_labelled_or_held_out(tmp_path):
    splits = templates.build_splits({"train": 40, "val": 100, "test": 400}, TOOLS, 0)
    known = [next(iter(splits[split]))["prompt"].split("\n")[0] for split in ("train", "val", "test")]
    path = tmp_path / "requests.txt"
    path.write_text("\n".join([*known, "How is Oslo?"]), encoding="utf-8")
    with Server(lambda body: (200, choices(json.dumps(OSLO)))) as server:
        loaded = settings(url=server.url, samples=1, agree=1, requests=str(path)) | {"output_dir": str(tmp_path)}
        dataset = sources.build(loaded)
    assert [body["messages"][-1]["content"] for body in server.bodies] == ["How is Oslo?"]
    assert dataset.left_out == {"requests that came before or are too close to a held-out one": 3}
    assert [record["source"] for record in dataset.splits["train"]] == ["templates"] * 40 + ["teacher"]
