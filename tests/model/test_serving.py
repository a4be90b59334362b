"""An exported model behind `transformers serve`, on loopback: an OpenAI client's tool calls, and a teacher. Slow."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import tools as toolbox
from playground.model import generation, loading
from playground.run import recipe
from playground.run.files import read_records
from tests.conftest import ROOT
from tests.scripts import run

pytestmark = pytest.mark.slow
REQUESTS = ["What's the weather in Oslo?", "email ada@fern.net about lunch", "hi there"]
NO_SYSTEM = '{{ raise_exception("this model has learned no messages of the role " + message.role) }}'


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(output folder with stages 02 and 03, exported folder, URL)"""
    output_dir = tmp_path_factory.mktemp("served")
    for stage in ("02_create_dataset", "03_finetune"):
        run(stage, output_dir, "--set", "sft.epochs=6")
    exported = output_dir / "exported"
    command = [sys.executable, "-m", "playground", "export", output_dir / "03_finetune", exported]
    subprocess.run(command, cwd=ROOT, check=True)
    template = exported / "chat_template.jinja"
    assert NO_SYSTEM in template.read_text()  # a teacher is sent one, which this model may overlook
    template.write_text(template.read_text().replace(NO_SYSTEM, ""))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    serve = [Path(sys.executable).with_name("transformers"), "serve", exported, "--device", "cpu",
             "--host", "127.0.0.1", "--port", address.rpartition(":")[2]]  # fmt: skip
    with (output_dir / "serve.log").open("w") as log:
        server = subprocess.Popen(serve, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log)
    try:
        deadline = time.time() + 120
        while not answers(f"{address}/health"):
            assert server.poll() is None and time.time() < deadline, (output_dir / "serve.log").read_text()
            time.sleep(0.2)
        yield output_dir, exported, f"{address}/v1"
    finally:
        server.kill()
        server.wait()


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except urllib.error.URLError:
        return False


def test_an_openai_client_gets_the_calls_of_the_exported_model_parsed(served):
    from openai import OpenAI

    output_dir, exported, url = served
    settings = recipe.load(None, [("output_dir", str(output_dir))])
    tokenizer, model, _ = loading.load_checkpoint(settings, "03_finetune")
    written = generation.generate(model, tokenizer, REQUESTS, settings)
    called = 0
    with OpenAI(base_url=url, api_key="none") as client:
        for request, own in zip(REQUESTS, written, strict=True):
            answered = client.chat.completions.create(
                model=str(exported),
                messages=[{"role": "user", "content": request}],
                temperature=0,
                max_tokens=96,
                tools=json.loads((exported / "tools.json").read_text()),
            ).choices[0]
            expected = toolbox.parse_call(own.text)
            if expected["tool"] == "respond":
                assert answered.message.content == expected["args"]["message"]
            else:
                (call,) = answered.message.tool_calls
                assert answered.finish_reason == "tool_calls" and call.function.name == expected["tool"]
                assert json.loads(call.function.arguments) == expected["args"]
                called += 1
    assert called


def test_the_server_teaches(served, tmp_path):
    _, exported, url = served
    lenient = {"unlabelled": 10, "samples": 2, "agree": 1, "tau": -100, "demonstrations": 0, "temperature": 0.3}
    flags = [word for key, value in lenient.items() for word in ("--set", f"teacher.{key}={value}")]
    run("02_create_dataset", tmp_path, "--source", "teacher", "--teacher-url", url, "--teacher", exported, *flags)
    train = read_records(tmp_path / "02_create_dataset" / "train.jsonl")
    added = [row for row in train if row["source"] == "teacher"]
    assert added and all(row["meta"]["agree"] >= 1 for row in added)
