#!/usr/bin/env python3
"""Multi30k English to German beside JoeyNMT 2.3: training tokens/s, and beam search with the same weights.

usage: joeynmt_multi30k.py DATA WORK [--nmt-train PROGRAM] [--set KEY=VALUE ...]   (all: --help)

DATA has train.{en,de}.gz and test2016.{en,de}; WORK is filled. The interpreter needs joeynmt 2.3, torch, tokenizers,
safetensors and sacrebleu.

Both train the model of --config (with --set) on the same tokens: JoeyNMT gets the text cut into pieces by our
tokenizer beforehand, as words, so it is spared that work. Its batches are `batch_type: token` of the same number:
sentences until the longest times their count reaches it, padding counted, no bucketing; ours hold that many target
tokens without padding. Tokens/s are target tokens with </s>, without padding, which is what both programs log.
Short runs alternate; the first part of each (warm-up) is not counted. A run during which other processes took over 5 %
of the cores is repeated, as far as --patience allows: PyTorch's threads spin at barriers and lose tenfold then.

For decoding, our weights (trained --updates-decode updates, or those of --run) become a JoeyNMT checkpoint, so that
both search with the same model for the same translations: beam 5, length penalty ((5 + n) / 6)^1. JoeyNMT's time is
its own "Generation took", without loading; ours is the whole process minus one with nothing to translate.
"""
import argparse
import datetime
import gzip
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPECIAL = ["<unk>", "<pad>", "<s>", "</s>"]
BEAM = 5


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--nmt-train", type=Path, default=ROOT / "target/release/nmt-train")
    parser.add_argument("--config", type=Path, default=ROOT / "configs/multi30k-en-de.toml")
    parser.add_argument("--set", action="append", default=[], help="changes of the config, as nmt-train takes them")
    parser.add_argument("--batch", type=int, default=4096, help="tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=30, help="of a training round of JoeyNMT")
    parser.add_argument("--updates-ours", type=int, default=30, help="of a training round of nmt-train")
    parser.add_argument("--updates-decode", type=int, default=500, help="of the model that translates")
    parser.add_argument("--run", type=Path, help="a finished run to translate with, instead of training one")
    parser.add_argument("--decode-batches", type=int, nargs="+", default=[64, 256], help="JoeyNMT's, in sentences")
    parser.add_argument("--patience", type=float, default=900, help="seconds to wait in all for a quiet machine")
    parser.add_argument("--skip", choices=["train", "decode"], action="append", default=[])
    return parser.parse_args()


def run(command, threads, **kwargs):
    """Runs to the end; on failure shows the end of the output and stops."""
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), CUDA_VISIBLE_DEVICES="")
    done = subprocess.run([str(c) for c in command], env=env, text=True, stderr=subprocess.PIPE, **kwargs)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-3000:]}")
    return done


class Machine:
    """Linux: what share of the cores others take."""

    QUIET = 0.05

    def __init__(self, patience):
        self.patience = patience
        # runs that count though others took much
        self.disturbed = 0

    @staticmethod
    def others():
        user, nice, system, _, _, irq, softirq, steal = map(int, open("/proc/stat").readline().split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return busy - sum(usage.ru_utime + usage.ru_stime for usage in own)

    def share(self, work):
        before, start = self.others(), time.perf_counter()
        result = work()
        return result, (self.others() - before) / (time.perf_counter() - start) / os.cpu_count()

    def quietly(self, work):
        """The result of `work` from a time when nothing else ran, if there is one."""
        while True:
            start = time.perf_counter()
            while self.share(lambda: time.sleep(1))[1] > self.QUIET and time.perf_counter() - start < self.patience:
                pass
            result, share = self.share(work)
            if share <= self.QUIET:
                return result
            self.patience -= time.perf_counter() - start
            print(f"others took {100 * share:.0f} % of the machine", file=sys.stderr)
            if self.patience <= 0:
                self.disturbed += 1
                print("warning: this run counts all the same", file=sys.stderr)
                return result


def train_ours(o, folder, updates, sets=()):
    """Trains without validation; returns the folder."""
    sides = [f'"{o.data}/train.en.gz"', f'"{o.data}/train.de.gz"']
    sets = [f"data.train=[{', '.join(sides)}]", "data.valid=[]", "data.test=[]", f"train.batch_size={o.batch}",
            f"train.max_updates={updates}", "train.log_freq=5", "validation.valid_freq=0", "checkpoint.save_freq=0",
            "validation.metrics=[]", "train.r_drop_alpha=0",  # JoeyNMT passes once
            f"data.cache_dir={o.work}/cache", *o.set, *sets, f"run_dir={folder}"]
    command = [o.nmt_train, "--config", o.config, "--force", "--quiet", "--threads", o.threads]
    run(command + [part for s in sets for part in ("--set", s)], o.threads)
    return folder


def speed_ours(folder):
    """Target tokens/s between the first and the last line of the log."""
    rows = [json.loads(line) for line in open(folder / "metrics.jsonl")]
    rows = [row for row in rows if row["event"] == "train"]
    first, last = rows[0], rows[-1]
    return (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])


class Pieces:
    """Our vocabulary as JoeyNMT's: words `t7` for our id 7; special symbols first, as it wants them."""

    def __init__(self, folder):
        import tokenizers

        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        self.special = [self.tokenizer.token_to_id(token) for token in SPECIAL]
        self.rest = [i for i in range(self.size) if i not in self.special]

    def words(self, lines):
        encodings = self.tokenizer.encode_batch(lines, add_special_tokens=False)
        return [" ".join("<unk>" if i == self.special[0] else f"t{i}" for i in e.ids) for e in encodings]

    def text(self, line):
        return self.tokenizer.decode([int(word[1:]) for word in line.split() if re.fullmatch(r"t\d+", word)])

    def rows(self):
        """Our id of each of JoeyNMT's, which starts decoding from <s> where we start from <pad>."""
        unknown, pad, _, end = self.special
        return [unknown, pad, pad, end] + self.rest


def lines_of(path):
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
    with opened as file:
        return file.read().split("\n")[:-1]


def prepare(o, pieces):
    text = o.work / "text"
    text.mkdir(parents=True, exist_ok=True)
    for side in ["en", "de"]:
        for name, source in [("train", f"train.{side}.gz"), ("test", f"test2016.{side}")]:
            words = pieces.words([line.strip() for line in lines_of(o.data / source)])
            (text / f"{name}.{side}").write_text("".join(word + "\n" for word in words), encoding="utf-8")
    (text / "vocab.txt").write_text("".join(f"{w}\n" for w in SPECIAL + [f"t{i}" for i in pieces.rest]))
    return text


def joey_config(o, config, text, folder, updates=0, decode_batch=64, test=False):
    """JoeyNMT's config for our resolved one. YAML reads JSON."""
    model = config["model"]
    assert model["kind"] == "transformer" and model["tied_embeddings"] == "all" and model["norm"] == "post"
    dropout = model["dropout"]
    side = lambda lang: dict(lang=lang, level="word", voc_file=str(text / "vocab.txt"),
                             max_length=config["data"]["max_length"] - 1)
    stack = lambda n: dict(
        type="transformer", num_layers=model.get(n) or model["layers"], num_heads=model["heads"],
        embeddings=dict(embedding_dim=model["d_model"], scale=True, dropout=model.get("embedding_dropout", dropout)),
        hidden_size=model["d_model"], ff_size=model["d_ff"], dropout=dropout, layer_norm="post",
        activation=model["activation"])
    data = dict(src=side("en"), trg=side("de"), dataset_type="plain")
    data |= dict(test=str(text / "test")) if test else dict(train=str(text / "train"), dev=str(text / "test"))
    log = max(1, updates // 6)
    config = dict(
        name="peer", joeynmt_version="2.3.0", model_dir=str(folder), use_cuda=False, fp16=False, random_seed=1, data=data,
        testing=dict(beam_size=BEAM, beam_alpha=1.0, batch_size=decode_batch, batch_type="sentence"),
        training=dict(
            random_seed=1, optimizer="adam", adam_betas=[0.9, 0.98], learning_rate=0.001, scheduling="warmupinversesquareroot",
            learning_rate_warmup=400, learning_rate_min=0.0, normalization="tokens", label_smoothing=0.1, loss="crossentropy",
            clip_grad_norm=1.0, batch_size=o.batch, batch_type="token", epochs=1000, updates=updates, logging_freq=log,
            validation_freq=1000 * log, overwrite=True, shuffle=True),
        model=dict(
            initializer="xavier_uniform", bias_initializer="zeros", embed_initializer="normal",
            embed_init_weight=model["d_model"] ** -0.5, tied_embeddings=True, tied_softmax=True,
            encoder=stack("encoder_layers"), decoder=stack("decoder_layers")))
    path = folder.with_suffix(".yaml")
    path.write_text(json.dumps(config, indent=1))
    return path


def joey(o, *arguments):
    run([sys.executable, "-m", "joeynmt", *arguments], o.threads, stdout=subprocess.DEVNULL)


def speed_joey(folder):
    """Target tokens/s over the log's windows but the first, and target tokens a batch."""
    seconds, tokens, first = 0.0, 0.0, None
    for line in open(folder / "train.log", encoding="utf-8"):
        if found := re.match(r"(\S+ \S+),(\d+) .*Step: +(\d+),.*Tokens per Sec: +(\d+)", line):
            stamp = datetime.datetime.fromisoformat(found[1]).timestamp() + int(found[2]) / 1000
            if first is None:
                first = int(found[3])
            else:
                seconds += stamp - last
                tokens += (stamp - last) * float(found[4])
            last, step = stamp, int(found[3])
    return tokens / seconds, tokens / (step - first)


def convert(run_folder, pieces, d_model, path):
    """Our weights as a JoeyNMT checkpoint."""
    import safetensors.torch
    import torch

    best = (run_folder / "checkpoints" / "latest").read_text().strip()
    ours = safetensors.torch.load_file(run_folder / "checkpoints" / best / "model.safetensors")
    ours = {name.removeprefix("model."): tensor for name, tensor in ours.items()}
    table = ours["shared.weight"][pieces.rows()].clone()
    state = {"src_embed.lut.weight": table, "trg_embed.lut.weight": table, "decoder.output_layer.weight": table}
    angles = torch.arange(5000)[:, None] / 10000 ** (2 * torch.arange(d_model // 2)[None] / d_model)
    sinusoids = torch.cat([angles.sin(), angles.cos()], 1)[None]
    state |= {"encoder.pe.pe": sinusoids, "decoder.pe.pe": sinusoids}
    names = {
        "encoder": {"self_attn": "src_src_att", "self_attn_layer_norm": "layer_norm"},
        "decoder": {"self_attn": "trg_trg_att", "self_attn_layer_norm": "x_layer_norm", "encoder_attn": "src_trg_att",
                    "encoder_attn_layer_norm": "dec_layer_norm"},
    }
    inner = {"q_proj": "q_layer", "k_proj": "k_layer", "v_proj": "v_layer", "out_proj": "output_layer"}
    feed = {"fc1": "feed_forward.pwff_layer.0", "fc2": "feed_forward.pwff_layer.3",
            "final_layer_norm": "feed_forward.layer_norm"}
    for name, tensor in ours.items():
        stack, *rest = name.split(".")
        if stack in names:
            renamed = [(names[stack] | inner | feed).get(part, part) for part in rest]
            state[".".join([stack, *renamed])] = tensor
    torch.save({"model_state": state}, path)


def translate_ours(o, folder, source, out):
    """Seconds of the whole program."""
    command = [o.nmt_train, "translate", folder, "--checkpoint", "latest", "--beam", BEAM, "--quiet", "--threads", o.threads]
    start = time.perf_counter()
    with open(source, "rb") as stdin, open(out, "wb") as stdout:
        run(command, o.threads, stdin=stdin, stdout=stdout)
    return time.perf_counter() - start


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f}…{max(values):.2f})"


def compare_training(o):
    ours, theirs, batch = [], [], 0
    for i in range(o.rounds):
        sets = ["schedule.kind=constant", "schedule.warmup_updates=0"]
        folder = o.machine.quietly(lambda: train_ours(o, o.work / "ours", o.updates_ours, sets))
        ours.append(speed_ours(folder))
        if i == 0:
            pieces = Pieces(folder)
            text = prepare(o, pieces)
        config = tomllib.loads((folder / "config.toml").read_text())
        config_file = joey_config(o, config, text, o.work / "joey", o.updates)
        o.machine.quietly(lambda: joey(o, "train", config_file, "--skip-test"))
        speed, batch = speed_joey(o.work / "joey")
        theirs.append(speed)
        print(f"round {i + 1}: ours {ours[-1]:.0f}, JoeyNMT {theirs[-1]:.0f} target tokens/s", file=sys.stderr)
    ratios = [a / b for a, b in zip(ours, theirs)]
    print(f"training, target tokens/s: nmt-train {statistics.median(ours):.0f}, JoeyNMT {statistics.median(theirs):.0f} "
          f"(its batches hold {batch:.0f} target tokens), ratio {spread(ratios)}")
    return dict(ours=ours, joeynmt=theirs, joeynmt_batch=batch, ratio=ratios)


def compare_decoding(o):
    import sacrebleu

    folder = o.run or train_ours(
        o, o.work / "model", o.updates_decode,
        ["decode.length_penalty_type=gnmt", "decode.length_penalty=1.0"])
    config = tomllib.loads((folder / "config.toml").read_text())
    pieces = Pieces(folder)
    text, model = prepare(o, pieces), o.work / "joey-model"
    model.mkdir(exist_ok=True)
    convert(folder, pieces, config["model"]["d_model"], model / "best.ckpt")
    (o.work / "nothing").write_text("")
    found, times = {}, {}
    for i in range(o.rounds):
        load = translate_ours(o, folder, o.work / "nothing", o.work / "nothing.out")
        whole = o.machine.quietly(lambda: translate_ours(o, folder, o.data / "test2016.en", o.work / "ours.out"))
        times.setdefault("nmt-train", []).append(whole - load)
        found["nmt-train"] = lines_of(o.work / "ours.out")
        for size in o.decode_batches:
            config_file = joey_config(o, config, text, model, 6, size, test=True)
            o.machine.quietly(lambda: joey(o, "test", config_file, "--output-path", o.work / "joey.out"))
            took = re.findall(r"Generation took ([\d.]+)", (model / "test.log").read_text())
            name = f"JoeyNMT, {size} sentences a batch"
            times.setdefault(name, []).append(float(took[-1]))
            found[name] = [pieces.text(line) for line in lines_of(o.work / "joey.out.test")]
        row = ", ".join(f"{name} {seconds[-1]:.2f} s" for name, seconds in times.items())
        print(f"round {i + 1}: {row} (ours with loading {whole:.2f} s)", file=sys.stderr)
    reference = lines_of(o.data / "test2016.de")
    fastest = min((name for name in times if name != "nmt-train"), key=lambda name: statistics.median(times[name]))
    ratios = [b / a for a, b in zip(times["nmt-train"], times[fastest])]
    for name, seconds in times.items():
        same = sum(a == b for a, b in zip(found[name], found["nmt-train"]))
        bleu = sacrebleu.corpus_bleu(found[name], [reference]).score
        print(f"beam {BEAM}, {len(reference)} sentences: {name} {spread(seconds)} s, BLEU {bleu:.1f}, "
              f"{same} translations as ours")
    print(f"decoding: ratio to the fastest of JoeyNMT's {spread(ratios)}")
    return dict(seconds=times, ratio=ratios)


def main():
    o = options()
    o.data, o.work, o.nmt_train = o.data.resolve(), o.work.resolve(), o.nmt_train.resolve()
    o.work.mkdir(parents=True, exist_ok=True)
    o.machine = Machine(o.patience)
    result = {}
    if "train" not in o.skip:
        result["training"] = compare_training(o)
    if "decode" not in o.skip:
        result["decoding"] = compare_decoding(o)
    if o.machine.disturbed:
        print(f"warning: in {o.machine.disturbed} runs other processes took over 5 % of the machine: measure again")
    print(json.dumps(result | dict(disturbed=o.machine.disturbed)))


if __name__ == "__main__":
    main()
