#!/usr/bin/env python3
"""Records the tokenizer goldens, with Hugging Face's `tokenizers` as the truth.

    pip install tokenizers==0.23.3 gguf==0.19.0
    python record_tokenizers.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf

Writes, beside this file, one folder per kind of tokenizer:

    smollm2/          the model's own vocabulary, taken from the GGUF: GPT-2 byte-level BPE
    llama3_like/      byte-level BPE, Llama 3's Split regex, ignore_merges, a BOS post-processor
    qwen2_like/       byte-level BPE, NFC normaliser, single digits, added tokens that are not special
    spm_like/         SentencePiece-like BPE, Metaspace pre-tokenizer, byte fallback (Mistral's shape)
    spm_legacy_like/  the same pieces behind Prepend and Replace normalisers (Llama 2's shape)

and in each a tokenizer.json and a tokenize.json. The small ones are trained here on CORPUS; training
is deterministic, so a second run writes the same bytes, `recorded` apart.
"""

import argparse
import datetime
import hashlib
import json
import random
import sys
from pathlib import Path

import tokenizers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")

CORPUS = """
A kindling fire starts small. You lay the thin sticks first, then the thicker ones, and you leave room
for the air to move between them. The server does the same with its requests: it takes the short ones
together, keeps the long ones going, and never lets the hearth go cold. We're sure that it'll hold, they've
said it won't smoke, and I'd say that's what we're here for; he's the one who can't wait.
In 2026 there were 128 tokens in the batch, 4096 in the cache and 49152 in the vocabulary, so 3.14159 of
them (or 1,000,000) didn't matter. The model's weights are read once for every token that it writes.
fn main() { let mut total = 0; for token in tokens.iter() { total += token.len(); } println!("{total}"); }
def forward(self, x, mask=None):
    hidden = self.norm(x)
    for layer in self.layers:
        hidden = layer(hidden, mask)
    return self.output(hidden)
The words of the world: the fire, the hearth, the wood, the spark, the smoke and the embers.
Die Glut im Ofen, größer und wärmer; le feu de la forêt brûlait déjà; el fuego de mañana. Über Straßen.
Привет, мир. Огонь горит. Всё хорошо. 你好，世界。火在燃烧。こんにちは、世界。 مرحبا بالعالم 안녕하세요
{"role": "user", "content": "Hello, how are you?"} {"role": "assistant", "content": "I'm well, thank you!"}
😀 👍 ❤ 👩 🔥 🔥🔥
"""

ZWJ = "\u200d"

# Hard strings. Every kind of tokenizer gets every one of them.
STRINGS = [
    # nothing, and next to nothing
    "", " ", "  ", "\n", "\t", "\r\n", "a", ".", "0", "\u0000", "\u00a0",
    # plain
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    " leading space", "trailing space ", "  two leading", "two trailing  ", "a  b   c    d",
    "THE SAME IN CAPITALS, AND miXeD cAsE",
    # contractions
    "I'll we'll they've I'm you're it's don't he'd",
    "I'LL WE'LL THEY'VE I'M YOU'RE IT'S DON'T HE'D",
    "I\u2019ll we\u2019ve it\u2019s \u2018quoted\u2019 \u201cdouble\u201d",
    "'s't're've'm'll'd 'S'T 'sing 'tis 'llama x'sy rock'n'roll",
    # digits
    "1", "12", "123", "1234", "12345678901234567890", "3.14159 1,000,000 -42 1e-5 0x1F",
    "a1b22c333d4444", "2026-11-22T12:34:56.789Z", "v1.2.3-rc.4+build5",
    "\u0663\u0664\u0665 \u0967\u0968 \u00b2\u00b3\u00bd \u2167 \u2460 \uff11\uff12\uff13",  # digits of other scripts
    # white space
    "a\tb\t\tc", "a\nb\n\nc\n\n\nd", "a\r\nb\r\n\r\nc", " \n \n ", "\n\n\n   \t\t\n  x", "x   \n   y   \n\n",
    "                                                                                x",
    "x                                                                                ",
    "\t\t\t\tindented", "line one  \nline two\\\n    indented four\n\tindented tab",
    "\u00a0no-break\u2003em\u2009thin\u3000ideographic\u200bzero\u2028line\u2029para\u0085next\u000bvt\u000cff",
    # code
    "fn main() {\n    let x: Vec<u8> = vec![0; 16];\n    println!(\"{:?}\", x);\n}\n",
    "def f(x, *args, **kw):\n\treturn [i**2 for i in range(x) if i % 2 == 0]  # squares\n",
    "SELECT * FROM t WHERE a <> 'b''c' AND d >= 1.5; -- comment",
    "<div class=\"a-b_c\" data-x='1'>&nbsp;&#39;</div><!-- x -->",
    "https://example.org/path/to?q=1&r=%20a%2Fb#frag user@example.org",
    "{\"key\": [1, 2.5, null, true], \"s\": \"a\\nb\\u00e9\"}",
    "if(a&&b||!c){d=e?f:g;}//end /* block */ #!/bin/sh $HOME ${x:-y} `cmd` \\\\server\\share",
    "snake_case camelCase PascalCase kebab-case SCREAMING_SNAKE __dunder__ a.b.c::d->e",
    "!!!??? ... --- ___ *** ### === ~~~ ((( ))) [[[ ]]] {{{ }}}",
    # other scripts
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u8fd9\u662f\u4e00\u4e2a\u6d4b\u8bd5\u3002",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c\u3002\u30ab\u30bf\u30ab\u30ca\u3068\u6f22\u5b57\u3001\uff76\uff85",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u043b\u043a\u0430 \u2014 \u0451\u0436.",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u0643\u064a\u0641 \u062d\u0627\u0644\u0643\u061f",
    "\u0645\u064e\u0631\u0652\u062d\u064e\u0628\u064b\u0627",  # Arabic with vowel marks
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5 \u03c3\u03c2",
    "Gr\u00f6\u00dfe stra\u00dfe STRASSE \u0130stanbul \u0131\u015f\u0131k na\u00efve caf\u00e9 \u0141\u00f3d\u017a",
    # combining marks, and the same letters composed
    "e\u0301 \u00e9 A\u030a \u00c5 \u212b n\u0303 \u00f1 o\u0302\u0323 \u1ed9 \u1100\u1161\u11a8 \uac01",
    "Z\u0351\u036b\u0343\u036a\u0302\u0334a\u0334\u0310\u0313l\u0335\u0322\u0321g\u0337\u030co\u0338",
    "\ufb01ne o\ufb03ce \u2126 \u00b5 \u2075 \u337f \uff21\uff22\uff23",  # compatibility forms
    # emoji
    "\U0001f600\U0001f44d\U0001f525 ok",
    f"\U0001f469{ZWJ}\U0001f469{ZWJ}\U0001f467{ZWJ}\U0001f466 \U0001f468\U0001f3fd{ZWJ}\U0001f680 \U0001f3f3\ufe0f{ZWJ}\U0001f308",
    "\U0001f44d\U0001f3fb\U0001f44d\U0001f3ff \u2764\ufe0f \u2764 1\ufe0f\u20e3 \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "text\U0001f525text\U0001f525\U0001f525 \U0001f525",
    # invisible, odd and at the edges of the code space; no surrogates
    "\ufeffBOM first", "a\u200bb\u200cc\u200dd\u2060e\u00adf", "\u202eright to left\u202c \u2066isolate\u2069",
    "\u0001\u0002\u0003\u0004\u0005\u0006\u0007\u0008\u000e\u000f\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u001b\u001c\u001d\u001e\u001f\u007f",
    "NUL\u0000in\u0000side\u0000", "\u0080\u009f\u00ff\u0100\u07ff\u0800\ud7ff\ue000\ufffd\uffff",
    "\U00010000\U0001f9ff\U000fffff\U0010ffff \U00040000 x", "\U0001d54f\U0001d552\U00020000\U0002a6d6 \U00010348",
    "\u2581underline\u2581\u2581block \u0120looks \u010alike \u010da byte",
    "\ufffd replacement \ufffd\ufffd",
    # special tokens inside text (of all the kinds; each tokenizer knows some)
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|><|im_end|><|im_start|>", "x<|im_end|>y <|im_end|> z",
    "<|im_start |> <|im_start <|im_end|x> <||> <|IM_START|>",
    "<|endoftext|><repo_name>a/b<filename>c.rs<gh_stars>10", "<empty_output><jupyter_code>1+1",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "<s>[INST] Hi [/INST] Hello</s> <s> </s><unk>", " <s> a <s>b</s>c",
    "<tool_call>\n{\"name\": \"f\"}\n</tool_call>", "a <think>b</think> c", "<0x0A><0x41> <0xZZ>",
    # long
    "a" * 300, "ab" * 150, "supercalifragilisticexpialidocious" * 4, "\u4e00" * 64, "\U0001f525" * 20, "=" * 100,
    "0" * 70, "-" * 33 + "\n" + " " * 37 + "\n" * 9, "The fire, the hearth. " * 20,
    "Kindling Kindlingunreachable unreachable unreachables hearth hearths",
    "word" + "\u0301" * 20 + " end", "A\u030a" * 10,
]


def compact(path, value, lines_of=None):
    """Writes JSON in ASCII, one line per entry of the lists named in lines_of."""
    lines_of = lines_of or []
    parts = []
    for key, item in value.items():
        if key in lines_of:
            rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in item)
            parts.append(f"{json.dumps(key)}:[\n{rows}\n]")
        else:
            parts.append(f"{json.dumps(key)}:{json.dumps(item, separators=(',', ':'))}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="ascii")
    print(f"{path.relative_to(HERE)}: {path.stat().st_size} bytes")


def write_tokenizer(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"{path.relative_to(HERE)}: {path.stat().st_size} bytes")


# --- the tokenizers --------------------------------------------------------------------------------


def added(token_id, content, special=True, **flags):
    entry = {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False}
    entry |= {"normalized": not special, "special": special}
    return entry | flags


def byte_level(use_regex, trim_offsets=True):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": trim_offsets, "use_regex": use_regex}


def document(**parts):
    base = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    base |= {"pre_tokenizer": None, "post_processor": None, "decoder": None, "model": None}
    return base | parts


def bpe(vocab, merges, **changes):
    base = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    base |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return base | changes | {"vocab": vocab, "merges": merges}


def smollm2(gguf_path):
    """The GGUF's vocabulary in the shape that the publisher's tokenizer.json has (merges as "a b")."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf_path).fields
    assert fields["tokenizer.ggml.model"].contents() == "gpt2"
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    control = 3
    return document(
        added_tokens=[added(i, tokens[i]) for i in range(len(tokens)) if types[i] == control],
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level(True)],
        },
        decoder=byte_level(True) | {"add_prefix_space": True},
        model=bpe({token: i for i, token in enumerate(tokens)}, fields["tokenizer.ggml.merges"].contents()),
    )


def train(pre_tokenizer, vocab_size, alphabet=()):
    """Trains a BPE on CORPUS; gives the pieces in order of their ids, and the merges as pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=list(alphabet), special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def byte_level_like(split, specials, plain_added, normalizer, ignore_merges, post_processor):
    chain = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pieces, merges = train(chain, 560, sorted(pre_tokenizers.ByteLevel.alphabet()))
    # Pieces that no merge makes: found only where ignore_merges looks a whole word up first.
    pieces += ["\u0120unreachable", "unreachable"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    entries = [added(len(pieces) + i, text) for i, text in enumerate(specials)]
    entries += [added(len(pieces) + len(specials) + i, text, special=False, **flags) for i, (text, flags) in enumerate(plain_added)]
    ids = {entry["content"]: entry["id"] for entry in entries}
    return document(
        added_tokens=entries,
        normalizer=normalizer,
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
                byte_level(False),
            ],
        },
        post_processor=post_processor(ids),
        decoder=byte_level(True) | {"add_prefix_space": True},
        model=bpe(vocab, merges, ignore_merges=ignore_merges),
    )


def template(token, token_id):
    """A post-processor that puts one token before the text."""
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, {"SpecialToken": {"id": token, "type_id": 1}}, second],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }


def llama3_like():
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return byte_level_like(
        LLAMA3_SPLIT,
        specials,
        [],
        None,
        True,
        lambda ids: {
            "type": "Sequence",
            "processors": [byte_level(True), template(specials[0], ids[specials[0]])],
        },
    )


def qwen2_like():
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    plain = [("<tool_call>", {"normalized": False}), ("</tool_call>", {"normalized": False})]
    # One that swallows the space before it, one that takes the space after it.
    plain += [("<think>", {"normalized": False, "lstrip": True}), ("</think>", {"normalized": False, "rstrip": True})]
    return byte_level_like(
        QWEN2_SPLIT, specials, plain, {"type": "NFC"}, False, lambda ids: byte_level(False, trim_offsets=False)
    )


def spm_pieces():
    pieces, merges = train(pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=True), 280)
    runs = [["\u2581", "\u2581"], ["\u2581" * 2, "\u2581" * 2], ["\u2581" * 4, "\u2581" * 4]]
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    names += ["".join(run) for run in runs]
    names += [piece for piece in pieces if piece != "\n"]  # a line break is a byte, as in SentencePiece models
    merges = runs + [pair for pair in merges if "\n" not in pair[0] + pair[1]]
    assert len(set(names)) == len(names)
    known = set(names)
    assert all(a in known and b in known and a + b in known for a, b in merges)
    return {name: i for i, name in enumerate(names)}, merges


def spm_decoder():
    return {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }


def spm_document(**parts):
    vocab, merges = spm_pieces()
    return document(
        added_tokens=[added(i, name) for i, name in enumerate(["<unk>", "<s>", "</s>"])],
        post_processor=template("<s>", 1),
        decoder=spm_decoder(),
        model=bpe(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True),
        **parts,
    )


def spm_like():
    return spm_document(
        pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    )


def spm_legacy_like():
    return spm_document(
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        }
    )


# --- the goldens -----------------------------------------------------------------------------------


def encode(tokenizer, text, as_text=False, with_special=False):
    tokenizer.encode_special_tokens = as_text
    ids = tokenizer.encode(text, add_special_tokens=with_special).ids
    tokenizer.encode_special_tokens = False
    return ids


def case(tokenizer, text):
    ids = encode(tokenizer, text)
    entry = {"text": text, "ids": ids}
    plain = encode(tokenizer, text, as_text=True)
    if plain != ids:
        entry["ids_plain"] = plain
    full = encode(tokenizer, text, with_special=True)
    if full != ids:
        entry["ids_with_bos"] = full
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    if decoded != text:
        entry["decoded"] = decoded
    skipped = tokenizer.decode(ids, skip_special_tokens=True)
    if skipped != decoded:
        entry["decoded_skip_special"] = skipped
    return entry


def decode_cases(tokenizer):
    """Sequences that no text gives: parts of characters, and ids drawn at random."""
    rng = random.Random(20261122)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    emoji = encode(tokenizer, "x\U0001f469\u200d\U0001f680\u6f22y")
    sequences = [[]] + [emoji[:n] for n in range(1, len(emoji))] + [emoji[n:] for n in range(1, len(emoji))]
    sequences += [[rng.randrange(size) for _ in range(rng.randrange(1, 9))] for _ in range(60)]
    sequences += [[i] for i in rng.sample(range(size), 40)]
    rows = []
    for ids in sequences:
        row = {"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}
        skipped = tokenizer.decode(ids, skip_special_tokens=True)
        if skipped != row["decoded"]:
            row["decoded_skip_special"] = skipped
        rows.append(row)
    return rows


def record(name, value, date, extra):
    folder = HERE / name
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for start in ('"vocab":{', '"merges":['):
        text = text.replace(start, "\n" + start)
    write_tokenizer(folder / "tokenizer.json", text + "\n")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    compact(
        folder / "tokenize.json",
        {
            "recorded": {
                "by": "record_tokenizers.py",
                "truth": f"tokenizers {tokenizers.__version__}",
                "date": date,
                "tokenizer_sha256": hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
            }
            | extra,
            "cases": [case(tokenizer, text) for text in STRINGS],
            "decode": decode_cases(tokenizer),
        },
        ["cases", "decode"],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gguf", help="the sample model; without it smollm2/ is left as it is")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    arguments = parser.parse_args()
    assert len(STRINGS) == len(set(STRINGS)), "a string is there twice"
    for make in (llama3_like, qwen2_like, spm_like, spm_legacy_like):
        record(make.__name__, make(), arguments.date, {})
    if arguments.gguf:
        digest = hashlib.sha256(Path(arguments.gguf).read_bytes()).hexdigest()
        record("smollm2", smollm2(arguments.gguf), arguments.date, {"gguf_sha256": digest})
    print(f"{len(STRINGS)} strings", file=sys.stderr)


if __name__ == "__main__":
    main()
