"""Makes, in seconds, a folder like those of Helsinki-NLP/opus-mt-*, and what transformers does with it.

    make_opus.py OUT [--codes de,nl] [--separate] [--weights bin,safetensors] [--activation swish|relu|gelu] [--holes]
                 [--dtype float32|float16] [--updates 350]

Two SentencePiece models (unigram) of the quickstart's text, a vocab.json in the order of frequency, a small MarianMT with
a bias on its logits and swish, trained by transformers for a moment, so that translations differ and end.
`expected.json` has what transformers makes of some lines: ids, greedy translations, log-probabilities.

  --codes     languages to translate into, as `>>de<<` at the beginning of a source
  --separate  a vocabulary for each side, target_vocab.json being the target's
  --holes     a vocab.json with ids that no piece has, and pieces that no .spm has
"""

import argparse
import collections
import io
import json
import pathlib
import warnings

import common

import sentencepiece
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForSeq2SeqLM, MarianConfig, MarianMTModel, MarianTokenizer

ODD = ["", " ", "  two  spaces\tand a tab ", "ﬁne ｆｕｌｌ　width №5 ½ ①", "Straße Übergröße ß ẞ", "日本語 🙂🙂 text", "cafe\u0301 au lait",
       "nbsp\u00a0here\u200bzero", "(a) [b] {c} \"d\" 'e' – — …", "１２３ 45", "zzzz qqqq xxxx", "e\u0301\u0323", "a▁b", "A" * 40]


def write_json(path, value, **options):
    path.write_text(json.dumps(value, **options), encoding="utf-8")


def train_pieces(out, side, lines, pieces):
    """Writes SIDE.spm as OPUS-MT's training does, and counts the pieces of the text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=pieces, model_type="unigram",
        character_coverage=1.0, hard_vocab_limit=False, num_threads=1, minloglevel=2)
    (out / f"{side}.spm").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return collections.Counter(piece for line in processor.encode(lines, out_type=str) for piece in line)


def vocabulary(counts, codes):
    """`</s>` 0, `<unk>` 1, pieces by frequency, codes, `<pad>` last: marian-vocab's order and transformers' pad."""
    by_frequency = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ["</s>", "<unk>", *(piece for piece, _ in by_frequency), *codes, "<pad>"]


def vocabularies(counts, args, codes):
    """Names of ids of both sides; equally many, for MarianConfig has one `pad_token_id`."""
    if not args.separate:
        both = vocabulary(counts["source"] + counts["target"], codes)
        return both, both
    source, target = vocabulary(counts["source"], codes), vocabulary(counts["target"], [])
    size = max(len(source), len(target))
    for names in (source, target):
        names[-1:-1] = [f"<fill{i}>" for i in range(size - len(names))]
    return source, target


def with_holes(names):
    """Ids that no piece has, after every 50th name, and pieces that no .spm has; `<pad>` stays last."""
    out = []
    for i, piece in enumerate(names[:-1]):
        out.append(piece)
        if i % 50 == 40:
            out.append(None)
    return [*out, "madeupword", "\u2603", None, names[-1]]


def write_vocabulary(path, names):
    write_json(path, {piece: i for i, piece in enumerate(names) if piece is not None}, ensure_ascii=True, indent=2)


def make_model(args, sizes):
    """With a bias on the logits; the row of `<pad>` is zero, as in converted models."""
    pad = sizes[0] - 1
    config = MarianConfig(
        vocab_size=sizes[0], decoder_vocab_size=sizes[1], d_model=64, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128,
        activation_function=args.activation, max_position_embeddings=512, scale_embedding=True, dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, share_encoder_decoder_embeddings=not args.separate,
        tie_word_embeddings=True, pad_token_id=pad, eos_token_id=0, bos_token_id=0, forced_eos_token_id=0,
        decoder_start_token_id=pad)
    model = MarianMTModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name and "shared" not in name:
                torch.nn.init.xavier_uniform_(weight)
        for weight in (model.get_encoder().embed_tokens.weight, model.get_decoder().embed_tokens.weight):
            weight.normal_(0, 0.125)[pad] = 0
        model.final_logits_bias.copy_(0.5 * torch.randn_like(model.final_logits_bias))
        model.final_logits_bias[0, pad] = 0
    return model


def batches(out, updates):
    """Ids of training pairs of about one length, and of the target's start."""
    tokenizer = MarianTokenizer.from_pretrained(out)
    pairs = list(zip(common.plain_lines(32 * updates, "train.en"), common.plain_lines(32 * updates, "train.de")))
    pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    for at in torch.randperm(len(pairs) // 32).tolist():
        sources, targets = zip(*pairs[32 * at:32 * at + 32])
        labels = tokenizer(text_target=list(targets), return_tensors="pt", padding=True)["input_ids"]
        yield tokenizer(list(sources), return_tensors="pt", padding=True), labels


def train(out, model, updates):
    """Adam for a moment; the loss is over all but padding."""
    pad = model.config.pad_token_id
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=updates + 1, cycle_momentum=False)
    for inputs, labels in batches(out, updates):
        start = torch.full((len(labels), 1), pad)
        logits = model(**inputs, decoder_input_ids=torch.cat([start, labels[:, :-1]], 1)).logits
        torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=pad).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
        with torch.no_grad():
            model.get_encoder().embed_tokens.weight[pad] = 0
            model.get_decoder().embed_tokens.weight[pad] = 0
    model.eval()


def write_weights(out, model, args):
    state = {name: tensor.to(getattr(torch, args.dtype)) for name, tensor in model.state_dict().items()}
    kinds = args.weights.split(",")
    if "bin" in kinds:  # as uploaded in 2020: everything, tied tables several times over one storage
        shared = state["model.shared.weight"] if "model.shared.weight" in state else None
        for name in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"):
            if shared is not None and name in state:
                state[name] = shared
        torch.save(collections.OrderedDict(state), out / "pytorch_model.bin")
    if "safetensors" in kinds:
        tied = ("lm_head.weight",) + (() if args.separate else ("encoder.embed_tokens", "decoder.embed_tokens"))
        kept = {name: tensor.clone().contiguous() for name, tensor in state.items()
                if "embed_positions" not in name and not any(t in name for t in tied)}
        save_file(kept, out / "model.safetensors", metadata={"format": "pt"})


def write_settings(out, model, args):
    """config.json, generation_config.json and tokenizer_config.json as the folders of 2020 to 2022 have them."""
    pad = model.config.pad_token_id
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("dtype", "torch_dtype", "_name_or_path")}
    config |= {"architectures": ["MarianMTModel"], "add_bias_logits": False, "add_final_layer_norm": False,
               "normalize_before": False, "normalize_embedding": False, "static_position_embeddings": True,
               "bad_words_ids": [[pad]], "num_beams": 4, "max_length": 512, "extra_pos_embeddings": pad + 1,
               "num_hidden_layers": 2, "transformers_version": "4.22.0.dev0", "torch_dtype": args.dtype}
    write_json(out / "config.json", config, indent=2)
    write_json(out / "generation_config.json", {
        "bad_words_ids": [[pad]], "bos_token_id": 0, "decoder_start_token_id": pad, "eos_token_id": 0,
        "forced_eos_token_id": 0, "max_length": 512, "num_beams": 4, "pad_token_id": pad}, indent=2)
    write_json(out / "tokenizer_config.json", {
        "source_lang": "eng", "target_lang": "deu", "tokenizer_class": "MarianTokenizer", "unk_token": "<unk>",
        "eos_token": "</s>", "pad_token": "<pad>", "model_max_length": 512, "sp_model_kwargs": {},
        "separate_vocabs": args.separate})


def expected_lines(codes, count):
    """Pairs: text of the test set and odd lines, each source behind a code where there are codes."""
    pairs = list(zip(common.plain_lines(count), common.plain_lines(count, "test.de")))
    pairs += list(zip(ODD, ODD[::-1])) + list(zip(common.plain_lines(20, "valid.de"), common.plain_lines(20, "valid.en")))
    if codes:
        pairs = [(f"{codes[i % len(codes)]} {source}", target) for i, (source, target) in enumerate(pairs)]
        pairs += [(codes[0] + "no space", "ohne"), ("in " + codes[-1] + " the middle", "mitten"), (">>zz<< unknown", "fremd")]
    return pairs


def expected(out, pairs):
    """What an importer must get; the translations as long as nmt-train lets them be."""
    tokenizer, model = MarianTokenizer.from_pretrained(out), AutoModelForSeq2SeqLM.from_pretrained(out).float().eval()
    pad = model.config.pad_token_id
    # Of the source: with two vocabularies `convert_ids_to_tokens` names ids of the target.
    names = {i: piece for piece, i in json.loads((out / "vocab.json").read_text(encoding="utf-8")).items()}
    for source, target in pairs:
        ids = tokenizer(source, return_tensors="pt")
        wanted = tokenizer(text_target=target, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(**ids, decoder_input_ids=torch.cat([torch.tensor([[pad]]), wanted[:, :-1]], 1)).logits[0]
            logits[:, pad] = -1e4
            found = model.generate(**ids, num_beams=1, do_sample=False, forced_eos_token_id=None, bad_words_ids=[[pad]],
                                   max_length=None, max_new_tokens=2 * ids["input_ids"].shape[1] + 10)[0].tolist()
        log_p = logits.double().log_softmax(-1).gather(1, wanted[0][:, None]).sum().item()
        yield {"source": source, "target": target, "source_ids": ids["input_ids"][0].tolist(),
               "target_ids": wanted[0].tolist(), "log_p": log_p, "greedy_ids": found[1:],
               "source_pieces": [names[i] for i in ids["input_ids"][0].tolist()],
               "greedy_text": tokenizer.decode(found, skip_special_tokens=True)}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--codes", default="")
    parser.add_argument("--separate", action="store_true")
    parser.add_argument("--weights", default="bin,safetensors")
    parser.add_argument("--activation", default="swish")
    parser.add_argument("--holes", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--updates", type=int, default=350)
    parser.add_argument("--pieces", type=int, default=600)
    parser.add_argument("--lines", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
    args.out.mkdir(parents=True, exist_ok=True)
    codes = [f">>{code}<<" for code in args.codes.split(",") if code]
    counts = {side: train_pieces(args.out, side, common.read(common.DATA / f"train.{end}"), args.pieces)
              for side, end in (("source", "en"), ("target", "de"))}
    names = vocabularies(counts, args, codes)
    if args.holes:
        source = with_holes(names[0])
        names = (source, with_holes(names[1]) if args.separate else source)
    write_vocabulary(args.out / "vocab.json", names[0])
    if args.separate:
        write_vocabulary(args.out / "target_vocab.json", names[1])
    model = make_model(args, [len(n) for n in names])
    write_settings(args.out, model, args)
    train(args.out, model, args.updates)
    write_weights(args.out, model, args)
    rows = list(expected(args.out, expected_lines(codes, args.lines)))
    write_json(args.out / "expected.json", rows, ensure_ascii=False, indent=1)
    print(f"{args.out}: {len(names[0])} source and {len(names[1])} target ids, {len(rows)} lines expected")


if __name__ == "__main__":
    main()
