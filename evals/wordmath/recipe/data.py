"""Builds the training rows and the held-out problem sets of the embedded model.

    python3 data.py OUT_DIR DOCS [--tokenizer tokenizer.json] --gsm8k train.jsonl

Writes OUT_DIR/{tokenizer.json, test.jsonl, dev.jsonl, private.jsonl, rows.npy}; rows are uint16
[n, 512], whole documents packed greedily, each ended by <|endoftext|>, the tail
of a row padded with it.
"""

import argparse
import json
import multiprocessing
import os

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

import word_problems

# The pre-tokenizer pattern of the Qwen3.5 tokenizers: single digits, letters with marks, runs of
# the rest.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HELD_OUT = (("test", 1319, 1319), ("private", 977001, 1319), ("dev", 42, 512))  # name, seed, count
ROW = 512


def text(record):
    return f"Question: {record['question']}\nAnswer: {record['answer']}"


def train_tokenizer(texts, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    return tokenizer


def generate(args):
    seed, count, held_out = args
    return [text(r) for r in word_problems.generate(seed, count, held_out)]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("docs", type=int)
    parser.add_argument("--tokenizer")
    parser.add_argument("--gsm8k", required=True)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--processes", type=int, default=14)
    parser.add_argument("--seed", type=int, default=10_000)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)

    held_out = {}
    for name, seed, count in HELD_OUT:
        records = list(word_problems.generate(seed, count, frozenset(held_out)))
        held_out.update((r["question"], True) for r in records)
        with open(f"{args.out}/{name}.jsonl", "w") as f:
            f.writelines(json.dumps(r) + "\n" for r in records)
    held_out = frozenset(held_out)

    gsm8k = [text(json.loads(line)) for line in open(args.gsm8k)]
    if args.tokenizer:
        tokenizer = Tokenizer.from_file(args.tokenizer)
    else:
        tokenizer = train_tokenizer(generate((5, 30_000, held_out)) + gsm8k, args.vocab)
    tokenizer.save(f"{args.out}/tokenizer.json")

    with multiprocessing.Pool(args.processes) as pool:
        chunks = pool.map(
            generate, [(args.seed + i, args.docs // 64, held_out) for i in range(64)], chunksize=1
        )
    texts = [t for chunk in chunks for t in chunk] + gsm8k * 3
    order = np.random.default_rng(0).permutation(len(texts))
    end = tokenizer.token_to_id("<|endoftext|>")
    rows, row = [], []
    for start in range(0, len(order), 20_000):
        for encoding in tokenizer.encode_batch([texts[i] for i in order[start : start + 20_000]]):
            ids = encoding.ids + [end]
            if len(ids) > ROW:
                continue
            if len(row) + len(ids) > ROW:
                rows.append(np.array(row + [end] * (ROW - len(row)), dtype=np.uint16))
                row = []
            row += ids
    rows = np.stack(rows)
    np.save(f"{args.out}/rows.tmp.npy", rows)
    os.rename(f"{args.out}/rows.tmp.npy", f"{args.out}/rows.npy")
    print(len(texts), "documents,", len(rows), "rows", flush=True)


if __name__ == "__main__":
    main()
