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


def verify(options):
    found = manifest.verify(options.output_dir)
    for stage, wrong in found.items():
        print(f"{stage}: {'; '.join(wrong) or 'fine'}")
    sys.exit(1 if any(found.values()) else 0)


def summary(options):
    from playground.report import markdown, tables

    print(tables.summary(markdown.read_evaluation(options.output_dir)))


def export(options):
    from playground.model import export

    export.export(options.stage, options.folder, options.trust_remote_code)
    print(f"Written: {options.folder}")


def expected(options):
    from playground.model import expected

    print(expected.sentence(options.model))


def settings(options):
    print(recipe.table())


def readme(options):
    from playground.report import readme

    readme.fill()


def arguments():
    parser = argparse.ArgumentParser(
        prog="python -m playground", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(do, description):
        made = commands.add_parser(
            do.__name__, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        made.set_defaults(do=do)
        return made

    made = command(verify, manifest.__doc__)
    made.add_argument("output_dir", nargs="?", default="outputs", help="where the artifacts are (outputs)")
    made = command(summary, "The results table of an evaluation.")
    made.add_argument("output_dir", nargs="?", default="outputs", help="an output folder with 08_evaluate in it")
    made = command(export, "A stage's model as a plain Hugging Face folder, which needs nothing of this project.")
    made.add_argument("stage", help="a training stage's folder, such as outputs/03_finetune")
    made.add_argument("folder", help="the folder to make")
    made.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    made = command(expected, "How long the whole sequence will take on this machine.")
    made.add_argument("model", help="a model as --model names it")
    command(settings, "Every setting, as a Markdown table.")
    command(readme, "Make the generated parts of README.md and docs/ anew.")
    return parser.parse_args()


if __name__ == "__main__":
    options = arguments()
    console.run(lambda: options.do(options))
