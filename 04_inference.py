"""Stage 04: use the model. A request goes in, a call comes out, the call runs, and the model answers.

    python 04_inference.py                        # the requests in configs/requests.jsonl
    python 04_inference.py --prompt "Send an email to jack@gmail.com about the meeting"
    python 04_inference.py --file requests.txt    # a request a line, or .jsonl with {"request": ...}
    python 04_inference.py --chat

Decoding is grounded (see 05_constrained.py); --constrained asks for valid calls only, --free leaves the model to
itself. Each request is answered on its own. Mails "sent" are lines in outputs/outbox.jsonl.

Writes outputs/04_inference/, of a file: transcripts.jsonl, metrics.json, manifest.json. Next: 05_constrained.py
"""

import contextlib
import json
import sys
from pathlib import Path

import tools as toolbox
from playground import schemas
from playground.model import decoding, generation, loading
from playground.run import artifacts, console, hardware, recipe
from playground.run.console import printable
from playground.run.errors import UserError
from playground.run.files import write_json, write_jsonl

EXAMPLES = recipe.CONFIGS / "requests.jsonl"
MAX_REQUEST = 4000  # characters


def add_flags(parser):
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompt", help="one request")
    what.add_argument("--file", metavar="FILE", help="requests, one on each line")
    what.add_argument("--chat", action="store_true", help="type requests; Ctrl-C stops an answer, Ctrl-D leaves")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--free", action="store_true", help="decode without the tools' grammar")
    how.add_argument("--constrained", action="store_true", help="any valid call, with arguments from anywhere")
    parser.add_argument("--max-turns", type=int, default=4, help="most calls to one request (4)")
    parser.add_argument("--from", dest="source", metavar="STAGE", default="03_finetune", help="whose model to use")


def converse(request, ask, tools, max_turns, list_tools=False):
    """The turns that answer a request: [(what the model wrote, its call or None, the result)].

    ask(prompt) is the model; list_tools: its prompts list the tools. Ends at a valid `respond`, or after max_turns.
    """
    listed = {name: tool for name, tool in tools.items() if name != "respond"} if list_tools else None
    turns, shown = [], []
    while len(turns) < max_turns:
        text = ask(toolbox.with_results(request, shown, listed))
        try:
            call = toolbox.parse_call(text)
            result = toolbox.execute(call, tools)
        except toolbox.ParseError as error:
            call, result = None, {"error": f"no valid call: {error.kind}"}
        turns.append((text, call, result))
        if answer_of(turns) is not None:
            break
        shown.append((call or text.strip(), result))
    return turns


def answer_of(turns):
    """The message that the last turn answers with, or None if it does not."""
    _, call, result = turns[-1]
    return result["message"] if call and call["tool"] == "respond" and "error" not in result else None


def show(request, turns):
    print(f"\nUSER:   {request}")
    for text, _, result in turns if answer_of(turns) is None else turns[:-1]:
        print(f"CALL:   {text.strip()}\nRESULT: {toolbox.to_json(result)}")
    answer = answer_of(turns)
    print(f"ANSWER: {answer}" if answer is not None else f"(no answer after {len(turns)} turns)")


def checked(request):
    """The request without control characters, or UserError for one that is empty or too long."""
    request = printable(" ".join(request.split()))
    if not request or len(request) > MAX_REQUEST:
        raise UserError(f"a request has 1 to {MAX_REQUEST} characters; this one has {len(request)}.")
    return request


def read_requests(path):
    """The requests in a file, one a line; in a .jsonl file, {"request": ...}. Raises UserError with file:line."""
    path, requests = Path(path), []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a UTF-8 file with a request on each line.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            requests.append(checked(json.loads(line)["request"] if path.suffix == ".jsonl" else line))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise UserError(f'{path}:{number}: not of the form {{"request": "..."}}.') from None
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    if not requests:
        raise UserError(f"{path} has no requests: put one on each line.")
    return requests


def chat(answer, history):
    """Read requests until end of file (Ctrl-D). Ctrl-C stops the answer to one. `history`: lines for the arrow keys."""
    with contextlib.suppress(ImportError, OSError):  # Windows has no readline, a first chat no history
        import readline

        readline.read_history_file(history)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    print("Type a request. Ctrl-C stops an answer, Ctrl-D leaves.")
    while True:
        try:
            request = checked(input("\n> "))
            answer(request)
        except KeyboardInterrupt:
            print("\n(stopped)")
        except (UserError, schemas.OutsideError) as error:
            print(error)
        except EOFError:
            print()
            break
    with contextlib.suppress(ImportError, OSError):  # a folder that cannot be written keeps no history
        import readline

        readline.write_history_file(history)


def main():
    settings, options = recipe.arguments(__doc__, add_flags)
    if options.max_turns < 1:
        raise UserError(f"--max-turns {options.max_turns}: give 1 or more.")
    only_asked = options.chat or options.prompt is not None
    requests = [checked(options.prompt)] if options.prompt is not None else []
    if not only_asked:
        requests = read_requests(options.file or EXAMPLES)
        artifacts.lock(settings)
    output_dir = Path(settings["output_dir"])
    tool_file = artifacts.require(output_dir, "02_create_dataset", "tools.json")
    list_tools = settings["dataset"]["list_tools"]
    if list_tools:  # a model that reads which tools there are can be given others than it was trained on
        tool_file = Path(settings["tools"]["file"])
    tools = toolbox.load_tools(tool_file)
    if "respond" not in tools:
        print(toolbox.NO_RESPOND, file=sys.stderr)

    how = "free" if options.free else "constrained" if options.constrained else "grounded"
    tokenizer, model, base = loading.load_checkpoint(settings, options.source)
    grammars = decoding.grammars_of_calls(tools, tokenizer, how)
    toolbox.OUTBOX = output_dir / "outbox.jsonl"

    def ask(prompt):
        return generation.generate(model, tokenizer, [prompt], settings, grammar=grammars)[0].text

    def answer(request):
        turns = converse(request, ask, tools, options.max_turns, list_tools)
        show(request, turns)
        return turns

    if options.chat:
        chat(answer, output_dir / "history.txt")
        return
    if only_asked:
        answer(*requests)
        return
    inputs = [tool_file, output_dir / options.source / "manifest.json", options.file or EXAMPLES]
    facts = {"base_model": base, **hardware.placement(model)}
    print(f"Answering {len(requests)} requests with {options.source}'s model, {how}.")
    with artifacts.stage(settings, "04_inference", inputs=inputs, **facts) as artifact:
        transcripts = []
        for request in requests:
            turns = answer(request)
            shown = [{"output": text, "call": call, "result": result} for text, call, result in turns]
            transcripts.append({"request": request, "answer": answer_of(turns), "turns": shown})
        answered = sum(row["answer"] is not None for row in transcripts)
        write_jsonl(artifact / "transcripts.jsonl", transcripts)
        write_json(artifact / "metrics.json", {"n": len(requests), "answered": answered / len(requests)})
    print(f"\n{answered} of {len(requests)} requests answered.")
    print(f"Written: {artifact.final}. Next: {console.command('05_constrained.py')}")


if __name__ == "__main__":
    console.run(main)
