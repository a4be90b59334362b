"""Rollout tokens a second of stage 07 and of the last PPO trainer that TRL released (0.24), on the same prompts.

    python bench/ppo.py

TRL's needs libraries of its time, so it gets a virtual environment of its own (.venv-trl-ppo, made once; skipped with
a line where it cannot be installed). Both start from the embedded base model, TRL's with a value model of its own, and
answer the recipe's number of requests an update with LENGTH tokens, then learn from them in minibatches and epochs of
the recipe's numbers, stage 07 in bfloat16 where the machine is fast at it. TRL's reward is a model, stage 07's a
program. The first update of each is not timed.
"""

import importlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import tools as toolbox
from playground.data import templates
from playground.model import generation, loading, prompting
from playground.run import recipe

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".venv-trl-ppo"
PINS = ["torch==2.13.0", "trl==0.24.0", "transformers==4.57.1", "accelerate==1.11.0", "datasets==4.3.0"]
UPDATES, LENGTH = 3, 32  # updates that are timed; most tokens of an answer, which the base model always takes

stage = importlib.import_module("07_ppo")


def installed():
    """The Python of TRL 0.24's environment, or None where it cannot be installed."""
    python = VENV / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True, capture_output=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PINS], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        print(f"TRL 0.24's PPOTrainer is skipped: {error.stderr.decode().strip().splitlines()[-1]}")
        return None
    return python


def ours(records, tokenizer, settings):
    """Seconds of an update of stage 07."""
    policy, rng, ends = loading.load_model(loading.EMBEDDED, settings), random.Random(0), []
    learner = stage.Learner(policy, tokenizer, settings)
    prompts = [record["prompt"] for record in records]
    for _ in range(UPDATES + 1):  # paid by chance, for a base model always earns 0
        seed = rng.getrandbits(32)
        sampled = generation.generate(policy, tokenizer, prompts, settings, temperature=1.0, seed=seed)
        rewards = [{"mean": rng.random()} for _ in records]
        row = stage.update_policy(learner, list(zip(records, sampled, rewards, strict=True)), settings, rng)
        assert row["compared"] == len(records)
        ends.append(time.perf_counter())
    return (ends[-1] - ends[0]) / UPDATES


def theirs(python, prompts, end, ppo):
    task = {"base": str(loading.EMBEDDED), "prompts": prompts, "end": end, "updates": UPDATES, "length": LENGTH,
            "minibatch_size": ppo["minibatch_size"], "epochs": ppo["epochs"]}  # fmt: skip
    command = [python, ROOT / "bench" / "ppo_trl.py"]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"TRL's PPOTrainer failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def main():
    settings = recipe.load(None, [("generate.max_new_tokens", LENGTH)])
    ppo, tools, tokenizer = settings["ppo"], toolbox.load_tools(), loading.load_tokenizer(loading.EMBEDDED)
    different = list(templates.build_splits({"train": ppo["requests"]}, tools, 0)["train"])
    records = [record for record in different for _ in range(ppo["samples"])]
    prompts = [prompting.encode_prompt(record["prompt"], tokenizer) for record in records]
    python = installed()
    took = {"TRL 0.24's PPOTrainer": theirs(python, prompts, tokenizer.eos_token, ppo)} if python else {}
    took["07_ppo.py"] = ours(records, tokenizer, settings)
    tokens = len(prompts) * LENGTH
    for name, seconds in took.items():
        ratio = seconds / took["07_ppo.py"]
        print(f"{name:24} {seconds:6.2f} s an update {tokens / seconds:6.0f} rollout tokens/s   ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
