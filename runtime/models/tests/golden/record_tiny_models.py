#!/usr/bin/env python3
"""Writes tiny checkpoints with random weights, family by family, and the logits that transformers gives for them.

    pip install numpy safetensors==0.8.0 gguf==0.19.0 torch==2.15.0 transformers==5.23.0
    python record_tiny_models.py [NAME ...]

Each folder beside this file gets config.json, the weights as published files of the family have them, and
logits.json; some get the same weights as model.gguf too, under llama.cpp's names. Weights come from a seed and are
made without torch. The logits are those of the family's class in transformers, float32 over the stored weights.
"""

import argparse
import datetime
import json
import math
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors import TensorSpec, serialize_file

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


def family(model_type, architecture, **keys):
    left_out = ("mlp_bias", "pretraining_tp", "attention_bias")
    base = {key: value for key, value in BASE.items() if key not in left_out}
    return base | {"model_type": model_type, "architectures": [architecture], "torch_dtype": "bfloat16"} | keys


def qwen3_moe(**keys):
    return family(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        attention_bias=False,
        decoder_sparse_step=1,
        head_dim=24,
        moe_intermediate_size=32,
        num_experts_per_tok=2,
        rope_scaling=None,
        rope_theta=1000000.0,
        sliding_window=None,
        use_sliding_window=False,
        **keys,
    )


def hybrid(model_type, architecture, **keys):
    """Gated delta nets and gated attention, 3 to 1; value heads are wider and more than key heads."""
    return family(
        model_type,
        architecture,
        attention_bias=False,
        head_dim=16,
        linear_conv_kernel_dim=4,
        linear_key_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_value_head_dim=12,
        num_hidden_layers=4,
        rms_norm_eps=1e-06,
        **keys,
    )


MODELS = {
    "tiny_llama": {
        "seed": 1,
        "dtype": "bfloat16",
        "shards": 1,
        "config": BASE | {"rope_scaling": None, "rope_theta": 10000.0, "torch_dtype": "bfloat16"},
        "gguf": "llama",
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
    "tiny_mistral": {
        "seed": 4,
        "dtype": "bfloat16",
        "shards": 1,
        "config": family(
            "mistral", "MistralForCausalLM", head_dim=24, rope_theta=1000000.0, sliding_window=8, intermediate_size=96
        ),
    },
    "tiny_qwen2": {
        "seed": 5,
        "dtype": "float16",
        "shards": 1,
        "config": family(
            "qwen2",
            "Qwen2ForCausalLM",
            max_position_embeddings=128,
            max_window_layers=2,
            rms_norm_eps=1e-06,
            rope_scaling={"factor": 4.0, "original_max_position_embeddings": 32, "type": "yarn"},
            rope_theta=1000000.0,
            sliding_window=8,
            tie_word_embeddings=True,
            torch_dtype="float16",
            use_sliding_window=False,
        ),
        "gguf": "qwen2",
    },
    "tiny_qwen3": {
        "seed": 6,
        "dtype": "bfloat16",
        "shards": 1,
        "config": family(
            "qwen3",
            "Qwen3ForCausalLM",
            attention_bias=False,
            head_dim=24,
            intermediate_size=96,
            max_window_layers=2,
            rms_norm_eps=1e-06,
            rope_scaling=None,
            rope_theta=1000000.0,
            sliding_window=None,
            use_sliding_window=False,
        ),
        "gguf": "qwen3",
    },
    "tiny_qwen3_window": {
        "seed": 7,
        "dtype": "bfloat16",
        "shards": 1,
        "config": family(
            "qwen3",
            "Qwen3ForCausalLM",
            attention_bias=True,
            head_dim=16,
            intermediate_size=64,
            max_window_layers=1,
            rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
            sliding_window=8,
            tie_word_embeddings=True,
            use_sliding_window=True,
        ),
    },
    "tiny_qwen3_moe": {
        "seed": 8,
        "dtype": "bfloat16",
        "shards": 1,
        "config": qwen3_moe(mlp_only_layers=[], norm_topk_prob=True, num_experts=8),
        "gguf": "qwen3moe",
    },
    "tiny_qwen3_moe_fused": {
        "seed": 9,
        "dtype": "bfloat16",
        "shards": 1,
        "fused": True,
        "config": qwen3_moe(mlp_only_layers=[0], norm_topk_prob=False, num_experts=6),
    },
    "tiny_gpt_oss": {
        "seed": 10,
        "dtype": "bfloat16",
        "shards": 1,
        "config": family(
            "gpt_oss",
            "GptOssForCausalLM",
            attention_bias=True,
            experts_per_token=2,
            head_dim=16,
            hidden_act="silu",
            initial_context_length=32,
            intermediate_size=64,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            max_position_embeddings=256,
            num_experts_per_tok=2,
            num_hidden_layers=3,
            num_local_experts=4,
            quantization_config={
                "modules_to_not_convert": [
                    "model.layers.*.self_attn",
                    "model.layers.*.mlp.router",
                    "model.embed_tokens",
                    "lm_head",
                ],
                "quant_method": "mxfp4",
            },
            rope_scaling={
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 8.0,
                "original_max_position_embeddings": 32,
                "rope_type": "yarn",
                "truncate": False,
            },
            rope_theta=150000,
            sliding_window=8,
            swiglu_limit=7.0,
        ),
        "gguf": "gpt-oss",
    },
    "tiny_qwen3_next": {
        "seed": 11,
        "apart": 1e-4,
        "dtype": "bfloat16",
        "shards": 1,
        "config": hybrid(
            "qwen3_next",
            "Qwen3NextForCausalLM",
            decoder_sparse_step=1,
            full_attention_interval=4,
            mlp_only_layers=[],
            moe_intermediate_size=32,
            norm_topk_prob=True,
            num_experts=6,
            num_experts_per_tok=2,
            partial_rotary_factor=0.25,
            rope_scaling=None,
            rope_theta=10000000,
            shared_expert_intermediate_size=48,
        ),
    },
    "tiny_qwen3_5": {
        "seed": 12,
        "apart": 1e-4,
        "dtype": "bfloat16",
        "shards": 1,
        "config": hybrid(
            "qwen3_5_text",
            "Qwen3_5ForCausalLM",
            attn_output_gate=True,
            full_attention_interval=4,
            layer_types=["linear_attention", "full_attention", "linear_attention", "full_attention"],
            rope_parameters={
                "mrope_interleaved": True,
                "mrope_section": [2, 1, 1],
                "partial_rotary_factor": 0.5,
                "rope_theta": 10000000,
                "rope_type": "default",
            },
            tie_word_embeddings=True,
        ),
    },
    "tiny_qwen3_5_moe": {
        "seed": 13,
        "dtype": "bfloat16",
        "shards": 1,
        "fused": True,
        "config": hybrid(
            "qwen3_5_moe_text",
            "Qwen3_5MoeForCausalLM",
            moe_intermediate_size=32,
            num_experts=4,
            num_experts_per_tok=2,
            rope_parameters={"partial_rotary_factor": 0.25, "rope_theta": 10000000, "rope_type": "default"},
            shared_expert_intermediate_size=32,
        ),
    },
    "tiny_gemma4": {
        "seed": 14,
        "apart": 1e-4,
        "dtype": "bfloat16",
        "shards": 1,
        "config": family(
            "gemma4_text",
            "Gemma4ForCausalLM",
            attention_bias=False,
            attention_k_eq_v=True,
            enable_moe_block=False,
            final_logit_softcapping=30.0,
            global_head_dim=32,
            head_dim=16,
            hidden_activation="gelu_pytorch_tanh",
            hidden_size_per_layer_input=0,
            intermediate_size=96,
            layer_types=[f"{kind}_attention" for kind in ("sliding", "full", "sliding", "sliding", "full")],
            num_global_key_value_heads=1,
            num_hidden_layers=5,
            num_kv_shared_layers=0,
            rms_norm_eps=1e-06,
            rope_parameters={
                "full_attention": {
                    "partial_rotary_factor": 0.25,
                    "rope_theta": 1000000.0,
                    "rope_type": "proportional",
                },
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            },
            sliding_window=8,
            tie_word_embeddings=True,
            use_double_wide_mlp=False,
        ),
    },
}


# --- weights ---------------------------------------------------------------------------------------


def to_bf16(values):
    """Rounds float32 to the nearest bfloat16, ties to even; gives the 16-bit patterns."""
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def stored(values, dtype):
    """The array as it is stored, and the exact float32 that it stands for."""
    if dtype == "bfloat16":
        patterns = to_bf16(values)
        return patterns, (patterns.astype("<u4") << 16).view("<f4")
    narrow = values.astype({"float16": "<f2", "float32": "<f4"}[dtype])
    return narrow, narrow.astype("<f4")


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype="<f4")


def to_mxfp4(values):
    """Codes (one a byte), E8M0 scales of blocks of 32 along the last axis, and the exact float32 they stand for."""
    blocks = values.reshape(*values.shape[:-1], -1, 32)
    exponents = np.floor(np.log2(np.abs(blocks).max(axis=-1))) - 2
    scaled = blocks / np.exp2(exponents)[..., None]
    codes = np.abs(scaled[..., None] - E2M1).argmin(axis=-1).astype(np.uint8)
    exact = (E2M1[codes] * np.exp2(exponents)[..., None]).astype("<f4")
    return codes, (exponents + 127).astype(np.uint8), exact.reshape(values.shape)


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def has_attention_bias(config, name):
    if config["model_type"] == "qwen2":
        return name != "o_proj"
    return config.get("attention_bias", False)


HYBRIDS = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")


def has_delta_net(config, layer):
    if config["model_type"] not in HYBRIDS:
        return False
    types = config.get("layer_types")
    return types[layer] == "linear_attention" if types else (layer + 1) % 4 != 0


def is_global(config, layer):
    return config["model_type"] == "gemma4_text" and config["layer_types"][layer] == "full_attention"


def delta_net_shapes(config, prefix):
    hidden, heads = config["hidden_size"], config["linear_num_value_heads"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = heads * config["linear_value_head_dim"]
    yield prefix + "dt_bias", (heads,)
    yield prefix + "A_log", (heads,)
    yield prefix + "conv1d.weight", (2 * keys + values, 1, config["linear_conv_kernel_dim"])
    if config["model_type"] == "qwen3_next":
        yield prefix + "in_proj_qkvz.weight", (2 * keys + 2 * values, hidden)
        yield prefix + "in_proj_ba.weight", (2 * heads, hidden)
    else:
        yield prefix + "in_proj_qkv.weight", (2 * keys + values, hidden)
        yield prefix + "in_proj_z.weight", (values, hidden)
        yield prefix + "in_proj_b.weight", (heads, hidden)
        yield prefix + "in_proj_a.weight", (heads, hidden)
    yield prefix + "norm.weight", (config["linear_value_head_dim"],)
    yield prefix + "out_proj.weight", (hidden, values)


def attention_shapes(config, prefix, layer):
    hidden, kind = config["hidden_size"], config["model_type"]
    dim, kv_heads = head_dim(config), config["num_key_value_heads"]
    if is_global(config, layer):
        dim, kv_heads = config["global_head_dim"], config["num_global_key_value_heads"]
    queries, keys = config["num_attention_heads"] * dim, kv_heads * dim
    for name, outputs, inputs in (
        ("q_proj", 2 * queries if kind in HYBRIDS else queries, hidden),
        ("k_proj", keys, hidden),
        ("v_proj", keys, hidden),
        ("o_proj", hidden, queries),
    ):
        if name == "v_proj" and is_global(config, layer) and config["attention_k_eq_v"]:
            continue
        yield f"{prefix}{name}.weight", (outputs, inputs)
        if has_attention_bias(config, name):
            yield f"{prefix}{name}.bias", (outputs,)
    if kind.startswith("qwen3") or kind == "gemma4_text":
        yield prefix + "q_norm.weight", (dim,)
        yield prefix + "k_norm.weight", (dim,)
    if kind == "gpt_oss":
        yield prefix + "sinks", (config["num_attention_heads"],)


def dense_shapes(prefix, hidden, inner):
    yield prefix + "gate_proj.weight", (inner, hidden)
    yield prefix + "up_proj.weight", (inner, hidden)
    yield prefix + "down_proj.weight", (hidden, inner)


def feed_forward_shapes(config, prefix, layer):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kind, experts = config["model_type"], prefix + "experts."
    if kind == "gpt_oss":
        count = config["num_local_experts"]
        yield prefix + "router.weight", (count, hidden)
        yield prefix + "router.bias", (count,)
        yield experts + "gate_up_proj", (count, 2 * inner, hidden)
        yield experts + "gate_up_proj_bias", (count, 2 * inner)
        yield experts + "down_proj", (count, hidden, inner)
        yield experts + "down_proj_bias", (count, hidden)
    elif config.get("num_experts") and layer not in config.get("mlp_only_layers", []):
        count, width = config["num_experts"], config["moe_intermediate_size"]
        yield prefix + "gate.weight", (count, hidden)
        yield experts + "gate_up_proj", (count, 2 * width, hidden)
        yield experts + "down_proj", (count, hidden, width)
        if kind in HYBRIDS:
            yield from dense_shapes(prefix + "shared_expert.", hidden, config["shared_expert_intermediate_size"])
            yield prefix + "shared_expert_gate.weight", (1, hidden)
    else:
        yield from dense_shapes(prefix, hidden, inner)


def shapes(config):
    """Names as published files have them; experts stacked, as transformers' modules have them."""
    hidden, kind = config["hidden_size"], config["model_type"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        if has_delta_net(config, layer):
            yield from delta_net_shapes(config, prefix + "linear_attn.")
        else:
            yield from attention_shapes(config, prefix + "self_attn.", layer)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        if kind == "gemma4_text":
            yield prefix + "pre_feedforward_layernorm.weight", (hidden,)
            yield prefix + "post_feedforward_layernorm.weight", (hidden,)
            yield prefix + "layer_scalar", (1,)
        yield from feed_forward_shapes(config, prefix + "mlp.", layer)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def draw(rng, name, shape, kind):
    """Random values, large enough that attention and routing are far from uniform."""
    noise = rng.standard_normal(shape)
    if kind in HYBRIDS and name.endswith("norm.weight") and "linear_attn" not in name:
        return 0.2 * noise  # stored less one
    if name.endswith("A_log"):  # about half of a memory is left after a token or after ten
        return noise - 1.0
    if name.endswith("layer_scalar"):
        return 0.8 + 0.2 * noise
    if name.endswith("norm.weight"):
        return 1.0 + 0.2 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    if name.endswith("sinks"):
        return noise
    if name == "model.embed_tokens.weight":
        return 0.5 * noise
    return noise * (1.5 / math.sqrt(shape[-1]))


def published(name, values, model):
    """The stored tensors that a module's parameter is made of: name, type, array; and its exact float32."""
    dtype = model["dtype"]
    part = name.rsplit(".", 1)[-1]
    if part not in ("gate_up_proj", "down_proj") or model.get("fused"):
        array, exact = stored(values, dtype)
        return [(name, dtype, array)], exact
    if model["config"]["model_type"] == "gpt_oss":
        codes, scales, exact = to_mxfp4(values)
        blocks = codes[..., 0::2] | (codes[..., 1::2] << 4)
        return [(name + "_blocks", "uint8", blocks), (name + "_scales", "uint8", scales)], exact
    array, exact = stored(values, dtype)
    prefix, tensors = name.rsplit(".", 1)[0], []
    for expert, matrix in enumerate(array):
        halves = np.split(matrix, 2) if part == "gate_up_proj" else [matrix]
        names = ["gate_proj", "up_proj"] if part == "gate_up_proj" else ["down_proj"]
        for half, matrix in zip(names, halves):
            tensors.append((f"{prefix}.{expert}.{half}.weight", dtype, np.ascontiguousarray(matrix)))
    return tensors, exact


def save(entries, path):
    specs = {}
    for name, (dtype, array) in entries.items():
        specs[name] = TensorSpec(dtype=dtype, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes)
    serialize_file(specs, path, {"format": "pt"})


def write_weights(folder, model):
    """Gives the exact values by the names of transformers' modules."""
    rng = np.random.Generator(np.random.PCG64(model["seed"]))
    entries, exact = {}, {}
    for name, shape in shapes(model["config"]):
        tensors, exact[name] = published(name, draw(rng, name, shape, model["config"]["model_type"]).astype(np.float32), model)
        entries |= {tensor: (dtype, array) for tensor, dtype, array in tensors}
    for stale in folder.glob("*.safetensors*"):
        stale.unlink()
    if model["shards"] == 1:
        save(entries, folder / "model.safetensors")
        return exact
    # The first layer's tensors end in the first shard, the rest go to the second.
    weight_map, parts = {}, [{}, {}]
    for name, entry in entries.items():
        index = 0 if name.startswith(("model.embed_tokens", "model.layers.0")) else 1
        parts[index][name] = entry
        weight_map[name] = f"model-{index + 1:05}-of-00002.safetensors"
    for index, part in enumerate(parts):
        save(part, folder / f"model-{index + 1:05}-of-00002.safetensors")
    total = sum(array.nbytes for _, array in entries.values())
    value = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(value, indent=2) + "\n")
    return exact


# --- the same as GGUF ------------------------------------------------------------------------------

GGUF_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.router": "ffn_gate_inp",
}
GGUF_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_tensors(config, architecture, exact):
    """llama.cpp's names, and the values in its order of rows."""
    for name, values in exact.items():
        stem, ending = name.rsplit(".", 1)
        if stem in GGUF_WHOLE:
            yield f"{GGUF_WHOLE[stem]}.{ending}", values
            continue
        _, _, layer, part = name.split(".", 3)
        block, stem = f"blk.{layer}.", part.rsplit(".", 1)[0]
        if part == "self_attn.sinks":
            yield block + "attn_sinks.weight", values
        elif part.startswith("mlp.experts."):
            ending = "bias" if part.endswith("_bias") else "weight"
            if "down_proj" in part:
                yield f"{block}ffn_down_exps.{ending}", values
            elif config["model_type"] == "gpt_oss":  # rows in turn
                yield f"{block}ffn_gate_exps.{ending}", values[:, 0::2]
                yield f"{block}ffn_up_exps.{ending}", values[:, 1::2]
            else:
                gate, up = np.split(values, 2, axis=1)
                yield f"{block}ffn_gate_exps.{ending}", gate
                yield f"{block}ffn_up_exps.{ending}", up
        else:
            target = GGUF_PARTS[stem]
            if architecture == "gpt-oss" and target == "ffn_norm":
                target = "post_attention_norm"
            if architecture == "llama" and target in ("attn_q", "attn_k"):
                # From halves to neighbours.
                heads = values.shape[0] // head_dim(config)
                values = values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
            yield f"{block}{target}.{ending}", values


def gguf_metadata(writer, config):
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_vocab_size(config["vocab_size"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    scaling = config.get("rope_scaling")
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if config["model_type"] == "qwen3_moe":
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if config["model_type"] == "gpt_oss":
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["intermediate_size"])
        writer.add_sliding_window(config["sliding_window"])


def write_gguf(folder, model, exact):
    kinds = gguf.GGMLQuantizationType
    kind = {"bfloat16": kinds.BF16, "float16": kinds.F16, "float32": kinds.F32}[model["dtype"]]
    writer = gguf.GGUFWriter(folder / "model.gguf", model["gguf"])
    gguf_metadata(writer, model["config"])
    for name, values in gguf_tensors(model["config"], model["gguf"], exact):
        values = np.ascontiguousarray(values, dtype="<f4")
        if values.ndim == 1 or name.endswith("bias") or "ffn_gate_inp" in name:
            writer.add_tensor(name, values)
        elif model["gguf"] == "gpt-oss" and "_exps" in name:
            codes, scales, again = to_mxfp4(values)
            assert (again == values).all(), name
            nibbles = codes[..., :16] | (codes[..., 16:] << 4)
            packed = np.concatenate([scales[..., None], nibbles], axis=-1)
            writer.add_tensor(name, packed.reshape(*values.shape[:-1], -1), raw_dtype=kinds.MXFP4)
        else:
            packed = gguf.quantize(values, kind)
            assert (gguf.dequantize(packed, kind) == values).all(), name
            writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- the logits, by transformers -------------------------------------------------------------------


def by_transformers(folder, exact, ids, steps):
    """Logits of one pass, the greatest difference of a pass over the cache, a greedy continuation."""
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    state = {name: torch.from_numpy(np.array(values, dtype=np.float32)) for name, values in exact.items()}
    if config.model_type == "gpt_oss":  # its modules have experts transposed
        for name in [name for name in state if name.endswith(("gate_up_proj", "experts.down_proj"))]:
            state[name] = state[name].transpose(1, 2).contiguous()
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
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
        greedy, gap = [], math.inf
        for _ in range(steps):
            last = model(torch.tensor([ids + greedy])).logits[0, -1]
            first, second = (float(value) for value in last.topk(2).values)
            gap = min(gap, first - second)
            greedy.append(int(last.argmax()))
    return whole.numpy(), apart, greedy, gap


def record(name, model, date):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    config = model["config"]
    (folder / "config.json").write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    exact = write_weights(folder, model)
    if "gguf" in model:
        write_gguf(folder, model, exact)
    rng = np.random.Generator(np.random.PCG64(100 + model["seed"]))
    ids = [config["bos_token_id"]] + [int(i) for i in rng.integers(3, config["vocab_size"], TOKENS - 1)]
    logits, apart, greedy, gap = by_transformers(folder, exact, ids, GREEDY)
    assert apart < model.get("apart", 2e-5), apart
    value = {
        "recorded": {"by": "record_tiny_models.py", "date": date},
        "truth": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager attention",
        "checked": {"prefill_16_then_8_steps_max_difference": apart},
        "tokens": ids,
        "greedy": greedy,
        "greedy_min_gap": round(gap, 6),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()]
    rows = ",\n".join("[" + ",".join(f"{x:.6f}" for x in row) + "]" for row in logits)
    (folder / "logits.json").write_text("{\n" + ",\n".join(lines) + f',\n"logits": [\n{rows}\n]\n}}\n')
    assert np.abs(np.array(json.loads((folder / "logits.json").read_text())["logits"]) - logits).max() < 1e-6
    sizes = ", ".join(f"{path.name} {path.stat().st_size}" for path in sorted(folder.iterdir()))
    print(f"{name}: |logits| to {np.abs(logits).max():.2f}; passes apart {apart:.2e}; gap {gap:.4f}; {sizes}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these folders")
    arguments = parser.parse_args()
    for name, model in MODELS.items():
        if name in arguments.names or not arguments.names:
            record(name, model, arguments.date)


if __name__ == "__main__":
    main()
