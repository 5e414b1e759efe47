#!/usr/bin/env python3
"""Records goldens of published vocabularies, cut down, with Hugging Face's `tokenizers` as the truth.

    pip install tokenizers==0.23.3 transformers==5.23.0 sentencepiece==0.2.3 tiktoken==0.14.0 gguf==0.19.0 mistral-common==1.13.1
    python record_vocabularies.py --ggml-vocabs llama.cpp/models --mistral-data .../mistral_common/data \
        --o200k tiktoken-rs-0.7.0/assets/o200k_base.tiktoken

`--ggml-vocabs` is the folder of `ggml-vocab-*.gguf` in llama.cpp's source. One folder per vocabulary is
written under vocabularies/: tokenizer.json, vocab.gguf and tokenize.json.

Cut down: kept are all single bytes, all special tokens, and every token whose text occurs anywhere in STRINGS,
with every merge among those; ids are counted anew in the old order. Whatever way a text of STRINGS is
split and merged, only kept tokens can come up, so that mistakes show as they would with the whole vocabulary. The
script holds the ids from the cut vocabulary against those from the whole one, and those from the whole one against a
second implementation where one is at hand (sentencepiece, tiktoken): a difference ends it, unless it is listed.
"""

import argparse
import base64
import datetime
import hashlib
import json
from pathlib import Path

import gguf
import sentencepiece
import tiktoken
import tokenizers
from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import generate_merges

import record_tokenizers as base
from record_tokenizers import QWEN2_SPLIT, added, bpe, byte_level, document, template

OUT = Path(__file__).resolve().parent / "vocabularies"

QWEN35_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
WORD, CONTRACTION = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K_SPLIT = (
    f"{WORD}{UPPER}*{LOWER}+{CONTRACTION}|{WORD}{UPPER}+{LOWER}*{CONTRACTION}" + r"|\p{N}{1,3}" + REST
)
TEKKEN_SPLIT = f"{WORD}{UPPER}*{LOWER}+|{WORD}{UPPER}+{LOWER}*" + r"|\p{N}" + REST

STRINGS = base.STRINGS + [
    # numbers of all lengths, bare and in text
    " ".join("1234567890123456"[:n] for n in range(1, 17)), "".join(f"x{10**n}" for n in range(9)),
    "0.1 10% $1,234.56 \u20ac9 1/2 3:45 #7 +49-30-123 192.168.0.1 0b1010 1_000_000 1e308 \u0e51\u0e52\u0e53\u0e54",
    # runs of white space of many lengths
    "".join("x" + " " * n for n in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33)) + "x",
    "".join("x" + "\n" * n for n in (1, 2, 3, 4, 5, 8)) + "x", "".join("x" + "\t" * n for n in (1, 2, 3, 4, 8)) + "x",
    " \t \n\t \r\n \r x\r\ry", "a \nb  \nc\t\nd \n\n e\u00a0\nf", "\n ", " \n", "\n\n ", "   \n   ",
    # letter case within words, apostrophes
    "HTTPServer iPhone XMLHttpRequest aBC ABc McDonald's O'NEIL'S L'\u00c9COLE l'\u00e9cole \u01c5ungla \u01c6ungla \u1e9e\u00df",
    "IT'S it'S It's IT's we'LL WE'll i'D 'Sx \u02bcs it\u2019S 's 'S 're 'RE''s",
    "\u0434\u043e\u043c\u2019s \u0414\u041e\u041c'S \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2's \u6f22'd",
    # slashes and punctuation before line ends
    "https://a/b//c/\n/// x/\r\n};\n\n  }\n)/\n", "/*\n * x\n */\n// y\n#if 0\n\\\n", "a,b;c:d!e?f.\ng...\n\n",
    # marks at starts, and behind digits and punctuation
    "\u0301a \u0301b 1\u0301 .\u0301 x\u0303\u0301y \u0e01\u0e33\u0e49 \u0939\u093f\u0928\u094d\u0926\u0940 \u09ac\u09be\u0982\u09b2\u09be",
    "ni\u0303o nin\u0303o e\u0301e\u0301 \u00e9\u00e9 Cafe\u0301 CAFE\u0301 \uac00\u1100\u1161",
    # chats of the families
    "<|start|>system<|message|>x<|end|><|start|>assistant<|channel|>analysis<|message|>y<|return|><|call|>",
    "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n<bos><eos><pad>",
    "[INST] a [/INST] b</s>[AVAILABLE_TOOLS][TOOL_CALLS][{\"name\":\"f\"}][TOOL_RESULTS] [IMG] <pad>",
    "<|im_start|>assistant\n<think>\n\n</think>\n\n<tool_call>\n</tool_call><|im_end|><|object_ref_start|>",
    "<|python_tag|><|eom_id|><|reserved_special_token_5|><|finetune_right_pad_id|><|startoftext|>",
    "\u2581 \u2581\u2581x \u2581", "<0x00> <0xFF>\u0000\u00ff", "<unk><s></s> <unk > < s>",
]


def _bytes_to_characters():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, extra = {}, 0x100
    for byte in range(256):
        if byte in printable:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(extra)
            extra += 1
    return table


BYTES = _bytes_to_characters()


def byte_text(data):
    return "".join(BYTES[byte] for byte in data)


# --- vocabularies: {"tokens": [(id, text, type, score)], "merges": [(a, b)], "document": f(tokens, merges), ...} ---

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def read_gguf(path):
    fields = gguf.GGUFReader(path).fields
    get = lambda key: fields[f"tokenizer.ggml.{key}"].contents() if f"tokenizer.ggml.{key}" in fields else None
    tokens, types = get("tokens"), get("token_type")
    scores = get("scores") or [0.0] * len(tokens)
    rows = list(zip(range(len(tokens)), tokens, types, scores))
    merges = [tuple(merge.split(" ", 1)) for merge in get("merges") or []]
    keys = ["model", "pre", "bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id"]
    keys += ["add_bos_token", "add_eos_token", "add_space_prefix"]
    return rows, merges, {key: get(key) for key in keys if get(key) is not None}


def specials(rows):
    return [added(i, text, special=kind != USER) | {"normalized": False} for i, text, kind, _ in rows if kind in (CONTROL, USER)]


def split_document(split, normalizer=None, ignore_merges=False, bos=None):
    def make(rows, merges):
        ids = {text: i for i, text, _, _ in rows}
        processor = byte_level(True) if bos is None else {"type": "Sequence", "processors": [byte_level(True), template(bos, ids[bos])]}
        return document(
            added_tokens=specials(rows),
            normalizer=normalizer,
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
                    byte_level(False),
                ],
            },
            post_processor=processor,
            decoder=byte_level(True) | {"add_prefix_space": True},
            model=bpe(ids, merges, ignore_merges=ignore_merges),
        )

    return make


def spm_document(kind, bos):
    """kind: prefix (Llama 2's shape), none (Gemma's shape)."""

    def make(rows, merges):
        ids = {text: i for i, text, _, _ in rows}
        unknown = next((text for _, text, kind, _ in rows if kind == UNKNOWN), "<unk>")
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
        parts = base.spm_decoder()
        extra = [added(ids[unknown], unknown)]
        if kind == "prefix":
            normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace]}
            pre = None
        else:
            normalizer = replace
            parts["decoders"].pop()
            pre = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        return document(
            added_tokens=sorted(specials(rows) + extra, key=lambda entry: entry["id"]),
            normalizer=normalizer,
            pre_tokenizer=pre,
            post_processor=template(bos, ids[bos]),
            decoder=parts,
            model=bpe(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True),
        )

    return make


def spm_merges(rows):
    """As transformers' converters do it; pieces that are no text are not made by merging."""
    vocab = {text: i for i, text, _, _ in rows}
    scores = {text: score for _, text, _, score in rows}
    return generate_merges(vocab, scores, {text for _, text, kind, _ in rows if kind in (CONTROL, UNKNOWN, BYTE)})


def qwen2(arguments):
    rows, merges, keys = read_gguf(arguments.ggml_vocabs / "ggml-vocab-qwen2.gguf")
    return rows, merges, keys, split_document(QWEN2_SPLIT, {"type": "NFC"}), None


def qwen35(arguments):
    rows, merges, keys = read_gguf(arguments.ggml_vocabs / "ggml-vocab-qwen35.gguf")
    return rows, merges, keys, split_document(QWEN35_SPLIT, {"type": "NFC"}), None


def from_ranks(ranks, first_id, special):
    """Tokens and merges of a tiktoken vocabulary; special: {text: id}."""
    rows = [(rank + first_id, byte_text(token), NORMAL, 0.0) for token, rank in ranks.items()]
    rows += [(i, text, CONTROL, 0.0) for text, i in special.items()]
    merges = []
    for token, rank in ranks.items():
        cuts = [(token[:n], token[n:]) for n in range(1, len(token))]
        cuts = [(ranks[a], ranks[b], a, b) for a, b in cuts if a in ranks and b in ranks]
        merges += [(rank, a, b) for _, _, a, b in sorted(cuts)]
    merges.sort(key=lambda merge: merge[0])
    return sorted(rows), [(byte_text(a), byte_text(b)) for _, a, b in merges]


def o200k(arguments):
    lines = arguments.o200k.read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    names = {199998: "<|startoftext|>", 199999: "<|endoftext|>", 200002: "<|return|>", 200003: "<|constrain|>"}
    names |= {200005: "<|channel|>", 200006: "<|start|>", 200007: "<|end|>", 200008: "<|message|>", 200012: "<|call|>"}
    names = {i: names.get(i, f"<|reserved_{i}|>") for i in range(199998, 200019)} | {200018: "<|endofprompt|>"}
    special = {text: i for i, text in names.items()}
    rows, merges = from_ranks(ranks, 0, special)
    keys = {"model": "gpt2", "pre": "gpt-4o", "bos_token_id": 199998, "eos_token_id": 200002, "padding_token_id": 199999}
    second = tiktoken.Encoding("o200k", pat_str=O200K_SPLIT, mergeable_ranks=ranks, special_tokens=special)
    return rows, merges, keys, split_document(O200K_SPLIT), lambda text: second.encode(text, disallowed_special=())


def tekken(arguments):
    data = json.loads((arguments.mistral_data / "tekken_240911.json").read_text(encoding="utf-8"))
    config = data["config"]
    count = config["default_vocab_size"] - config["default_num_special_tokens"]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in data["vocab"][:count]}
    first = config["default_num_special_tokens"]
    names = "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS]"
    names = dict(enumerate((names + " [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX]").split()))
    special = {names.get(i, f"<SPECIAL_{i}>"): i for i in range(first)}
    rows, merges = from_ranks(ranks, first, special)
    keys = {"model": "gpt2", "pre": "tekken", "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "padding_token_id": 11}
    second = tiktoken.Encoding("tekken", pat_str=config["pattern"], mergeable_ranks=ranks, special_tokens={})
    make = split_document(TEKKEN_SPLIT, None, True, "<s>")
    return rows, merges, keys, make, lambda text: [i + first for i in second.encode(text, disallowed_special=())]


def read_spm(path):
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    kind = lambda i: (
        UNKNOWN if model.is_unknown(i) else CONTROL if model.is_control(i) else BYTE if model.is_byte(i)
        else UNUSED if model.is_unused(i) else NORMAL
    )
    rows = [(i, model.id_to_piece(i), kind(i), model.get_score(i)) for i in range(model.vocab_size())]
    keys = {"model": "llama", "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "add_bos_token": True}
    return rows, keys | {"add_eos_token": False}, model


def mistral_v3(arguments):
    rows, keys, model = read_spm(arguments.mistral_data / "mistral_instruct_tokenizer_240323.model.v3")
    return rows, spm_merges(rows), keys, spm_document("prefix", "<s>"), model.encode


def spm_no_prefix(arguments):
    rows, keys, _ = read_spm(arguments.mistral_data / "tokenizer.model.v1")
    keys |= {"add_space_prefix": False}
    return rows, spm_merges(rows), keys, spm_document("none", "<s>"), None


def gemma4(arguments):
    rows, merges, keys = read_gguf(arguments.ggml_vocabs / "ggml-vocab-gemma-4.gguf")
    return rows, merges, keys, spm_document("none", "<bos>"), None


# --- cutting ---------------------------------------------------------------------------------------


def cut(rows, merges, keys, make):
    """Gives the kept rows with new ids, their merges, keys with new ids, and the map of ids."""
    whole = Tokenizer.from_str(json.dumps(make(rows, merges)))
    seen = []
    for text in STRINGS:
        normal = whole.normalizer.normalize_str(text) if whole.normalizer else text
        for shape in {text, normal, normal.replace(" ", "\u2581")}:
            seen += [shape, byte_text(shape.encode())]
    seen = "\ue000".join(seen)
    wanted = {text for _, text, kind, _ in rows if kind == NORMAL and text in seen}
    single = set(BYTES.values())
    # Of hundreds of reserved tokens a few are enough.
    reserved = [text for _, text, kind, _ in rows if kind in (CONTROL, USER, UNUSED) and text not in seen][60:]
    named = {keys[key] for key in keys if key.endswith("_token_id")}
    drop = set(reserved)
    kept = [row for row in rows if row[0] in named or row[1] not in drop and (row[2] != NORMAL or row[1] in wanted or row[1] in single)]
    ids = {old: new for new, (old, _, _, _) in enumerate(kept)}
    known = {text for _, text, _, _ in kept}
    few = [(a, b) for a, b in merges if a in known and b in known and a + b in known]
    keys = {key: ids[value] if key.endswith("_token_id") else value for key, value in keys.items()}
    return [(ids[i], text, kind, score) for i, text, kind, score in kept], few, keys, ids, whole


def write_gguf(path, rows, merges, keys):
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model(keys["model"])
    if "pre" in keys:
        writer.add_tokenizer_pre(keys["pre"])
    writer.add_token_list([text for _, text, _, _ in rows])
    if keys["model"] == "llama":
        writer.add_token_scores([score for _, _, _, score in rows])
    writer.add_token_types([kind for _, _, kind, _ in rows])
    if keys["model"] != "llama":
        writer.add_token_merges([f"{a} {b}" for a, b in merges])
    for key, value in keys.items():
        if key.endswith("_token_id"):
            writer.add_uint32(f"tokenizer.ggml.{key}", value)
        elif key.startswith("add_"):
            writer.add_bool(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def compare_second(name, second, whole, known):
    """Differences between tokenizers and the second implementation on plain text."""
    differ = [text for text in STRINGS if second(text) != base.encode(whole, text, as_text=True)]
    for text in differ:
        print(f"  {name}: second differs on {text[:60]!r}")
    return len(differ)


def record(name, parts, date):
    rows, merges, keys, make, second = parts
    few, few_merges, few_keys, ids, whole = cut(rows, merges, keys, make)
    folder = OUT / name
    text = json.dumps(make(few, few_merges), ensure_ascii=False, separators=(",", ":"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    write_gguf(folder / "vocab.gguf", few, few_merges, few_keys)
    tokenizer = Tokenizer.from_str(text)
    for string in STRINGS:
        for plain in (False, True):
            mapped = [ids.get(i) for i in base.encode(whole, string, plain)]
            assert mapped == base.encode(tokenizer, string, plain), (name, string)
    differences = compare_second(name, second, whole, ids) if second else None
    value = {
        "recorded": {
            "by": "record_vocabularies.py", "truth": f"tokenizers {tokenizers.__version__}", "date": date,
            "ids_of_the_whole_vocabulary": len(rows), "second_implementation_differs_on": differences,
            "tokenizer_sha256": hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
        },
        "cases": [base.case(tokenizer, string) for string in STRINGS],
        "decode": base.decode_cases(tokenizer),
    }
    base.compact(folder / "tokenize.json", value, ["cases", "decode"])
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    print(f"{name}: {len(few)} of {len(rows)} tokens, {len(few_merges)} merges, second differs: {differences}, {sizes}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ggml-vocabs", type=Path, required=True)
    parser.add_argument("--mistral-data", type=Path, required=True)
    parser.add_argument("--o200k", type=Path, required=True)
    parser.add_argument("--only")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    arguments = parser.parse_args()
    assert len(STRINGS) == len(set(STRINGS)), "a string is there twice"
    base.HERE = OUT
    for make in (qwen2, qwen35, o200k, tekken, mistral_v3, spm_no_prefix, gemma4):
        if arguments.only is None or make.__name__ in arguments.only.split(","):
            record(make.__name__, make(arguments), arguments.date)


if __name__ == "__main__":
    main()
