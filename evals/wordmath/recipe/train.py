"""Trains the embedded model for a number of seconds on one GPU.

    python3 train.py OUT_DIR SECONDS [--init CHECKPOINT_DIR] [--peak-lr 2e-3]

Reads OUT_DIR/rows.npy (waits for it), writes OUT_DIR/{arch.json, state.pt}. AdamW, cosine schedule
by wall clock, bfloat16 autocast, 128 rows of 512 tokens a step.
"""

import argparse
import glob
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

from model import LM

LAYERS = 6
ARCH = dict(
    vocab_size=1024,
    hidden_size=384,
    num_hidden_layers=LAYERS,
    layer_types=[
        "full_attention" if (i + 1) % 3 == 0 else "linear_attention" for i in range(LAYERS)
    ],
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=64,
    linear_num_key_heads=4,
    linear_num_value_heads=8,
    linear_key_head_dim=64,
    linear_value_head_dim=64,
    linear_conv_kernel_dim=4,
    num_experts=16,
    num_experts_per_tok=2,
    moe_intermediate_size=128,
    shared_expert_intermediate_size=256,
    rope_parameters=dict(
        rope_type="default",
        rope_theta=10000000.0,
        partial_rotary_factor=0.25,
        mrope_section=[3, 3, 2],
        mrope_interleaved=True,
    ),
)
END = 1021  # <|endoftext|>
BATCH = 128


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--init")
    parser.add_argument("--peak-lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    os.makedirs(args.out, exist_ok=True)
    json.dump(ARCH, open(f"{args.out}/arch.json", "w"))
    model = LM(ARCH).cuda()
    if args.init:
        from safetensors.torch import load_file

        state = {}
        for shard in glob.glob(f"{args.init}/model-*.safetensors"):
            state.update({k: v.float() for k, v in load_file(shard).items()})
        model.load_state_dict(state)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=0.05), dict(params=vectors, weight_decay=0.0)],
        lr=args.peak_lr,
        betas=(0.9, 0.95),
        fused=True,
    )

    @torch.compile
    def losses(ids):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits, balance = model(ids)
        loss = F.cross_entropy(
            logits[:, :-1].float().reshape(-1, ARCH["vocab_size"]),
            ids[:, 1:].reshape(-1),
            reduction="none",
        )
        counted = (
            (ids[:, 1:] != END) | (ids[:, :-1] != END)
        ).float()  # of a run of end tokens only the first
        return (loss.view(ids.shape[0], -1) * counted).sum() / counted.sum(), balance

    for _ in range(2):  # compile before the clock starts, while the rows may still be in the making
        loss, balance = losses(torch.randint(0, 1000, (BATCH, 512), device="cuda"))
        (loss + balance).backward()
    optimizer.zero_grad(set_to_none=True)
    while not os.path.exists(f"{args.out}/rows.npy"):
        time.sleep(0.5)
    rows = torch.from_numpy(np.load(f"{args.out}/rows.npy").astype(np.int16)).cuda()

    order, position, step, start = torch.randperm(len(rows), device="cuda"), 0, 0, time.time()
    while (fraction := (time.time() - start) / args.seconds) < 1:
        if position + BATCH > len(rows):
            order, position = torch.randperm(len(rows), device="cuda"), 0
        ids = rows[order[position : position + BATCH]].long()
        position += BATCH
        for group in optimizer.param_groups:
            group["lr"] = (
                args.peak_lr
                * min(1, (step + 1) / 200)
                * (0.495 * (1 + math.cos(math.pi * fraction)) + 0.01)
            )
        loss, balance = losses(ids)
        (loss + 0.01 * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 200 == 0:
            print(
                f"step {step} seconds {time.time() - start:.0f} "
                f"loss {loss.item():.4f} balance {balance.item():.3f}",
                flush=True,
            )
        step += 1
    torch.save(model.state_dict(), f"{args.out}/state.pt")
    print("steps", step, flush=True)


if __name__ == "__main__":
    main()
