"""Seconds a step of stages 03, 06 and 07 on this processor, and as on one without AVX-512 and bfloat16.

    python bench/processors.py

The second column is of a process with ATEN_CPU_CAPABILITY=avx2, ONEDNN_MAX_CPU_ISA=AVX2 and
MKL_ENABLE_INSTRUCTIONS=AVX2 in its environment, the two in turns. A step is of the embedded model on 32 records: for 03
the loss, its gradients and Muon; for 06 the same with a rejected answer beside each, and a look at the reference; for
07 the sampling of 32 answers and a step on them.
"""

import importlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))
OLDER = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
ROUNDS, STEPS, RECORDS = 3, 3, 32


def measure():
    """{stage: seconds of a step} in this process."""
    import torch
    from transformers import DataCollatorForSeq2Seq

    import tools as toolbox
    from playground.data import templates
    from playground.model import generation, loading
    from playground.model.muon import MuonAdamW
    from playground.run import hardware, recipe

    stage, settings = importlib.import_module("03_finetune"), recipe.load()
    tokenizer, model = loading.load(loading.EMBEDDED, settings)
    records = list(templates.build_splits({"train": RECORDS * STEPS}, toolbox.load_tools(), 0)["train"])
    records.sort(key=lambda record: len(record["prompt"]))  # as stage 03 groups them
    pad = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=stage.IGNORE, pad_to_multiple_of=8)
    optimizer = MuonAdamW(model, 1e-4, 0.1, hardware.fast_dtype())

    def loss_of(rows):
        with hardware.half_precision("cpu"):
            return stage.completion_loss(model, pad([stage.encode(row, tokenizer) for row in rows]))

    def learn(rows):
        for begin in range(0, len(rows), 8):
            loss_of(rows[begin : begin + 8]).backward()
        optimizer.step()
        optimizer.zero_grad()

    def prefer(rows):
        with torch.no_grad():
            loss_of(rows + rows)
        learn(rows + rows)

    def roll_out(rows):
        prompts = [row["prompt"] for row in rows]
        generation.generate(model, tokenizer, prompts, settings, temperature=1.0, seed=random.getrandbits(32))
        learn(rows)

    found = {}
    for name, step in (("03_finetune", learn), ("06_dpo", prefer), ("07_ppo", roll_out)):
        step(records[:RECORDS])
        took = []
        for i in range(STEPS):
            begin = time.perf_counter()
            step(records[i * RECORDS : (i + 1) * RECORDS])
            took.append(time.perf_counter() - begin)
        found[name] = median(took)
    return found


def main():
    if sys.argv[1:] == ["--measure"]:
        print(json.dumps(measure()))
        return
    rounds = {"as it is": [], "older": []}
    for _ in range(ROUNDS):
        for name, more in (("as it is", {}), ("older", OLDER)):
            command = [sys.executable, __file__, "--measure"]
            done = subprocess.run(command, env=os.environ | more, capture_output=True, text=True, check=True)
            rounds[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'seconds a step':16}{'as it is':>10}{'AVX2, fp32':>12}{'ratio':>8}")
    for stage in rounds["older"][0]:
        new, old = (median(row[stage] for row in rows) for rows in rounds.values())
        print(f"{stage:16}{new:10.2f}{old:12.2f}{old / new:8.1f}")


if __name__ == "__main__":
    main()
