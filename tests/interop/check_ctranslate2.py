"""Does CTranslate2 make of an exported folder what nmt-train makes of the run?

    check_ctranslate2.py RUN DIR [--dtype float32] [--huggingface HFDIR] [--lines 200]

DIR comes from `nmt-train export RUN --format ctranslate2 --dtype T --out DIR`. With --huggingface, the export of the same
run to that format is converted by CTranslate2's own converter, and both model.bin are compared variable by variable. Of
other types than float32 scores and BLEU are printed, and must be near those of the run.
"""

import argparse
import json
import pathlib
import tempfile
import tomllib

import common
from common import check, compare, compare_scores, note

import ctranslate2
import numpy
from tokenizers import Tokenizer

from ctranslate2_file import read_model

# The largest share of a score that may be lost to the weights' type.
SHARE = {"float32": 1e-5, "float16": 0.01, "bfloat16": 0.05, "int16": 0.02, "int8": 0.10}


class Converted:
    """The folder in CTranslate2, beside the run that it was made from."""

    def __init__(self, run, folder, dtype):
        self.run, self.folder = run, folder
        self.config = tomllib.loads(pathlib.Path(run, "config.toml").read_text(encoding="utf-8"))
        self.source = tokenizer(pathlib.Path(run, "tokenizer.json"))
        target = pathlib.Path(run, "tokenizer.target.json")
        self.target = tokenizer(target) if target.exists() else self.source
        self.add_end = not json.loads(pathlib.Path(folder, "config.json").read_text())["add_source_eos"]
        # Types that a CPU does not compute with are widened; int8 is computed with.
        self.translator = ctranslate2.Translator(folder, device="cpu", inter_threads=1, intra_threads=1,
                                                 compute_type="default" if dtype == "int8" else "float32")

    def pieces(self, lines):
        """Source pieces as CTranslate2 wants them."""
        out = []
        for line in lines:
            pieces = self.source.encode(line).tokens
            pieces = pieces[:-1] if pieces[-1:] == ["</s>"] else pieces
            out.append(pieces + ["</s>"] if self.add_end else pieces)
        return out

    def target_pieces(self, lines):
        """Without `</s>`, which CTranslate2 adds."""
        found = [self.target.encode(line).tokens for line in lines]
        return [pieces[:-1] if pieces[-1:] == ["</s>"] else pieces for pieces in found]

    def text(self, pieces):
        return self.target.decode([self.target.token_to_id(p) for p in pieces], skip_special_tokens=True)

    def translate(self, lines, **options):
        """Translations, the longest allowed ones as long as in nmt-train."""
        pieces, found = self.pieces(lines), [""] * len(lines)
        sizes = [len(p) + (not self.add_end) for p in pieces]
        for size in sorted(set(sizes)):
            same = [i for i, n in enumerate(sizes) if n == size]
            longest = int(self.config["decode"]["max_length_factor"] * size) + 10
            out = self.translator.translate_batch([pieces[i] for i in same], max_batch_size=50, min_decoding_length=0,
                                                  max_decoding_length=longest, max_input_length=0, **options)
            for i, result in zip(same, out):
                found[i] = self.text([p for p in result.hypotheses[0] if p != "</s>"])
        return found

    def log_probabilities(self, sources, targets):
        """log P(target | source) of each pair, and tokens of the target."""
        found = self.translator.score_batch(self.pieces(sources), self.target_pieces(targets), max_batch_size=50,
                                            max_input_length=0)
        return [sum(x.log_probs) for x in found], [len(x.log_probs) for x in found]


def tokenizer(path):
    out = Tokenizer.from_file(str(path))
    out.encode_special_tokens = True
    return out


def check_scores(converted, dtype, lines):
    plain, odd = common.plain_lines(lines), common.odd_lines(lines)
    for kind, sources, targets in (("plain", plain, common.plain_lines(lines, "test.de")), ("odd", odd, odd[::-1])):
        with check(f"{name(converted.folder)}: log-probabilities of {kind} text, score_batch") as say:
            ours = common.score(converted.run, sources, targets)
            theirs, tokens = converted.log_probabilities(sources, targets)
            if dtype == "float32":
                compare_scores(say, ours, theirs, tokens)
            else:
                apart = max(abs(a - b) / abs(a) for a, b in zip(ours, theirs))
                say(abs(sum(ours) - sum(theirs)) <= SHARE[dtype] * abs(sum(ours)),
                    f"sums {sum(ours):.2f} and {sum(theirs):.2f}, a line apart by {100 * apart:.3f} % at most")


def check_greedy(converted, dtype, lines):
    for kind, text in (("plain", common.plain_lines(lines)), ("odd", common.odd_lines(lines))):
        with check(f"{name(converted.folder)}: greedy translations of {kind} text") as say:
            ours = common.translate(converted.run, text, "--beam", 1)
            theirs = converted.translate(text, beam_size=1)
            if dtype == "float32":
                compare(say, ours, theirs)
            elif kind == "plain":
                check_bleu(say, ours, theirs)
            else:
                say(True, f"{sum(a == b for a, b in zip(ours, theirs))} of {len(text)} lines equal")


def check_bleu(say, ours, theirs):
    references = common.plain_lines(len(ours), "test.de")
    bleu = [common.mean_bleu(x, references) for x in (ours, theirs)]
    say(abs(bleu[0] - bleu[1]) <= 1.5 * (200 / len(ours)) ** 0.5, f"{sum(a == b for a, b in zip(ours, theirs))} of {len(ours)} lines equal, "
        f"BLEU {bleu[0]:.2f} and {bleu[1]:.2f} ({bleu[1] - bleu[0]:+.2f})")


def check_beam(converted, lines):
    """Equal without a length penalty. With one CTranslate2 divides by a length without `</s>`: counted, not asked for."""
    for kind, text in (("plain", common.plain_lines(lines)), ("odd", common.odd_lines(lines))):
        with check(f"{name(converted.folder)}: beam 5 of {kind} text, no length penalty") as say:
            same = []
            for penalty in (1.0, 0.0):
                ours = common.translate(converted.run, text, "--beam", 5, "--length-penalty", penalty)
                theirs = converted.translate(text, beam_size=5, length_penalty=penalty, patience=2)
                same.append(sum(a == b for a, b in zip(ours, theirs)))
            compare(say, ours, theirs, least=0.99)
            say(True, f"{same[0]} with a penalty of 1")


def check_vocabularies(converted, own, theirs):
    with check(f"{name(converted.folder)}: files beside model.bin, against the converter's") as say:
        names = sorted(p.name for p in pathlib.Path(theirs).iterdir() if p.name != "model.bin")
        missing = [n for n in names if not pathlib.Path(own, n).exists()]
        different = [n for n in names if n not in missing
                     and json.loads(pathlib.Path(own, n).read_bytes()) != json.loads(pathlib.Path(theirs, n).read_bytes())]
        say(not missing and not different, ", ".join(names))
        for n in different:
            note(f"{n} differs: {pathlib.Path(own, n).read_text()[:200]!r}, {pathlib.Path(theirs, n).read_text()[:200]!r}")
        for n in missing:
            note(f"{n} is missing")


def difference(ours, theirs):
    """Why two variables are not the same, and by how much their numbers differ."""
    if ours.dtype != theirs.dtype or ours.values.shape != theirs.values.shape:
        return f"{ours.dtype} {ours.values.shape}, {theirs.dtype} {theirs.values.shape}", float("inf")
    return None, float(numpy.max(numpy.abs(ours.numbers() - theirs.numbers()), initial=0.0))


def check_model_file(converted, own, theirs):
    """Every variable under its own name or by an alias: the same type, shape and numbers."""
    with check(f"{name(converted.folder)}: model.bin, against the converter's") as say:
        files = [pathlib.Path(f, "model.bin") for f in (own, theirs)]
        (head, mine, aliases), (their_head, others, other_aliases) = map(read_model, files)
        mine, others = resolved(mine, aliases), resolved(others, other_aliases)
        missing, extra = sorted(others.keys() - mine.keys()), sorted(mine.keys() - others.keys())
        wrong, largest = [], {}
        for key in sorted(mine.keys() & others.keys()):
            why, apart = difference(mine[key], others[key])
            if why or apart > bound(mine[key]):
                wrong.append(f"{key}: {why or f'apart by {apart:.1e}'}")
            largest[mine[key].dtype] = max(largest.get(mine[key].dtype, 0.0), apart)
        say(not (missing or extra or wrong) and head == their_head,
            f"{len(mine)} variables" + (", the same bytes" if files[0].read_bytes() == files[1].read_bytes() else "")
            + ", apart by " + ", ".join(f"{v:.1e} ({k})" for k, v in largest.items()) + " at most")
        if head != their_head:
            note(f"head {head}, {their_head}")
        for text in [f"missing: {missing[:6]}"] * bool(missing) + [f"extra: {extra[:6]}"] * bool(extra) + wrong[:6]:
            note(text)


def resolved(variables, aliases):
    return {**variables, **{alias: variables[name] for alias, name in aliases.items()}}


def bound(variable):
    """Rounding may fall to the other side: one step of a whole number, the last digits of the sines of positions."""
    if variable.dtype.startswith("int"):
        return 1.0 if variable.values.ndim == 2 else 0.0
    size = float(numpy.max(numpy.abs(variable.numbers()), initial=0.0))
    return size * {"float32": 1e-6, "float16": 2**-11, "bfloat16": 2**-8}[variable.dtype]


def check_against_converter(converted, huggingface, dtype):
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory() as folder:
        theirs = f"{folder}/model"
        try:
            TransformersConverter(huggingface).convert(theirs, quantization=None if dtype == "float32" else dtype)
        except Exception as error:  # noqa: BLE001
            common.line_of_check(False, f"{name(huggingface)}: ct2-transformers-converter", f"{type(error).__name__}: {error}")
            return
        check_vocabularies(converted, converted.folder, theirs)
        check_model_file(converted, converted.folder, theirs)


def name(folder):
    return pathlib.Path(folder).name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="float32", choices=SHARE)
    parser.add_argument("--huggingface", help="the same run, exported to Hugging Face")
    parser.add_argument("--lines", type=int, default=200)
    args = parser.parse_args()
    try:
        converted = Converted(args.run, args.folder, args.dtype)
    except Exception as error:  # noqa: BLE001
        common.line_of_check(False, f"{name(args.folder)}: loads", f"{type(error).__name__}: {error}")
        common.finish()
    common.line_of_check(True, f"{name(args.folder)}: loads in CTranslate2 {ctranslate2.__version__}",
                         f"computes in {converted.translator.compute_type}")
    if args.huggingface:
        check_against_converter(converted, args.huggingface, args.dtype)
    check_scores(converted, args.dtype, args.lines)
    check_greedy(converted, args.dtype, args.lines)
    if args.dtype == "float32":
        check_beam(converted, args.lines)
    common.finish()


if __name__ == "__main__":
    main()
