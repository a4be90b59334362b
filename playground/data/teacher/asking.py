"""Asking a teacher: a model on this machine or behind an endpoint samples calls, and what it said is kept.

A teacher has `question(prompts, index)`, a JSON value that holds all that the samples depend on, `ask(question)`,
`block`, the requests of one question, and `workers`, the questions that are asked at a time.
"""

import contextlib
import hashlib
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tools as toolbox
from playground.data.teacher.endpoint import DEMONSTRATIONS, EndpointError, EndpointTeacher
from playground.model import prompting
from playground.run.errors import UserError
from playground.run.files import sha256


def load_model(name, settings):
    """(tokenizer, model, files of weights, whether a stage trained it) of a stage, its folder, or any causal LM."""
    from playground.model import loading

    folder = Path(name) if Path(name, "manifest.json").exists() else Path(settings["output_dir"], name)
    if re.fullmatch(r"\d\d_\w+", folder.name):
        tokenizer, model, _ = loading.load_checkpoint({**settings, "output_dir": str(folder.parent)}, folder.name)
        return tokenizer, model, sorted((folder / "model").glob("*.safetensors")), True
    path = loading.find_base(name)["path"]
    return *loading.load(path, settings), sorted(Path(path).glob("*.safetensors")), False


class LocalTeacher:
    """A model on this machine. The tools' grammar keeps each of its samples a valid call."""

    block, workers = 64, 1

    def __init__(self, settings, tools, labelled):
        from playground.model import decoding

        self.settings, self.tools, self.schema = settings, tools, toolbox.call_schema(tools)
        self.tokenizer, self.model, self.files, tuned = load_model(settings["teacher"]["model"], settings)
        self.weights = [sha256(path) for path in self.files]
        count = settings["teacher"]["demonstrations"]
        count = (0 if tuned else DEMONSTRATIONS) if count is None else count
        self.examples = prompting.pick_examples(labelled, count, settings["seed"])
        self.grammar = decoding.grammar_of(self.schema, self.tokenizer, "the tools' schemas")

    def question(self, prompts, index):
        section = self.settings["teacher"]
        if self.examples:
            prompts = [prompting.few_shot(prompt, self.examples, self.tools, self.tokenizer) for prompt in prompts]
        sampling = {key: section[key] for key in ("samples", "temperature")}
        sampling |= {"generate": self.settings["generate"], "seed": self.settings["seed"] + index}
        return {"weights": self.weights, "schema": self.schema, "prompts": prompts} | sampling

    def ask(self, question):
        """[[text of each sample] for each prompt]."""
        from playground.model import generation

        count = question["samples"]
        samples = generation.generate(
            self.model, self.tokenizer, [prompt for prompt in question["prompts"] for _ in range(count)], self.settings,
            grammar=self.grammar, temperature=question["temperature"], seed=question["seed"],
        )  # fmt: skip
        return [[sample.text for sample in samples[at : at + count]] for at in range(0, len(samples), count)]


def teacher_for(settings, tools, labelled):
    """The recipe's teacher, that may be shown some `labelled` records."""
    return (EndpointTeacher if settings["teacher"]["url"] else LocalTeacher)(settings, tools, labelled)


def ask_all(teacher, prompts, cache):
    """[[text of each sample] for each prompt]. What the file `cache` knows is not asked again.

    Each answer is written there as it comes, so a run that breaks off has lost nothing, and one with other filters
    asks nothing.
    """
    from tqdm import tqdm

    blocks = [prompts[at : at + teacher.block] for at in range(0, len(prompts), teacher.block)]
    questions = [teacher.question(block, index) for index, block in enumerate(blocks)]
    keys = [hashlib.sha256(json.dumps(question).encode()).hexdigest() for question in questions]
    known = {}
    for line in cache.read_text(encoding="utf-8").splitlines() if cache.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that was cut off is as good as none
            row = json.loads(line)
            known[row["question"]] = row["samples"]
    new = [index for index, key in enumerate(keys) if key not in known]
    cache.parent.mkdir(parents=True, exist_ok=True)
    lock, known_before = threading.Lock(), len(prompts) - sum(len(blocks[index]) for index in new)
    try:
        with (
            cache.open("a", encoding="utf-8") as file,
            tqdm(total=len(prompts), initial=known_before, desc="asking", unit=" requests", disable=None) as bar,
            ThreadPoolExecutor(teacher.workers) as pool,
        ):

            def ask(index):
                samples = teacher.ask(questions[index])
                with lock:
                    known[keys[index]] = samples
                    # The line break comes first: it also ends a line that a killed run has left unfinished.
                    file.write("\n" + json.dumps({"question": keys[index], "samples": samples}))
                    file.flush()
                    bar.update(len(samples))

            for _ in pool.map(ask, new):
                pass
    except EndpointError as error:
        done = sum(len(block) for key, block in zip(keys, blocks, strict=True) if key in known)
        raise UserError(
            f"--teacher-url {teacher.url}: {error}; {done} of {len(prompts)} requests are answered and kept in "
            f"{cache}: run the same command again to go on."
        ) from None
    return [samples for key in keys for samples in known[key]]
