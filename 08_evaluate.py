"""Stage 08: what did each technique add? Every model, free and constrained, greedy and sampled, held out.

    python 08_evaluate.py
    python 08_evaluate.py --model path/to/folder             # that model too
    python 08_evaluate.py --compare outputs other/outputs    # finished runs, side by side
    accelerate launch --config_file configs/accelerate/gpus.yaml 08_evaluate.py    # see docs/scaling.md

Rates have 95% intervals, bootstrap over requests; what one step changed is measured request by request. Outputs are
kept with the hashes of data, model and settings: a second run generates what is new, and scores all again.

Writes outputs/08_evaluate/: report.html, report.md, plots, metrics.json, predictions.jsonl, manifest.json.
"""

import sys
from pathlib import Path

import tools as toolbox
from playground import schemas
from playground.judge import evaluation, scoring
from playground.model import generation, loading
from playground.model.decoding import DECODINGS, grammars_of_calls
from playground.report import markdown, page, tables
from playground.run import artifacts, console, manifest, parallel, recipe
from playground.run.errors import UserError
from playground.run.files import read_records, sha256, write_json, write_jsonl

STAGE = "08_evaluate"
STAGES = {"sft": "03_finetune", "dpo": "06_dpo", "ppo": "07_ppo"}
SPLITS = ("test", "test_wild")


def add_flags(parser):
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="output folders of finished runs")


def find_models(settings, wanted):
    """({name: (folder, path of its base)}, {name: why it is left out}) of the models there are, the base first.

    wanted: what `--model` names, or None; it comes last where it is not the base model anyway.
    """
    output_dir = settings["output_dir"]
    base = loading.find_base(artifacts.read_manifest(output_dir, STAGES["sft"])["base_model"]["name"])
    found, left_out = {"base": (base["path"], None)}, {}
    for name, stage in STAGES.items():
        if (Path(output_dir) / stage / "manifest.json").exists():
            found[name] = (str(Path(output_dir) / stage / "model"), base["path"])
        else:
            left_out[name] = f"{stage}.py has not run"
    if wanted:
        try:
            path, name = loading.find_base(wanted)["path"], Path(wanted).name
            if path != base["path"]:
                found[f"--model {wanted}" if name in found else name] = (path, None)
        except UserError as error:
            left_out[wanted] = str(error)
    return found, left_out


def rows_of(completions, records):
    """Rows for predictions.jsonl: a model's outputs to the records."""
    return [
        {"id": record["id"], "output": done.text, "ended": done.ended, "tokens": len(done.token_ids),
         "forward_passes": done.forward_passes}
        for record, done in zip(records, completions, strict=True)
    ]  # fmt: skip


def score_rows(rows, records, tools):
    """The score of each row against its record; the row gets its kind of failure."""
    scores = []
    for row, record in zip(rows, records, strict=True):
        scores.append(scoring.score(row["output"], record["completion"], tools, row["ended"], record["prompt"]))
        row["failure"] = scores[-1]["failure"]
    return scores


def evaluate_model(name, folder, base_path, splits, tools, predictions, settings):
    """({split: {decoding: cell}}, {split: {decoding: greedy scores}}, hash) of a model, loaded only if need be."""
    evaluate, model_hash = settings["evaluate"], evaluation.hash_model(folder, base_path)
    resamples, tokenizer, cells, scores = evaluate["bootstrap_samples"], None, {}, {}
    for split, records in splits.items():
        some = evaluation.evenly_spaced(records, evaluate["sampled_requests"])
        drawn = [record for record in some for _ in range(evaluate["samples"])]
        drafts = None  # the greedy answers of the decoding before, which allowed more
        for decoding in DECODINGS:
            judged, rows = {}, {}
            for sampling, asked, temperature in (("greedy", records, 0.0), ("sampled", drawn, evaluate["temperature"])):
                group = {"split": split, "decoding": decoding, "sampling": sampling}
                made = predictions.kept(name, model_hash, group, [record["id"] for record in asked])
                if made is None:
                    if tokenizer is None:
                        tokenizer, model = loading.load(folder, settings, base_path)
                    grammars = grammars_of_calls(tools, tokenizer, decoding)
                    completions = generation.generate(
                        model, tokenizer, [record["prompt"] for record in asked], settings, grammar=grammars,
                        temperature=temperature, progress=f"{name}, {', '.join(group.values())}",
                        drafts=drafts if sampling == "greedy" else None,
                    )  # fmt: skip
                    drafts = completions if sampling == "greedy" else drafts
                    made = predictions.add(name, model_hash, group, rows_of(completions, asked))
                rows[sampling], judged[sampling] = made, score_rows(made, asked, tools)
            cell = evaluation.greedy_cell(records, rows["greedy"], judged["greedy"], resamples)
            cell["sampled"] = evaluation.sampled_cell(judged["sampled"], evaluate["samples"], resamples)
            cells.setdefault(split, {})[decoding] = cell
            scores.setdefault(split, {})[decoding] = judged["greedy"]
    return cells, scores, model_hash


def main():
    settings, options = recipe.arguments(__doc__, add_flags)
    if options.compare:
        print(markdown.compare(options.compare))
        return
    artifacts.lock(settings)
    output_dir, evaluate = settings["output_dir"], settings["evaluate"]
    tool_file = artifacts.require(output_dir, "02_create_dataset", "tools.json")
    files = {"test": artifacts.require(output_dir, "02_create_dataset", "test.jsonl")}
    files |= {split: path for split in SPLITS if (path := files["test"].with_name(f"{split}.jsonl")).exists()}
    splits = {
        split: evaluation.evenly_spaced(read_records(path), evaluate["requests"]) for split, path in files.items()
    }
    datasets = {split: sha256(path) for split, path in files.items()}
    tools = toolbox.load_tools(tool_file)
    base = artifacts.read_manifest(output_dir, STAGES["sft"])["base_model"]
    found, left_out = find_models(settings, getattr(options, "model.name"))

    predictions = evaluation.Predictions(
        Path(output_dir) / STAGE / "predictions.jsonl", datasets, evaluation.hash_settings(settings, tool_file)
    )
    asked = ", ".join(f"{len(records)} of {split}" for split, records in splits.items())
    print(f"Requests: {asked}. Models: {', '.join(found)}.")
    for stage, wrong in manifest.verify(output_dir).items():
        if wrong and stage in STAGES.values():
            print(f"{stage} should be run again: {'; '.join(wrong)}.", file=sys.stderr)
    manifests = [path for stage in STAGES.values() if (path := Path(output_dir) / stage / "manifest.json").exists()]
    inputs = [*files.values(), tool_file, *manifests]
    with artifacts.stage(settings, STAGE, inputs=inputs, base_model=base) as artifact:
        grid, scores, hashes, failed = {split: {} for split in splits}, {split: {} for split in splits}, {}, []
        for name, (folder, base_path) in found.items():
            try:
                cells, judged, hashes[name] = evaluate_model(
                    name, folder, base_path, splits, tools, predictions, settings
                )
            except (UserError, schemas.OutsideError) as error:
                left_out[name] = str(error)
                failed.append(name)
                continue
            for split in splits:
                grid[split][name], scores[split][name] = cells[split], judged[split]
        if not hashes:
            raise UserError("no model could be evaluated: " + " ".join(left_out.values()))
        if not parallel.is_main():
            return
        metrics = {
            "splits": grid,
            "differences": {
                split: evaluation.differences(scores[split], evaluate["bootstrap_samples"]) for split in splits
            },
            "datasets": datasets,
            "models": hashes,
            "left_out": left_out,
        }
        write_json(artifact / "metrics.json", metrics)
        write_jsonl(artifact / "predictions.jsonl", predictions.rows)
        markdown.write(artifact.path, metrics, settings)
        page.write(artifact.path, metrics, predictions.rows, splits, settings)
        artifact.facts.update(models=hashes, left_out=left_out)

    print(f"\n{tables.summary(metrics)}\n\nReport: {artifact.final / 'report.html'} (and report.md)")
    for name, why in left_out.items():
        print(f"{name} is left out: {why}", file=sys.stderr if name in failed else sys.stdout)
    if failed or (getattr(options, "model.name") in left_out):
        sys.exit(1)


if __name__ == "__main__":
    console.run(main, in_parallel=True)
