"""What the benchmarks of learning share: stages that are run once, models that are asked, tables that are kept."""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import tools as toolbox
from playground.judge import scoring
from playground.model import decoding, generation, loading
from playground.run import artifacts
from playground.run.files import read_records

ROOT = Path(__file__).parents[1]
DATA, SFT = "02_create_dataset", "03_finetune"


def command_line(doc, name, seeds=(0,)):
    """A parser of what every benchmark of learning can be told."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--out", type=Path, default=Path("outputs", name))
    parser.add_argument("flags", nargs="*", help="further flags for every stage, after --")
    return parser


def run(stage, output_dir, *flags):
    """The artifact of a stage, made by its script unless it is there."""
    if not (output_dir / stage).exists():
        command = [sys.executable, f"{stage}.py", "--output-dir", str(output_dir), *map(str, flags)]
        subprocess.run(command, cwd=ROOT, check=True)
    return output_dir / stage


def records(output_dir, name):
    return read_records(output_dir / DATA / f"{name}.jsonl")


class Answerer:
    """A stage's model in an output folder, or the base model (None), with the tools that it calls."""

    def __init__(self, output_dir, stage=SFT):
        self.settings = artifacts.read_manifest(output_dir, SFT)["recipe"] | {"output_dir": str(output_dir)}
        self.tools = toolbox.load_tools(output_dir / DATA / "tools.json")
        self.tokenizer, self.model, base = loading.load_checkpoint(self.settings, stage or SFT)
        if stage is None:
            self.model = loading.load_model(base["path"], self.settings)
        self.grammars = {how: decoding.grammars_of_calls(self.tools, self.tokenizer, how) for how in decoding.DECODINGS}

    def __call__(self, prompts, how="free", **options):
        options |= {"grammar": self.grammars[how]}
        return generation.generate(self.model, self.tokenizer, prompts, self.settings, **options)

    def judged(self, asked, how="free"):
        """(answers, scores) of records, greedy."""
        answers = self([record["prompt"] for record in asked], how, temperature=0.0, progress=how)
        return answers, scoring.judge(answers, asked, self.tools)


def keep(name, text):
    """Print a table, and keep it as bench/NAME.md, where the pages take it from."""
    print(text)
    (ROOT / "bench" / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")
