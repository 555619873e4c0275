"""The gates of a base model: does it see, does thinking pay, and how does it do under the paper's prompt;
and what the corpus of recipes/tiny-base.yaml holds.

python benchmarks/gates.py --model tiny-base --json benchmarks/results/gates.json
"""

import argparse
import json
import time
from pathlib import Path

from cleareyed.commands import set_up
from cleareyed.console import Display
from cleareyed.models.load import load_vlm
from cleareyed.recipe import ModelSpec, PretrainRecipe
from cleareyed.recipe_files import load_recipe, shipped_recipe
from cleareyed.records.environment import describe_environment
from cleareyed.tasks.scenes.task import scenes_task
from cleareyed.training.gates import corpus_shares, measure_gates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-base")
    parser.add_argument("--items", type=int, default=500, help="samples of each split (default 500)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    set_up(None)
    start = time.perf_counter()
    with Display("gates") as display:
        vlm = load_vlm(ModelSpec(path=options.model))
        found = measure_gates(vlm, scenes_task("train"), scenes_task("bench"), options.items, display)
        recipe = load_recipe(shipped_recipe("tiny-base.yaml"), [])
        assert isinstance(recipe, PretrainRecipe)
        found["corpus"] = corpus_shares(vlm, recipe, pages=2000)
    found["seconds"] = round(time.perf_counter() - start, 1)
    text = json.dumps({"gates": found, "environment": describe_environment(None)}, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
