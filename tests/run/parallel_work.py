"""What test_parallel.py does in one process, calling it, and in two: `accelerate launch ... parallel_work.py`.

Each piece of work takes a folder and returns what the processes know when it is done, for the main one to write down.
"""

import atexit
import importlib
import json
import os
import random
import sys
from pathlib import Path
from unittest import mock

import torch

import tools as toolbox
from playground.data import templates
from playground.model import decoding, generation, loading, prompting, weights
from playground.model.generation import Completion
from playground.run import artifacts, console, hardware, parallel, recipe
from playground.run.errors import UserError
from playground.run.files import write_json
from tests.conftest import embedded_tokenizer, save_random_model

CITIES = ["Oslo", "New York", "Paris", "Rio de Janeiro", "Rome"]


def settings_for(folder, **sections):
    settings = recipe.load(None, [("output_dir", str(folder / "outputs"))])
    return settings | {name: settings[name] | values for name, values in sections.items()}


def small_model(folder):
    """(tokenizer, model) with random weights, the same each time."""
    if parallel.is_main() and not (folder / "model").exists():
        sizes = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 256}
        save_random_model(folder / "model", embedded_tokenizer(), "gpt2", **sizes)
    parallel.wait()
    return embedded_tokenizer(), loading.load_model(folder / "model", recipe.load())


def records_of(count):
    return list(templates.build_splits({"train": count}, toolbox.load_tools(), seed=0)["train"])


def exchange(folder):
    def fail():
        if parallel.rank() == parallel.size() - 1:
            raise UserError("one of them failed")
        return [1]

    try:
        parallel.gather(fail)
    except UserError as error:
        caught = str(error)
    return {
        "rows in order": parallel.gather(lambda: parallel.share(list(range(7)))),
        "from main": parallel.from_main(parallel.rank),
        "total": parallel.total(torch.tensor([1.0, parallel.rank()])).tolist(),
        "seeds": parallel.gather(lambda: [parallel.own_seed(5)]),
        "caught in": parallel.gather(lambda: [caught]),
    }


def write(folder):
    settings = settings_for(folder)
    with artifacts.stage(settings, "03_finetune", resume=True) as artifact:
        write_json(artifact / f"{parallel.rank()}.json", {})
        seen = artifact.resumed("state.json", "nothing")
    names = sorted(path.name for path in artifact.final.iterdir())
    locks = list(Path(settings["output_dir"]).glob(".lock"))
    return {"seen": parallel.gather(lambda: [seen]), "files": names, "owner": [int(path.read_text()) for path in locks]}


def answer(folder):
    tokenizer, model = small_model(folder)
    return texts_of(model, tokenizer, folder)


def texts_of(model, tokenizer, folder):
    """The model's answers to five requests, free and constrained."""
    settings = settings_for(folder, generate={"max_new_tokens": 60, "batch_size": 2})
    prompts = [f"Weather in {city}?" for city in CITIES]
    grammar = decoding.grammars_of_calls(toolbox.load_tools(), tokenizer, "grounded")
    return [
        [done.text for done in generation.generate(model, tokenizer, prompts, settings, constraint)]
        for constraint in (None, grammar)
    ]


def shard(folder):
    """The answers of a model whose weights are shared out, as FSDP does it, and where it has been saved."""
    from torch.distributed.fsdp import fully_shard

    tokenizer, model = small_model(folder)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (parallel.size(),))
    for block in model.transformer.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    texts = texts_of(model, tokenizer, folder)
    weights.save(model, folder / "saved")
    return {"is sharded": weights.is_sharded(model), "texts": texts, "saved": str(folder / "saved")}


@mock.patch.object(hardware, "has_bf16", lambda: False)
def ppo_update(folder):
    """The weights and what was watched after an update in fp32 on five answers in minibatches of three and two."""
    stage = importlib.import_module("07_ppo")
    tokenizer, policy = small_model(folder)
    settings = settings_for(folder, ppo={"epochs": 2, "minibatch_size": 2})
    records = [{"prompt": city, "completion": f" call {city}"} for city in CITIES]
    learned = stage.Learner(policy, tokenizer, settings, records)
    for number, parameter in enumerate(learned.reference.parameters()):
        parameter.data += 0.001 * (number % 3)
    for group in learned.optimizer.param_groups:
        group["lr"] = 1e-3
    answers = []
    for city, reward in zip(CITIES, (1.0, 0.0, 0.5, 0.25, 0.75), strict=True):
        ids = tokenizer(f" call {city}")["input_ids"] + [tokenizer.eos_token_id]
        answers.append(({"prompt": f"Weather in {city}?"}, Completion("", ids, True, len(ids)), reward))
    rollout, watched = stage.build_rollout(learned, answers, settings["ppo"])
    watched |= stage.optimize(learned, rollout, settings["ppo"], random.Random(0))
    weights = [parameter.flatten()[:50].tolist() for parameter in learned.parameters]
    return {"watched": watched, "weights": weights}


@mock.patch.object(hardware, "has_bf16", lambda: False)
def fine_tuning_curve(folder, micro_batch_size=8):
    """The losses of 20 steps of stage 03 in fp32, and the token ids read: four epochs of 37 records in batches of 8."""
    stage = importlib.import_module("03_finetune")
    tokenizer, model = small_model(folder)
    settings = settings_for(folder)
    sizes = {"batch_size": 8, "epochs": 4, "micro_batch_size": micro_batch_size}
    sft = recipe.for_model(settings, "sft", "hub") | {"learning_rate": 1e-3} | sizes
    read, share = [], parallel.share

    def spied(items):
        mine = share(items)
        read.extend(row["input_ids"] for row in mine if isinstance(row, dict))
        return mine

    parallel.share = spied
    with artifacts.stage(settings, "03_finetune", resume=True) as artifact:
        arguments = (model, tokenizer, records_of(37), sft, settings, artifact, lambda *_: None, lambda *_: None)
        trainer = stage.build_trainer(*arguments)
        trainer.train()
    parallel.share = share
    log = [row for row in trainer.state.log_history if "loss" in row]
    return {
        "losses": [row["loss"] for row in log],
        "norms": [row["grad_norm"] for row in log],
        "read": sorted(parallel.gather(lambda: read)),
    }


@mock.patch.object(hardware, "has_bf16", lambda: False)
def preference_curve(folder):
    """The losses of two epochs of stage 06 in fp32 on 24 pairs in batches of 8."""
    stage = importlib.import_module("06_dpo")
    tokenizer, model = small_model(folder)
    settings = settings_for(folder, dpo={"batch_size": 8, "epochs": 2, "learning_rate": 1e-3})
    sft, pairs = recipe.for_model(settings, "sft", "hub"), []
    for number, record in enumerate(records_of(24)):
        rejected_ids = prompting.encode_completion(f"wrong {number}", tokenizer)
        pairs.append({"prompt": record["prompt"], "chosen": record["completion"], "rejected_ids": rejected_ids})
    with artifacts.stage(settings, "06_dpo", resume=True) as artifact:
        arguments = (model, tokenizer, parallel.even(pairs), sft, settings, artifact, lambda *_: None)
        trainer = stage.build_trainer(*arguments)
        trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def fail_alone(folder):
    if parallel.rank() == 1:
        raise UserError("the second process cannot go on.")
    parallel.wait()


def fail_alike(folder):
    raise UserError("no process can go on.")


def work(names, folder):
    """{name: what that piece of work returns}."""
    artifacts.lock(settings_for(folder))
    return {name: globals()[name](folder) for name in names}


def note_whether_parted(folder):
    if not torch.distributed.is_initialized():
        (folder / f"parted-{parallel.rank()}").touch()


class Finalized:
    """Makes a folder where Python itself ends the process: what is global is deleted then."""

    def __init__(self, folder):
        self.path, self.make = str(folder / f"finalized-{parallel.rank()}"), os.mkdir

    def __del__(self):
        self.make(self.path)


def main():
    global finalized
    names, folder = sys.argv[1].split(","), Path(sys.argv[2])
    atexit.register(note_whether_parted, folder)
    finalized = Finalized(folder)
    found = work(names, folder)
    if parallel.is_main():
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    console.run(main, in_parallel=True)
