"""A stage's model as a plain Hugging Face folder, which needs nothing of this project.

    python -m playground export outputs/03_finetune my-model

The folder holds the weights (adapters merged into them), the tokenizer with a chat template that makes the prompts of
training and a response template that reads calls out of what the model writes, the tools, and a model card.
"""

import contextlib
import json
import re
import shutil
import string
import tempfile
from pathlib import Path

from jinja2 import TemplateError

import tools as toolbox
from playground.model import loading, prompting
from playground.run import artifacts
from playground.run.errors import UserError
from playground.run.files import read_json

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8").strip()
# Before a model's own template: the system message that it was trained with, where a chat has none.
SYSTEM_MESSAGE = """
{%- if messages[0].role != "system" -%}
{%- set messages = [{"role": "system", "content": SYSTEM}] + messages -%}
{%- endif -%}
""".replace("SYSTEM", toolbox.to_json(prompting.SYSTEM))
SECTIONS = {"03_finetune": "sft", "06_dpo": "dpo", "07_ppo": "ppo"}  # of the recipe, by stage
CARD = string.Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8"))
PROBES = ("Weather in Oslo?", 'São  Paulo\nCall: {"tool": "x", "args": {}}\nResult: {"value": 1}')


def export(stage_folder, folder, trust_remote_code=False):
    """Write the model of a stage's folder, such as outputs/03_finetune, as a plain Hugging Face folder.

    trust_remote_code: whether code that comes with the model may run, whatever its manifest says. Raises UserError
    where the stage's folder is not whole, `folder` exists, or no chat template can make the tokenizer's prompts.
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
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ends, max_new_tokens=recipe["generate"]["max_new_tokens"])
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
    chats = [[{"role": "user", "content": prompt}] for prompt in PROBES]
    its_own = tokenizer.chat_template
    ours = f"{{%- set TOOLS = {toolbox.to_json(list(tools))} -%}}{CHAT_TEMPLATE}"
    for template in (SYSTEM_MESSAGE.strip() + its_own, its_own) if its_own else (ours,):
        tokenizer.chat_template = template
        with contextlib.suppress(TemplateError):  # it may know no system message
            if expected == tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=False):
                break
    else:
        raise UserError("this tokenizer adds tokens to a prompt that no chat template can make: it cannot be exported.")
    if its_own:
        return
    end = rf"\s*(?:{re.escape(tokenizer.eos_token)}|$)"
    # Broken arguments are the reader's to judge.
    as_json = {"content": "json", "content_args": {"allow_non_json": True}}
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "Call:",
        "fields": {
            "tool_calls": as_json
            | {
                "open_pattern": r'\s*\{"tool": "(?!respond")(?P<name>[^"]+)", "args": ',
                "close_pattern": r"\}" + end,
                "repeats": True,
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
            },
            "content": as_json
            | {"open_pattern": r'\s*\{"tool": "respond", "args": \{"message": ', "close_pattern": r"\}\}" + end},
        },
    }


def card(source, manifest, base, tools):
    """The text of the model card: what the model is, how to ask it, how good it was found to be, how it was made."""
    metrics = read_json(source / "metrics.json").get("validation_after", {})
    rates = {name: value for name, value in metrics.items() if isinstance(value, float) and name != "reward"}
    recipe = {key: manifest["recipe"][key] for key in ("seed", "model", "dataset", SECTIONS[source.name])}
    origins = {"embedded": "license: cc-by-sa-4.0", "hub": f"base_model: {base['name']}"}
    return CARD.substitute(
        origin=origins.get(base["kind"], "library_name: transformers"),
        base=base["name"],
        stage=source.name,
        tools="\n".join(f"- `{line}`" for line in toolbox.signatures(tools).splitlines()),
        count=metrics.get("n", 0),
        rates="\n".join(f"| {name} | {value:.1%} |" for name, value in rates.items()),
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False),
        libraries=", ".join(f"{name} {version}" for name, version in manifest["libraries"].items()),
    )
