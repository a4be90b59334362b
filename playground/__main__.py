"""What one asks of the project besides running its scripts.

python -m playground verify outputs                          are the artifacts whole, and made from what is there?
python -m playground summary outputs                         the results table of an evaluation
python -m playground export outputs/03_finetune my-model     a model as a plain Hugging Face folder
python -m playground expected embedded                       how long `make run` will take
python -m playground settings                                every setting, as a Markdown table
python -m playground readme                                  the generated parts of the pages, anew
"""

import argparse
import sys

from playground.run import console, manifest, recipe

COMMANDS = ("verify", "summary", "export", "expected", "settings", "readme")


def arguments():
    parser = argparse.ArgumentParser(
        prog="python -m playground", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    verify, summary, export, expected, *_ = map(commands.add_parser, COMMANDS)
    for command in (verify, summary):
        command.add_argument("output_dir", nargs="?", default="outputs", help="where the artifacts are (outputs)")
    export.add_argument("stage", help="a training stage's folder, such as outputs/03_finetune")
    export.add_argument("folder", help="the folder to make")
    export.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    expected.add_argument("model", help="a model as --model names it")
    return parser.parse_args()


def run(options):
    match options.command:
        case "verify":
            found = manifest.verify(options.output_dir)
            for stage, wrong in found.items():
                print(f"{stage}: {'; '.join(wrong) or 'fine'}")
            sys.exit(1 if any(found.values()) else 0)
        case "summary":
            from playground.report import markdown, tables

            print(tables.summary(markdown.read_evaluation(options.output_dir)))
        case "export":
            from playground.model import export

            export.export(options.stage, options.folder, options.trust_remote_code)
            print(f"Written: {options.folder}")
        case "expected":
            from playground.model import expected

            print(expected.sentence(options.model))
        case "settings":
            print(recipe.table())
        case "readme":
            from playground.report import readme

            readme.fill()


if __name__ == "__main__":
    options = arguments()
    console.run(lambda: run(options))
