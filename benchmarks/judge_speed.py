"""How many answers a second the embedded judge judges on one core.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/judge_speed.py --data ../shared/data --json FILE

The folder holds `xstest/`, as published: 1,350 answers with their questions. A round judges them all; the judge is
loaded before the first, which meets every word anew. Seconds are of the process's CPU. Goal: 500 in every round.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from cleareyed.errors import InputError
from cleareyed.oversensitivity.judges.local import local_judge
from cleareyed.oversensitivity.judges.sources import xstest
from cleareyed.records.environment import describe_environment
from cleareyed.report.summary import write_whole

GOAL = 500


def measure(data: Path, rounds: int) -> dict[str, Any]:
    """Answers a CPU second, by round. InputError: no answers."""
    answers, judge = [one.answered for one in xstest(data)], local_judge()
    rates = []
    for _ in range(rounds):
        start = time.process_time()
        judge.judge(answers)
        rates.append(len(answers) / (time.process_time() - start))
    return {"answers": len(answers), "rounds": rates, "median": statistics.median(rates), "goal": GOAL}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds xstest/")
    parser.add_argument("--rounds", type=int, default=5, help="how often all answers are judged")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    try:
        found = {**measure(options.data, options.rounds), "environment": describe_environment(0)}
    except InputError as error:
        sys.exit(f"error: {error}")
    low, high = min(found["rounds"]), max(found["rounds"])
    held = "held in every round" if low >= GOAL else "not held in every round"
    print(f"{low:,.0f} to {high:,.0f} answers a CPU second, median {found['median']:,.0f} (goal {GOAL}: {held})")
    if options.json:
        write_whole(options.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
