"""What `python -m playground export` writes: a folder that transformers alone can use."""

import json
import shutil
import subprocess
import sys

import pytest

import tools as toolbox
from playground.model import export, generation, loading, prompting, weights
from playground.run import artifacts, recipe
from playground.run.files import write_json
from tests.conftest import ROOT
from tests.model.test_prompting import CHATML, chat_tokenizer

REQUESTS = ["Weather in São Paulo?", "what's  15% of 80", 'say "hi"']
CALL = {"tool": "get_weather", "args": {"city": "Oslo"}}


def save_stage(output_dir, lora):
    """A stage's folder with the embedded model in it, so that no training is needed; with `lora`, as an adapter."""
    import torch

    settings = recipe.load(None, [("output_dir", str(output_dir)), ("generate.max_new_tokens", 12)])
    with artifacts.stage(settings, "02_create_dataset") as artifact:
        shutil.copyfile(toolbox.TOOL_FILE, artifact / "tools.json")
    base = loading.find_base("embedded")
    with artifacts.stage(settings, "03_finetune", base_model=base) as artifact:
        model = loading.load_model(base["path"], settings)
        if lora:
            model = weights.add_lora(model, settings)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:  # zero at first: an adapter that changes nothing would hide a missing merge
                    torch.nn.init.normal_(parameter, std=0.05)
        model.config.use_cache = False  # as trainers leave it
        model.save_pretrained(artifact / "model")
        loading.load_tokenizer(base["path"]).save_pretrained(artifact / "model")
        write_json(artifact / "metrics.json", {"validation_after": {"n": 100, "exact_call": 0.625}})
    return settings


@pytest.fixture(scope="module", params=["whole weights", "adapter"])
def exported(request, tmp_path_factory):
    """(recipe, exported folder)"""
    output_dir = tmp_path_factory.mktemp("outputs")
    settings = save_stage(output_dir, request.param == "adapter")
    export.export(output_dir / "03_finetune", output_dir / "plain")
    return settings, output_dir / "plain"


def load(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)


def test_transformers_alone_writes_what_the_stage_writes(exported):
    settings, folder = exported
    stage_tokenizer, stage_model, _ = loading.load_checkpoint(settings, "03_finetune")
    expected = [row.token_ids for row in generation.generate(stage_model, stage_tokenizer, REQUESTS, settings)]
    tokenizer, model = load(folder)
    assert model.config.use_cache and not hasattr(model, "peft_config") and list(folder.glob("*.safetensors"))
    for request, token_ids in zip(REQUESTS, expected, strict=True):
        messages = [{"role": "user", "content": request}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        assert ids[0].tolist() == prompting.encode_prompt(request, stage_tokenizer)
        assert model.generate(ids)[0, ids.shape[1] :].tolist() == token_ids


def test_the_chat_template_makes_the_prompt_of_a_turn_after_a_tool_ran(tokenizer, exported):
    result = {"temperature_c": -2, "sky": "snowy, 雪"}
    function = {"name": CALL["tool"], "arguments": CALL["args"]}
    messages = [
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": toolbox.to_json(result)},
    ]
    expected = prompting.encode_prompt(toolbox.with_results("Weather in Oslo?", [(CALL, result)]), tokenizer)
    template = load(exported[1])[0].apply_chat_template
    assert template(messages, add_generation_prompt=True)["input_ids"] == expected
    function["arguments"] = toolbox.to_json(CALL["args"])  # as OpenAI's clients send it
    assert template(messages, add_generation_prompt=True)["input_ids"] == expected


def test_the_chat_template_refuses_tools_that_the_model_has_not_learned(exported):
    tokenizer = load(exported[1])[0]
    tools = json.loads((exported[1] / "tools.json").read_text())
    messages = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    tools[0]["function"]["name"] = "launch"
    with pytest.raises(Exception, match="has not learned the tool launch"):
        tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)


def test_a_template_that_refuses_system_messages_is_exported_as_it_is():
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    tokenizer = chat_tokenizer(template)
    export.add_templates(tokenizer, toolbox.load_tools())
    assert tokenizer.chat_template == template


@pytest.mark.parametrize("end", ["<|endoftext|>", ""])
def test_the_response_template_reads_calls_and_answers(exported, end):
    tokenizer = load(exported[1])[0]
    message = tokenizer.parse_response(f" {toolbox.to_json(CALL)}{end}", prefix="User: hi\nCall:")
    assert message["tool_calls"][0]["function"] == {"name": CALL["tool"], "arguments": CALL["args"]}
    answer = {"tool": "respond", "args": {"message": 'a "b"}}'}}
    message = tokenizer.parse_response(f" {toolbox.to_json(answer)}{end}", prefix="User: hi\nCall:")
    assert message == {"role": "assistant", "content": 'a "b"}}'}


def test_the_model_card_has_the_metrics_and_the_recipe(exported):
    card = (exported[1] / "README.md").read_text()
    assert "| exact_call | 62.5% |" in card and '"exchange_words"' in card and "get_weather(city: string)" in card


def test_exporting_twice_or_what_is_no_stage_is_one_sentence(exported):
    for source, target in (("03_finetune", exported[1]), ("02_create_dataset", "new"), ("nothing", "new")):
        command = [sys.executable, "-m", "playground", "export", exported[1].parent / source, target]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_a_strangers_manifest_does_not_let_code_run_nor_does_an_export_delete_what_lies_beside_it(
    tmp_path, monkeypatch
):
    save_stage(tmp_path, lora=False)
    manifest = tmp_path / "03_finetune" / "manifest.json"
    told = json.loads(manifest.read_text())
    told["recipe"]["model"]["trust_remote_code"] = True
    manifest.write_text(json.dumps(told))
    trusted, load = [], loading.load_checkpoint
    monkeypatch.setattr(
        loading,
        "load_checkpoint",
        lambda recipe, stage: trusted.append(recipe["model"]["trust_remote_code"]) or load(recipe, stage),
    )
    (tmp_path / "plain.partial").mkdir()
    (tmp_path / "plain.partial" / "mine.txt").touch()
    export.export(tmp_path / "03_finetune", tmp_path / "plain")
    export.export(tmp_path / "03_finetune", tmp_path / "trusted", trust_remote_code=True)
    assert trusted == [False, True]
    assert (tmp_path / "plain.partial" / "mine.txt").exists()
    assert {path.name for path in tmp_path.glob("plain*")} == {"plain", "plain.partial"}
