#!/usr/bin/env python3
"""BLEU of lower-cased, Moses-tokenised text, as papers on Multi30k count it.

usage: moses_bleu.py HYPOTHESIS REFERENCE --language de      (detokenised, cased text, a line a sentence)

What the data of those papers went through (multi30k/dataset, task1/tok): lower-case, normalise punctuation, tokenise with
the Moses scripts (here their Python port, sacremoses; its `escape` makes `&apos;` as they do); then corpus BLEU of the
words as they stand. The words of the reference are printed: the 1000 of test2016 in German are 12 103 with fairseq's
published 41.02. Needs sacremoses and sacrebleu.
"""
import argparse

import sacrebleu
from sacremoses import MosesPunctNormalizer, MosesTokenizer


def words(path, language):
    normalize, tokenizer = MosesPunctNormalizer(lang=language), MosesTokenizer(lang=language)
    for line in open(path, encoding="utf-8", newline="\n"):
        yield tokenizer.tokenize(normalize.normalize(line.strip().lower()), return_str=True, escape=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hypothesis")
    parser.add_argument("reference")
    parser.add_argument("--language", required=True)
    o = parser.parse_args()
    hypothesis, reference = list(words(o.hypothesis, o.language)), list(words(o.reference, o.language))
    if len(hypothesis) != len(reference):
        parser.error(f"{len(hypothesis)} hypotheses, {len(reference)} references")
    print(sacrebleu.metrics.BLEU(tokenize="none", force=True).corpus_score(hypothesis, [reference]))


main()
