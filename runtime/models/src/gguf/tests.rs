use std::error::Error as _;
use std::io;

use kindling_kernels::{WeightError, WeightSource};

use super::synthetic::{SyntheticGguf, llama};
use super::{Array, GgufError, GgufHeader, GgufWeights, Value};
use crate::read_at::ReadAt;

fn read(bytes: Vec<u8>) -> Result<GgufHeader, GgufError> {
    GgufHeader::read(&bytes)
}

fn refusal(bytes: Vec<u8>) -> String {
    read(bytes).expect_err("should be refused").to_string()
}

#[test]
fn every_value_type_is_read() {
    let header = read(
        SyntheticGguf::new()
            .pair("u8", 0, &[255])
            .pair("i8", 1, &[255])
            .pair("u16", 2, &[255, 255])
            .pair("i16", 3, &[254, 255])
            .number("u32", u32::MAX)
            .pair("i32", 5, &(-3i32).to_le_bytes())
            .float("f32", 0.5)
            .flag("bool", true)
            .text("string", "grüße")
            .array("integers", 5, &[7i32.to_le_bytes().to_vec(), (-7i32).to_le_bytes().to_vec()])
            .array("bools", 7, &[vec![1], vec![0]])
            .array("floats", 12, &[2.5f64.to_le_bytes().to_vec()])
            .texts("strings", &["a", ""])
            .array("nothing", 8, &[])
            .pair("u64", 10, &u64::MAX.to_le_bytes())
            .pair("i64", 11, &i64::MIN.to_le_bytes())
            .pair("f64", 12, &1e300f64.to_le_bytes())
            .file(),
    )
    .unwrap();
    let metadata = &header.metadata;
    let expected = [
        ("u8", Value::Unsigned(255)),
        ("i8", Value::Signed(-1)),
        ("u16", Value::Unsigned(65535)),
        ("i16", Value::Signed(-2)),
        ("u32", Value::Unsigned(u32::MAX.into())),
        ("i32", Value::Signed(-3)),
        ("f32", Value::Float(0.5)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("grüße".to_owned())),
        ("integers", Value::Array(Array::Integers(vec![7, -7]))),
        ("bools", Value::Array(Array::Bools(vec![true, false]))),
        ("floats", Value::Array(Array::Floats(vec![2.5]))),
        ("strings", Value::Array(Array::Strings(vec!["a".to_owned(), String::new()]))),
        ("nothing", Value::Array(Array::Strings(vec![]))),
        ("u64", Value::Unsigned(u64::MAX)),
        ("i64", Value::Signed(i64::MIN)),
        ("f64", Value::Float(1e300)),
    ];
    for (key, value) in expected {
        assert_eq!(metadata.get(key), Some(&value), "{key}");
    }
    assert_eq!(metadata.unsigned("absent").unwrap(), None);
    assert_eq!(metadata.unsigned("i32").unwrap_err().to_string(), "metadata i32 is not an unsigned integer");
    assert_eq!(metadata.string("u8").unwrap_err().to_string(), "metadata u8 is not a string");
    assert_eq!(metadata.bool("u8").unwrap_err().to_string(), "metadata u8 is not a boolean");
    assert_eq!(metadata.strings("integers").unwrap_err().to_string(), "metadata integers is not an array of strings");
    assert_eq!(metadata.integers("strings").unwrap_err().to_string(), "metadata strings is not an array of integers");
    assert_eq!(metadata.float("i32").unwrap(), Some(-3.0));
}

#[test]
fn both_versions_and_any_alignment_are_read() {
    for (version, alignment) in [(2, 32), (3, 8), (3, 4096)] {
        let mut file = llama().number("general.alignment", alignment);
        file.version = version;
        file.alignment = alignment.into();
        let bytes = file.file();
        let header = read(bytes.clone()).unwrap();
        assert_eq!((header.version, header.tensors.len()), (version, 20));
        let last = header.tensors.last().unwrap();
        assert_eq!(last.offset % u64::from(alignment), 0);
        let weights = GgufWeights::new(Box::new(bytes), header.tensors.clone()).unwrap();
        let mut data = vec![0; last.desc.num_bytes];
        weights.read(&last.desc.name, &mut data).unwrap();
        assert!(data.iter().enumerate().all(|(index, byte)| usize::from(*byte) == index % 251));
    }
}

#[test]
fn shapes_are_outermost_first() {
    let header = read(SyntheticGguf::new().tensor("w", &[5, 3, 64], 3).file()).unwrap();
    let desc = &header.tensors[0].desc;
    assert_eq!((desc.shape.as_slice(), desc.num_bytes), (&[5, 3, 64][..], 5 * 3 * 40));
}

#[test]
fn files_cut_at_any_byte_are_refused_with_the_place() {
    let file = llama();
    let whole = file.file();
    let head = file.head().len();
    for length in 0..head {
        let message = refusal(whole[..length].to_vec());
        let is_named =
            ["the file ends inside", "at most", "end beyond the file's"].iter().any(|part| message.contains(part));
        assert!(is_named, "cut at {length}: {message}");
        assert!(message.contains(&length.to_string()) || message.contains("at most"), "cut at {length}: {message}");
    }
    for length in [head, whole.len() - 32 * 64 / 32 * 20, whole.len() - 1] {
        let message = refusal(whole[..length].to_vec());
        assert!(message.contains("end beyond the file's"), "cut at {length}: {message}");
    }
}

#[test]
fn hostile_heads_are_refused_by_name() {
    let empty = SyntheticGguf::new;
    let with_counts = |tensors, pairs| {
        let mut file = empty();
        (file.num_tensors, file.num_pairs) = (tensors, pairs);
        file.head()
    };
    let huge_text = [u64::MAX.to_le_bytes().to_vec(), b"x".to_vec()].concat();
    let huge_array = [4u32.to_le_bytes().to_vec(), (1u64 << 62).to_le_bytes().to_vec()].concat();
    let array_of = |kind: u32| [kind.to_le_bytes().to_vec(), 0u64.to_le_bytes().to_vec()].concat();
    let bad_text = [2u64.to_le_bytes().to_vec(), vec![0xc3, 0x28]].concat();
    let mut bad_key = empty().number("key!", 1).head();
    let place = bad_key.windows(4).position(|window| window == b"key!").unwrap();
    bad_key[place] = 0xff;
    let version = |version: u32| {
        let mut file = empty();
        file.version = version;
        file.head()
    };
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("another kind of file", b"PK\x03\x04 and so on".to_vec(), &["no gguf file", "50, 4b, 03, 04"]),
        ("version 1", version(1), &["gguf version 1 is not supported"]),
        ("version 4", version(4), &["gguf version 4 is not supported"]),
        ("big-endian", version(3u32.swap_bytes()), &["big-endian"]),
        ("too many tensors", with_counts(Some(u64::MAX), None), &["the number of tensors", "18446744073709551615"]),
        ("too many pairs", with_counts(None, Some(1 << 40)), &["the number of metadata pairs", "1099511627776"]),
        ("huge string", empty().pair("k", 8, &huge_text).head(), &["the value of k", "18446744073709551615"]),
        ("huge array", empty().pair("k", 9, &huge_array).head(), &["the length of array k", "4611686018427387904"]),
        ("array of arrays", empty().pair("k", 9, &array_of(9)).head(), &["metadata k", "arrays of arrays"]),
        ("array of nothing known", empty().pair("k", 9, &array_of(77)).head(), &["element type 77"]),
        ("unknown type", empty().pair("k", 13, &[0; 8]).head(), &["metadata k", "value type 13"]),
        ("boolean of 2", empty().pair("k", 7, &[2]).head(), &["metadata k", "boolean is 2"]),
        (
            "text that is no UTF-8",
            empty().pair("k", 8, &bad_text).head(),
            &["the value of k at byte", "not valid UTF-8"],
        ),
        ("key that is no UTF-8", bad_key, &["the key of metadata pair 0", "not valid UTF-8"]),
        ("a key twice", empty().number("k", 1).number("k", 1).head(), &["metadata k", "appears twice"]),
        (
            "a number beyond i64 in an array",
            empty().array("k", 10, &[u64::MAX.to_le_bytes().to_vec()]).head(),
            &["metadata k", "does not fit"],
        ),
        ("alignment of 0", empty().number("general.alignment", 0).file(), &["general.alignment is 0", "power of two"]),
        ("alignment of 48", empty().number("general.alignment", 48).file(), &["general.alignment is 48"]),
        ("huge alignment", empty().number("general.alignment", 1 << 31).file(), &["general.alignment is 2147483648"]),
        (
            "alignment of another type",
            empty().text("general.alignment", "x").file(),
            &["general.alignment is not an uns"],
        ),
    ];
    for (name, bytes, parts) in cases {
        let message = refusal(bytes);
        for part in parts {
            assert!(message.contains(part), "{name}: {message:?} lacks {part:?}");
        }
    }
}

#[test]
fn hostile_tensors_are_refused_by_name() {
    let one = |shape: &[u64], kind| SyntheticGguf::new().tensor("blk.7.w", shape, kind).file();
    let placed = |offset| {
        let mut file = SyntheticGguf::new().tensor("first", &[16], 0).tensor("blk.7.w", &[16], 0);
        file.tensors[1].offset = Some(offset);
        file.file()
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no dimension", one(&[], 0), "it has 0 dimensions"),
        ("five dimensions", one(&[1, 1, 1, 1, 1], 0), "it has 5 dimensions"),
        ("a dimension of 0", one(&[4, 0], 0), "a dimension is 0"),
        ("a product that overflows", one(&[1 << 40, 1 << 40], 0), "is not possible for F32"),
        ("bytes that overflow", one(&[1 << 62], 0), "is not possible for F32"),
        ("a row that is no whole number of blocks", one(&[2, 48], 3), "is not possible for Q4_1"),
        ("K-quants", one(&[256], 10), "it is stored as Q2_K; F32, F16"),
        ("NVFP4 in rows of less than four blocks", one(&[32], 40), "shape [32] is not possible for NVFP4"),
        ("integers", one(&[32], 26), "it is stored as I32"),
        ("a removed type", one(&[32], 4), "Q4_2, which the format has given up"),
        ("a type that does not exist", one(&[32], 99), "the element type 99 does not exist"),
        ("an odd offset", placed(68), "its offset 68 is not a multiple of the alignment 32"),
        ("an overlap", placed(32), "inside tensor first which ends at byte"),
        ("the same place", placed(0), "inside tensor first"),
        ("past the end", placed(1 << 20), "end beyond the file's"),
        ("an offset that overflows", placed(u64::MAX - 31), "end beyond the file's"),
    ];
    for (name, bytes, part) in cases {
        let message = refusal(bytes);
        let names_tensor =
            message.contains("tensor blk.7.w") || (name == "the same place" && message.contains("tensor first"));
        assert!(names_tensor, "{name}: {message}");
        assert!(message.contains(part), "{name}: {message:?} lacks {part:?}");
    }
    let twice = SyntheticGguf::new().tensor("w", &[16], 0).tensor("w", &[16], 0).file();
    assert_eq!(refusal(twice), "tensor w: the name appears twice");
    let long = SyntheticGguf::new().tensor(&"w".repeat(600), &[16], 0).file();
    assert!(refusal(long).contains("the length of the name of tensor 0"));
}

#[test]
fn text_beyond_the_budget_is_refused_before_it_is_read() {
    /// Claims to be large; any read of more than the head fails.
    struct Large(Vec<u8>);
    impl ReadAt for Large {
        fn num_bytes(&self) -> u64 {
            1 << 40
        }
        fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
            out.fill(0);
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            for (to, from) in out.iter_mut().zip(&self.0[start.min(self.0.len())..]) {
                *to = *from;
            }
            Ok(())
        }
    }
    let text = [(1u64 << 39).to_le_bytes().to_vec(), vec![]].concat();
    let head = SyntheticGguf::new().pair("k", 8, &text).head();
    let message = GgufHeader::read(&Large(head)).unwrap_err().to_string();
    assert!(message.contains("the length of the value of k"), "{message}");
    let elements = [8u32.to_le_bytes().to_vec(), (1u64 << 30).to_le_bytes().to_vec()].concat();
    let head = SyntheticGguf::new().pair("k", 9, &elements).head();
    let message = GgufHeader::read(&Large(head)).unwrap_err().to_string();
    assert!(message.contains("the elements of all arrays"), "{message}");
    let mut file = SyntheticGguf::new();
    file.num_pairs = Some(1 << 30);
    let message = GgufHeader::read(&Large(file.head())).unwrap_err().to_string();
    assert!(message.contains("the number of metadata pairs"), "{message}");
}

#[test]
fn a_file_that_shrinks_or_fails_later_gives_an_error_with_the_tensor() {
    let bytes = llama().file();
    let header = read(bytes.clone()).unwrap();
    let weights = GgufWeights::new(Box::new(bytes[..bytes.len() / 2].to_vec()), header.tensors).unwrap();
    let desc = weights.describe("blk.1.ffn_down.weight").unwrap();
    let error = weights.read(&desc.name, &mut vec![0; desc.num_bytes]).unwrap_err();
    assert_eq!(error.to_string(), "read tensor blk.1.ffn_down.weight");
    assert!(matches!(error, WeightError::Read { ref source, .. } if source.kind() == io::ErrorKind::UnexpectedEof));
    assert!(matches!(weights.read("none", &mut []), Err(WeightError::Missing { .. })));
    let wrong = weights.read("output_norm.weight", &mut [0; 3]).unwrap_err();
    assert_eq!(wrong.source().unwrap().to_string(), "the buffer has 3 bytes for rows 0..1 of 1, 128 bytes each");
}

#[test]
fn a_failing_disk_is_an_error_with_the_place() {
    struct Broken;
    impl ReadAt for Broken {
        fn num_bytes(&self) -> u64 {
            1000
        }
        fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            Err(io::Error::other("bad sector"))
        }
    }
    let error = GgufHeader::read(&Broken).unwrap_err();
    assert_eq!(error.to_string(), "read the magic at byte 0");
    assert_eq!(error.source().unwrap().to_string(), "bad sector");
}

/// Deterministic, so that a failure can be repeated.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn random_damage_never_panics_and_never_promises_what_is_not_there() {
    let original = llama().file();
    let head = llama().head().len();
    let mut random = Xorshift(0x5eed_0001);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut bytes = original.clone();
        for _ in 0..=random.below(4) {
            let place = random.below(head);
            match random.below(4) {
                0 => bytes[place] = random.below(256) as u8,
                1 => bytes[place] ^= 1 << random.below(8),
                2 => bytes[place] = [0, 0xff, 0x7f, 0x80][random.below(4)],
                _ => bytes.truncate(place.max(1)),
            }
            if bytes.len() < head {
                break;
            }
        }
        let num_bytes = bytes.len() as u64;
        if let Ok(header) = read(bytes) {
            accepted += 1;
            assert!(header.tensors.iter().all(|tensor| tensor.offset + tensor.desc.num_bytes as u64 <= num_bytes));
        }
    }
    assert!(accepted > 100, "only {accepted} were accepted: the damage tests nothing");
}

/// Blocks of 256 elements: 84 bytes of Q2_K, 136 of IQ4_XS; 32 elements: 18 bytes of Q4_0.
#[test]
fn tensors_of_types_that_cannot_be_read_are_listed_all_the_same() {
    let synthetic = SyntheticGguf::new().text("general.architecture", "llama").tensor("a", &[4, 512], 10);
    let file = synthetic.tensor("b", &[256], 23).tensor("c", &[2, 64], 2).file();
    assert!(GgufHeader::read(&file).unwrap_err().to_string().contains("Q2_K"));
    // The file has no room for their bytes: it is made longer.
    let (metadata, tensors) = GgufHeader::read_stored(&[file, vec![0; 1000]].concat()).unwrap();
    assert_eq!(metadata.string("general.architecture").unwrap(), Some("llama"));
    let listed: Vec<_> = tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor.kind.as_str(), tensor.elements, tensor.num_bytes))
        .collect();
    assert_eq!(listed, [("a", "Q2_K", 2048, 8 * 84), ("b", "IQ4_XS", 256, 136), ("c", "Q4_0", 128, 4 * 18)]);
    for (shape, kind, expected) in [
        (&[100][..], 10, "shape [100] is not possible for Q2_K"),
        (&[1 << 40, 1 << 40], 0, "is not possible for F32"),
        (&[32], 4, "Q4_2, which the format has given up"),
        (&[32], 99, "the element type 99 does not exist"),
    ] {
        let said =
            GgufHeader::read_stored(&SyntheticGguf::new().tensor("a", shape, kind).file()).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
    let file = SyntheticGguf::new().tensor("a", &[4096], 0).file();
    let said = GgufHeader::read_stored(&file[..1000].to_vec()).unwrap_err().to_string();
    assert!(said.contains("shape [4096] is not possible for F32"), "{said}");
}
