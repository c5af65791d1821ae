#!/usr/bin/env python3
"""Minimum Bayes risk by sentence chrF: of each line's candidates the one that is closest to the others.

usage: mbr_chrf.py CANDIDATES > TRANSLATIONS      (CANDIDATES: what `nmt-train translate --samples N` or `--n-best N` prints)

chrF of character orders 1 to 6 without spaces, beta 2, mean over all candidates, each as often as it was drawn. Plain Python.
"""
import sys
from collections import Counter


def grams(text):
    text = text.replace(" ", "")
    return [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, 7)]


def chrf(hypothesis, reference):
    precision = recall = orders = 0
    for found, wanted in zip(hypothesis, reference):
        if found and wanted:
            matches = (found & wanted).total()
            precision += matches / found.total()
            recall += matches / wanted.total()
            orders += 1
    if precision + recall == 0:
        return 0.0
    precision, recall = precision / orders, recall / orders
    return 5 * precision * recall / (4 * precision + recall)


def main():
    lines = {}
    for line in open(sys.argv[1], encoding="utf-8"):
        number, text = line.rstrip("\n").split(" ||| ")[:2]
        lines.setdefault(int(number), Counter())[text] += 1
    for number in sorted(lines):
        known = {text: grams(text) for text in lines[number]}
        gain = lambda text: sum(n * chrf(known[text], known[other]) for other, n in lines[number].items())
        print(max(known, key=gain))


if __name__ == "__main__":
    main()
