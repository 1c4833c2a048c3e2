"""Times torch's dense FFN layers in 16 bits in replays of a CUDA graph, over weights that rotate past the cache.

    python3 tools/bench/peers/torch_layers.py '["197,768,3072,false,bf16"]'

A layer is "rows,d,hidden,gated,type": linear, relu, linear with biases; a gated one has no biases. Prints one line of JSON:
{layer: {"median", "low", "high", "runs"}} in milliseconds, as torch_products.py does.
"""

import json
import sys

import torch
from torch_products import RUNS, milliseconds, quantile

ROTATED_BYTES = 256 * 2**20
MOST_LAYERS = 16
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def time_layer(name: str) -> dict:
    *sizes, gated, kind = name.split(",")
    rows, d, hidden = (int(size) for size in sizes)
    gated = gated == "true"

    def random(*shape: int) -> torch.Tensor:
        return ((torch.rand(shape, device="cuda") * 2 - 1) / shape[-1] ** 0.5).to(TYPES[kind])

    count = max(2, min(MOST_LAYERS, -(-ROTATED_BYTES // (hidden * d * (6 if gated else 4)))))
    up = [random(2 * hidden if gated else hidden, d) for _ in range(count)]
    down = [random(d, hidden) for _ in range(count)]
    x = [random(rows, d) for _ in range(count)]
    bias, out_bias = random(hidden), random(d)
    linear = torch.nn.functional.linear

    def turn() -> None:
        for i in range(count):
            if gated:
                projected, gate = linear(x[i], up[i]).chunk(2, dim=-1)
                linear(torch.relu(gate) * projected, down[i])
            else:
                linear(torch.relu(linear(x[i], up[i], bias)), down[i], out_bias)

    turn()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        turn()
    for _ in range(3):
        graph.replay()
    times = [milliseconds(graph.replay) / count for _ in range(RUNS)]
    return {"median": quantile(times, 0.5), "low": quantile(times, 0.1), "high": quantile(times, 0.9), "runs": RUNS}


if __name__ == "__main__":
    with torch.inference_mode():
        print(json.dumps({name: time_layer(name) for name in json.loads(sys.argv[1])}))
