use super::super::Tokenizer;
use super::super::tests::metadata;
use crate::gguf::synthetic::SyntheticGguf;

fn kinds(kinds: &[i32]) -> Vec<Vec<u8>> {
    kinds.iter().map(|kind| kind.to_le_bytes().to_vec()).collect()
}

fn scores(scores: &[f32]) -> Vec<Vec<u8>> {
    scores.iter().map(|score| score.to_le_bytes().to_vec()).collect()
}

/// Unknown, BOS, EOS, every byte, then pieces by falling score.
fn spm(pieces: &[(&str, f32)]) -> SyntheticGguf {
    let bytes: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut tokens = vec!["<unk>", "<s>", "</s>"];
    tokens.extend(bytes.iter().map(String::as_str));
    tokens.extend(pieces.iter().map(|(piece, _)| *piece));
    let mut types = vec![2, 3, 3];
    types.resize(3 + 256, 6);
    types.resize(tokens.len(), 1);
    let mut values = vec![0.0; 3 + 256];
    values.extend(pieces.iter().map(|(_, score)| *score));
    SyntheticGguf::new()
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .array("tokenizer.ggml.token_type", 5, &kinds(&types))
        .array("tokenizer.ggml.scores", 6, &scores(&values))
        .number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.eos_token_id", 2)
}

/// The id of the piece in this place.
const FIRST: u32 = 3 + 256;
const PIECES: [(&str, f32); 9] = [
    ("bc", -0.0),
    ("ab", -1.0),
    ("abc", -2.0),
    ("<s", -3.0),
    ("a", -4.0),
    ("b", -5.0),
    ("c", -6.0),
    ("\u{2581}", -7.0),
    (">", -8.0),
];

fn tokenizer(file: SyntheticGguf) -> Tokenizer {
    Tokenizer::from_gguf(&metadata(&file)).unwrap()
}

#[test]
fn the_pair_with_the_best_score_is_merged_first() {
    let spm = tokenizer(spm(&PIECES).flag("tokenizer.ggml.add_space_prefix", false));
    let encode = |text| spm.encode(text, false, true).unwrap();
    // "bc" goes before "ab", and then "a" joins.
    assert_eq!(encode("abc"), [FIRST + 2]);
    assert_eq!(encode("abb"), [FIRST + 1, FIRST + 5]);
    assert_eq!(encode(" a"), [FIRST + 7, FIRST + 4]);
    assert_eq!(encode("é"), [3 + 0xc3, 3 + 0xa9], "what no piece has is bytes");
}

#[test]
fn text_never_merges_into_what_steers() {
    let spm = tokenizer(spm(&PIECES).flag("tokenizer.ggml.add_space_prefix", false));
    assert_eq!(spm.encode("<s>", false, true).unwrap(), [1]);
    let plain = spm.encode("<s>", false, false).unwrap();
    assert!(plain.iter().all(|id| !spm.is_special(*id)), "{plain:?}");
    assert_eq!(spm.decode(&plain, true), "<s>");
}

#[test]
fn spaces_and_bos_are_put_before_a_text_unless_the_file_says_otherwise() {
    let default = tokenizer(spm(&PIECES));
    assert_eq!(default.encode("a", true, true).unwrap(), [1, FIRST + 7, FIRST + 4]);
    assert_eq!(default.decode(&[1, FIRST + 7, FIRST + 4], true), "a");
    let file = spm(&PIECES).flag("tokenizer.ggml.add_space_prefix", false).flag("tokenizer.ggml.add_bos_token", false);
    let neither = tokenizer(file.flag("tokenizer.ggml.add_eos_token", true));
    assert_eq!(neither.encode("a", true, true).unwrap(), [FIRST + 4, 2]);
    assert_eq!(neither.decode(&[FIRST + 7, FIRST + 4], true), " a");
}

#[test]
fn wrong_sentence_piece_vocabularies_are_refused_by_name() {
    let long = "x".repeat(257);
    let with = |key: &str| spm(&PIECES).without(key);
    let types = with("tokenizer.ggml.token_type");
    let cases = [
        (with("tokenizer.ggml.scores"), "metadata tokenizer.ggml.scores is missing"),
        (types.clone(), "metadata tokenizer.ggml.token_type is missing"),
        (
            with("tokenizer.ggml.scores").array("tokenizer.ggml.scores", 6, &scores(&[1.0])),
            "tokenizer.ggml.scores has 1 entries",
        ),
        (types.array("tokenizer.ggml.token_type", 5, &kinds(&[1])), "token_type has 1 entries"),
        (spm(&[("a", f32::NAN)]), "token \"a\" has the score NaN"),
        (spm(&[("a", f32::NEG_INFINITY)]), "token \"a\" has the score -inf"),
        (spm(&[(&long, 0.0)]), "a piece has 257 characters"),
        (spm(&[("<s>", 0.0)]), "token \"<s>\" is in tokenizer.ggml.tokens twice"),
        (
            spm(&PIECES).flag("tokenizer.ggml.remove_extra_whitespaces", true),
            "tokenizer.ggml.remove_extra_whitespaces true is not supported",
        ),
        (
            SyntheticGguf::new()
                .text("tokenizer.ggml.model", "llama")
                .texts("tokenizer.ggml.tokens", &["a"])
                .array("tokenizer.ggml.token_type", 5, &kinds(&[1]))
                .array("tokenizer.ggml.scores", 6, &scores(&[0.0])),
            "neither a token for each byte nor one for what is unknown",
        ),
    ];
    for (file, part) in cases {
        let message = Tokenizer::from_gguf(&metadata(&file)).err().expect(part).to_string();
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn pieces_that_make_endless_merges_are_refused() {
    // Every text of a and b up to 16 letters can be cut everywhere: 1.8 million merges.
    let mut pieces = Vec::new();
    for length in 1..=16 {
        pieces.extend((0..1u32 << length).map(|bits| format!("{bits:0length$b}")));
    }
    let pieces: Vec<(&str, f32)> = pieces.iter().map(|piece| (piece.as_str(), 0.0)).collect();
    let message = Tokenizer::from_gguf(&metadata(&spm(&pieces))).err().unwrap().to_string();
    assert!(message.contains("more than 1500000 merges"), "{message}");
}

#[test]
fn tokens_that_are_no_text_are_refused_by_key() {
    let bad = [1u64.to_le_bytes().as_slice(), &[0xff]].concat();
    let file = spm(&PIECES).without("tokenizer.ggml.tokens").array("tokenizer.ggml.tokens", 8, &[bad]);
    let message = crate::gguf::GgufHeader::read(&file.file()).unwrap_err().to_string();
    assert!(message.contains("tokenizer.ggml.tokens") && message.contains("UTF-8"), "{message}");
}
