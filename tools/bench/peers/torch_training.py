"""Times a training step of a GPT-2 checkpoint in torch: transformers' model, eager, bf16 autocast, AdamW, clipping.

    python3 tools/bench/peers/torch_training.py FOLDER [BATCH POSITIONS]

The batch is that of tools/bench/src/cuda/training.ts, 48 sequences of 256 tokens by default, and dropout is off, as it is
there. Prints one line of JSON: {"step": {"median", "low", "high", "runs"}, "loss"}: milliseconds from the call to the
loss in Python, low and high the 10th and 90th percentiles, and the loss of the first step.
"""

import json
import sys
import time

import torch
from transformers import GPT2LMHeadModel

LEARNING_RATE = 1e-4
WARM_UP = 20
STEPS = 60


def quantile(values: list[float], share: float) -> float:
    """By linear interpolation between the two nearest values."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below, rest = ordered[int(at)], at - int(at)
    return below if rest == 0 else below + (ordered[int(at) + 1] - below) * rest


def tokens(batch: int, positions: int, vocabulary: int, shift: int) -> torch.Tensor:
    rows = torch.arange(batch, device="cuda")[:, None]
    columns = torch.arange(positions, device="cuda")[None, :] + shift
    return (rows * 7919 + columns * 104_729) % vocabulary


def main(folder: str, batch: int = 48, positions: int = 256) -> None:
    model = GPT2LMHeadModel.from_pretrained(
        folder, dtype=torch.float32, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, use_cache=False
    )
    model = model.cuda().train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    vocabulary = model.config.vocab_size
    ids = tokens(batch, positions, vocabulary, 0)
    labels = tokens(batch, positions, vocabulary, 1).reshape(-1)

    def step() -> float:
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(input_ids=ids).logits
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, vocabulary), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.item()

    first = step()
    for _ in range(WARM_UP - 1):
        step()
    times = []
    for _ in range(STEPS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    summary = {"median": quantile(times, 0.5), "low": quantile(times, 0.1), "high": quantile(times, 0.9), "runs": STEPS}
    print(json.dumps({"step": summary, "loss": first}))


if __name__ == "__main__":
    main(sys.argv[1], *(int(value) for value in sys.argv[2:4]))
