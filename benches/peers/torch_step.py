#!/usr/bin/env python3
"""The PyTorch peer of the training-step benchmark: the same models, shapes and update as `cargo bench --bench step`.

A server. It makes its model, warms up, and prints one line of JSON. For each line `N` on stdin it then does N steps
(forward, backward, clip, Adam) and prints {"seconds": [one a step], "loss": .., "peak_rss_mib": ..}; `quit` ends it.
Needs torch (and numpy, to silence torch). `base_rss_mib` is what the process holds after `import torch`.

  echo 3 | torch_step.py --model transformer --d 256 --heads 4 --ff 1024 --layers 3 --vocab 8000 --batch 128 --len 16

transformer: post-norm, sinusoids, one table for source, target and output, dropout 0.1 in each usual place.
gru: encoder of bidirectional GRU layers (d/2 each way); decoder whose first layer is a GRU cell with the additive
attention of Bahdanau et al. 2014 in its recurrence, further layers on [state; context], deep output; tied table.
Label smoothing 0.1, gradient norm clipped to 1.0, fused Adam; padding is not needed, since all sentences are as long.
"""
import argparse
import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


def memory_mib(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(key + ":"))


BASE_RSS = memory_mib("VmRSS")
DROPOUT = 0.1


class Transformer(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.scale = math.sqrt(o.d)
        self.table = nn.Embedding(o.vocab, o.d)
        nn.init.normal_(self.table.weight, std=o.d**-0.5)
        angles = torch.arange(o.len)[:, None] / 10000 ** (2 * torch.arange(o.d // 2)[None] / o.d)
        self.register_buffer("sinusoids", torch.cat([angles.sin(), angles.cos()], 1))
        layer = dict(dropout=DROPOUT, batch_first=True, norm_first=False)
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(o.d, o.heads, o.ff, **layer), o.layers)
        decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(o.d, o.heads, o.ff, **layer), o.layers)
        self.body = nn.Transformer(o.d, o.heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(o.len))

    def embed(self, ids):
        return F.dropout(self.table(ids) * self.scale + self.sinusoids, DROPOUT, self.training)

    def forward(self, source, target):
        states = self.body(self.embed(source), self.embed(target), tgt_mask=self.mask, tgt_is_causal=True)
        return F.linear(states, self.table.weight)


class Gru(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.half = o.d // 2
        self.table = nn.Embedding(o.vocab, o.d)
        nn.init.normal_(self.table.weight, std=o.d**-0.5)
        self.bias = nn.Parameter(torch.zeros(o.vocab))
        dropout = DROPOUT if o.layers > 1 else 0.0
        self.encoder = nn.GRU(o.d, self.half, o.layers, batch_first=True, dropout=dropout, bidirectional=True)
        self.initial = nn.ModuleList(nn.Linear(self.half, o.d) for _ in range(o.layers))
        self.query = nn.Linear(o.d, o.d, bias=False)
        self.key = nn.Linear(o.d, o.d, bias=False)
        self.energy = nn.Linear(o.d, 1, bias=False)
        self.cell = nn.GRUCell(2 * o.d, o.d)
        self.upper = nn.ModuleList(nn.GRU(2 * o.d, o.d, batch_first=True) for _ in range(o.layers - 1))
        self.readout = nn.Linear(3 * o.d, o.d)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, source, target):
        memory, _ = self.encoder(self.dropout(self.table(source)))
        y = self.dropout(self.table(target))
        first = [torch.tanh(initial(memory[:, 0, self.half :])) for initial in self.initial]
        keys, state = self.key(memory), first[0]
        states, contexts = [], []
        for t in range(y.shape[1]):
            scores = self.energy(torch.tanh(self.query(state)[:, None] + keys))
            context = torch.bmm(F.softmax(scores, 1).transpose(1, 2), memory)[:, 0]
            state = self.cell(torch.cat([y[:, t], context], 1), state)
            states.append(state)
            contexts.append(context)
        state, context = torch.stack(states, 1), torch.stack(contexts, 1)
        for layer, begin in zip(self.upper, first[1:]):
            state, _ = layer(self.dropout(torch.cat([state, context], 2)), begin[None])
        deep = self.dropout(torch.tanh(self.readout(torch.cat([state, context, y], 2))))
        return F.linear(deep, self.table.weight, self.bias)


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["transformer", "gru"], default="transformer")
    sizes = dict(d=256, heads=4, ff=1024, layers=3, vocab=8000, batch=128, len=16, threads=2)
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--warmup", type=int, default=3, help="steps before the first measured one")
    parser.add_argument("--compile", action="store_true", help="torch.compile of forward and loss")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["f32", "tf32", "bf16"], default="f32", help="bf16: autocast")
    return parser.parse_args()


def main():
    o = options()
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    device = torch.device(o.device)
    if o.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    net = (Transformer if o.model == "transformer" else Gru)(o).to(device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)
    source, target, labels = (torch.randint(0, o.vocab, (o.batch, o.len)).to(device) for _ in range(3))

    def forward():
        with torch.autocast(device.type, torch.bfloat16, enabled=o.precision == "bf16"):
            logits = net(source, target)
            return F.cross_entropy(logits.view(-1, o.vocab), labels.view(-1), label_smoothing=0.1)

    if o.compile:
        forward = torch.compile(forward)

    def step():
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = forward()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        loss = loss.item()  # on a GPU, waits for it
        return time.perf_counter() - start, loss

    def say(**fields):
        print(json.dumps(fields), flush=True)

    for _ in range(o.warmup):
        step()
    parameters = sum(p.numel() for p in net.parameters())
    version = f"torch {torch.__version__} {'compile' if o.compile else 'eager'}"
    say(ready=True, version=version, parameters=parameters, base_rss_mib=BASE_RSS, threads=torch.get_num_threads())
    for line in sys.stdin:
        if line.strip() == "quit":
            break
        steps = [step() for _ in range(int(line))]
        say(seconds=[seconds for seconds, _ in steps], loss=steps[-1][1], peak_rss_mib=memory_mib("VmHWM"))


if __name__ == "__main__":
    main()
