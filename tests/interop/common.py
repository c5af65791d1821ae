"""What the checks share: the program, the text they run on, and one line a check.

A script makes its checks inside `with check("name") as say:`, says figures with `say(passed, "figures")`, and ends with
`finish()`. A check that raises has failed, and the ones after it still run.
"""

import contextlib
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import traceback

# Before any of the libraries is imported: no network, no threads of their own, no colours.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1",
                  HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1", NO_COLOR="1")

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAM = os.environ.get("NMT") or str(PROJECT / "target" / "release" / "nmt-train")
DATA = PROJECT / "data" / "quickstart"
failures = 0
notes = []


class ProgramFailed(Exception):
    """nmt-train ended with another exit code than 0."""


def line_of_check(passed, name, figures=""):
    """Prints the line of one check, and the notes made in it."""
    global failures
    failures += not passed
    print(f"{'ok  ' if passed else 'FAIL'} {name}" + (f": {figures}" if figures else ""))
    for text in notes:
        print(f"       {text}")
    notes.clear()
    sys.stdout.flush()


@contextlib.contextmanager
def check(name):
    """One check, whose figures are said once; an exception fails it."""
    said = []

    def say(passed, figures=""):
        said.append((bool(passed), figures))

    try:
        yield say
    except Exception as error:  # noqa: BLE001  whatever it is, the check has failed
        message = str(error).strip().split("\n")[-1]
        said = [(False, f"{type(error).__name__}: {message[:300]}")]
        if os.environ.get("NMT_INTEROP_TRACE"):
            traceback.print_exc()
    passed = bool(said) and all(ok for ok, _ in said)
    line_of_check(passed, name, ", ".join(figures for _, figures in said if figures))


def note(text):
    """A line beneath the check that is being made, such as a line of text that differs."""
    notes.append(text)


def finish():
    """Ends the script: 1 if a check failed."""
    sys.stdout.flush()
    sys.exit(1 if failures else 0)


def split(text):
    """Lines as nmt-train counts them: at line feeds only."""
    return text.split("\n")[:-1]


def read(path):
    """The lines of a file."""
    return split(pathlib.Path(path).read_bytes().decode("utf-8"))


def joined(lines):
    return "".join(line + "\n" for line in lines)


def run_program(*args, stdin=""):
    """Runs nmt-train. Returns exit code, stdout and stderr."""
    done = subprocess.run([PROGRAM, *map(str, args)], input=stdin.encode("utf-8"), capture_output=True, check=False)
    return done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8", "replace")


def nmt(*args, stdin=""):
    """The lines of nmt-train's stdout; `ProgramFailed` unless it ends with 0."""
    code, out, err = run_program(*args, stdin=stdin)
    if code:
        last = [line for line in err.split("\n") if line.strip()][-1:] or ["no message"]
        first = next((line for line in err.split("\n") if line.startswith(("nmt-train:", "error:"))), last[0])
        raise ProgramFailed(f"nmt-train {args[0]} ended with {code}: {first}")
    return split(out)


def translate(run, lines, *options):
    """Translations of nmt-train, one a line."""
    return nmt("translate", run, "-q", "--threads", 1, *options, stdin=joined(lines))


def score(run, sources, targets, *options):
    """log P(target | source) of each pair by nmt-train."""
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in (("source", sources), ("target", targets)):
            pathlib.Path(folder, name).write_bytes(joined(lines).encode("utf-8"))
        found = nmt("score", run, "-q", "--threads", 1, "--source", f"{folder}/source", "--target", f"{folder}/target",
                    *options)
    return [float(x) for x in found]


def plain_lines(count, name="test.en"):
    """The first lines of a file of the quickstart's text."""
    return read(DATA / name)[:count]


FRAGMENTS = [
    "the ship", "Anna", "sieben Karten", "Straße", "Übergröße", "ß", "ẞ", "日本語", "中文。", "한국어", "русский", "עברית", "العربية",
    "हिन्दी", "🙂", "👩‍👩‍👧", "🇩🇪", "cafe\u0301", "a\u0308", "ﬁne", "ｆｕｌｌ　width", "№5", "½", "①", "１２３", "1,234.56", "2021-03-14", "</s>",
    "<pad>", "<unk>", "<s>", "▁", "a▁b", "▁▁", "\t", "  ", "\u00a0", "\u200b", "\u200d\ufeff", "\u2028", "\u0085", "…", "—", "„quoted“",
    "\"'`", "(a) [b] {c}", "a_b^c~d", "\\n", "%s", "&amp;", "http://example.org/?q=1&r=2", "x@example.org", "AAAA", "zzzzzzzzzzzz",
    "ĳ ǆ ſ", "ﷺ", "㍿", "ก็ าํ", "𝔘𝔫𝔦", "\u0001", "!?!?", ".", ",", "-", "Who", "carries", "?", "the map", "of the harbour",
]


def odd_lines(count, seed=1):
    """Lines that nobody trained on: other scripts, controls, special tokens in the text, long words, no blank ones."""
    chance = random.Random(seed)
    pick = lambda n: int(chance.random() * n)  # `random()` alone is the same in every version of Python
    lines = [f for f in FRAGMENTS if f.strip("\u200b\u200d\ufeff\u0001▁ \t\u00a0\u2028\u0085")]
    while len(lines) < count:
        words = [FRAGMENTS[pick(len(FRAGMENTS))] for _ in range(1 + pick(9))]
        line = ("" if pick(3) == 0 else " ").join(["see", *words] if pick(2) else [*words, "there"])
        lines.append(line[pick(2):] if line[0] == " " else line)
    return lines[:count]


def mean_bleu(hypotheses, references):
    """Corpus BLEU."""
    import sacrebleu

    return sacrebleu.corpus_bleu(hypotheses, [references], force=True).score


def compare(say, ours, theirs, least=1.0, excuse=None, show=3):
    """Says how many lines are equal; fewer than the share `least`, or two less in
    less than a hundred, is a failure. `excuse(i)` may name a tie in line i."""
    if len(ours) != len(theirs):
        say(False, f"{len(ours)} lines against {len(theirs)}")
        return
    differing = [i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]]
    excuses = {i: why for i in differing if (why := excuse(i) if excuse else None)}
    allowed = max(1, int((1 - least) * len(ours))) if least < 1 else 0
    passed = len(differing) - len(excuses) <= allowed
    say(passed, f"{len(ours) - len(differing)} of {len(ours)} lines equal"
        + (f", {len(excuses)} ties ({'; '.join(f'line {i + 1}: {w}' for i, w in list(excuses.items())[:3])})" if excuses else ""))
    for i in [] if passed else [i for i in differing if i not in excuses][:show]:
        note(f"line {i + 1}  ours:   {ours[i]!r:.240}")
        note(f"{'':{len(str(i + 1)) + 5}}  theirs: {theirs[i]!r:.240}")


def compare_scores(say, ours, theirs, tokens, bound=1e-4):
    """Says the largest difference of log-probabilities a token; `tokens` counts those of each line, `</s>` included."""
    if len(ours) != len(theirs):
        say(False, f"{len(ours)} scores against {len(theirs)}")
        return
    apart = [abs(a - b) if a != b else 0.0 for a, b in zip(ours, theirs)]
    each = [d / n for d, n in zip(apart, tokens)]
    worst = max(range(len(each)), key=each.__getitem__)
    say(each[worst] <= bound, f"{len(ours)} pairs, {sum(tokens)} tokens, apart by {each[worst]:.1e} a token at most (line "
        f"{worst + 1}: {ours[worst]:.6f}, {theirs[worst]:.6f}), sums by {max(apart):.1e}")
