use std::path::PathBuf;

use kindling_kernels::{DType, WeightSource};

use super::{open_file, open_index, read_header};

fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.extend((0..data).map(|index| index as u8));
    bytes
}

const TWO: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#;

/// A folder of its own that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kindling-models-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.0.join(name), bytes).unwrap();
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn tensors_are_described_and_read() {
    let folder = Folder::new("read");
    let weights = open_file(&folder.write("model.safetensors", &file(TWO, 16))).unwrap();
    let desc = weights.describe("b").unwrap();
    assert_eq!((desc.dtype, desc.shape.as_slice(), desc.num_bytes), (DType::BF16, &[2, 3][..], 12));
    let mut data = [0; 12];
    weights.read("b", &mut data).unwrap();
    assert_eq!(data, [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert!(weights.describe("c").is_none());
    assert_eq!(weights.read("c", &mut []).unwrap_err().to_string(), "tensor c is missing from the checkpoint");
    assert_eq!(weights.read("b", &mut [0; 3]).unwrap_err().to_string(), "read tensor b");
}

#[test]
fn a_file_that_shrinks_later_gives_an_error_with_the_tensor() {
    let folder = Folder::new("shrink");
    let path = folder.write("model.safetensors", &file(TWO, 16));
    let weights = open_file(&path).unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 8).unwrap();
    assert!(weights.read("a", &mut [0; 4]).is_ok());
    assert_eq!(weights.read("b", &mut [0; 12]).unwrap_err().to_string(), "read tensor b");
}

#[test]
fn files_cut_at_any_byte_are_refused() {
    let whole = file(TWO, 16);
    for length in 0..whole.len() {
        let error = read_header(&whole[..length].to_vec()).expect_err("should be refused");
        let message = error.to_string();
        assert!(message.contains("the file ends inside") || message.contains("it ends at byte"), "{length}: {message}");
    }
}

#[test]
fn hostile_heads_are_refused_by_name() {
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let pair = |first: &str, second: &str| {
        format!(
            r#"{{"v":{{"dtype":"F32","shape":[2],"data_offsets":{first}}},"w":{{"dtype":"F32","shape":[2],"data_offsets":{second}}}}}"#
        )
    };
    let twice = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let deep = "[".repeat(100_000);
    let cases: Vec<(&str, String, usize, &str)> = vec![
        ("another type", entry("F4", "[4]", "[0,2]"), 2, "tensor w: it is stored as F4, which this reader does not"),
        (
            "size that is not the shape's",
            entry("F32", "[2]", "[0,4]"),
            4,
            "tensor w: offsets 0 to 4 do not hold the 8 bytes",
        ),
        ("end before start", entry("F32", "[2]", "[0,0]"), 0, "tensor w: offsets 0 to 0 do not hold"),
        ("product that overflows", entry("F32", "[4294967296,4294967296]", "[0,8]"), 8, "tensor w: shape [4294967296"),
        (
            "bytes that overflow",
            entry("F32", "[9223372036854775807]", "[0,8]"),
            8,
            "tensor w: shape [9223372036854775807]",
        ),
        ("too many dimensions", entry("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "tensor w: it has 9 dimensions"),
        ("past the end", entry("F32", "[4]", "[0,16]"), 8, "tensor w: it ends at byte 16"),
        ("a hole at the start", entry("F32", "[2]", "[8,16]"), 16, "tensor w: its offset 8 leaves a hole"),
        ("a hole", pair("[0,8]", "[12,20]"), 20, "tensor w: its offset 12 leaves a hole"),
        ("an overlap", pair("[0,8]", "[4,12]"), 12, "tensor w: its offset 4 overlaps another tensor"),
        ("a name twice", twice.to_owned(), 8, "tensor w: the name appears twice"),
        ("bytes after the last", entry("F32", "[2]", "[0,8]"), 9, "the tensors end at byte"),
        ("a negative length", entry("F32", "[-1]", "[0,8]"), 8, "parse the header"),
        ("not an object", "[]".to_owned(), 0, "parse the header"),
        ("no shape", r#"{"w":{"dtype":"F32","data_offsets":[0,4]}}"#.to_owned(), 4, "parse the header"),
        ("three offsets", entry("F32", "[1]", "[0,4,8]"), 4, "parse the header"),
        ("very deep", format!(r#"{{"__metadata__":{deep}"#), 0, "parse the header"),
        ("not JSON", "{]".to_owned(), 0, "parse the header"),
    ];
    for (name, json, data, part) in cases {
        let message = read_header(&file(&json, data)).expect_err(name).to_string();
        assert!(message.contains(part), "{name}: {message:?} lacks {part:?}");
    }
    let mut utf8 = file(TWO, 16);
    utf8[10] = 0xff;
    assert!(read_header(&utf8).unwrap_err().to_string().contains("parse the header (bytes 8 to"));
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend([b' '; 16]);
    assert!(read_header(&huge).unwrap_err().to_string().contains("the header is 18446744073709551615 bytes long"));
    huge[..8].copy_from_slice(&99_999_999u64.to_le_bytes());
    assert!(read_header(&huge).unwrap_err().to_string().contains("the file ends inside the header"));
}

#[test]
fn random_damage_never_panics() {
    let original = file(TWO, 16);
    let mut state = 0x5eed_0002u64;
    let mut below = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % limit as u64) as usize
    };
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut bytes = original.clone();
        for _ in 0..=below(3) {
            let place = below(bytes.len());
            bytes[place] = match below(3) {
                0 => below(256) as u8,
                1 => b"0123456789[]{},:\""[below(17)],
                _ => bytes[place] ^ (1 << below(8)),
            };
        }
        if let Ok(tensors) = read_header(&bytes) {
            accepted += 1;
            assert!(tensors.iter().all(|tensor| tensor.offset as usize + tensor.num_bytes <= bytes.len()));
        }
    }
    assert!(accepted > 100, "only {accepted} were accepted: the damage tests nothing");
}

#[test]
fn shards_are_joined_by_the_index() {
    let folder = Folder::new("shards");
    folder.write("1.safetensors", &file(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4));
    folder.write("2.safetensors", &file(r#"{"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8));
    let index = br#"{"metadata":{"total_size":12},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#;
    let weights = open_index(&folder.0, index).unwrap();
    let mut names: Vec<&str> = weights.names().collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"]);
    let mut data = [0; 8];
    weights.read("b", &mut data).unwrap();
    assert_eq!(data, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn hostile_indexes_are_refused_by_name() {
    let folder = Folder::new("index");
    let one = file(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4);
    folder.write("1.safetensors", &one);
    folder.write("2.safetensors", &one);
    let names =
        ["../1.safetensors", "/etc/x.safetensors", "sub/1.safetensors", "..", ".", "", "1.bin", "a\\1.safetensors"];
    for name in names {
        let index = serde_json::json!({"weight_map": {"a": name}}).to_string();
        let message = open_index(&folder.0, index.as_bytes()).err().expect(name).to_string();
        assert!(message.contains("is not the name of a safetensors file in this folder"), "{name}: {message}");
    }
    let cases = [
        (
            r#"{"weight_map":{"a":"1.safetensors","b":"1.safetensors"}}"#,
            "tensor b should be in 1.safetensors, but is not",
        ),
        (r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#, "tensor a is in two files"),
        (r#"{"weight_map":{"a":"3.safetensors"}}"#, "open "),
        (r#"{"weight_map":[]}"#, "parse the index of shards"),
        ("{}", "parse the index of shards"),
    ];
    for (index, part) in cases {
        let message = open_index(&folder.0, index.as_bytes()).err().expect(index).to_string();
        assert!(message.contains(part), "{index}: {message}");
    }
}
