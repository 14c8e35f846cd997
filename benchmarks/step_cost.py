"""Fits the cost of a step to measured ones, for `lightllm simulate --cost`.

    python -m benchmarks.step_cost MEASURED.json --about "model, type, machine" --out COST.json

MEASURED.json is a list of {"sequences": 64, "tokens": 1, "context": 1024, "ms": 7.33}: 64 sequences that each ran one
token after 1,024 others. Decode steps of several sizes and contexts and some prompts of different lengths are needed.
"""

import argparse
from pathlib import Path

import msgspec

from lightllm.simulation import cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path)
    parser.add_argument("--about", required=True, help="what was measured, and where")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    steps = msgspec.json.decode(arguments.measured.read_bytes(), type=list[cost.MeasuredStep])
    fitted = cost.fit(steps, arguments.about)
    cost.write(fitted, arguments.out)
    print("| sequences | tokens | context | measured, ms | error |\n| --- | --- | --- | --- | --- |")
    for step, error in zip(steps, cost.relative_errors(fitted), strict=True):
        print(f"| {step.sequences} | {step.tokens} | {step.context} | {step.ms:.2f} | {100 * error:+.1f} % |")


if __name__ == "__main__":
    main()
