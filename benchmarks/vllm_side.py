"""The vLLM side of `rollout.py`: started by it, in an environment that has vLLM for CPUs.

Only the standard library is imported at the top, as `rollout.py` takes `serve` and `SHIM` from here.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHIM = '''\
import sys
import importlib.abc


class Torchvision(importlib.abc.MetaPathFinder):
    """torchvision's compiled half does not load beside a torch for CPUs; its Python half needs these two schemas."""

    library = None

    def find_spec(self, name, path, target=None):
        if name == "torchvision" and Torchvision.library is None:
            import torch

            Torchvision.library = torch.library.Library("torchvision", "DEF")
            Torchvision.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            Torchvision.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, Torchvision())
'''
"""A `sitecustomize.py` for every process of vLLM."""


def serve(load: Callable[[], Callable[[dict[str, Any]], int]]) -> None:
    """Answer requests on stdin, one JSON line each, with seconds and tokens; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = load()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        tokens = run(request)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=answers, flush=True)


def main() -> None:
    folder, dtype = Path(sys.argv[1]), sys.argv[2]
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))

    def load() -> Callable[[dict[str, Any]], int]:
        from PIL import Image
        from transformers import AutoTokenizer, Qwen2VLImageProcessor, Qwen2VLProcessor
        from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
        from vllm import LLM, SamplingParams

        model = folder / "model"
        settings = json.loads((model / "preprocessor_config.json").read_text(encoding="utf-8"))
        taken = {name: settings[name] for name in ("patch_size", "merge_size", "temporal_patch_size", "size")}
        Qwen2VLProcessor(  # vLLM wants all of it, the part for videos too
            image_processor=Qwen2VLImageProcessor.from_pretrained(str(model)),
            tokenizer=AutoTokenizer.from_pretrained(str(model)),
            video_processor=Qwen2VLVideoProcessor(**taken),
        ).save_pretrained(str(model))
        llm = LLM(
            model=str(model),
            enforce_eager=True,
            dtype={"fp32": "float32", "bf16": "bfloat16"}[dtype],
            max_model_len=512,
            max_num_seqs=work["group"] * len(work["prompts"]),
            limit_mm_per_prompt={"image": 1, "video": 0},
            seed=0,
        )
        prompts = [
            {
                "prompt_token_ids": [*work["image_ids"], *ids],
                "multi_modal_data": {"image": Image.open(folder / f"{number}.png").convert("RGB")},
            }
            for number, ids in enumerate(work["prompts"])
        ]

        def run(request: dict[str, Any]) -> int:
            # The weights of a rollout are new ones: nothing may be left of what the last ones computed.
            llm.reset_prefix_cache()
            llm.reset_mm_cache()
            llm.llm_engine.engine_core.reset_encoder_cache()
            params = SamplingParams(
                n=work["group"],
                temperature=1.0,
                max_tokens=request["max_tokens"],
                ignore_eos=request["fixed"],
                stop_token_ids=[] if request["fixed"] else work["eos_ids"],
                logprobs=0,  # of the token that was drawn
                seed=request["seed"],
                detokenize=False,
            )
            outputs = llm.generate(prompts, params, use_tqdm=False)
            assert all(len(output.prompt_token_ids) == work["lengths"][i] for i, output in enumerate(outputs))
            return sum(len(one.token_ids) for output in outputs for one in output.outputs)

        return run

    serve(load)


if __name__ == "__main__":
    main()
