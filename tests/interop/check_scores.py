"""Does `nmt-train evaluate` print what sacreBLEU prints?

    check_scores.py [WORK]

Perturbed text of the quickstart with one to four references, in every metric, tokenizer and case: whole lines equal,
signatures but for the version. WORK is a folder for the files.
"""

import itertools
import pathlib
import random
import re
import sys
import tempfile

import common
from common import check, note

import sacrebleu
from sacrebleu.metrics import BLEU, CHRF, TER

METRICS = {
    "bleu": lambda options: BLEU(force=True, **options),
    "chrf": lambda options: CHRF(lowercase=options.get("lowercase", False)),
    "chrf++": lambda options: CHRF(word_order=2, lowercase=options.get("lowercase", False)),
    "ter": lambda options: TER(case_sensitive=False),
}
TOKENIZERS = ["13a", "intl", "char", "zh", "none"]


def perturbed(lines, seed, share=0.2):
    """Words left out, doubled, in another case, or moved to the end; some lines become empty."""
    chance, out = random.Random(seed), []
    for line in lines:
        words = []
        for word in line.split(" "):
            kind = int(chance.random() / share * 4)
            words += {0: [], 1: [word, word], 2: [word.swapcase()], 3: [word.rstrip(".,?!")]}.get(kind, [word])
        if chance.random() < 0.2:
            words = words[len(words) // 2:] + words[:len(words) // 2]
        out.append("" if chance.random() < 0.02 else " ".join(words))
    return out


def signature(text):
    return re.sub(r"version:\S+", "", text)


def wanted(metric, options, hypotheses, references):
    """sacreBLEU's line and signature, as `evaluate` prints them."""
    scorer = METRICS[metric](options)
    return f"{scorer.corpus_score(hypotheses, references)}  {scorer.get_signature()}"


def compare_lines(say, cases):
    """Each case: what `evaluate` printed, what sacreBLEU says."""
    wrong = [(ours, theirs) for ours, theirs in cases if signature(ours) != signature(theirs)]
    say(not wrong, f"{len(cases) - len(wrong)} of {len(cases)} lines equal")
    for ours, theirs in wrong[:3]:
        note(f"ours:   {ours}")
        note(f"theirs: {theirs}")


def check_references(work, name, hypotheses, references):
    """All that can be measured of these files."""
    files = {"hypothesis": hypotheses, **{f"reference{i}": lines for i, lines in enumerate(references)}}
    for file, lines in files.items():
        (work / file).write_bytes(common.joined(lines).encode("utf-8"))
    arguments = ["--hypothesis", work / "hypothesis"]
    for i in range(len(references)):
        arguments += ["--reference", work / f"reference{i}"]
    cases = []
    with check(f"evaluate: {name}, {len(references)} references") as say:
        for lowercase, tokenize in itertools.product((False, True), TOKENIZERS):
            metrics = list(METRICS) if tokenize == "13a" else ["bleu"]
            ours = common.nmt("evaluate", "-q", *arguments, "--metrics", ",".join(metrics), "--tokenize", tokenize,
                              *["--lowercase"] * lowercase)
            options = {"tokenize": tokenize, "lowercase": lowercase}
            cases += [(line, wanted(metric, options, hypotheses, references)) for metric, line in zip(metrics, ours)]
        compare_lines(say, cases)


def check_unequal(work):
    """A reference with a line less is refused."""
    with check("evaluate: a reference with fewer lines") as say:
        (work / "short").write_bytes(b"a line\n")
        code, out, err = common.run_program("evaluate", "-q", "--hypothesis", work / "hypothesis", "--reference", work / "short")
        say(code == 3 and not out and "short" in err, err.strip().split("\n")[0])


def main():
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else folder)
        work.mkdir(parents=True, exist_ok=True)
        common.line_of_check(True, f"sacreBLEU {sacrebleu.__version__}")
        lines = common.plain_lines(150, "test.de")
        for count in (1, 2, 3, 4):
            references = [lines] + [perturbed(lines, 10 + i) for i in range(count - 1)]
            check_references(work, "plain text", perturbed(lines, 1), references)
        odd = common.odd_lines(150)
        check_references(work, "odd text", perturbed(odd, 2), [odd, perturbed(odd, 3)])
        check_unequal(work)
    common.finish()


if __name__ == "__main__":
    main()
