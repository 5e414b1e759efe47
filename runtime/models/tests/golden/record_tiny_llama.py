#!/usr/bin/env python3
"""Writes tiny Llama checkpoints with random weights, and the logits that they give.

    pip install numpy safetensors==0.8.0 torch transformers==5.23.0
    python record_tiny_llama.py

Three folders beside this file, each with config.json, the weights and logits.json:

    tiny_llama/         BF16, one file
    tiny_llama_llama3/  F32, two shards with an index, llama3 rope scaling
    tiny_llama_tied/    F16, tied embeddings, head_dim not hidden / heads, biases in attention,
                        config keys as transformers 5 writes them

The weights come from a seed and are made without torch. The recorded logits are those of
transformers' LlamaForCausalLM, in float32 over the stored weights; the float64 implementation in this
file, written from the equations, must agree. Where torch is missing the latter's are recorded, and
logits.json says so in `truth`.
"""

import argparse
import datetime
import json
import math
from pathlib import Path

import numpy as np
import safetensors
from safetensors import TensorSpec, serialize_file

try:
    import torch
    import transformers
except ImportError:
    torch = None

HERE = Path(__file__).resolve().parent
TOKENS = 24  # in one prompt; the cache is checked as 16 at once and 8 single ones
PREFILL = 16
GREEDY = 16  # tokens of greedy continuation after the prompt

BASE = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 160,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 256,
}

# wavelengths are 6, 20, 63, 199 ... positions: kept below 16, scaled above 64, blended between
LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}

MODELS = {
    "tiny_llama": {
        "seed": 1,
        "dtype": "bfloat16",
        "shards": 1,
        "config": BASE | {"rope_scaling": None, "rope_theta": 10000.0, "torch_dtype": "bfloat16"},
    },
    "tiny_llama_llama3": {
        "seed": 2,
        "dtype": "float32",
        "shards": 2,
        "config": BASE | {"rope_scaling": LLAMA3, "rope_theta": 10000.0, "torch_dtype": "float32"},
    },
    "tiny_llama_tied": {
        "seed": 3,
        "dtype": "float16",
        "shards": 1,
        "config": BASE
        | {
            "attention_bias": True,
            "dtype": "float16",
            "head_dim": 24,
            "rms_norm_eps": 1e-06,
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
            "tie_word_embeddings": True,
        },
    },
}


# --- weights ---------------------------------------------------------------------------------------


def to_bf16(values):
    """Rounds float32 to the nearest bfloat16, ties to even; gives the 16-bit patterns."""
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def stored(values, dtype):
    """The array as it is stored, and the exact float64 that it stands for."""
    if dtype == "bfloat16":
        patterns = to_bf16(values)
        return patterns, (patterns.astype("<u4") << 16).view("<f4").astype(np.float64)
    narrow = values.astype({"float16": "<f2", "float32": "<f4"}[dtype])
    return narrow, narrow.astype(np.float64)


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def shapes(config):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * head_dim(config)
    keys = config["num_key_value_heads"] * head_dim(config)
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        for name, outputs, inputs in (
            ("q_proj", queries, hidden),
            ("k_proj", keys, hidden),
            ("v_proj", keys, hidden),
            ("o_proj", hidden, queries),
        ):
            yield f"{prefix}self_attn.{name}.weight", (outputs, inputs)
            if config["attention_bias"]:
                yield f"{prefix}self_attn.{name}.bias", (outputs,)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "mlp.gate_proj.weight", (inner, hidden)
        yield prefix + "mlp.up_proj.weight", (inner, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def draw(rng, name, shape):
    """Random values, large enough that attention is far from uniform."""
    noise = rng.standard_normal(shape)
    if name.endswith("norm.weight"):
        return 1.0 + 0.2 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    if name == "model.embed_tokens.weight":
        return 0.5 * noise
    return noise * (1.5 / math.sqrt(shape[1]))


def save(entries, dtype, path):
    specs = {}
    for name, array in entries.items():
        specs[name] = TensorSpec(dtype=dtype, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes)
    serialize_file(specs, path, {"format": "pt"})


def write_weights(folder, model):
    rng = np.random.Generator(np.random.PCG64(model["seed"]))
    entries, exact = {}, {}
    for name, shape in shapes(model["config"]):
        entries[name], exact[name] = stored(draw(rng, name, shape).astype(np.float32), model["dtype"])
    for stale in folder.glob("*.safetensors*"):
        stale.unlink()
    if model["shards"] == 1:
        save(entries, model["dtype"], folder / "model.safetensors")
        return exact
    # The first layer's tensors end in the first shard, the rest go to the second.
    weight_map, parts = {}, [{}, {}]
    for name, entry in entries.items():
        index = 0 if name.startswith(("model.embed_tokens", "model.layers.0")) else 1
        parts[index][name] = entry
        weight_map[name] = f"model-{index + 1:05}-of-00002.safetensors"
    for index, part in enumerate(parts):
        save(part, model["dtype"], folder / f"model-{index + 1:05}-of-00002.safetensors")
    total = sum(entry.nbytes for entry in entries.values())
    value = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(value, indent=2) + "\n")
    return exact


# --- the model in float64, from the equations ------------------------------------------------------


def frequencies(config):
    parameters = config.get("rope_parameters") or {}
    theta = parameters.get("rope_theta") or config["rope_theta"]
    width = head_dim(config)
    plain = theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    scaling = config.get("rope_scaling")
    if not scaling:
        return plain
    lengths = 2 * np.pi / plain
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    blend = np.clip((original / lengths - low) / (high - low), 0.0, 1.0)
    return (1 - blend) * plain / scaling["factor"] + blend * plain


def rms_norm(x, weight, epsilon):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight


def rotate(x, angles):
    """x: heads, positions, width; the pairs are the two halves of the width."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def forward(config, weights, ids):
    """Logits at every position: positions, vocabulary."""
    width, count = head_dim(config), len(ids)
    groups = config["num_attention_heads"] // config["num_key_value_heads"]
    angles = np.outer(np.arange(count, dtype=np.float64), frequencies(config))
    mask = np.triu(np.full((count, count), -np.inf), 1)
    epsilon = config["rms_norm_eps"]

    def linear(x, name):
        bias = weights.get(name + ".bias", 0.0)
        return x @ weights[name + ".weight"].T + bias

    def heads(x):
        return x.reshape(count, -1, width).transpose(1, 0, 2)

    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        y = rms_norm(x, weights[prefix + "input_layernorm.weight"], epsilon)
        q = rotate(heads(linear(y, prefix + "self_attn.q_proj")), angles)
        k = rotate(heads(linear(y, prefix + "self_attn.k_proj")), angles).repeat(groups, axis=0)
        v = heads(linear(y, prefix + "self_attn.v_proj")).repeat(groups, axis=0)
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(width) + mask
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = (shares @ v).transpose(1, 0, 2).reshape(count, -1)
        x = x + linear(mixed, prefix + "self_attn.o_proj")
        y = rms_norm(x, weights[prefix + "post_attention_layernorm.weight"], epsilon)
        gate = linear(y, prefix + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, prefix + "mlp.up_proj"), prefix + "mlp.down_proj")
    x = rms_norm(x, weights["model.norm.weight"], epsilon)
    return linear(x, "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head")


# --- the same by transformers ----------------------------------------------------------------------


def by_transformers(folder, ids, steps):
    """Logits of one pass, the greatest difference of a pass over the cache, a greedy continuation."""
    model = transformers.LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    model.eval()
    with torch.no_grad():
        whole = model(torch.tensor([ids])).logits[0]
        part = model(torch.tensor([ids[:PREFILL]]), use_cache=True)
        rows, cache = [part.logits[0]], part.past_key_values
        for token in ids[PREFILL:]:
            part = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            rows.append(part.logits[0])
            cache = part.past_key_values
        apart = float((torch.cat(rows) - whole).abs().max())
        continued = list(ids)
        for _ in range(steps):
            continued.append(int(model(torch.tensor([continued])).logits[0, -1].argmax()))
    return whole.double().numpy(), apart, continued[len(ids) :]


def record(name, model, date):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    config = model["config"]
    (folder / "config.json").write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    weights = write_weights(folder, model)
    for path in folder.glob("*.safetensors"):  # what was written is what was meant
        for key, entry in safetensors.deserialize(path.read_bytes()):
            assert tuple(entry["shape"]) == weights[key].shape
    rng = np.random.Generator(np.random.PCG64(100 + model["seed"]))
    ids = [config["bos_token_id"]] + [int(i) for i in rng.integers(3, config["vocab_size"], TOKENS - 1)]

    ours = forward(config, weights, ids)
    greedy, gap, continued = [], math.inf, list(ids)
    for _ in range(GREEDY):
        last = forward(config, weights, continued)[-1]
        second, first = np.sort(last)[-2:]
        gap = min(gap, float(first - second))
        greedy.append(int(last.argmax()))
        continued.append(greedy[-1])
    value = {"recorded": {"by": "record_tiny_llama.py", "date": date}, "truth": "numpy float64, from the equations"}
    logits = ours
    if torch:
        logits, apart, theirs = by_transformers(folder, ids, GREEDY)
        difference = float(np.abs(logits - ours).max())
        assert difference < 2e-5, difference
        assert theirs == greedy
        value["truth"] = f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager attention"
        value["checked"] = {
            "numpy_float64_max_difference": difference,
            "prefill_16_then_8_steps_max_difference": apart,
        }
    value |= {"tokens": ids, "greedy": greedy, "greedy_min_gap": round(gap, 6)}
    lines = [f"{json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()]
    rows = ",\n".join("[" + ",".join(f"{x:.6f}" for x in row) + "]" for row in logits)
    (folder / "logits.json").write_text("{\n" + ",\n".join(lines) + f',\n"logits": [\n{rows}\n]\n}}\n')
    assert np.abs(np.array(json.loads((folder / "logits.json").read_text())["logits"]) - logits).max() < 1e-6
    sizes = ", ".join(f"{path.name} {path.stat().st_size}" for path in sorted(folder.iterdir()))
    print(f"{name}: {value['truth']}; |logits| to {np.abs(logits).max():.2f}; {value.get('checked')}; gap {gap:.4f}; {sizes}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    arguments = parser.parse_args()
    for name, model in MODELS.items():
        record(name, model, arguments.date)


if __name__ == "__main__":
    main()
