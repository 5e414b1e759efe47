use super::*;

fn scratch(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix(&format!("kindling-cache-{name}-")).tempdir().expect("scratch folder")
}

fn source() -> HubSource {
    "hf:org/repo".parse().expect("source")
}

#[test]
fn an_imported_file_is_found_under_its_hub_name_with_its_digest() {
    let scratch = scratch("import");
    let file = scratch.path().join("model.gguf");
    fs::write(&file, b"abc").expect("write");
    let cache = Cache::at(scratch.path().join("cache"));
    let imported = cache.import(&file, &source(), &mut |_| ()).expect("import");
    assert_eq!(imported.path, scratch.path().join("cache/models/hf/org/repo/main/model.gguf"));
    // The published test vector of SHA-256 for "abc".
    assert_eq!(imported.record.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert!(!imported.already_there);
    let models = cache.list().expect("list");
    assert_eq!((models.len(), models[0].num_bytes, models[0].name.as_str()), (1, 3, "hf:org/repo@main"));
}

#[test]
fn a_second_import_of_the_same_bytes_copies_nothing_and_other_bytes_replace_them() {
    let scratch = scratch("again");
    let file = scratch.path().join("model.gguf");
    let cache = Cache::at(scratch.path().join("cache"));
    fs::write(&file, b"first").expect("write");
    cache.import(&file, &source(), &mut |_| ()).expect("first import");
    assert!(cache.import(&file, &source(), &mut |_| ()).expect("same bytes").already_there);
    fs::write(&file, b"other").expect("write");
    let replaced = cache.import(&file, &source(), &mut |_| ()).expect("other bytes");
    assert!(!replaced.already_there);
    assert_eq!(fs::read(replaced.path).expect("read"), b"other");
}

#[test]
fn folders_and_missing_files_are_refused_by_name() {
    let scratch = scratch("refuse");
    let cache = Cache::at(scratch.path().join("cache"));
    let folder = cache.import(scratch.path(), &source(), &mut |_| ()).expect_err("a folder");
    assert!(folder.to_string().contains("no regular file"), "{folder}");
    let missing = cache.import(&scratch.path().join("none.gguf"), &source(), &mut |_| ()).expect_err("a missing file");
    assert!(missing.to_string().contains("none.gguf"), "{missing}");
}

#[test]
fn an_import_waits_for_its_turn_and_survives_what_a_killed_one_left() {
    let scratch = scratch("turn");
    let file = scratch.path().join("model.gguf");
    fs::write(&file, b"abc").expect("write");
    let cache = Cache::at(scratch.path().join("cache"));
    let folder = cache.folder(&source());
    fs::create_dir_all(&folder).expect("folder");
    let outside = scratch.path().join("outside");
    fs::write(&outside, b"untouched").expect("write");
    let left = folder.join(format!("model.{}.partial", std::process::id()));
    std::os::unix::fs::symlink(&outside, &left).expect("link");

    let lock = crate::lock::FolderLock::take(&folder).expect("lock");
    let import = std::thread::spawn(move || cache.import(&file, &source(), &mut |_| ()).map(|done| done.path));
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(!import.is_finished(), "somebody else writes in the folder");
    drop(lock);
    let path = import.join().expect("thread").expect("import");
    assert_eq!(fs::read(path).expect("read"), b"abc");
    assert_eq!(fs::read(outside).expect("read"), b"untouched");
}
