"""Loads an exported folder as its user would, and prints what came of it as JSON; stderr has the warnings a user sees.

    load_huggingface.py DIR [--hide-sentencepiece]
"""

import json
import sys

import common  # noqa: F401  environment first

if "--hide-sentencepiece" in sys.argv:
    import hide_sentencepiece  # noqa: F401  before transformers looks for it

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
from transformers.pipelines import SUPPORTED_TASKS
from transformers.utils import is_sentencepiece_available

LINES = ["Who always carries forty-four maps?", "The knife is smaller than the spoon.", "a </s> b <pad> c", "日本語 cafe\u0301"]


def main():
    folder = sys.argv[1]
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, info = AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
    inputs = tokenizer(LINES, return_tensors="pt", padding=True)
    generated = model.generate(**inputs)  # with the settings of generation_config.json and nothing else
    out = {
        "sentencepiece": is_sentencepiece_available(),
        "tokenizer": type(tokenizer).__name__,
        "model": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "loading": {key: sorted(map(str, value)) for key, value in info.items() if value},
        "specials": [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token],
        "ids": [tokenizer(line)["input_ids"] for line in LINES],
        "generated": tokenizer.batch_decode(generated, skip_special_tokens=True),
        "generation_config": {k: v for k, v in model.generation_config.to_dict().items() if v is not None},
        "pipeline": None,
    }
    if "translation" in SUPPORTED_TASKS:
        found = pipeline("translation", model=folder, device="cpu")(LINES, batch_size=len(LINES))
        out["pipeline"] = [row["translation_text"] for row in found]
    json.dump(out, sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main()
