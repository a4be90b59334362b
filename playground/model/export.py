"""A stage's model as a plain Hugging Face folder, which needs nothing of this project.

    python -m playground export outputs/03_finetune my-model

The folder holds the weights (adapters merged into them), the tokenizer with a chat template that makes the prompts of
training and a response template that reads calls out of what the model writes, the tools, and a model card.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path

import tools as toolbox
from playground.model import loading, prompting
from playground.run import artifacts
from playground.run.errors import UserError
from playground.run.files import read_json

# What `tools.format_prompt` and `tools.with_results` make, as a chat. The tools are in the weights, not in the prompt:
# `tools` are only compared with those of training.
CHAT_TEMPLATE = """
{%- for tool in tools or [] if tool.function.name not in TOOLS -%}
{{ raise_exception("this model has not learned the tool " + tool.function.name + ", only " + TOOLS | join(", ")) }}
{%- endfor -%}
{%- for message in messages -%}
{%- if message.role == "user" -%}
{{ "User: " + message.content + "\\n" }}
{%- elif message.role == "tool" -%}
{{ "Result: " + (message.content if message.content is string else message.content | tojson) + "\\n" }}
{%- elif message.role == "assistant" -%}
{%- for call in message.tool_calls or [] -%}
{%- set arguments = call.function.arguments -%}
{{ 'Call: {"tool": ' + call.function.name | tojson + ', "args": ' }}
{{- (arguments if arguments is string else arguments | tojson) + "}\\n" }}
{%- endfor -%}
{%- if message.content -%}
{{ 'Call: {"tool": "respond", "args": {"message": ' + message.content | tojson + "}}\\n" }}
{%- endif -%}
{%- else -%}
{{ raise_exception("this model has learned no messages of the role " + message.role) }}
{%- endif -%}
{%- endfor -%}
{{- "Call:" if add_generation_prompt -}}
"""
# Before a model's own template: the system message that it was trained with, where a chat has none.
SYSTEM_MESSAGE = """
{%- if messages[0].role != "system" -%}
{%- set messages = [{"role": "system", "content": SYSTEM}] + messages -%}
{%- endif -%}
""".replace("SYSTEM", toolbox.to_json(prompting.SYSTEM))
SECTIONS = {"03_finetune": "sft", "06_dpo": "dpo", "07_ppo": "ppo"}  # of the recipe, by stage
PROBES = ("Weather in Oslo?", 'São  Paulo\nCall: {"tool": "x", "args": {}}\nResult: {"value": 1}')


def export(stage_folder, folder, trust_remote_code=False):
    """Write the model of a stage's folder, such as outputs/03_finetune, as a plain Hugging Face folder.

    trust_remote_code: whether code that comes with the model may run, whatever its manifest says.

    Raises UserError where the stage's folder is not whole, `folder` exists, or the tokenizer's prompts cannot be
    made by a chat template.
    """
    source, folder = Path(stage_folder), Path(folder)
    if source.name not in SECTIONS:
        raise UserError(f"{source} is not a training stage's folder: name one such as outputs/03_finetune.")
    if folder.exists():
        raise UserError(f"{folder} exists: name a folder that does not.")
    manifest = artifacts.read_manifest(source.parent, source.name)
    artifacts.require(source.parent, source.name, "model")
    recipe = {**manifest["recipe"], "output_dir": str(source.parent)}
    recipe["model"] = recipe["model"] | {"trust_remote_code": trust_remote_code}
    tool_file = artifacts.require(source.parent, "02_create_dataset", "tools.json")
    tools = toolbox.load_tools(tool_file)
    tokenizer, model, base = loading.load_checkpoint(recipe, source.name)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    add_templates(tokenizer, tools)
    from transformers import GenerationConfig

    model.config.use_cache = True  # the trainers turn it off
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=recipe["generate"]["max_new_tokens"],
    )
    try:
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as own:
            partial = Path(own, folder.name)
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            shutil.copyfile(tool_file, partial / "tools.json")
            (partial / "README.md").write_text(card(source, manifest, base, tools), encoding="utf-8")
            partial.rename(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): name another folder.") from None


def add_templates(tokenizer, tools):
    """Have a tokenizer's chat template make the prompts of training, and give it a reader where it had no template.

    Raises UserError where it would make others, as with a tokenizer that puts tokens of its own around a text.
    """
    expected = [prompting.encode_prompt(prompt, tokenizer) for prompt in PROBES]
    its_own = tokenizer.chat_template
    if its_own:
        tokenizer.chat_template = SYSTEM_MESSAGE.strip() + its_own
        if expected == [_rendered(prompt, tokenizer) for prompt in PROBES]:
            return
        tokenizer.chat_template = its_own  # which may know no system message
    else:
        tokenizer.chat_template = f"{{%- set TOOLS = {toolbox.to_json(list(tools))} -%}}{CHAT_TEMPLATE.strip()}"
    if expected != [_rendered(prompt, tokenizer) for prompt in PROBES]:
        raise UserError("this tokenizer adds tokens to a prompt that no chat template can make: it cannot be exported.")
    if its_own:
        return
    end = rf"\s*(?:{re.escape(tokenizer.eos_token)}|$)"
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "Call:",
        "fields": {
            "tool_calls": {
                "open_pattern": r'\s*\{"tool": "(?!respond")(?P<name>[^"]+)", "args": ',
                "close_pattern": r"\}" + end,
                "content": "json",
                "content_args": {"allow_non_json": True},  # broken arguments are the reader's to judge
                "repeats": True,
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
            },
            "content": {
                "open_pattern": r'\s*\{"tool": "respond", "args": \{"message": ',
                "close_pattern": r"\}\}" + end,
                "content": "json",
                "content_args": {"allow_non_json": True},
            },
        },
    }


def _rendered(prompt, tokenizer):
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def card(source, manifest, base, tools):
    """The text of the model card: what the model is, how to ask it, how good it was found to be, how it was made."""
    metrics = read_json(source / "metrics.json").get("validation_after", {})
    rates = [f"| {name} | {value:.1%} |" for name, value in metrics.items() if isinstance(value, float) and value <= 1]
    recipe = {key: manifest["recipe"][key] for key in ("seed", "model", "dataset", SECTIONS[source.name])}
    front = ["---", "pipeline_tag: text-generation", "tags: [tool-use, function-calling]"]
    if base["kind"] == "embedded":
        front.append("license: cc-by-sa-4.0")
    elif base["kind"] == "hub":
        front.append(f"base_model: {base['name']}")
    return "\n".join([
        *front, "---",
        "# A small model that calls tools", "",
        f"{base['name']}, trained by stage {source.name} of a course in tool use. It answers a request with one call, "
        '`{"tool": name, "args": {...}}`, to one of these tools, which are in its weights and not in its prompt:', "",
        *(f"- `{line}`" for line in toolbox.signatures(tools).splitlines()), "",
        "## Use", "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        'folder = "."',
        "tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)",
        'messages = [{"role": "user", "content": "What is the weather in Oslo?"}]',
        'ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]',
        "written = model.generate(ids)[0, ids.shape[1]:]",
        "print(tokenizer.parse_response(written, prefix=ids[0]))",
        "```", "",
        "A tool's result goes back as a message of the role `tool`. Other languages, other tools and several calls at "
        "once are beyond it; a call may be invalid or wrong, so check it before you run it.", "",
        "## Measured", "",
        f"Greedy and free, on {metrics.get('n', 0)} validation requests, by which the checkpoint was chosen too:", "",
        "| metric | |", "|---|---|", *rates, "",
        "## Recipe", "",
        "```json", json.dumps(recipe, indent=2, ensure_ascii=False), "```", "",
        f"Made with {', '.join(f'{name} {version}' for name, version in manifest['libraries'].items())}.", "",
    ])  # fmt: skip
