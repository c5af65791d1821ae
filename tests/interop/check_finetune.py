"""Does a model that went out and came back train on as if it had never left?

    check_finetune.py RUN DIR WORK

DIR is RUN exported to Hugging Face in float32. One update is trained from RUN, from DIR, and from DIR imported as a run:
weights and optimizer state must have the same bits. WORK is a folder for the runs.
"""

import argparse
import hashlib
import os
import pathlib

import common
from common import check


def trained(start, config, out):
    """Trains one update from `start`; hashes of its weights and of its optimizer state."""
    common.nmt("--config", config, "--set", f"run_dir={out}", "--set", f"model.init_from={start}", "--set",
               "train.max_updates=1", "--set", "data.test=[]", "--set", "validation.valid_freq=0", "--set",
               "checkpoint.save_freq=0", "--set", "threads=1", "--set", "schedule.kind=constant", "--set",
               "schedule.warmup_updates=0", "--force", "-q")
    step = pathlib.Path(out, "checkpoints", "step-00000001")
    return [hashlib.sha256((step / name).read_bytes()).hexdigest() for name in ("model.safetensors", "optimizer.safetensors")]


def weights_of(run):
    """Hash of the newest weights of a run."""
    step = sorted(pathlib.Path(run, "checkpoints").glob("step-*"))[-1]
    return hashlib.sha256((step / "model.safetensors").read_bytes()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    args = parser.parse_args()
    args.run, args.folder, args.work = args.run.resolve(), args.folder.resolve(), args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(common.PROJECT)  # the paths of data in the run's config are relative to it
    imported = args.work / "imported"
    with check(f"{args.folder.name}: export and import") as say:
        common.nmt("import", args.folder, "--out", imported, "-q")
        say(True)
    with check(f"{args.folder.name}: scores of the imported run") as say:
        sources, targets = common.plain_lines(100), common.plain_lines(100, "test.de")
        ours, theirs = (common.score(run, sources, targets) for run in (args.run, imported))
        say(ours == theirs, f"{sum(a == b for a, b in zip(ours, theirs))} of {len(ours)} the same digits")
    config = args.run / "config.toml"
    direct = None
    with check(f"{args.run.name}: an update from the run itself") as say:
        direct = trained(args.run, config, args.work / "from-run")
        say(weights_of(args.work / "from-run") != weights_of(args.run), "weights changed")
    for name, start in (("the exported folder", args.folder), ("the imported run", imported)):
        with check(f"{args.run.name}: an update from {name} has the same bits") as say:
            found = trained(start, config, args.work / f"from-{start.name}")
            say(found == direct, f"weights {'equal' if direct and found[0] == direct[0] else 'differ'}, optimizer "
                f"{'equal' if direct and found[1] == direct[1] else 'differs'}")
    with check(f"{args.run.name}: what was fine-tuned exports again") as say:
        common.nmt("export", args.work / "from-run", "--format", "huggingface", "--out", args.work / "again", "-q")
        say((args.work / "again" / "model.safetensors").exists())
    common.finish()


if __name__ == "__main__":
    main()
