"""Does a run imported from an opus-mt-like folder do what transformers does with that folder?

    check_import.py DIR RUN

DIR comes from make_opus.py, RUN from `nmt-train import DIR --out RUN`. DIR/expected.json has what must come out. What
transformers makes of a blank line is not asked for: nmt-train leaves blank lines blank.
"""

import argparse
import json
import pathlib
import tempfile
import tomllib

import common
from common import check, compare, compare_scores


def names_of(folder):
    """Names of the target's ids."""
    path = pathlib.Path(folder, "target_vocab.json")
    path = path if path.exists() else pathlib.Path(folder, "vocab.json")
    return {i: piece for piece, i in json.loads(path.read_text(encoding="utf-8")).items()}


def check_pieces(label, rows, found):
    with check(f"{label}: source pieces") as say:
        ours = [line["source_pieces"] for line in found]
        compare(say, [without_end(p) for p in ours], [without_end(row["source_pieces"]) for row in rows])


def without_end(pieces):
    return pieces[:-1] if pieces[-1:] == ["</s>"] else pieces


def check_greedy(label, run, rows, found, names):
    with check(f"{label}: decode.max_length_factor is 2, what was expected with") as say:
        say(tomllib.loads(pathlib.Path(run, "config.toml").read_text(encoding="utf-8"))["decode"]["max_length_factor"] == 2)
    with check(f"{label}: greedy translations") as say:
        ours = common.translate(run, [row["source"] for row in rows], "--beam", 1)
        compare(say, ours, [row["greedy_text"] for row in rows])
    with check(f"{label}: pieces of greedy translations") as say:
        theirs = [without_end([names.get(i, "?") for i in row["greedy_ids"]]) for row in rows]
        compare(say, [without_end(line["translations"][0]["pieces"]) for line in found], theirs)


def check_scores(label, run, rows):
    with check(f"{label}: log-probabilities") as say:
        ours = common.score(run, [row["source"] for row in rows], [row["target"] for row in rows])
        compare_scores(say, ours, [row["log_p"] for row in rows], [len(row["target_ids"]) for row in rows])


def check_evaluate(label, run):
    """`evaluate` of an imported run is sacreBLEU of its translations."""
    import sacrebleu

    with check(f"{label}: evaluate") as say, tempfile.TemporaryDirectory() as folder:
        source, reference = common.plain_lines(30), common.plain_lines(30, "test.de")
        for name, lines in (("source", source), ("reference", reference)):
            pathlib.Path(folder, name).write_bytes(common.joined(lines).encode("utf-8"))
        line = common.nmt("evaluate", run, "-q", "--source", f"{folder}/source", "--reference", f"{folder}/reference",
                          "--metrics", "bleu", "--beam", 1)[0]
        theirs = sacrebleu.corpus_bleu(common.translate(run, source, "--beam", 1), [reference])
        say(line.startswith(str(theirs)), line.split("  ")[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("run")
    args = parser.parse_args()
    label = f"{pathlib.Path(args.folder).name} as {pathlib.Path(args.run).name}"
    rows = json.loads(pathlib.Path(args.folder, "expected.json").read_text(encoding="utf-8"))
    rows = [row for row in rows if row["source"].strip()]
    found = []
    with check(f"{label}: translate --format json") as say:
        lines = common.translate(args.run, [row["source"] for row in rows], "--format", "json", "--beam", 1)
        found = [json.loads(line) for line in lines]
        say(len(found) == len(rows), f"{len(found)} lines")
    check_pieces(label, rows, found)
    check_greedy(label, args.run, rows, found, names_of(args.folder))
    check_scores(label, args.run, rows)
    check_evaluate(label, args.run)
    common.finish()


if __name__ == "__main__":
    main()
