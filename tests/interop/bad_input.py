"""Is what is broken refused clearly, and is nothing left behind?

    bad_input.py DIR [--run RUN] [--only WORD]

DIR comes from make_opus.py, without --separate. Copies of it are broken, one way each, and imported: the program must end
with 3 (or 1) and one line on stderr that names the file at fault, must not run what a pickle asks for, and must leave
nothing at --out or beside it. With RUN also `export` is tried on what it can not write.
"""

import argparse
import collections
import json
import os
import pathlib
import pickle
import shutil
import struct
import subprocess
import tempfile
import zipfile

import common
from common import check, note

import numpy
import torch
from safetensors.numpy import load_file, save_file

LIMIT_MIB = 1500
BIN, SAFE = "pytorch_model.bin", "model.safetensors"
CASES = {}


def case(names, weights=SAFE):
    """Registers a way to break a folder that has the weights of one kind; the message must have one of `names`."""
    def register(function):
        CASES[function.__name__.replace("_", " ")] = (function, names if isinstance(names, tuple) else (names,), weights)
        return function
    return register


def edit_json(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    value = change(value) or value
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_tensors(folder, change):
    tensors = load_file(folder / SAFE)
    change(tensors)
    save_file(tensors, folder / SAFE, metadata={"format": "pt"})


def edit_state(folder, change, **options):
    state = torch.load(folder / BIN, weights_only=True)
    change(state)
    torch.save(state, folder / BIN, **options)


def edit_zip(path, change, compression=zipfile.ZIP_STORED):
    """Writes a zip file anew; `change` gets and may alter {name: bytes}."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    members = change(members) or members
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, data in members.items():
            new.writestr(name, data)


def edit_pickle(folder, data):
    """Puts other bytes in the place of the pickle."""
    edit_zip(folder / BIN, lambda m: {n: data if n.endswith("data.pkl") else d for n, d in m.items()})


def cut(path, share):
    with open(path, "r+b") as file:
        file.truncate(int(path.stat().st_size * share))


# Weights in safetensors

@case(("model.encoder.layers.1.fc1.weight", SAFE))
def a_missing_tensor(folder):
    edit_tensors(folder, lambda t: t.pop("model.encoder.layers.1.fc1.weight"))


@case(("model.decoder.layers.7.fc1.bias", SAFE))
def an_extra_tensor(folder):
    edit_tensors(folder, lambda t: t.update({"model.decoder.layers.7.fc1.bias": numpy.zeros(3, "f4")}))


@case(("model.encoder.layers.0.fc1.weight", SAFE))
def a_wrong_shape(folder):
    edit_tensors(folder, lambda t: t.update({"model.encoder.layers.0.fc1.weight": t["model.encoder.layers.0.fc1.weight"].T.copy()}))


@case(("model.shared.weight", SAFE))
def a_row_of_the_table_too_few(folder):
    edit_tensors(folder, lambda t: t.update({"model.shared.weight": t["model.shared.weight"][:-1].copy()}))


@case(("final_logits_bias", SAFE))
def a_bias_of_another_shape(folder):
    edit_tensors(folder, lambda t: t.update({"final_logits_bias": t["final_logits_bias"][:, :-3].copy()}))


@case(("model.decoder.layers.0.fc2.bias", SAFE))
def a_nan(folder):
    edit_tensors(folder, lambda t: t["model.decoder.layers.0.fc2.bias"].__setitem__(5, numpy.nan))


@case(("model.shared.weight", SAFE))
def an_infinite_number(folder):
    edit_tensors(folder, lambda t: t["model.shared.weight"].__setitem__((9, 3), numpy.inf))


@case(("fc1.bias", SAFE))
def whole_numbers_for_weights(folder):
    edit_tensors(folder, lambda t: t.update({"model.encoder.layers.0.fc1.bias": t["model.encoder.layers.0.fc1.bias"].astype("i8")}))


@case(SAFE)
def safetensors_cut_off(folder):
    cut(folder / SAFE, 0.7)


@case(SAFE)
def safetensors_cut_off_in_the_header(folder):
    cut(folder / SAFE, 0.001)


@case(SAFE)
def safetensors_empty(folder):
    (folder / SAFE).write_bytes(b"")


@case(SAFE)
def safetensors_with_an_immense_header(folder):
    (folder / SAFE).write_bytes(struct.pack("<Q", 2**60) + b"{}")


@case(SAFE)
def safetensors_with_a_header_that_is_no_json(folder):
    (folder / SAFE).write_bytes(struct.pack("<Q", 8) + b"not json" + b"\0" * 64)


@case(SAFE)
def safetensors_that_is_a_folder(folder):
    (folder / SAFE).unlink()
    (folder / SAFE).mkdir()


@case((SAFE, BIN, "weights"))
def no_weights(folder):
    (folder / SAFE).unlink()


@case(("index", "outside", SAFE))
def shards_outside_the_folder(folder):
    (folder / SAFE).rename(folder.parent / "outside.safetensors")
    names = load_file(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {name: "../outside.safetensors" for name in names}}
    (folder / f"{SAFE}.index.json").write_text(json.dumps(index))


# Weights in a pickle

class Command:
    """Its unpickling runs a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@case(BIN, BIN)
def a_pickle_that_runs_a_command(folder):
    edit_pickle(folder, pickle.dumps({"model.shared.weight": Command(folder.parent / "ran")}, protocol=2))


@case(BIN, BIN)
def a_pickle_that_calls_eval(folder):
    edit_pickle(folder, b"\x80\x02c__builtin__\neval\nX\x0d\0\0\0print('eval')\x85R.")


@case(BIN, BIN)
def a_pickle_with_another_class(folder):
    edit_state(folder, lambda s: s.update({"extra": collections.Counter("ab")}))


@case(BIN, BIN)
def a_pickle_of_a_whole_module(folder):
    torch.save(torch.nn.Linear(2, 2), folder / BIN)


@case(BIN, BIN)
def a_pickle_with_unknown_opcodes(folder):
    edit_pickle(folder, b"\x80\x02\xff\xfe\xfd.")


@case(BIN, BIN)
def a_pickle_that_pops_an_empty_stack(folder):
    edit_pickle(folder, b"\x80\x02000R.")


@case(BIN, BIN)
def a_pickle_with_an_immense_length(folder):
    edit_pickle(folder, b"\x80\x02X\xff\xff\xff\x7fabc.")


@case(BIN, BIN)
def a_pickle_that_nests_without_end(folder):
    edit_pickle(folder, b"\x80\x02" + b"(" * 200000 + b"t" * 200000 + b".")


@case(BIN, BIN)
def a_pickle_that_never_ends(folder):
    edit_pickle(folder, b"\x80\x02}q\x00")


@case(BIN, BIN)
def a_pickle_whose_storage_is_missing(folder):
    edit_zip(folder / BIN, lambda m: {n: d for n, d in m.items() if not n.endswith("data/0")})


@case(BIN, BIN)
def a_pickle_whose_storage_is_short(folder):
    edit_zip(folder / BIN, lambda m: {n: d[:-8] if n.endswith("data/0") else d for n, d in m.items()})


@case(BIN, BIN)
def a_pickle_of_a_list(folder):
    torch.save([torch.zeros(3)], folder / BIN)


@case(("fc2.bias", BIN), BIN)
def a_pickle_with_a_nan(folder):
    edit_state(folder, lambda s: s["model.decoder.layers.0.fc2.bias"].__setitem__(5, float("nan")))


@case(("fc1.weight", BIN), BIN)
def a_pickle_with_a_missing_tensor(folder):
    edit_state(folder, lambda s: s.pop("model.encoder.layers.1.fc1.weight"))


@case(BIN, BIN)
def bin_cut_off(folder):
    cut(folder / BIN, 0.7)


@case(BIN, BIN)
def bin_of_other_bytes(folder):
    (folder / BIN).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@case(BIN, BIN)
def bin_empty(folder):
    (folder / BIN).write_bytes(b"")


def swell(path, member, start, piece, times):
    """Puts `start` and many times `piece` in the place of a member, which alone is compressed, and never whole in memory."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name, data in members.items():
            if not name.endswith(member):
                new.writestr(name, data, zipfile.ZIP_STORED)
                continue
            with new.open(name, "w", force_zip64=True) as file:
                file.write(start)
                for _ in range(times):
                    file.write(piece)


@case(BIN, BIN)
def a_zip_whose_pickle_swells(folder):
    swell(folder / BIN, "data.pkl", b"\x80\x02}", b"]0" * 2**19, 2048)  # a list and its end, 2 GiB of them


@case(BIN, BIN)
def a_zip_whose_storage_swells(folder):
    swell(folder / BIN, "data/0", b"", b"\0" * 2**20, 2048)


# Vocabularies

@case("vocab.json")
def vocab_that_is_no_json(folder):
    (folder / "vocab.json").write_text('{"</s>": 0, ')


@case("vocab.json")
def vocab_that_is_a_list(folder):
    (folder / "vocab.json").write_text('["</s>", "<unk>"]')


@case("vocab.json")
def vocab_with_an_id_twice(folder):
    edit_json(folder / "vocab.json", lambda v: v.update({"zwei": 5}))


@case("vocab.json")
def vocab_with_a_negative_id(folder):
    edit_json(folder / "vocab.json", lambda v: v.update({"minus": -1}))


@case("vocab.json")
def vocab_with_a_fraction_for_an_id(folder):
    edit_json(folder / "vocab.json", lambda v: v.update({"halb": 1.5}))


@case("vocab.json")
def vocab_with_an_id_beyond_the_table(folder):
    edit_json(folder / "vocab.json", lambda v: v.update({"weit": 10**6}))


@case("vocab.json")
def vocab_with_an_immense_id(folder):
    edit_json(folder / "vocab.json", lambda v: v.update({"weit": 2**63}))


@case(("vocab.json", "</s>"))
def vocab_without_an_end(folder):
    edit_json(folder / "vocab.json", lambda v: {("ende" if k == "</s>" else k): i for k, i in v.items()})


@case(("vocab.json", "<unk>"))
def vocab_without_an_unknown(folder):
    edit_json(folder / "vocab.json", lambda v: {("fremd" if k == "<unk>" else k): i for k, i in v.items()})


@case("vocab.json")
def vocab_that_is_missing(folder):
    (folder / "vocab.json").unlink()


@case("vocab.json")
def vocab_in_another_encoding(folder):
    (folder / "vocab.json").write_bytes('{"</s>": 0, "ü": 1}'.encode("latin-1"))


@case("source.spm")
def a_source_spm_that_is_missing(folder):
    (folder / "source.spm").unlink()


@case("target.spm")
def a_target_spm_cut_off(folder):
    cut(folder / "target.spm", 0.5)


@case("source.spm")
def a_source_spm_of_other_bytes(folder):
    (folder / "source.spm").write_bytes(b"\xff" * 1000)


@case("target.spm")
def a_target_spm_that_is_empty(folder):
    (folder / "target.spm").write_bytes(b"")


# Settings

def config_case(name, names, change):
    """A case of config.json; the message must also name one of `names`."""
    def broken(folder):
        edit_json(folder / "config.json", lambda c: c.update(change))
    CASES[f"config.json {name}"] = (broken, (*names, "config.json"), SAFE)


config_case("of T5", ("t5",), {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]})
config_case("of BART", ("bart",), {"model_type": "bart", "architectures": ["BartForConditionalGeneration"]})
config_case("of an unknown activation", ("activation_function",), {"activation_function": "tanh"})
config_case("with a wrong width", ("d_model", "model.shared.weight"), {"d_model": 96})
config_case("with heads that do not divide the width", ("heads", "encoder_attention_heads"),
            {"encoder_attention_heads": 7, "decoder_attention_heads": 7})
config_case("with different heads", ("decoder_attention_heads",), {"decoder_attention_heads": 2})
config_case("with an immense vocabulary", ("vocab_size",), {"vocab_size": 10**12, "decoder_vocab_size": 10**12})
config_case("with no layers", ("encoder_layers",), {"encoder_layers": 0})
config_case("with a layer too many", ("encoder_layers", "model.encoder.layers.2"), {"encoder_layers": 3})
config_case("with learned positions", ("static_position_embeddings",), {"static_position_embeddings": False})
config_case("with a normalization that is not ours", ("normalize_embedding",), {"normalize_embedding": True})
config_case("with text for a number", ("d_model",), {"d_model": "64"})
config_case("with an end that vocab.json has elsewhere", ("eos_token_id",), {"eos_token_id": 77})
config_case("with a start that is not the pad", ("decoder_start_token_id",), {"decoder_start_token_id": 3})


@case("config.json")
def config_that_is_no_json(folder):
    (folder / "config.json").write_text("model_type: marian\n")


@case("config.json")
def config_that_is_missing(folder):
    (folder / "config.json").unlink()


@case(("broken", "config.json"))
def an_empty_folder(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@case("broken")
def a_file_in_place_of_the_folder(folder):
    shutil.rmtree(folder)
    folder.write_text("not a folder")


@case("broken")
def no_folder(folder):
    shutil.rmtree(folder)


def make_broken(base, folder, breaking, weights):
    for path in pathlib.Path(base).iterdir():
        if path.is_file() and path.name != "expected.json" and path.name not in {BIN, SAFE} - {weights}:
            shutil.copy(path, folder / path.name)
    breaking(folder)


def run_limited(*args):
    """Exit code, stderr and peak memory in MiB of nmt-train; it is ended after two minutes."""
    with tempfile.TemporaryFile() as errors:
        done = subprocess.Popen(["timeout", "120", common.PROGRAM, *map(str, args)], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(done.pid, 0)
        done.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        return done.returncode, errors.read().decode("utf-8", "replace"), used.ru_maxrss / 1024


def refused(say, args, names, root):
    """Runs what must be refused. `root` must have the same files before and after."""
    before = sorted(root.rglob("*"))
    code, said, peak = run_limited(*args)
    left = [str(p.relative_to(root)) for p in sorted(root.rglob("*")) if p not in before]
    lines = [line for line in said.split("\n") if line.strip()]
    faults = [f"ended with {code}"] * (code not in (1, 3))
    faults += [f"{len(lines)} lines"] * (len(lines) != 1)
    faults += ["names none of " + ", ".join(names)] * (not any(name in said for name in names))
    faults += ["panic"] * ("panicked" in said or "RUST_BACKTRACE" in said)
    faults += [f"left {', '.join(left[:4])}"] * bool(left)
    faults += [f"{peak:.0f} MiB"] * (peak > LIMIT_MIB)
    message = lines[0].replace(str(root), "…") if lines else "no message"
    say(not faults, ("; ".join(faults) + " | " if faults else "") + message[:230])


def check_import(base, breaking, names, weights, label):
    with check(f"bad input: {label}") as say, tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(root, "broken")
        folder.mkdir()
        make_broken(base, folder, breaking, weights)
        refused(say, ["import", folder, "--out", pathlib.Path(root, "out"), "-q"], names, pathlib.Path(root))


def check_out(base):
    """A folder at --out is not written over."""
    with check("bad input: import to a folder that is there") as say, tempfile.TemporaryDirectory() as root:
        out = pathlib.Path(root, "out")
        out.mkdir()
        (out / "precious").write_text("kept")
        refused(say, ["import", base, "--out", out, "-q"], ("out",), pathlib.Path(root))
        say((out / "precious").exists())
    for name in ("hf://", "hf://only-an-owner", "hf://../../etc", "hf://a/b/c"):
        with check(f"bad input: import {name}") as say, tempfile.TemporaryDirectory() as root:
            refused(say, ["import", name, "--out", pathlib.Path(root, "out"), "-q"], ("hf://",), pathlib.Path(root))


def check_older_bin(base):
    """The .bin of before 2020's zip format is read, or refused by name."""
    with check("bad input: a .bin in the format of torch before 1.6") as say, tempfile.TemporaryDirectory() as root:
        folder, out = pathlib.Path(root, "broken"), pathlib.Path(root, "out")
        folder.mkdir()
        make_broken(base, folder, lambda f: edit_state(f, lambda s: None, _use_new_zipfile_serialization=False), BIN)
        code, said, _ = run_limited("import", folder, "--out", out, "-q")
        if code == 0:
            say((out / "config.toml").exists(), "read")
        else:
            say(code in (1, 3) and BIN in said and "panicked" not in said and not out.exists(), said.strip().split("\n")[0])


def check_climbing_zip(base):
    """Names inside a zip file are no paths: such a file is refused or read, and nothing is written but the run."""
    with check("bad input: a zip with names that climb") as say, tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        folder, out = root / "a" / "b" / "broken", root / "a" / "b" / "out"
        folder.mkdir(parents=True)
        make_broken(base, folder, lambda f: edit_zip(
            f / BIN, lambda m: {"../../../" + n.split("/", 1)[-1]: d for n, d in m.items()}), BIN)
        before = set(root.rglob("*"))
        code, said, _ = run_limited("import", folder, "--out", out, "-q")
        left = [p for p in root.rglob("*") if p not in before and p != out and out not in p.parents]
        say(not left and "panicked" not in said and (code == 0 or code in (1, 3) and BIN in said and not out.exists()),
            "read" if code == 0 else said.strip().split("\n")[0].replace(str(root), "…")[:230])


def check_export(run):
    """What can not be exported is an error before anything is written."""
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        (root / "there").mkdir()
        (root / "there" / "precious").write_text("kept")
        (root / "cut-off").mkdir()
        shutil.copytree(run, root / "cut-off", dirs_exist_ok=True)
        for weights in (root / "cut-off").rglob("model.safetensors"):
            cut(weights, 0.5)
        ends = [("to a folder that is there", [run, "--out", root / "there"], ("there",)),
                ("of no run", [root / "nothing", "--out", root / "out"], ("nothing",)),
                ("of an update that was not saved", [run, "--checkpoint", 123456, "--out", root / "out"], ("123456",)),
                ("of weights cut off", [root / "cut-off", "--out", root / "out"], ("cut-off",))]
        for form in ("huggingface", "ctranslate2"):
            for label, args, names in ends:
                with check(f"bad input: export {label}, {form}") as say:
                    refused(say, ["export", *args, "--format", form, "-q"], names, root)
        with check("bad input: export to Hugging Face in int8") as say:
            code, said, _ = run_limited("export", run, "--out", root / "out", "--format", "huggingface", "--dtype", "int8", "-q")
            say(code in (2, 3) and "int8" in said and not (root / "out").exists(), said.strip().split("\n")[0][:200])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--run", type=pathlib.Path)
    parser.add_argument("--only", default="", help="only cases with this in their name")
    args = parser.parse_args()
    for label, (breaking, names, weights) in CASES.items():
        if args.only in label:
            check_import(args.folder, breaking, names, weights, label)
    if not args.only:
        check_out(args.folder)
        check_older_bin(args.folder)
        check_climbing_zip(args.folder)
        if args.run:
            check_export(args.run)
    common.finish()


if __name__ == "__main__":
    main()
