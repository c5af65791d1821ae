#!/usr/bin/env python3
"""What N ranks would make of a training step on a network: measured computing, modelled exchange (docs/ranks.md).

    scripts/ranks-growth.py --parameters 60.5e6 --compute 1.0

compute: seconds of forward, backward and the optimizer of one rank's micro-batch. A step of one micro-batch a rank sends
(N - 1)/N of the gradients twice over each rank's link (exchange of parts, gathering of sums), in N - 1 messages each, and adds
the parts at the speed of memory. Printed: seconds of exchange, and tokens a second over those of one rank times N.
"""
import argparse

NETWORKS = [("1 Gbit/s", 0.117e9, 50e-6), ("10 Gbit/s", 1.17e9, 20e-6), ("100 Gbit/s", 11.7e9, 2e-6)]  # bytes/s, seconds
MEMORY = 8e9  # bytes a second of one adding core, read and write
SMALL = 6  # small exchanges and barriers of a step, log2(N) latencies each


def exchange(ranks, parameters, bandwidth, latency):
    import math

    share = 4 * parameters * (ranks - 1) / ranks
    messages = 2 * (ranks - 1) * latency + SMALL * math.log2(ranks) * latency
    return 2 * share / bandwidth + messages + 4 * parameters / MEMORY


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, required=True)
    parser.add_argument("--compute", type=float, required=True, help="seconds of a rank's step")
    args = parser.parse_args()
    print("| ranks | " + " | ".join(f"{name}: exchange, s | efficiency" for name, _, _ in NETWORKS) + " |")
    print("|---" * (1 + 2 * len(NETWORKS)) + "|")
    for ranks in [2, 4, 8, 16, 32, 64, 128, 256]:
        cells = []
        for _, bandwidth, latency in NETWORKS:
            seconds = exchange(ranks, args.parameters, bandwidth, latency)
            cells += [f"{seconds:.2f}", f"{args.compute / (args.compute + seconds):.2f}"]
        print(f"| {ranks} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
