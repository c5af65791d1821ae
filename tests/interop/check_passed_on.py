"""Is a model that was imported from an opus-mt-like folder the same when it is exported again?

    check_passed_on.py DIR HFDIR CT2DIR

DIR comes from make_opus.py; HFDIR and CT2DIR from `nmt-train export` of the run imported from it. transformers and
CTranslate2 must make of them what transformers made of DIR: DIR/expected.json.
"""

import json
import pathlib
import sys
import warnings

import common
from common import check, compare

import ctranslate2
import torch
import transformers
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from check_import import names_of, without_end


def check_huggingface(rows, folder):
    label = pathlib.Path(folder).name
    tokenizer = model = None
    with check(f"{label}: loads in transformers {transformers.__version__}") as say:
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        say(True, f"{type(tokenizer).__name__}, {type(model).__name__}")
    with check(f"{label}: ids of sources") as say:
        compare(say, [tokenizer(row["source"])["input_ids"] for row in rows], [row["source_ids"] for row in rows])
    with check(f"{label}: ids of targets") as say:
        compare(say, [tokenizer(text_target=row["target"])["input_ids"] for row in rows], [row["target_ids"] for row in rows])
    with check(f"{label}: greedy translations in transformers") as say:
        found = []
        for row in rows:
            ids = torch.tensor([row["source_ids"]])
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=1, do_sample=False,
                                 forced_eos_token_id=None, max_length=None, max_new_tokens=2 * ids.shape[1] + 10)
            found.append(tokenizer.decode(out[0], skip_special_tokens=True))
        compare(say, found, [row["greedy_text"] for row in rows])


def check_ctranslate2(rows, folder, names):
    with check(f"{pathlib.Path(folder).name}: greedy translations in CTranslate2 {ctranslate2.__version__}") as say:
        translator = ctranslate2.Translator(folder, device="cpu", inter_threads=1, intra_threads=1)
        add_end = not json.loads(pathlib.Path(folder, "config.json").read_text())["add_source_eos"]
        found = []
        for row in rows:
            pieces = row["source_pieces"] if add_end else without_end(row["source_pieces"])
            out = translator.translate_batch([pieces], beam_size=1, min_decoding_length=0, max_input_length=0,
                                             max_decoding_length=2 * len(row["source_ids"]) + 10)
            found.append(without_end(out[0].hypotheses[0]))
        compare(say, found, [without_end([names.get(i, "?") for i in row["greedy_ids"]]) for row in rows])


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
    folder, huggingface, converted = sys.argv[1:]
    rows = json.loads(pathlib.Path(folder, "expected.json").read_text(encoding="utf-8"))
    rows = [row for row in rows if row["source"].strip()]
    check_huggingface(rows, huggingface)
    check_ctranslate2(rows, converted, names_of(folder))
    common.finish()


if __name__ == "__main__":
    main()
