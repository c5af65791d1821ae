#!/usr/bin/env python3
"""Golden values of torch.optim for tests/suite/optimizers.rs.

Run:  python3 scripts/torch-golden-optimizers.py > tests/fixtures/torch-optimizers.json
(needs `pip install torch`; any recent version gives the same numbers to the tolerance of the test)
"""

import inspect
import json
import math

import torch
import torch.optim._muon

# Muon's iteration in the type of the parameters: torch rounds it to bfloat16, which no tolerance would survive
iteration = inspect.getsource(torch.optim._muon._zeropower_via_newtonschulz)
exec(iteration.replace("torch.bfloat16", "grad.dtype"), torch.optim._muon.__dict__)

SHAPES = [[3, 4], [2, 5]]
STEPS = 12


def values(shape, phase, size):
    n = math.prod(shape)
    return [size * math.sin(1.7 * i + phase) for i in range(n)]


INITIAL = [values(shape, 0.3 + k, 1.0) for k, shape in enumerate(SHAPES)]
GRADIENTS = [[values(shape, 2.0 * t + k, 0.1 * (1 + t % 3)) for k, shape in enumerate(SHAPES)] for t in range(STEPS)]

# (name, our config, torch optimizer, its arguments, largest gradient norm)
CASES = [
    ("adam", {"name": "adam", "adam": {"beta1": 0.9, "beta2": 0.98, "eps": 1e-9}},
     torch.optim.Adam, {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-9}, None),
    ("adam with decay", {"name": "adam", "weight_decay": 0.1, "adam": {"beta1": 0.8, "beta2": 0.99, "eps": 1e-6}},
     torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}, None),
    ("adamw", {"name": "adamw", "weight_decay": 0.1, "adamw": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}},
     torch.optim.AdamW, {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}, None),
    ("clipped-adam", {"name": "clipped-adam", "clipped_adam": {"max_norm": 0.5}},
     torch.optim.Adam, {"lr": 0.01}, 0.5),
    ("sgd", {"name": "sgd"}, torch.optim.SGD, {"lr": 0.1}, None),
    ("sgd momentum", {"name": "sgd", "weight_decay": 0.05, "sgd": {"momentum": 0.9, "dampening": 0.5}},
     torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.05}, None),
    ("sgd nesterov", {"name": "sgd", "weight_decay": 0.05, "sgd": {"momentum": 0.9, "nesterov": True}},
     torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}, 1.0),
    ("muon", {"name": "muon", "weight_decay": 0.1},
     torch.optim.Muon, {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}, None),
    ("muon original", {"name": "muon", "muon": {"momentum": 0.9, "nesterov": False, "scale": "original"}},
     torch.optim.Muon, {"lr": 0.02, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}, None),
]


def run(make, arguments, max_norm, dtype):
    params = [torch.tensor(v, dtype=dtype).reshape(s).requires_grad_() for v, s in zip(INITIAL, SHAPES)]
    if make is not torch.optim.Muon:
        arguments = {"foreach": False, **arguments}
    optimizer = make(params, **arguments)
    norms = []
    for gradients in GRADIENTS:
        for p, g in zip(params, gradients):
            p.grad = torch.tensor(g, dtype=dtype).reshape(p.shape)
        if max_norm is not None:
            norms.append(torch.nn.utils.clip_grad_norm_(params, max_norm).item())
        optimizer.step()
    return {"weights": [p.detach().flatten().tolist() for p in params], "norms": norms}


cases = []
for name, config, make, arguments, max_norm in CASES:
    case = {"name": name, "config": {"lr": arguments["lr"], **config}, "max_norm": max_norm}
    case["f32"] = run(make, arguments, max_norm, torch.float32)
    case["f64"] = run(make, arguments, max_norm, torch.float64)
    cases.append(case)
print(json.dumps({"torch": torch.__version__.split("+")[0], "shapes": SHAPES, "initial": INITIAL,
                  "gradients": GRADIENTS, "cases": cases}))
