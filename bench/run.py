"""Every benchmark of speed that can run here, one after the other; their output becomes bench/results.md.

    make bench
    python bench/run.py --only training --sft outputs/03_finetune/model

A benchmark that lacks something is skipped by name. Absolute times depend on the machine; the claims are the ratios,
whose two sides are measured in one run.
"""

import argparse
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOKENIZER = ROOT.parent / "shared" / "gpt2-tokenizer"
LIBRARIES = ("torch", "transformers", "trl", "xgrammar", "llguidance")


def plan(sft):
    """{name: (arguments, paths that must be there)} of the benchmarks of speed."""
    needs_tokenizer = (["--tokenizer", TOKENIZER], [TOKENIZER])
    return {
        "grammar": needs_tokenizer,
        "grounded": (["--outputs", sft.parents[1]], [sft, sft.parents[1] / "02_create_dataset" / "tools.json"]),
        "generation": (["--sft", sft], [sft]),
        "training": needs_tokenizer,
    }


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def version(library):
    try:
        return f"{library} {metadata.version(library)}"
    except metadata.PackageNotFoundError:
        return f"no {library}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sft", type=Path, default=ROOT / "outputs" / "03_finetune" / "model")
    parser.add_argument("--only", nargs="+", choices=plan(ROOT), help="these alone")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results.md")
    options = parser.parse_args()
    import torch

    failed = False
    lines = ["# Benchmarks", "", "Written by `make bench`. The claims are ratios; times are for orientation.", "",
             f"{processor()}, {torch.get_num_threads()} threads, {time.strftime('%Y-%m-%d')}. "
             f"Python {platform.python_version()}, {', '.join(map(version, LIBRARIES))}.", ""]  # fmt: skip
    for name, (arguments, needed) in plan(options.sft.resolve()).items():
        if options.only and name not in options.only:
            continue
        missing = [str(path) for path in needed if not path.exists()]
        if missing:
            reason = f"skipped, because {' and '.join(missing)} is not there."
            print(f"{name}: {reason}", file=sys.stderr)
            lines += [f"## {name}", "", reason, ""]
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, ROOT / "bench" / f"{name}.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        failed |= done.returncode != 0
        shown = done.stdout if done.returncode == 0 else f"failed:\n{done.stderr[-2000:]}"
        shown = "\n".join(line for line in shown.splitlines() if not line.startswith("{'"))  # a trainer's own log
        print(shown, flush=True)
        lines += [f"## {name}", "", "```", shown.strip(), "```", ""]
    options.out.write_text("\n".join(lines), encoding="utf-8")
    print(f"Written: {options.out}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
