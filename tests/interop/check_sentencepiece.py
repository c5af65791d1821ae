#!/usr/bin/env python3
"""Compares ids and text of nmt-train's tokenizers with those of the real programs, on thousands of odd lines.

    pip install sentencepiece==0.2.3 transformers
    tests/interop/check_sentencepiece.py [--data FOLDER] [--lines N] [MODEL.model | MARIAN_FOLDER | tokenizer.json]...

Without arguments it trains models of all kinds on the texts of FOLDER (default: data/quickstart) and checks these. Of each
model: ids and decoded text against sentencepiece (must be equal), ids of what an export writes in MarianTokenizer (must be
equal) and as tokenizer.json in AutoTokenizer (counted). Of a folder with source.spm, target.spm and vocab.json: ids and text
against transformers' MarianTokenizer (must be equal). Of a tokenizer.json: ids of the exported folder in AutoTokenizer (must
be equal). Exits 1 where something differs that must not. Ids come from the
test binary (tests/suite/sentencepiece.rs), for no command of the program prints them.
"""

import argparse
import io
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

import sentencepiece
import transformers

os.environ["TOKENIZERS_PARALLELISM"] = "false"
transformers.logging.set_verbosity_error()
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
USER = ["<user>", "ÄÖ", "▁x", "a b", "e\u0301", ">>de<<"]
POOL = (
    "aeinrst ABC   \t\u3000\u00a0▁▁ ,.!?123０１２ＡＢ\u0301\u0308\u200d\u200b\ufeff\u2028\u2029\x00\x01\x85👩👨👧🏽🇩🇪♥\ufe0f"
    "中文字符あアｶﾞ한국어각ກ็าำﷺ㍿½①ﬁĳǆſßŉ<>/s"
)
PARTS = [" <user> ", "<user>", "ÄÖ", "  ", "▁", "▁▁", "</s>", "<s>", "<unk>", "<pad>", "<0x41>", "\t", "   ", "👩‍👩‍👧", "e\u0301\u0323", ">>de<< "]
LONG = ["a" * 10000, "中文" * 3000, "word " * 2000, "é" * 3000, " " * 5000, "\u0301" * 50, "👩‍👩‍👧 🇩🇪" * 50]
EDGES = ["", " ", "  ", "▁", "▁▁", " ▁ ", "\x00", "a\x00b", ">>de<< Hallo", ">>de<<Hallo", ">>zz<< a", ">><< a", ">> a << b", " >>de<< a", "x" * 300]


def lines_of(folder, count):
    texts = [path for path in sorted(folder.glob("**/*")) if path.suffix in {".en", ".de", ".zh", ".fr"}]
    plain = [line for path in texts for line in path.read_text(encoding="utf-8").split("\n")]
    random.shuffle(plain)
    plain = plain[:count]
    # every code point that is a character, assigned or not, in runs and one by one inside of words
    points = [chr(i) for i in range(1, 0x110000) if not 0xD800 <= i <= 0xDFFF and i != 10]
    odd = ["".join(points[i : i + 97]) for i in range(0, len(points), 97 if count >= 5000 else 97 * 40)]
    odd += [" ".join(f"a{c}b" for c in points[i : i + 13]) for i in range(0, 0x3400, 13)]
    odd += ["".join(random.choice(POOL) for _ in range(random.randint(0, 40))) for _ in range(count // 4)]
    for _ in range(count // 8):
        line = random.choice(plain)[:80]
        at = random.randint(0, len(line))
        odd.append(line[:at] + random.choice(PARTS) + line[at:])
    return plain, plain + odd + LONG + EDGES


def train(folder, lines):
    """Models of all kinds; yields their paths."""
    kinds = {
        "plain": {},
        "identity": {"normalization_rule_name": "identity"},
        "nfkc_cf-bytes": {"normalization_rule_name": "nfkc_cf", "byte_fallback": True},
        "user-digits": {"user_defined_symbols": USER, "split_digits": True},
        "user-bytes": {"user_defined_symbols": USER, "byte_fallback": True, "normalization_rule_name": "identity"},
        "spaces": {"remove_extra_whitespaces": False},
        "spaces-no-prefix": {"remove_extra_whitespaces": False, "add_dummy_prefix": False, "user_defined_symbols": USER},
        "no-prefix": {"add_dummy_prefix": False},
        "suffix": {"treat_whitespace_as_suffix": True},
        "suffix-bytes": {"treat_whitespace_as_suffix": True, "remove_extra_whitespaces": False, "byte_fallback": True},
        "across-words": {"split_by_whitespace": False},
        "space-pieces": {"allow_whitespace_only_pieces": True, "remove_extra_whitespaces": False},
        "ids": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "eos_piece": "[END]", "unk_surface": " ?? ", "control_symbols": ["<c>"]},
    }
    jobs = [(f"{kind}-{name}", {"model_type": kind, **options}) for kind in ["unigram", "bpe"] for name, options in kinds.items()]
    jobs += [("char", {"model_type": "char", "user_defined_symbols": USER}), ("word", {"model_type": "word"})]
    for name, options in jobs:
        model = io.BytesIO()
        size = {"vocab_size": 1200, "hard_vocab_limit": False} if options["model_type"] == "unigram" else {"vocab_size": 1200}
        if options["model_type"] == "char":
            size = {"use_all_vocab": True}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, minloglevel=2, num_threads=1, character_coverage=0.98, **size, **options
        )
        path = folder / f"{name}.model"
        path.write_bytes(model.getvalue())
        yield path


def test_binary(profile):
    command = ["cargo", "test", "--profile", profile, "--test", "suite", "--no-run", "--message-format=json"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    return next(item["executable"] for item in found if item.get("executable") and item["target"]["name"] == "suite")


def ours(binary, tokenizer, lines, folder):
    """Both sides: ids, text and special ids. `folder`/out gets the files that Hugging Face reads."""
    (folder / "lines").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    names = {"NMT_CHECK_TOKENIZER": tokenizer, "NMT_CHECK_LINES": folder / "lines", "NMT_CHECK_OUT": folder / "out"}
    command = [binary, "--ignored", "--exact", "sentencepiece::writes_ids_for_checks"]
    subprocess.run(command, env={**os.environ, **{k: str(v) for k, v in names.items()}}, check=True, capture_output=True)
    return json.loads((folder / "out" / "ids.json").read_text())


def told(name, what, lines, pairs, must):
    """Counts equal pairs, and shows the first that differ."""
    wrong = [(line, a, b) for line, (a, b) in zip(lines, pairs) if a != b]
    print(f"{name}: {what}: {len(lines) - len(wrong)} of {len(lines)} equal" + ("" if must or not wrong else " (need not be)"), flush=True)
    for line, a, b in wrong[: 2 if must else 1]:
        at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        print(f"    {line[:60]!r} at {at}: ours {a[at : at + 6]!r}, theirs {b[at : at + 6]!r}")
    return not must or not wrong


def check_model(path, lines, binary, folder):
    side = ours(binary, path, lines, folder)[0]
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    unk, eos, _ = side["special"]
    ids = [library.encode(line) for line in lines]
    good = told(path.name, "ids", lines, [(a[:-1], b) for a, b in zip(side["ids"], ids)], True)
    text = [library.decode([i for i in line if i not in (unk, eos)]) for line in ids]
    good &= told(path.name, "text", lines, zip(side["text"], text), True)
    # a line that begins with a language code is another matter to MarianTokenizer
    some = [(line, ids) for line, ids in zip(lines, side["ids"]) if not line.startswith(">>")]
    marian = transformers.MarianTokenizer.from_pretrained(str(folder / "out"))
    pairs = [(ids, marian(line)["input_ids"]) for line, ids in some]
    good &= told(path.name, "exported, MarianTokenizer", [line for line, _ in some], pairs, True)
    if (folder / "out" / "tokenizer.json").exists():
        check_exported(path.name, lines, side, folder, False)
    return good


def check_exported(name, lines, side, folder, must):
    fast = transformers.AutoTokenizer.from_pretrained(str(folder / "out"))
    pairs = [(ids, fast(line)["input_ids"]) for line, ids in zip(lines, side["ids"])]
    return told(name, "exported, AutoTokenizer", lines, pairs, must)


def check_marian(path, lines, binary, folder):
    marian = transformers.MarianTokenizer.from_pretrained(str(path), split_special_tokens=True)
    source, target = ours(binary, path, lines, folder)
    good = told(path.name, "source ids", lines, [(a, marian(line)["input_ids"]) for line, a in zip(lines, source["ids"])], True)
    theirs = [marian(text_target=line)["input_ids"] for line in lines]
    good &= told(path.name, "target ids", lines, list(zip(target["ids"], theirs)), True)
    special = set(target["special"])
    text = [marian.decode([i for i in ids if i not in special], skip_special_tokens=True) for ids in target["ids"]]
    return told(path.name, "target text", lines, list(zip(target["text"], text)), True) and good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "data" / "quickstart")
    parser.add_argument("--lines", type=int, default=2000, help="plain lines; half as many odd ones come on top, from 5000 on all code points")
    parser.add_argument("--profile", default="dev", help="of the test binary, which cargo builds")
    parser.add_argument("--binary", help="a test binary that is built, where cargo is not to be asked")
    args = parser.parse_args()
    random.seed(5)
    plain, lines = lines_of(args.data, args.lines)
    binary = args.binary or test_binary(args.profile)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        good = True
        for path in args.what or train(folder, random.sample(plain, min(len(plain), 2000))):
            if path.suffix == ".json":
                good &= check_exported(path.name, lines, ours(binary, path.resolve(), lines, folder)[0], folder, True)
                continue
            check = check_marian if path.is_dir() else check_model
            good &= check(path.resolve(), lines, binary, folder)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
