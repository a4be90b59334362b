"""Records a second that stage 02 reads, checks and writes, for each source, beside templates in one process.

    python bench/data.py --records 20000                        # a minute on 2 cores
    python bench/data.py --toolbench DIR --records 20000        # ToolBench's files too

The same template requests are written in each format that files come in, and stage 02 reads them back. Seconds are of
the whole stage less those of one that makes ten records, since starting Python and drawing plots take the longer
part of a small one. `ratio` is how many times as fast a source is as templates in one process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import tools as toolbox
from playground.data import templates

ROOT = Path(__file__).parents[1]


def rows_in(form, records, tools):
    """The first turns of records as the rows that others' files have."""
    functions = [{"name": t["name"], "description": t["description"], "parameters": t["parameters"]}
                 for t in tools.values() if t["name"] != "respond"]  # fmt: skip
    entries = [{"type": "function", "function": function} for function in functions]
    for number, record in enumerate(records):
        prompt, call = record["prompt"], json.loads(record["completion"])
        called = {"name": call["tool"], "arguments": call["args"]}
        if form == "project":
            yield {"prompt": prompt, "completion": record["completion"]}
        elif form == "openai":
            function = {"name": called["name"], "arguments": json.dumps(called["arguments"])}
            calls = [{"id": "0", "type": "function", "function": function}]
            answer = {"role": "assistant", "tool_calls": calls}
            yield {"messages": [{"role": "user", "content": prompt}, answer], "tools": entries}
        elif form == "xlam":
            flat = [f | {"parameters": {name: {"type": "str", "description": name}
                                        for name in f["parameters"]["properties"]}} for f in functions]  # fmt: skip
            yield {"id": number, "query": prompt, "answers": json.dumps([called]), "tools": json.dumps(flat)}
        elif form == "glaive":
            system = (
                "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
            )
            said = json.dumps({"name": called["name"], "arguments": "ARGUMENTS"})
            said = said.replace('"ARGUMENTS"', f"'{json.dumps(called['arguments'])}'")
            chat = f"USER: {prompt}\n\n\nASSISTANT: <functioncall> {said} <|endoftext|>\n"
            yield {"system": system + "\n".join(json.dumps(f) for f in functions), "chat": chat}
        elif form == "hermes":
            system = f"You are a function calling AI model. <tools> {json.dumps(entries)} </tools>"
            said = f"<tool_call>\n{json.dumps(called)}\n</tool_call>"
            yield {"conversations": [{"from": "system", "value": system}, {"from": "human", "value": prompt},
                                     {"from": "gpt", "value": said}]}  # fmt: skip


def seconds(*flags):
    """(of the stage, records that it wrote)."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        command = [sys.executable, ROOT / "02_create_dataset.py", "--output-dir", folder, *map(str, flags)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, flags))}: {done.stderr}")
        took = time.perf_counter() - begin
        return took, sum(json.loads(Path(folder, "02_create_dataset", "metrics.json").read_text())["n"].values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--toolbench", help="a folder with ToolBench's data")
    options = parser.parse_args()
    start, _ = seconds("--size", 10)
    print(f"starting and drawing: {start:.1f} s, left out below")

    def show(label, *flags, base=None):
        took, made = seconds(*flags)
        if made < 1000:
            return print(f"{label:24} {made} records are too few to be timed: {took:.1f} s in all")
        speed = made / (took - start)
        ratio = "" if base is None else f"   ratio {speed / base:.2f}"
        print(f"{label:24} {speed:9,.0f} records/s ({made:,} records){ratio}")
        return speed

    one = show("templates, one process", "--size", options.records, "--set", "dataset.processes=1")
    show("templates, all cores", "--size", options.records, base=one)
    tools = toolbox.load_tools()
    records = [record for record in templates.build_splits({"train": options.records}, tools, 0)["train"]
               if "\nCall: " not in record["prompt"] and '"tool": "respond"' not in record["completion"]]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for form in ("project", "openai", "xlam", "glaive", "hermes"):
            path = Path(folder, f"{form}.jsonl")
            path.write_text("".join(json.dumps(row) + "\n" for row in rows_in(form, records, tools)))
            show(form, "--source", path, base=one)
    if options.toolbench:
        show("toolbench", "--source", "toolbench", "--path", options.toolbench, "--strict", base=one)


if __name__ == "__main__":
    main()
