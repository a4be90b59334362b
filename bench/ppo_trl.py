"""The other side of bench/ppo.py: TRL 0.24's PPOTrainer, run by the Python of an environment of its own.

Reads {"base", "prompts": lists of token ids, "end": the token that ends a text, "updates", "minibatch_size", "epochs",
"length"} as JSON from standard input and prints the seconds of an update, the first left out.
"""

import json
import sys
import tempfile
import time

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    def __init__(self):
        self.ends = []

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())


def main():
    task = json.load(sys.stdin)
    base, answers, clock = task["base"], len(task["prompts"]), Clock()
    # The tokenizer's class is younger than the transformers of this environment.
    end = task["end"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=f"{base}/tokenizer.json", eos_token=end, pad_token=end, padding_side="left"
    )
    policy, reference = (AutoModelForCausalLM.from_pretrained(base) for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=tokenizer.pad_token_id)
        for _ in range(2)
    )
    minibatches = answers // task["minibatch_size"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = PPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, report_to=[], save_strategy="no", num_sample_generations=0,
            total_episodes=answers * (task["updates"] + 1), per_device_train_batch_size=task["minibatch_size"],
            gradient_accumulation_steps=minibatches, num_mini_batches=minibatches, num_ppo_epochs=task["epochs"],
            local_rollout_forward_batch_size=answers, response_length=task["length"],
        )  # fmt: skip
        rows = Dataset.from_list([{"input_ids": ids} for ids in task["prompts"]])
        PPOTrainer(
            args=arguments, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward,
            value_model=value, train_dataset=rows, eval_dataset=rows.select(range(2)), callbacks=[clock],
        ).train()  # fmt: skip
    print((clock.ends[-1] - clock.ends[0]) / task["updates"])


if __name__ == "__main__":
    main()
