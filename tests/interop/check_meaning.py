"""Has each number that nmt-train prints one meaning?

    check_meaning.py RUN [--lines 100]

The score of a translation by `translate --scores`, by `--n-best`, by `--format json` and by `score` of the same pair, with
and without a length penalty; and that of pairs with an empty side.
"""

import argparse
import json
import pathlib

import common
from common import check

from tokenizers import Tokenizer

NEAR = 1e-4  # of printed numbers, in batches of other shapes


def near(a, b):
    return a == b or abs(a - b) <= NEAR * max(1.0, abs(a))


def all_near(say, pairs, what):
    wrong = [(i, a, b) for i, (a, b) in enumerate(pairs) if not near(a, b)]
    say(not wrong, f"{what} {len(pairs) - len(wrong)} of {len(pairs)}" + (f" (line {wrong[0][0] + 1}: {wrong[0][1:]})" if wrong else ""))


def kept_whole(run, rows):
    """Lines whose translation is cut into the pieces it was made of when it is read again, and ended by itself."""
    path = pathlib.Path(run, "tokenizer.target.json")
    tokenizer = Tokenizer.from_file(str(path if path.exists() else pathlib.Path(run, "tokenizer.json")))
    tokenizer.encode_special_tokens = True
    best = [row["translations"][0] for row in rows]
    return [i for i, t in enumerate(best) if without_end(tokenizer.encode(t["text"]).tokens) == without_end(t["pieces"])
            and t["pieces"][-1:] == ["</s>"]]


def without_end(pieces):
    return pieces[:-1] if pieces[-1:] == ["</s>"] else pieces


def check_penalty(run, text, penalty):
    options = ("--beam", 4, "--length-penalty", penalty)
    with check(f"{pathlib.Path(run).name}: scores of translations, length penalty {penalty}") as say:
        scores, lines = zip(*(row.split("\t", 1) for row in common.translate(run, text, "--scores", *options)))
        rows = [json.loads(row) for row in common.translate(run, text, "--format", "json", "--n-best", 3, *options)]
        first = {}
        for row in common.translate(run, text, "--n-best", 3, *options):
            number, _, value = row.split(" ||| ")
            first.setdefault(int(number), float(value))
        best = [row["translations"][0] for row in rows]
        say([t["text"] for t in best] == list(lines), "texts equal")
        all_near(say, [(float(s), t["score"]) for s, t in zip(scores, best)], "--scores and JSON")
        all_near(say, [(first[i], t["score"]) for i, t in enumerate(best)], "--n-best and JSON")
        all_near(say, [(t["log_probability"] / len(t["pieces"]) ** penalty, t["score"]) for t in best], "divided by the length")
        whole = kept_whole(run, rows)
        found = common.score(run, [text[i] for i in whole], [best[i]["text"] for i in whole], "--length-penalty", penalty)
        all_near(say, [(s, best[i]["score"]) for i, s in zip(whole, found)], "`score` and JSON")
        say(len(whole) > len(text) // 2)


def check_empty(run):
    """Nothing is translated to nothing without asking the model."""
    with check(f"{pathlib.Path(run).name}: pairs with an empty side") as say:
        both, source, target = common.score(run, ["", "", "Anna is here."], ["", "Anna ist hier.", ""])
        shown = common.translate(run, ["", "Anna is here."], "--scores")[0]
        row = json.loads(common.translate(run, ["", "Anna is here."], "--format", "json")[0])["translations"]
        best = common.translate(run, ["", "Anna is here."], "--n-best", 2)[0].split(" ||| ")
        say(both == float(shown.split("\t")[0]) == row[0]["score"] == row[0]["log_probability"] == float(best[2]) == 0,
            f"nothing for nothing {both}, text for nothing {source}, nothing for text {target}")
        say(shown.split("\t")[1] == row[0]["text"] == best[1].strip() == "" and source == float("-inf") and -1e3 < target < 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--lines", type=int, default=100)
    args = parser.parse_args()
    text = common.plain_lines(args.lines // 2) + common.odd_lines(args.lines - args.lines // 2)
    for penalty in (0.0, 0.6, 1.0):
        check_penalty(args.run, text, penalty)
    check_empty(args.run)
    common.finish()


if __name__ == "__main__":
    main()
