use super::*;

fn whole(version: &str) -> Whole {
    Whole { version: Some(version.to_owned()), total_bytes: Some(100) }
}

fn open(folder: &Path, version: &str) -> Part {
    Part::open(folder, "m.gguf", &whole(version)).expect("part")
}

/// A folder with a part of version `a`, of which 10 to 40 came.
fn begun() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("folder");
    let part = open(folder.path(), "a");
    part.write(&[7; 30], 10).expect("write");
    part.note(10..40).expect("note");
    let journal = folder.path().join("m.gguf.partial.journal");
    (folder, journal)
}

#[test]
fn what_was_noted_is_there_after_a_crash_and_what_was_not_is_missing() {
    let (folder, _) = begun();
    let part = open(folder.path(), "a");
    part.write(&[8; 10], 0).expect("written, and never noted");
    drop(part);
    let part = open(folder.path(), "a");
    assert_eq!((part.num_bytes(), part.missing()), (30, vec![0..10, 40..100]));
    assert_eq!(fs::metadata(part.path()).expect("part").len(), 100, "of the size of the whole from the start");
    assert_eq!(kept(folder.path(), "m.gguf", &whole("a")).0, 30);
}

#[test]
fn a_line_that_a_crash_cut_is_ignored_and_the_journal_goes_on_behind_the_whole_ones() {
    let (folder, journal) = begun();
    OpenOptions::new().append(true).open(&journal).expect("open").write_all(b"50 6").expect("write");
    let part = open(folder.path(), "a");
    assert_eq!(part.missing(), [0..10, 40..100]);
    part.note(40..50).expect("note");
    assert_eq!(open(folder.path(), "a").missing(), [0..10, 50..100]);
}

#[test]
fn of_another_version_size_or_a_corrupt_journal_nothing_is_kept() {
    let corrupt: [&[u8]; 7] = [
        b"",
        b"kindling part 2\n100 a\n10 40\n",
        b"kindling part 1\n",
        b"kindling part 1\nmany a\n10 40\n",
        b"kindling part 1\n100 a\n40 10\n",
        b"kindling part 1\n100 a\n10 101\n",
        b"kindling part 1\n100 a\n\0\0\0\0\0\n",
    ];
    for text in corrupt {
        assert!(matches!(parse(text, &whole("a")), Journal::Corrupt(_)), "{}", String::from_utf8_lossy(text));
        let (folder, journal) = begun();
        fs::write(&journal, text).expect("write");
        assert_eq!(open(folder.path(), "a").num_bytes(), 0);
        assert_eq!(open(folder.path(), "a").missing(), [0..100], "and the new journal is a good one");
    }
    let (folder, _) = begun();
    assert_eq!(kept(folder.path(), "m.gguf", &whole("b")).0, 0);
    assert_eq!(open(folder.path(), "b").num_bytes(), 0);
    let (folder, _) = begun();
    let longer = Whole { total_bytes: Some(101), ..whole("a") };
    assert_eq!(Part::open(folder.path(), "m.gguf", &longer).expect("part").num_bytes(), 0);
}

#[test]
fn a_part_that_is_not_the_journals_is_not_used() {
    for change in
        [|part: &Path| fs::write(part, b"short").expect("write"), |part: &Path| fs::remove_file(part).expect("remove")]
    {
        let (folder, _) = begun();
        change(&folder.path().join("m.gguf.partial"));
        assert_eq!(open(folder.path(), "a").num_bytes(), 0);
    }
}

#[test]
fn a_link_in_place_of_the_part_is_not_followed() {
    let (folder, _) = begun();
    let outside = folder.path().join("outside");
    fs::write(&outside, [1; 100]).expect("write");
    let part = folder.path().join("m.gguf.partial");
    fs::remove_file(&part).expect("remove");
    std::os::unix::fs::symlink(&outside, &part).expect("link");
    open(folder.path(), "a").write(&[9; 100], 0).expect("write");
    assert_eq!(fs::read(outside).expect("read"), [1; 100]);
}

#[test]
fn without_a_version_nothing_is_resumed() {
    let folder = tempfile::tempdir().expect("folder");
    let nameless = Whole { version: None, total_bytes: Some(100) };
    let part = Part::open(folder.path(), "m.gguf", &nameless).expect("part");
    part.note(0..50).expect("note");
    assert_eq!(part.missing(), [50..100], "within one download it counts");
    assert_eq!(Part::open(folder.path(), "m.gguf", &nameless).expect("part").num_bytes(), 0);
}
