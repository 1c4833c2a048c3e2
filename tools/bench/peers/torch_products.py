"""Times torch's bf16 matrix products in replays of a CUDA graph, over inputs that rotate.

    python3 tools/bench/peers/torch_products.py '[{"name": "one", "m": 8192, "n": 8192, "k": 8192}]'

A product is [m, k] · [k, n], with a bf16 result; "transposeA" and "transposeB" say that an operand lies the other way
around. Prints one line of JSON: {name: {"median", "low", "high", "runs"}} in milliseconds, low and high the 10th and
90th percentiles. Each run is the mean of a turn of about 2 ms.
"""

import json
import sys

import torch

ROTATED_BYTES = 256 * 2**20
TURN_MS = 2
RUNS = 21


def operand(rows: int, columns: int, transposed: bool) -> torch.Tensor:
    """A random matrix of rows x columns in [-1, 1), stored the other way around if it is transposed."""
    shape = (columns, rows) if transposed else (rows, columns)
    values = (torch.rand(shape, device="cuda") * 2 - 1).to(torch.bfloat16)
    return values.t() if transposed else values


def quantile(values: list[float], share: float) -> float:
    """By linear interpolation between the two nearest values."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below, rest = ordered[int(at)], at - int(at)
    return below if rest == 0 else below + (ordered[int(at) + 1] - below) * rest


def milliseconds(work) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def time_product(case: dict) -> dict:
    m, n, k = case["m"], case["n"], case["k"]
    count = max(2, -(-ROTATED_BYTES // (2 * (m * k + k * n + m * n))))
    sets = [
        (
            operand(m, k, case.get("transposeA", False)),
            operand(k, n, case.get("transposeB", False)),
            torch.empty((m, n), device="cuda", dtype=torch.bfloat16),
        )
        for _ in range(count)
    ]

    def turn(products: int) -> None:
        for i in range(products):
            a, b, out = sets[i % count]
            torch.mm(a, b, out=out)

    def recorded(products: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            turn(products)
        graph.replay()
        return graph

    turn(2 * count)
    torch.cuda.synchronize()
    per_turn = max(1, round(TURN_MS * count / milliseconds(recorded(count).replay)))
    graph = recorded(per_turn)
    times = [milliseconds(graph.replay) / per_turn for _ in range(RUNS)]
    return {"median": quantile(times, 0.5), "low": quantile(times, 0.1), "high": quantile(times, 0.9), "runs": RUNS}


if __name__ == "__main__":
    print(json.dumps({case["name"]: time_product(case) for case in json.loads(sys.argv[1])}))
