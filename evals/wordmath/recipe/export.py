"""Exports the trained state to a Hugging Face folder, checks it and writes goldens.

    python3 export.py OUT_DIR QUESTIONS

Reads OUT_DIR/{arch.json, state.pt, tokenizer.json, test.jsonl, dev.jsonl}, which data.py and
train.py make, and writes OUT_DIR/hf: the checkpoint in shards, and the goldens golden.safetensors
and golden_greedy.json. Compares transformers with the training model, scores the first QUESTIONS
test problems in bf16, and 512 of them rounded to 4, 3 and 2 bits to see how the accuracy falls.
Needs one GPU.
"""

import argparse
import json
import os
import re
import time

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, Qwen3_5MoeTextConfig

from model import LM

END = "<|endoftext|>"
KEPT_FLOAT32 = ("A_log", "linear_attn.norm.weight")
SHARD_BYTES = 15.0e6
MAX_LENGTH = 2048
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")


def tensor_bytes(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def split_into_shards(state):
    """Fills shards of at most SHARD_BYTES in the order of the state."""
    shards, current, size = [], {}, 0
    for name, tensor in state.items():
        if size + tensor_bytes([tensor]) > SHARD_BYTES and current:
            shards.append(current)
            current, size = {}, 0
        current[name] = tensor
        size += tensor_bytes([tensor])
    shards.append(current)
    return shards


def write_checkpoint(folder, arch, state, tokenizer):
    """Writes config, tensors, index and tokenizer as save_pretrained lays them out."""
    end = tokenizer.token_to_id(END)
    config = Qwen3_5MoeTextConfig(
        **arch,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=False,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=None,
    )
    config.architectures = ["Qwen3_5MoeForCausalLM"]
    config.dtype = "bfloat16"
    config.save_pretrained(folder)

    shards = split_into_shards(state)
    index = {"metadata": {"total_size": tensor_bytes(state.values())}, "weight_map": {}}
    for i, shard in enumerate(shards):
        file_name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, f"{folder}/{file_name}", metadata={"format": "pt"})
        index["weight_map"].update((name, file_name) for name in shard)
    with open(f"{folder}/model.safetensors.index.json", "w") as f:
        json.dump(index, f, indent=1)

    tokenizer.save(f"{folder}/tokenizer.json")
    with open(f"{folder}/tokenizer_config.json", "w") as f:
        tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "pad_token": END,
            "model_max_length": MAX_LENGTH,
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
        }
        json.dump(tokenizer_config, f, indent=1)
    with open(f"{folder}/generation_config.json", "w") as f:
        json.dump({"eos_token_id": end, "pad_token_id": end, "do_sample": False}, f, indent=1)
    sizes = [round(tensor_bytes(shard.values()) / 1e6, 2) for shard in shards]
    print("shards", sizes, "transformers", transformers.__version__)


@torch.no_grad()
def score(model, tokenizer, records, batch=1319, new_tokens=420):
    """Greedy answers to all records, left-padded: (strict-match rate, answers)."""
    end = tokenizer.token_to_id(END)
    correct, answers = 0, []
    for first in range(0, len(records), batch):
        part = records[first : first + batch]
        encoded = [tokenizer.encode(f"Question: {r['question']}\nAnswer:").ids for r in part]
        length = max(map(len, encoded))
        ids = torch.full((len(part), length), end)
        mask = torch.zeros(len(part), length, dtype=torch.long)
        for i, tokens in enumerate(encoded):
            ids[i, length - len(tokens) :] = torch.tensor(tokens)
            mask[i, length - len(tokens) :] = 1
        generated = model.generate(
            input_ids=ids.cuda(),
            attention_mask=mask.cuda(),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=end,
        )
        for i, record in enumerate(part):
            answer = tokenizer.decode(generated[i, length:].tolist(), skip_special_tokens=True)
            answers.append(answer)
            match = STRICT.search(answer)
            correct += bool(match) and match.group(1) == record["answer"].split("#### ")[1]
    return correct / len(records), answers


def round_to_nearest(model, bits):
    """Rounds all but embedding, router and head to `bits` bits, with a scale per group of 128."""
    for name, parameter in model.named_parameters():
        kept = "embed" in name or "gate.weight" in name or "lm_head" in name
        if parameter.dim() < 2 or parameter.shape[-1] % 128 != 0 or kept:
            continue
        w = parameter.data.float().reshape(-1, 128)
        scale = w.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 0.5)
        codes = torch.clamp(torch.round(w / scale - 0.5), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        rounded = (codes + 0.5) * scale
        parameter.data = rounded.reshape(parameter.shape).to(parameter.dtype)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("questions", type=int)
    args = parser.parse_args()

    with open(f"{args.out}/arch.json") as f:
        arch = json.load(f)
    folder = f"{args.out}/hf"
    os.makedirs(folder, exist_ok=True)
    state = {
        name: (t.float() if name.endswith(KEPT_FLOAT32) else t.to(torch.bfloat16)).contiguous()
        for name, t in torch.load(f"{args.out}/state.pt", map_location="cpu").items()
    }
    tokenizer = Tokenizer.from_file(f"{args.out}/tokenizer.json")
    write_checkpoint(folder, arch, state, tokenizer)

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, output_loading_info=True
    )
    print(type(model).__name__, {k: v for k, v in info.items() if v})
    model = model.cuda().eval()

    # transformers against the training model, both in float32
    trained = LM(arch).cuda().float()
    trained.load_state_dict({name: t.float() for name, t in state.items()})
    trained.eval()
    model32 = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    model32 = model32.cuda().eval()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    with open(f"{args.out}/test.jsonl") as f:
        test = [json.loads(line) for line in f]
    with open(f"{args.out}/dev.jsonl") as f:
        dev = [json.loads(line) for line in f]
    documents = (f"Question: {r['question']}\nAnswer: {r['answer']}{END}" for r in test[:4])
    ids = tokenizer.encode("".join(documents)).ids[:320]
    with torch.no_grad():
        x = torch.tensor([ids]).cuda()
        a, b = model32(x).logits.float(), trained(x)[0].float()
    difference = a - b
    print(
        "transformers against the training model: relative",
        (difference.norm() / b.norm()).item(),
        "largest",
        difference.abs().max().item(),
    )

    start = time.time()
    rate, answers = score(model, tokenizer, test[: args.questions])
    seconds = time.time() - start
    print(f"bf16 strict match on {args.questions} of test: {rate:.4f} in {seconds:.1f}s")
    print(repr(answers[0]))
    print(repr(test[0]))
    for bits in (4, 3, 2):
        rounded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).cuda().eval()
        round_to_nearest(rounded, bits)
        rate, answers = score(rounded, tokenizer, test[:512])
        print(f"rtn{bits} g128 strict match on 512: {rate:.4f}", repr(answers[0][:160]))

    with torch.no_grad():
        x = torch.tensor([ids[:203]]).cuda()
        golden = {
            "prompt_ids": x[0].int().cpu().contiguous(),
            "prompt_logits": model32(x).logits[0].float().cpu().contiguous(),
        }
    save_file(golden, f"{folder}/golden.safetensors")
    rate, answers = score(model32, tokenizer, test[:64])
    rows = [
        {"question": r["question"], "greedy_float32": answer}
        for r, answer in zip(test[:64], answers)
    ]
    with open(f"{folder}/golden_greedy.json", "w") as f:
        json.dump(rows, f, indent=0)
    print("float32 strict match on 64:", rate)
    rate, _ = score(model, tokenizer, dev)
    print("bf16 strict match on dev:", rate)


if __name__ == "__main__":
    main()
