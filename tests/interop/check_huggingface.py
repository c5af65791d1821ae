"""Does transformers make of an exported folder what nmt-train makes of the run?

    check_huggingface.py RUN DIR [--lines 200] [--beam-lines 200] [--ids 10000] [--dtype float32]

DIR comes from `nmt-train export RUN --format huggingface --out DIR`. With --dtype float16 or bfloat16 only loading and
greedy translations are looked at, for numbers of half precision agree no further.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tomllib

import common
from common import check, compare, compare_scores, note

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianTokenizer

TIE = 1e-5
# Said by transformers whatever is loaded, or no fault of the folder.
HARMLESS = ("Loading weights", "Device set to use", "recommended: pip install sacremoses", "warnings.warn(")


class Exported:
    """The folder in transformers, beside the run that it was made from."""

    def __init__(self, run, folder, dtype):
        self.run, self.folder = run, folder
        self.config = tomllib.loads(pathlib.Path(run, "config.toml").read_text(encoding="utf-8"))
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def longest(self, tokens):
        """The longest translation that nmt-train makes of so many source tokens."""
        return int(self.config["decode"]["max_length_factor"] * tokens) + 10

    def generate(self, lines, **options):
        """Translations, the longest allowed ones as long as in nmt-train."""
        ids = [self.tokenizer(line)["input_ids"] for line in lines]
        found = [""] * len(lines)
        for batch in batches(ids):
            inputs = self.tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt")
            with torch.no_grad():
                out = self.model.generate(**inputs, do_sample=False, max_length=None, forced_eos_token_id=None,
                                          max_new_tokens=self.longest(len(ids[batch[0]])), **options)
            for i, text in zip(batch, self.tokenizer.batch_decode(out, skip_special_tokens=True)):
                found[i] = text
        return found

    def log_probabilities(self, sources, targets):
        """log P(target | source) of each pair, and tokens of the target."""
        logs, tokens = [0.0] * len(sources), [0] * len(sources)
        order = sorted(range(len(sources)), key=lambda i: len(targets[i]))
        for at in range(0, len(order), 50):
            batch = order[at:at + 50]
            inputs = self.tokenizer([sources[i] for i in batch], return_tensors="pt", padding=True)
            labels = self.tokenizer(text_target=[targets[i] for i in batch], return_tensors="pt", padding=True)
            wanted, mask = labels["input_ids"], labels["attention_mask"]
            start = torch.full((len(batch), 1), self.model.config.decoder_start_token_id)
            with torch.no_grad():
                logits = self.model(**inputs, decoder_input_ids=torch.cat([start, wanted[:, :-1]], 1)).logits
            of_tokens = logits.double().log_softmax(-1).gather(2, wanted[..., None])[..., 0] * mask
            for row, i in enumerate(batch):
                logs[i], tokens[i] = of_tokens[row].sum().item(), int(mask[row].sum())
        return logs, tokens

    def tie(self, line, text):
        """Names the step of the greedy translation whose two best tokens are within 1e-5, if there is one."""
        inputs = self.tokenizer([line], return_tensors="pt")
        found = self.model.generate(**inputs, do_sample=False, num_beams=1, max_length=None, forced_eos_token_id=None,
                                    max_new_tokens=self.longest(inputs["input_ids"].shape[1]))
        with torch.no_grad():
            best = self.model(**inputs, decoder_input_ids=found[:, :-1]).logits.topk(2).values[0]
        gaps = (best[:, 0] - best[:, 1]).tolist()
        return next((f"token {k + 1}, {gap:.1e}" for k, gap in enumerate(gaps) if gap <= TIE), None)


def batches(ids, size=50):
    """Sentences of one length together: no padding, one longest translation."""
    for length in sorted({len(x) for x in ids}):
        same = [i for i, x in enumerate(ids) if len(x) == length]
        yield from (same[at:at + size] for at in range(0, len(same), size))


def loaded(folder, *options):
    """What a fresh process makes of the folder, and the warnings it printed."""
    script = pathlib.Path(__file__).with_name("load_huggingface.py")
    done = subprocess.run([sys.executable, str(script), folder, *options], capture_output=True, text=True, check=False)
    said = [line.strip() for line in done.stderr.split("\n") if line.strip()]
    if done.returncode:
        raise RuntimeError(said[-1] if said else f"exit code {done.returncode}")
    return json.loads(done.stdout), [line for line in said if not any(h in line for h in HARMLESS)]


def check_loading(folder, dtype):
    found, hidden = None, None
    with check(f"{name(folder)}: loads in transformers {transformers.__version__}") as say:
        found, warnings = loaded(folder)
        say(not warnings and not found["loading"] and found["dtype"] == dtype and found["sentencepiece"],
            f"{found['tokenizer']}, {found['model']}, {found['dtype']}")
        for line in warnings:
            note(f"warned: {line:.240}")
        for key, value in found["loading"].items():
            note(f"{key}: {value[:5]}")
    with check(f"{name(folder)}: loads without sentencepiece, and does the same") as say:
        hidden, warnings = loaded(folder, "--hide-sentencepiece")
        same = found is not None and {**hidden, "sentencepiece": True, "tokenizer": ""} == {**found, "tokenizer": ""}
        say(same and not warnings and not hidden["sentencepiece"], hidden["tokenizer"])
        for line in warnings:
            note(f"warned: {line:.240}")
    with check(f"{name(folder)}: pipeline('translation')") as say:
        if found["pipeline"] is None:
            say(True, f"transformers {transformers.__version__} has no such pipeline any more; generate() stands for it")
        else:
            say(found["pipeline"] == found["generated"], f"{len(found['pipeline'])} lines, as generate() has them")
    return found


def check_generation_config(exported, found):
    """The folder's own settings are those of the run."""
    with check(f"{name(exported.folder)}: generation_config.json is taken") as say:
        got, decode, pad = found["generation_config"], exported.config["decode"], exported.model.config.vocab_size - 1
        wanted = {"num_beams": decode["beam_size"], "pad_token_id": pad, "decoder_start_token_id": pad,
                  "eos_token_id": exported.tokenizer.eos_token_id, "bad_words_ids": [[pad]]}
        if decode["no_repeat_ngram_size"]:
            wanted["no_repeat_ngram_size"] = decode["no_repeat_ngram_size"]
        if decode["length_penalty_type"] == "length":
            wanted["length_penalty"] = decode["length_penalty"]
        # A value that is the class's own default may be left out.
        got = {"num_beams": 1, "length_penalty": 1.0, **got}
        wrong = {key: (got.get(key), value) for key, value in wanted.items() if got.get(key) != value}
        say(not wrong, f"{len(wanted)} settings" if not wrong else f"found, wanted: {wrong}")


def check_ids(exported, count):
    """Ids in transformers against those of the run's own tokenizer, and against what the program says it read."""
    lines = (common.plain_lines(count // 2, "train.en") + common.plain_lines(count // 4, "train.de")
             + common.odd_lines(count - count // 2 - count // 4, seed=7))
    theirs = [exported.tokenizer(line)["input_ids"] for line in lines]
    with check(f"{name(exported.folder)}: ids of tokenizer.json") as say:
        own = Tokenizer.from_file(str(pathlib.Path(exported.run, "tokenizer.json")))
        own.encode_special_tokens = True
        compare(say, [with_end(own.encode(line).ids, exported.tokenizer.eos_token_id) for line in lines], theirs)
    with check(f"{name(exported.folder)}: source pieces of translate --format json") as say:
        rows = [json.loads(row) for row in common.translate(exported.run, lines, "--format", "json", "--beam", 1)]
        ours = [without_end(row["source_pieces"]) for row in rows]
        compare(say, ours, [without_end(exported.tokenizer.convert_ids_to_tokens(ids)) for ids in theirs])


def with_end(ids, end):
    return ids if ids and ids[-1] == end else [*ids, end]


def without_end(pieces):
    return pieces[:-1] if pieces and pieces[-1] == "</s>" else pieces


def check_scores(exported, lines):
    plain, odd = common.plain_lines(lines), common.odd_lines(lines)
    pairs = {"plain text": (plain, common.plain_lines(lines, "test.de")), "odd text": (odd, odd[::-1]),
             "nothing, so one token": (plain, [""] * len(plain))}
    for kind, (sources, targets) in pairs.items():
        with check(f"{name(exported.folder)}: log-probabilities of {kind}") as say:
            theirs, tokens = exported.log_probabilities(sources, targets)
            compare_scores(say, common.score(exported.run, sources, targets), theirs, tokens)


def check_greedy(exported, lines):
    for kind, text in (("plain", common.plain_lines(lines)), ("odd", common.odd_lines(lines))):
        with check(f"{name(exported.folder)}: greedy translations of {kind} text, generate(num_beams=1)") as say:
            ours = common.translate(exported.run, text, "--beam", 1)
            compare(say, ours, exported.generate(text, num_beams=1), excuse=lambda i: exported.tie(text[i], ours[i]))


def check_beam(exported, lines):
    for kind, text in (("plain", common.plain_lines(lines)), ("odd", common.odd_lines(lines))):
        for penalty in (0.6, 1.0):
            with check(f"{name(exported.folder)}: beam 5 of {kind} text, length penalty {penalty}") as say:
                ours = common.translate(exported.run, text, "--beam", 5, "--length-penalty", penalty)
                theirs = exported.generate(text, num_beams=5, length_penalty=penalty, early_stopping=False)
                compare(say, ours, theirs, least=0.99)


def check_no_repeats(exported, lines):
    for size in (1, 2, 4):
        with check(f"{name(exported.folder)}: beam 5 of odd text without {size}-grams twice") as say:
            text = common.odd_lines(lines)
            ours = common.translate(exported.run, text, "--beam", 5, "--no-repeat-ngram-size", size)
            theirs = exported.generate(text, num_beams=5, no_repeat_ngram_size=size, early_stopping=False)
            compare(say, ours, theirs, least=0.99)


def check_n_best(run, lines):
    """--n-best never changes the best."""
    for kind, text in (("plain", common.plain_lines(lines)), ("odd", common.odd_lines(lines))):
        with check(f"{name(run)}: first of --n-best 2 and 5 of {kind} text against the one best") as say:
            best = common.translate(run, text, "--beam", 5)
            for count in (2, 5):
                first = {}
                for row in common.translate(run, text, "--beam", 5, "--n-best", count):
                    number, text_of, _ = row.split(" ||| ")
                    first.setdefault(int(number), text_of)
                compare(say, best, [first.get(i, "") for i in range(len(text))])


def check_blank(run):
    with check(f"{name(run)}: blank lines stay blank") as say:
        found = common.translate(run, ["", "Anna is here.", " \t ", ""])
        say(len(found) == 4 and found[0] == found[2] == found[3] == "" and found[1] != "", f"{len(found)} lines")


def check_marian_tokenizer(exported, lines):
    """Where .spm files were written, transformers' MarianTokenizer reads them to the same ids."""
    if not pathlib.Path(exported.folder, "source.spm").exists():
        with check(f"{name(exported.folder)}: MarianTokenizer") as say:
            say(True, "no source.spm in the folder: not written for this tokenizer")
        return
    marian = None
    with check(f"{name(exported.folder)}: MarianTokenizer's ids") as say:
        marian = MarianTokenizer.from_pretrained(exported.folder)
        text = common.plain_lines(lines) + common.plain_lines(lines, "test.de")
        compare(say, [exported.tokenizer(line)["input_ids"] for line in text], [marian(line)["input_ids"] for line in text])
    with check(f"{name(exported.folder)}: MarianTokenizer's ids of odd text") as say:
        # The specials of a text are pieces for MarianTokenizer only.
        text = [line for line in common.odd_lines(lines) if "<" not in line]
        compare(say, [exported.tokenizer(line)["input_ids"] for line in text],
                [marian(line)["input_ids"] for line in text], least=0.99)


def check_half(exported, lines):
    """Half precision: translations nearly those of the run."""
    with check(f"{name(exported.folder)}: greedy translations in {exported.model.dtype}") as say:
        text, references = common.plain_lines(lines), common.plain_lines(lines, "test.de")
        ours, theirs = common.translate(exported.run, text, "--beam", 1), exported.generate(text, num_beams=1)
        bleu = [common.mean_bleu(x, references) for x in (ours, theirs)]
        same = sum(a == b for a, b in zip(ours, theirs))
        say(abs(bleu[0] - bleu[1]) <= 1.0, f"{same} of {len(text)} lines equal, BLEU {bleu[0]:.2f} and {bleu[1]:.2f}")


def name(folder):
    return pathlib.Path(folder).name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("folder")
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--beam-lines", type=int, default=200)
    parser.add_argument("--ids", type=int, default=10000)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    found = check_loading(args.folder, args.dtype)
    try:
        exported = Exported(args.run, args.folder, args.dtype)
    except Exception as error:  # noqa: BLE001
        common.line_of_check(False, f"{name(args.folder)}: loads", f"{type(error).__name__}: {error}")
        common.finish()
    if args.dtype != "float32":
        check_half(exported, args.lines)
        common.finish()
    check_generation_config(exported, found)
    check_ids(exported, args.ids)
    check_marian_tokenizer(exported, args.lines)
    check_scores(exported, args.lines)
    check_greedy(exported, args.lines)
    check_beam(exported, args.beam_lines)
    check_no_repeats(exported, args.beam_lines)
    check_n_best(args.run, args.beam_lines)
    check_blank(args.run)
    common.finish()


if __name__ == "__main__":
    main()
