#!/usr/bin/env python3
"""Whether the GPU's loss curve lies within the spread of the CPU's seeds: scripts/gpu_curves.sh calls it. (The seeds may be
those of the GPU in bf16 as well: its --beside.)

    scripts/gpu_curves.py OUT GPU.jsonl CPU.jsonl CPU.jsonl ...       the first CPU run has the GPU's seed

Curves are means of 10 steps. The spread of a step is the highest of the CPU's curves less the lowest. Two things are
asked: the GPU's curve stays between the lowest and the highest, with a tenth of the mean spread to spare (where the CPU's
run of the same seed is itself the lowest, rounding alone decides on which side of it the GPU's lies); and it stays nearer
to the CPU's run of its own seed than the CPU's seeds to each other, in the mean. Writes OUT/curves.json and OUT/curves.svg.
"""
import json
import os
import sys

WINDOW, SPARE = 10, 0.1


def losses(path):
    with open(path) as f:
        return [row["loss"] for row in map(json.loads, f) if "loss" in row]


def smooth(x):
    return [sum(x[max(0, i - WINDOW + 1):i + 1]) / min(WINDOW, i + 1) for i in range(len(x))]


def picture(gpu, cpu, path):
    W, H, left, top = 720, 360, 50, 20
    low, high = min(min(c) for c in cpu + [gpu]), max(max(c) for c in cpu + [gpu])
    at = lambda i, v: (left + i * (W - left - 10) / max(1, len(gpu) - 1),  # noqa: E731
                       top + (high - v) * (H - top - 40) / max(1e-9, high - low))
    line = lambda c: " ".join("%.1f,%.1f" % at(i, v) for i, v in enumerate(c))  # noqa: E731
    lowest, highest = [min(v) for v in zip(*cpu)], [max(v) for v in zip(*cpu)]
    band = line(highest) + " " + " ".join("%.1f,%.1f" % at(i, lowest[i]) for i in reversed(range(len(lowest))))
    text = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">' % (W, H),
            '<rect width="100%" height="100%" fill="white"/>', '<polygon points="%s" fill="#dde"/>' % band]
    text += ['<polyline points="%s" fill="none" stroke="#88a"/>' % line(c) for c in cpu]
    text += ['<polyline points="%s" fill="none" stroke="#c30" stroke-width="1.5"/>' % line(gpu)]
    for k in range(5):
        v = low + (high - low) * k / 4
        text.append('<text x="4" y="%.0f">%.3f</text>' % (at(0, v)[1] + 4, v))
    text.append('<text x="%d" y="%d">step 1 to %d, means of %d steps. Grey: what it is held to, %d seeds. Red: GPU</text></svg>'
                % (left, H - 10, len(gpu), WINDOW, len(cpu)))
    with open(path, "w") as f:
        f.write("\n".join(text) + "\n")


def main():
    out, runs = sys.argv[1], [losses(p) for p in sys.argv[2:]]
    steps = len(runs[0])
    if len(runs) < 3 or any(len(r) != steps for r in runs) or steps < WINDOW:
        sys.exit(f"steps of the runs: {[len(r) for r in runs]}; they must be alike, and at least {WINDOW}")
    gpu, cpu = smooth(runs[0]), [smooth(r) for r in runs[1:]]
    whole = range(WINDOW - 1, steps)
    spread = [max(c[i] for c in cpu) - min(c[i] for c in cpu) for i in range(steps)]
    mean = sum(spread[i] for i in whole) / len(whole)
    below = [min(c[i] for c in cpu) - gpu[i] for i in range(steps)]
    above = [gpu[i] - max(c[i] for c in cpu) for i in range(steps)]
    strict = sum(below[i] <= 0 and above[i] <= 0 for i in whole) / len(whole)
    farthest = max(max(below[i], above[i]) for i in whole)
    same = sum(abs(gpu[i] - cpu[0][i]) for i in whole) / len(whole)
    pairs = [(a, b) for a in range(len(cpu)) for b in range(a)]
    apart = sum(sum(abs(cpu[a][i] - cpu[b][i]) for i in whole) / len(whole) for a, b in pairs) / len(pairs)
    within = farthest <= SPARE * mean and same < apart
    result = {"steps": steps, "window": WINDOW, "mean_spread": mean, "share_strictly_within": strict, "farthest_outside": farthest,
              "mean_distance_to_same_seed": same, "mean_distance_between_seeds": apart, "within": within,
              "final": {"gpu": gpu[-1], "cpu": [c[-1] for c in cpu]}, "gpu": runs[0], "cpu": runs[1:]}
    with open(os.path.join(out, "curves.json"), "w") as f:
        json.dump(result, f)
    picture(gpu, cpu, os.path.join(out, "curves.svg"))
    for i in list(range(WINDOW - 1, steps, max(1, steps // 10))) + [steps - 1]:
        print(f"step {i + 1:5}: GPU {gpu[i]:.4f}   beside " + " ".join(f"{c[i]:.4f}" for c in cpu) + f"   spread {spread[i]:.4f}")
    print(f"spread of the seeds {mean:.4f} in the mean; the GPU's curve within it at {100 * strict:.0f} % of steps, at most "
          f"{max(0.0, farthest):.4f} outside; {same:.4f} from the run of its own seed, seeds {apart:.4f} from each other: "
          f"{'within' if within else 'NOT within'}")
    sys.exit(not within)


if __name__ == "__main__":
    main()
