#!/usr/bin/env python3
"""Translating beside CTranslate2: the same weights, beam and threads, whole processes in turn.

usage: ctranslate2_translate.py RUN EXPORT SOURCE [--reference R] [--threads 2] [--beam 5] ...   (all: --help)

EXPORT is what `nmt-train export RUN --format ctranslate2 --out EXPORT` wrote; the interpreter needs ctranslate2, tokenizers
and, for BLEU, sacrebleu.

The text is --lines lines of SOURCE, shuffled again each time SOURCE is used up, so that no two batches are alike. Each
candidate translates it once and twice as much of it: T(2N) − T(N) is the time of N lines without loading, imports and first
touch of memory; one line alone shows the time of loading. A pair is that of one candidate and one of ours right before it; the
ratio is theirs over ours, above 1 where ours is faster. Both sides read text and write text, cut by the same tokenizer.

A candidate is chosen first: CTranslate2 tries --threads as threads of one batch and as batches of one thread each, with each
of --batches (tokens), and the best of each type of numbers takes part; ours is tried with each of --our-batches.
--length L keeps only lines of L tokens, and both sides end at 2·L + 10 then: for models that do not know when to stop.
"""
import argparse
import itertools
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("export", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--reference", type=Path, help="lines of SOURCE as they should be: BLEU of each candidate")
    parser.add_argument("--ours", action="append", help="program and arguments, several times for several candidates")
    parser.add_argument("--types", nargs="*", default=["float32", "int8"], help="CTranslate2's compute types")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--lines", type=int, default=4000, help="N")
    parser.add_argument("--length", type=int, default=0, help="tokens with </s>; 0 = all lines")
    parser.add_argument("--batches", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--our-batches", type=int, nargs="+", default=[0], help="0 = the run's")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    return parser.parse_args()


def tokenizer(folder):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def peer(o):
    """One process of CTranslate2: text from stdin to stdout."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import ctranslate2

    compute_type, inter, intra, batch = o.peer.split(":")
    translator = ctranslate2.Translator(
        str(o.export), compute_type=compute_type, inter_threads=int(inter), intra_threads=int(intra)
    )
    vocabulary = tokenizer(o.export)
    sources = [line.tokens for line in vocabulary.encode_batch(sys.stdin.read().split("\n")[:-1])]
    sources = [tokens if tokens[-1:] == ["</s>"] else tokens + ["</s>"] for tokens in sources]
    results = translator.translate_batch(
        sources,
        max_batch_size=int(batch),
        batch_type="tokens",
        beam_size=o.beam,
        length_penalty=1.0,
        max_input_length=0,
        max_decoding_length=2 * o.length + 10 if o.length else 256,
    )
    ids = [[vocabulary.token_to_id(token) for token in result.hypotheses[0]] for result in results]
    sys.stdout.writelines(line + "\n" for line in vocabulary.decode_batch(ids))


class Ours:
    def __init__(self, o, command, batch):
        self.name = " ".join([Path(command[0]).name, *command[1:], *([f"batch {batch}"] if batch else [])])
        self.command = [command[0], "translate", str(o.run), "--beam", str(o.beam), "--threads", str(o.threads)]
        self.command += ["--length-penalty", "1", "--quiet", *command[1:]]
        self.command += ["--max-batch-tokens", str(batch)] if batch else []


class Theirs:
    def __init__(self, o, compute_type, inter, intra, batch):
        self.name = f"CTranslate2 {compute_type}, {inter} × {intra} threads, batch {batch}"
        self.command = [sys.executable, __file__, str(o.run), str(o.export), str(o.source), "--beam", str(o.beam)]
        self.command += ["--length", str(o.length), "--peer", f"{compute_type}:{inter}:{intra}:{batch}"]


def process(candidate, text):
    """Seconds, peak MiB and lines of one process."""
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as taken:
        given.writelines(line + "\n" for line in text)
        given.seek(0)
        start = time.perf_counter()
        child = subprocess.Popen(candidate.command, stdin=given, stdout=taken, stderr=subprocess.PIPE, text=True)
        errors = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        if status != 0:
            sys.exit(f"{shlex.join(candidate.command)}\n{errors}")
        taken.seek(0)
        lines = taken.read().split("\n")[:-1]
    if len(lines) != len(text):
        sys.exit(f"{candidate.name}: {len(lines)} lines for {len(text)}")
    return seconds, usage.ru_maxrss / 1024, lines


def slope(candidate, text):
    """Seconds of half of `text`, of one line with all loading, peak MiB of all of it and its lines."""
    one, _, _ = process(candidate, text[:1])
    half, _, _ = process(candidate, text[: len(text) // 2])
    whole, peak, lines = process(candidate, text)
    return {"seconds": whole - half, "loading": one, "peak": peak, "lines": lines}


def best(candidates, text):
    """The one that is quickest with a text, loading included."""
    return min(candidates, key=lambda candidate: process(candidate, text)[0]) if len(candidates) > 1 else candidates[0]


def spread(values, digits=2):
    middle, low, high = (f"{f(values):.{digits}f}" for f in (statistics.median, min, max))
    return f"{middle} ({low}…{high})"


def main():
    o = options()
    if o.peer:
        return peer(o)
    source = o.source.read_text(encoding="utf-8").split("\n")[:-1]
    reference = o.reference.read_text(encoding="utf-8").split("\n")[:-1] if o.reference else [""] * len(source)
    pairs = list(zip(source, reference, strict=True))
    if o.length:
        lengths = [len(line.ids) for line in tokenizer(o.export).encode_batch(source)]
        pairs = [pair for pair, length in zip(pairs, lengths) if length == o.length]
        if not pairs:
            sys.exit(f"no line of {o.length} tokens; most have {statistics.mode(lengths)}")
    order = random.Random(1)
    shuffled = (pair for _ in itertools.count() for pair in order.sample(pairs, len(pairs)))
    chosen = list(itertools.islice(shuffled, 2 * o.lines))
    text = [line for line, _ in chosen]

    trial = text[: max(1, o.lines // 2)]
    programs = [shlex.split(program) for program in o.ours or [str(ROOT / "target/release/nmt-train")]]
    ours = [best([Ours(o, program, batch) for batch in o.our_batches], trial) for program in programs]
    shares = sorted({(1, o.threads), (o.threads, 1)})
    theirs = [
        best([Theirs(o, kind, *share, batch) for share in shares for batch in o.batches], trial) for kind in o.types
    ]
    candidates = ours + theirs
    found = {candidate: [] for candidate in candidates}
    for _ in range(o.pairs):
        for candidate in candidates:
            found[candidate].append(slope(candidate, text))

    vocabulary = tokenizer(o.export)
    tokens = sum(len(line.ids) for line in vocabulary.encode_batch(text[o.lines :]))
    print(f"{o.lines} lines, {tokens} source tokens, beam {o.beam}, {o.threads} threads, {o.pairs} pairs")
    for candidate in candidates:
        runs = found[candidate]
        of = lambda key: [run[key] for run in runs]
        made = vocabulary.encode_batch(runs[0]["lines"][o.lines :])
        made = sum(len(line.ids) for line in made)
        middle = statistics.median(of("seconds"))
        text_of = [f"{spread(of('seconds'))} s, {made / middle:.0f} tokens/s", f"loading {spread(of('loading'))} s"]
        text_of.append(f"peak {max(of('peak')):.0f} MiB")
        if o.reference:
            import sacrebleu

            bleu = sacrebleu.corpus_bleu(runs[0]["lines"], [[line for _, line in chosen]])
            text_of.append(f"BLEU {bleu.score:.2f}")
        for other in ours if candidate in theirs else []:
            ratios = [run["seconds"] / base["seconds"] for run, base in zip(runs, found[other])]
            same = sum(a == b for a, b in zip(runs[0]["lines"], found[other][0]["lines"]))
            text_of.append(f"{other.name} is {spread(ratios)} times as fast, {same} of {2 * o.lines} lines alike")
        for other in ours[:1] if candidate in ours[1:] else []:
            text_of.append(f"{spread([base['seconds'] / run['seconds'] for run, base in zip(runs, found[other])])} times as fast as {other.name}")
        print(f"{candidate.name}: " + "; ".join(text_of))
        print(json.dumps({"name": candidate.name, **{key: of(key) for key in ("seconds", "loading", "peak")}}), file=sys.stderr)
    return None


if __name__ == "__main__":
    main()
