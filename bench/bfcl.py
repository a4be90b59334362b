"""The Berkeley leaderboard's requests, each of which brings tools of its own. How many calls are right, and how wrong?

    python bench/bfcl.py DIR --models smollm2 outputs-smollm2 outputs/unseen_tools/seed-0/listed

DIR: berkeley-function-call-leaderboard/bfcl_eval/data of github.com/ShishirPatil/gorilla, or a folder with some of its
files. A model is a name, or an output folder, whose stage 03 is asked. One that has learned to read lists of tools
(configs/unseen_tools.json) gets them as it has learned; the others get them as JSON, with the form of an answer.

Checked by the leaderboard's own AST rules (playground/judge/bfcl.py): free, under a grammar of the row's tools, and
under one that also takes texts and numbers from the request. Kept in bench/bfcl.md.
"""

import argparse
from collections import Counter
from pathlib import Path

from runs import SFT, keep

import tools as toolbox
from playground.judge import bfcl
from playground.model import generation, loading
from playground.model.decoding import DECODINGS, grammar_of
from playground.report.tables import row_name
from playground.run import artifacts, recipe
from playground.run.errors import UserError

MAX_NEW_TOKENS = 256  # several calls need room
SHOWN = 3  # of the ways in which calls are wrong


def load(name):
    """(tokenizer, model, settings) of a model's name or an output folder."""
    if (Path(name) / SFT).exists():
        settings = artifacts.read_manifest(name, SFT)["recipe"] | {"output_dir": name}
        tokenizer, model, _ = loading.load_checkpoint(settings, SFT)
        return tokenizer, model, settings
    settings = recipe.load(None, [("model.name", name)])
    return *loading.load(loading.find_base(name)["path"], settings), settings


def copied(schema):
    """The schema, whose texts and numbers must be words of the request."""
    if isinstance(schema, list):
        return [copied(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    marked = {"x-from": "request"} if schema.get("type") in ("string", "number", "integer") else {}
    return {key: value if key == "enum" else copied(value) for key, value in schema.items()} | marked


def grammar(row, category, tokenizer, decoding):
    """The Grammar of an answer to a row, or None for free decoding. Raises UserError for a schema it does not know."""
    if decoding == "free":
        return None
    tools = bfcl.tools_of(row)
    if decoding == "grounded":
        tools |= {name: copied(tool) for name, tool in tools.items() if name != "respond"}
    found = grammar_of(bfcl.schema_of(tools, category), tokenizer, row["id"])
    return found.grounded(row["request"]) if decoding == "grounded" else found


def judge(rows, category, decoding, tokenizer, model, settings):
    """What is wrong with the calls of each row, or None; a schema that the grammar does not know counts as wrong."""
    grammars, prompts = {}, {}
    for row in rows:
        listed = {name: tool for name, tool in bfcl.tools_of(row).items() if name != "respond"}
        reads_lists = settings["dataset"]["list_tools"]
        prompt = toolbox.with_results(row["request"], [], listed) if reads_lists else bfcl.prompt_of(row, category)
        try:
            grammars[prompt] = grammar(row, category, tokenizer, decoding)
            prompts[row["id"]] = prompt
        except UserError as error:
            print(f"{row['id']}: {error}")
    how = {"grammar": None if decoding == "free" else grammars.__getitem__, "temperature": 0.0, "progress": category}
    answers = generation.generate(model, tokenizer, list(prompts.values()), settings, **how)
    calls = {name: bfcl.read_calls(answer.text) for name, answer in zip(prompts, answers, strict=True)}
    return [
        bfcl.check(row, category, calls[row["id"]]) if row["id"] in calls else "grammar_unsupported" for row in rows
    ]


def table(results):
    """Markdown of {model: {decoding: {category: [what is wrong with a row's calls, or None]}}}."""
    categories = next(iter(results.values()))["free"]
    columns = [f"{category} ({len(wrong)})" for category, wrong in categories.items()]
    lines = ["| | " + " | ".join(columns) + " | commonest errors |", "|---" * (len(columns) + 2) + "|"]
    for model, decodings in results.items():
        for decoding, found in decodings.items():
            rates = [f"{wrong.count(None) / len(wrong):.1%}" for wrong in found.values()]
            kinds = Counter(kind for wrong in found.values() for kind in wrong if kind).most_common(SHOWN)
            errors = ", ".join(f"{count} {kind}" for kind, count in kinds)
            lines.append(f"| {row_name(model, decoding)} | {' | '.join(rates)} | {errors} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--models", nargs="+", default=["smollm2"])
    options = parser.parse_args()
    asked, results = bfcl.load(options.folder), {}
    for name in options.models:
        tokenizer, model, settings = load(name)
        settings["generate"]["max_new_tokens"] = MAX_NEW_TOKENS
        how = tokenizer, model, settings
        results[name] = {
            decoding: {category: judge(rows, category, decoding, *how) for category, rows in asked.items()}
            for decoding in DECODINGS
        }
    keep("bfcl", table(results))
