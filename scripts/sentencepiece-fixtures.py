#!/usr/bin/env python3
"""Writes tests/fixtures/sentencepiece/: small models, and what the sentencepiece library makes of texts with them, and sacreBLEU's spBLEU over their pieces.

    pip install sacrebleu==2.6.0 sentencepiece==0.2.3
    python scripts/sentencepiece-fixtures.py [FOLDER]    # rewrites every file; FOLDER holds more models, *.model

The models are trained on the texts of sacrebleu-fixtures.py, with a table of normalization of a few rules, so that they
stay small. Of models in FOLDER, which are not the project's, only the pieces are written. Not needed to build, test or
use nmt-train.
"""

import importlib.util
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile

import sacrebleu
import sentencepiece
from sacrebleu.tokenizers import tokenizer_spm

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE.parent / "tests" / "fixtures" / "sentencepiece"
# code points in hexadecimal: "Ä" decomposed is "Ä", the ideographic space, no-break space and tab a space, soft hyphen nothing, ﬁ fi,
# "..." an ellipsis
RULES = ["41 308\tC4", "3000\t20", "A0\t20", "9\t20", "AD\t", "FB01\t66 69", "2E 2E 2E\t2026", "FF0C\t2C", "FF01\t21"]
MORE = [
    "", " ", "   ", "a", "  leading and trailing  ", "two  spaces   three", "\u3000ideographic\u3000\u3000space\u3000", "no\u00a0break\ttab",
    "soft\u00adhyphen \u00ad \u00adx", "A\u0308rger ﬁn ... .... ....... end", "!!!!!!!!", "aaaaaaaaaaaaaaaaaaaaaa", "👩‍👩‍👧 🇩🇪 unknown ✓✗", "中文，字符！",
    "▁ meta ▁▁ symbol", "<unk> <s> </s> <pad>", "USER user<user>USER <user>", "\u0000nul\u0001", "\ufeffbom", "İı ẞß ŉ", "ข้าว ខ្ញុំ မြန်",
    "1234567890 3.14159 1,000,000", ">>de<< code", "a\t\u3000 <0x41> <user>\u0308", "e\u0301\u0323 \U000e0100\u0378", "\u2028line\u2029paragraph\u0085next", "x" * 300, "中" * 60, "�replacement",
]


def texts():
    spec = importlib.util.spec_from_file_location("fixtures", HERE / "sacrebleu-fixtures.py")
    fixtures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fixtures)
    lines = [line for _, hyps, refs in fixtures.cases() for stream in [hyps, *refs] for line in stream]
    return fixtures, list(dict.fromkeys(line for line in lines if "\n" not in line and len(line) < 2000))[::6] + MORE


def train(name, lines, **options):
    model = io.BytesIO()
    rules = pathlib.Path("rules.tsv")  # the model names it: no folder of this machine
    rules.write_text("\n".join(RULES) + "\n", encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, normalization_rule_tsv=str(rules), minloglevel=2, num_threads=1, **options
    )
    rules.unlink()
    path = OUT / f"{name}.model"
    path.write_bytes(model.getvalue())
    return path


def spbleu(model, hypotheses, references):
    """BLEU as sacreBLEU gives it where its model of flores200 is `model`."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer_spm.SACREBLEU_DIR = folder
        models = pathlib.Path(folder) / "models"
        models.mkdir()
        shutil.copy(model, models / os.path.basename(tokenizer_spm.SPM_MODELS["flores200"]["url"]))
        metric = sacrebleu.metrics.BLEU(tokenize="flores200")
        score = metric.corpus_score(hypotheses, [references])
        return [score.score, str(score), str(metric.get_signature())]


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    others = sorted(pathlib.Path(sys.argv[1]).resolve().glob("*.model")) if len(sys.argv) > 1 else []
    os.chdir(OUT)
    for old in OUT.glob("*"):
        old.unlink()
    fixtures, lines = texts()
    corpus = fixtures.EN + fixtures.DE + fixtures.ZH + fixtures.RU
    models = [
        train("unigram", corpus, model_type="unigram", vocab_size=300, user_defined_symbols=["<user>", "ÄÖ"]),
        train("bpe", corpus, model_type="bpe", vocab_size=400, user_defined_symbols=["<user>"]),
        train("suffix", corpus, model_type="unigram", vocab_size=300, treat_whitespace_as_suffix=True, remove_extra_whitespaces=False),
        train("bytes", corpus, model_type="bpe", vocab_size=700, byte_fallback=True, add_dummy_prefix=False),
        train("ids", corpus, model_type="char", vocab_size=120, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, eos_piece="[END]",
              remove_extra_whitespaces=False, user_defined_symbols=["<user>"]),
        train("word", corpus, model_type="word", vocab_size=150),
    ]
    result = {"pieces": {}, "ids": {}, "text": {}}
    for path in [*models, *others]:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        result["pieces"][path.name] = [" ".join(processor.EncodeAsPieces(line)) for line in lines]
        # without the unknown piece, which is not spoken here
        ids = [processor.EncodeAsIds(line) for line in MORE]
        result["ids"][path.name] = ids
        result["text"][path.name] = [processor.DecodeIds([i for i in line if i != processor.unk_id()]) for line in ids]
    # every line against the next
    bleu = {path.name: spbleu(path, lines[:-1], lines[1:]) for path in models}
    rows = lambda values: "[\n" + ",\n".join(json.dumps(value, ensure_ascii=False) for value in values) + "\n]"
    parts = [f'"lines": {rows(lines)}', f'"more": {rows(MORE)}', f'"spbleu": {json.dumps(bleu, ensure_ascii=False, indent=0)}']
    for what, models in result.items():
        parts.append(f'"{what}": {{\n' + ",\n".join(f'"{name}": {rows(values)}' for name, values in models.items()) + "\n}")
    (OUT / "pieces.json").write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
