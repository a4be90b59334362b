"""Two processes, started by accelerate as a user starts them, do what one does, and only one of them speaks."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from playground.model import loading
from playground.run import parallel, recipe
from playground.run.errors import UserError
from playground.run.files import read_jsonl
from tests.conftest import ROOT
from tests.run import parallel_work
from tests.scripts import command, run

CONFIGS = ROOT / "configs" / "accelerate"


def launch(script, *arguments):
    """The finished command of two processes on the CPU."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "two_cpus.yaml")]
    return subprocess.run(
        [*launcher, script, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip


def in_two(folder, *names):
    """{name: what that piece of parallel_work returns in the main one of two processes}."""
    done = launch(ROOT / "tests" / "run" / "parallel_work.py", ",".join(names), folder)
    assert done.returncode == 0, done.stderr
    marks = {mark: len([*folder.glob(f"{mark}-*")]) for mark in ("parted", "finalized")}
    return json.loads((folder / "found.json").read_text()) | marks


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return in_two(folder, "exchange", "write", "answer", "shard", "ppo_update")


def test_shares_are_parts_of_the_whole_and_equal_where_they_have_to_be(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in "012":
        monkeypatch.setenv("RANK", rank)
        shares.append(parallel.share(list(range(8))))
    assert [item for share in shares for item in share] == list(range(8))
    assert sorted(map(len, shares)) == [2, 3, 3]
    assert parallel.even([1, 2, 3, 4, 5]) == [1, 2, 3]
    assert parallel.each(9, "dpo.batch_size") == 3
    with pytest.raises(UserError, match=r"dpo\.batch_size is 8, and there are 3 processes"):
        parallel.each(8, "dpo.batch_size")


def test_what_works_in_one_process_only_says_so(tmp_path, monkeypatch):
    several = os.environ | {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}
    done = subprocess.run(command("02_create_dataset", tmp_path / "new"), cwd=ROOT, env=several, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert (
        done.stderr == "error: 02_create_dataset.py works in one process: start it as `python 02_create_dataset.py`.\n"
    )
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="whole model in each process"):
        loading.load_start(recipe.load(), "03_finetune", "tools.json")


def test_what_processes_exchange_is_in_order_and_known_to_all(two):
    found = two["exchange"]
    assert found["rows in order"] == [0, 1, 2, 3, 4, 5, 6]
    assert found["from main"] == 0
    assert found["total"] == [2.0, 1.0]
    assert found["seeds"][0] == 5 != found["seeds"][1]
    assert found["caught in"] == ["one of them failed"] * 2


def test_only_the_main_process_writes_and_holds_the_lock(two):
    assert two["write"]["files"] == ["0.json", "manifest.json"]
    assert two["write"]["seen"] == ["nothing"] * 2
    assert len(two["write"]["owner"]) == 1


def test_processes_part_and_end_without_the_finalization_in_which_threads_of_gloo_may_abort_them(two):
    assert (two["parted"], two["finalized"]) == (2, 0)


def test_two_processes_give_the_answers_of_one_in_their_order(two, tmp_path):
    assert two["answer"] == parallel_work.answer(tmp_path)


def test_a_model_shared_out_to_two_processes_answers_and_is_saved_as_a_whole_one(two, tmp_path, tokenizer):
    expected = parallel_work.answer(tmp_path)
    assert two["shard"]["is sharded"]
    assert two["shard"]["texts"] == expected
    saved = loading.load_model(two["shard"]["saved"], recipe.load())
    assert parallel_work.texts_of(saved, tokenizer, tmp_path) == expected


def test_an_update_of_ppo_by_two_processes_is_that_of_one_on_the_same_rollouts(two, tmp_path):
    found, expected = two["ppo_update"], parallel_work.ppo_update(tmp_path)
    assert found["watched"] == pytest.approx(expected["watched"], rel=1e-4, abs=1e-6)
    for mine, theirs in zip(found["weights"], expected["weights"], strict=True):
        assert mine == pytest.approx(theirs, abs=2e-5)  # of steps of 1e-3


def test_an_error_in_one_process_ends_both_with_its_sentence_once(tmp_path):
    done = launch(ROOT / "tests" / "run" / "parallel_work.py", "fail_alone", tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: the second process cannot go on.") == 1
    assert "exitcode  : 2" in done.stderr
    assert done.stderr.count("Traceback") == 1  # of the launcher


@pytest.mark.slow
def test_an_error_in_both_processes_is_told_once(tmp_path):
    done = launch(ROOT / "tests" / "run" / "parallel_work.py", "fail_alike", tmp_path)
    assert done.stderr.count("error: no process can go on.") == 1
    assert done.stderr.count("exitcode  : 2") >= 1


def test_fine_tuning_in_parts_of_batches_goes_along_the_loss_curve_of_whole_ones(tmp_path):
    whole, parts = (parallel_work.fine_tuning_curve(tmp_path / str(size), size) for size in (8, 4))
    assert parts["losses"] == pytest.approx(whole["losses"], abs=1e-3)
    assert parts["norms"] == pytest.approx(whole["norms"], rel=1e-2)
    assert parts["read"] == whole["read"]


@pytest.mark.slow
def test_two_processes_fine_tune_along_the_loss_curve_of_one(tmp_path):
    found = in_two(tmp_path, "fine_tuning_curve")["fine_tuning_curve"]
    (tmp_path / "one").mkdir()
    expected = parallel_work.fine_tuning_curve(tmp_path / "one")
    assert len(found["losses"]) == 20
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-3)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-2)
    assert found["read"] == expected["read"]
    assert len(found["read"]) == 4 * 37


@pytest.mark.slow
def test_two_processes_learn_preferences_along_the_loss_curve_of_one(tmp_path):
    found = in_two(tmp_path, "preference_curve")["preference_curve"]
    (tmp_path / "one").mkdir()
    expected = parallel_work.preference_curve(tmp_path / "one")
    assert len(found) == len(expected) == 6
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_two_processes_predict_in_stage_08_what_one_predicts(tmp_path):
    one, both = tmp_path / "one", tmp_path / "both"
    for stage in ("02_create_dataset", "03_finetune"):
        run(stage, one)
    shutil.copytree(one, both)
    run("08_evaluate", one)
    done = launch("08_evaluate.py", *command("08_evaluate", both)[2:])
    assert done.returncode == 0, done.stderr
    rows = [read_jsonl(folder / "08_evaluate" / "predictions.jsonl") for folder in (one, both)]
    greedy = [
        [{name: row[name] for name in row if name != "seconds"} for row in side if row["sampling"] == "greedy"]
        for side in rows
    ]
    assert greedy[0] == greedy[1]
    assert [row["id"] for row in rows[0]] == [row["id"] for row in rows[1]]
    assert not list(tmp_path.glob("*/*.partial"))


@pytest.mark.parametrize("name", ["fsdp", "gpus", "machines", "two_cpus"])
def test_accelerate_understands_the_configurations(name, monkeypatch):
    from accelerate.commands import launch as accelerate_launch
    from accelerate.utils.launch import prepare_multi_gpu_env

    path = CONFIGS / f"{name}.yaml"
    arguments = accelerate_launch.launch_command_parser().parse_args(["--config_file", str(path), "03_finetune.py"])
    arguments, _, _ = accelerate_launch._validate_launch_command(arguments)
    environment = prepare_multi_gpu_env(arguments)
    assert arguments.multi_gpu != arguments.use_fsdp == (name == "fsdp")
    assert environment.get("FSDP_VERSION") == ("2" if name == "fsdp" else None)
    assert arguments.num_processes == {"two_cpus": 2, "machines": 16}.get(name, 8)
    assert arguments.nproc_per_node == ("2" if name == "two_cpus" else "8")
    assert {path.stem for path in CONFIGS.iterdir()} == {"fsdp", "gpus", "machines", "two_cpus"}
