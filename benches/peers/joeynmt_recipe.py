#!/usr/bin/env python3
"""What JoeyNMT 2.3 reaches with its own recipe for a small corpus in a given time: the score to beat.

usage: joeynmt_recipe.py DATA WORK --minutes 60 [--threads 2] [--target de]      (DATA: train.LANG.gz, val.LANG, test2016.LANG)

Trains `transformer_iwslt14_deen_bpe` as JoeyNMT ships it (6+6 layers, width 256, 4 heads, dropout 0.3, tied; Adam 3e-4 on
a plateau, batches of 4096 tokens, label smoothing 0.1, 32 000 subwords there, --vocabulary here; best of BLEU on
validation text), stops it after --minutes, validations included, and translates validation and test text with the best
checkpoint, beam 5. --tiny takes the model of 4+4 layers of width 128 instead. Needs joeynmt 2.3, torch, sentencepiece below
0.2 and sacrebleu; nothing of nmt-train.
"""
import argparse
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import sacrebleu
import sentencepiece


# torch has dropped an argument that JoeyNMT 2.3 still gives to its plateau schedule
JOEY = """
import runpy, torch.optim.lr_scheduler as schedules
plateau = schedules.ReduceLROnPlateau
schedules.ReduceLROnPlateau = lambda optimizer, verbose=False, **rest: plateau(optimizer, **rest)
runpy.run_module("joeynmt", run_name="__main__", alter_sys=True)
"""


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--source", default="en")
    parser.add_argument("--target", default="de")
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--validation-updates", type=int, default=250)
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


def prepare(o):
    """Plain text and one SentencePiece BPE model for both sides, as JoeyNMT's own scripts make it."""
    text = o.work / "text"
    text.mkdir(parents=True, exist_ok=True)
    for side in [o.source, o.target]:
        with gzip.open(o.data / f"train.{side}.gz") as file:
            (text / f"train.{side}").write_bytes(file.read())
        (text / f"dev.{side}").write_bytes((o.data / f"val.{side}").read_bytes())
        (text / f"test.{side}").write_bytes((o.data / f"test2016.{side}").read_bytes())
    sentencepiece.SentencePieceTrainer.train(
        input=[str(text / f"train.{side}") for side in [o.source, o.target]], model_prefix=str(text / "sp"),
        model_type="bpe", vocab_size=o.vocabulary, character_coverage=1.0, unk_id=0, pad_id=1, bos_id=2, eos_id=3,
        pad_piece="<pad>", minloglevel=2)
    pieces = [line.split("\t")[0] for line in open(text / "sp.vocab", encoding="utf-8")]
    (text / "vocab.txt").write_text("".join(piece + "\n" for piece in pieces), encoding="utf-8")
    return text


def config(o, text, folder):
    """YAML reads JSON."""
    layers, width, inner = (4, 128, 256) if o.tiny else (6, 256, 1024)
    side = lambda lang: dict(lang=lang, level="bpe", lowercase=False, max_length=100, voc_file=str(text / "vocab.txt"),
                             tokenizer_type="sentencepiece", tokenizer_cfg=dict(model_file=str(text / "sp.model"),
                                                                                pretokenizer="none"))
    stack = dict(type="transformer", num_layers=layers, num_heads=4, hidden_size=width, ff_size=inner, dropout=0.3,
                 embeddings=dict(embedding_dim=width, scale=True, dropout=0.0))
    whole = dict(
        name="recipe", joeynmt_version="2.3.0", model_dir=str(folder), use_cuda=False, fp16=False, random_seed=42,
        data=dict(train=str(text / "train"), dev=str(text / "dev"), test=str(text / "test"), dataset_type="plain",
                  src=side(o.source), trg=side(o.target)),
        testing=dict(n_best=1, beam_size=5, beam_alpha=1.0, batch_size=1024, batch_type="token", max_output_length=100,
                     eval_metrics=["bleu"], sacrebleu_cfg=dict(tokenize="13a")),
        training=dict(random_seed=42, optimizer="adam", normalization="tokens", adam_betas=[0.9, 0.999],
                      scheduling="plateau", patience=5, decrease_factor=0.7, loss="crossentropy", learning_rate=0.0003,
                      learning_rate_min=1e-8, weight_decay=0.0, label_smoothing=0.1, batch_size=4096, batch_type="token",
                      early_stopping_metric="bleu", epochs=1000, validation_freq=o.validation_updates,
                      logging_freq=max(1, o.validation_updates // 5), overwrite=True, shuffle=True,
                      print_valid_sents=[0], keep_best_ckpts=1),
        model=dict(initializer="xavier_uniform", embed_initializer="xavier_uniform", embed_init_gain=1.0, init_gain=1.0,
                   bias_initializer="zeros", tied_embeddings=True, tied_softmax=True, encoder=stack, decoder=stack))
    path = folder.with_suffix(".yaml")
    path.write_text(json.dumps(whole, indent=1).replace("1e-08", "1.0e-8"))  # YAML wants the point
    return path


def joey(o, *arguments, **streams):
    """Starts it in a folder of its own: it writes where it stands."""
    env = dict(os.environ, OMP_NUM_THREADS=str(o.threads), CUDA_VISIBLE_DEVICES="")
    log = open(o.work / "output.log", "a")
    streams = dict(stdout=log, stderr=log) | streams
    return subprocess.Popen([sys.executable, "-c", JOEY, *map(str, arguments)], env=env, cwd=o.work, **streams)


def main():
    o = options()
    o.work = o.work.resolve()
    text, folder = prepare(o), o.work / "model"
    path = config(o, text, folder)
    start = time.time()
    training = joey(o, "train", path, "--skip-test")
    try:
        training.wait(o.minutes * 60)
    except subprocess.TimeoutExpired:
        training.send_signal(signal.SIGKILL)
        training.wait()
    minutes = (time.time() - start) / 60
    if not (folder / "best.ckpt").exists():
        sys.exit(f"no checkpoint; see {o.work / 'output.log'}")
    for part in ["dev", "test"]:
        source, out = text / f"{part}.{o.source}", o.work / f"{part}.hyp"
        with open(source, "rb") as lines, open(out, "wb") as to:
            done = joey(o, "translate", path, "--ckpt", folder / "best.ckpt", stdin=lines, stdout=to).wait()
        if done:
            sys.exit(f"translating failed; see {o.work / 'output.log'}")
        hypotheses = open(out, encoding="utf-8").read().split("\n")[:-1]
        references = open(text / f"{part}.{o.target}", encoding="utf-8").read().split("\n")[:-1]
        if len(hypotheses) != len(references):
            sys.exit(f"{out}: {len(hypotheses)} lines for {len(references)}")
        bleu, chrf = sacrebleu.metrics.BLEU(), sacrebleu.metrics.CHRF()
        print(f"{part}: BLEU {bleu.corpus_score(hypotheses, [references])}  {chrf.corpus_score(hypotheses, [references])}")
    print(f"trained {minutes:.1f} minutes on {o.threads} threads; log: {folder / 'train.log'}")


main()
