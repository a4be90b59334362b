"""How tests run the scripts."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
from types import SimpleNamespace

import tools as toolbox
from playground.run import locking
from tests.conftest import ROOT

STAGES = sorted(path.stem for path in ROOT.glob("0*.py"))


def command(stage, output_dir, *arguments, model="embedded"):
    smoke = ["--config", "configs/smoke.json", "--model", str(model), "--output-dir", str(output_dir)]
    return [sys.executable, f"{stage}.py", *smoke, *arguments]


def run(stage, output_dir, *arguments, model="embedded", status=0):
    done = subprocess.run(
        command(stage, output_dir, *arguments, model=model),
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def run_here(stage, output_dir, *arguments, model="embedded", status=0):
    """As `run`, but in this process, which has imported already what a new one takes seconds for."""
    out, err, before, ended = io.StringIO(), io.StringIO(), (sys.argv, sys.unraisablehook, toolbox.OUTBOX), 0
    sys.argv = command(stage, output_dir, *arguments, model=model)[1:]
    try:
        with contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        ended = error.code
    finally:
        sys.argv, sys.unraisablehook, toolbox.OUTBOX = before
        toolbox.FAILED.clear()
        locking.release()
    assert ended == status, out.getvalue() + err.getvalue()
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


def run_all(output_dir, model):
    return {stage: run(stage, output_dir, model=model) for stage in STAGES}


def metrics(output_dir, stage):
    return json.loads((output_dir / stage / "metrics.json").read_text(encoding="utf-8"))
