use super::*;
use crate::manifest::FileRecord;

const DAY: u64 = 86_400;
const NOW: u64 = 1_800_000_000;
const WEEK: Duration = Duration::from_secs(7 * DAY);

struct Scratch {
    _folder: tempfile::TempDir,
    cache: Cache,
    outside: PathBuf,
}

fn scratch() -> Scratch {
    let folder = tempfile::Builder::new().prefix("kindling-collect-").tempdir().unwrap();
    let (cache, outside) = (Cache::at(folder.path().join("cache")), folder.path().join("outside"));
    fs::create_dir_all(&outside).unwrap();
    Scratch { _folder: folder, cache, outside }
}

fn source(repo: &str) -> HubSource {
    format!("hf:org/{repo}").parse().unwrap()
}

impl Scratch {
    fn path(&self, repo: &str, file: &str) -> PathBuf {
        self.cache.folder(&source(repo)).join(file)
    }

    fn add(&self, repo: &str, file: &str, origin: Option<Origin>) -> PathBuf {
        let folder = self.cache.folder(&source(repo));
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, vec![1; 8192]).unwrap();
        let mut manifest = Manifest::read(&folder).unwrap();
        manifest.files.insert(file.to_owned(), FileRecord { origin, ..FileRecord::downloaded(8192, "ab".to_owned()) });
        manifest.complete = true;
        manifest.write(&folder).unwrap();
        path
    }

    fn download(&self, repo: &str, file: &str) -> PathBuf {
        self.add(repo, file, Some(Origin::Downloaded))
    }

    fn tidy(&self, named: &Named, now: u64) -> Tidied {
        tidy(&self.cache, named, now, WEEK).unwrap()
    }
}

fn named(models: &[(&str, &[&str])]) -> Named {
    let mut named = Named::default();
    for (repo, files) in models {
        named.add(source(repo), &files.iter().map(|file| (*file).to_owned()).collect::<Vec<_>>());
    }
    named
}

#[test]
fn what_nobody_names_goes_after_the_grace_period_and_not_before() {
    let scratch = scratch();
    let [kept, unnamed] = ["kept", "unnamed"].map(|repo| scratch.download(repo, "m.gguf"));
    let named = named(&[("kept", &[])]);
    let first = scratch.tidy(&named, NOW);
    assert_eq!(
        (first.cached_bytes, first.unnamed_bytes, first.freed_bytes),
        (3 * 8192, 8192, 0),
        "with a manifest in a block each"
    );
    assert_eq!(scratch.tidy(&named, NOW + 7 * DAY - 1).freed_bytes, 0);
    assert!(unnamed.exists());
    let last = scratch.tidy(&named, NOW + 7 * DAY);
    assert_eq!((last.freed_bytes, last.unnamed_bytes), (8192, 0));
    assert!(kept.exists());
    assert!(!scratch.cache.root().join("models/hf/org/unnamed").exists(), "its folders go with it");
    assert_eq!(Manifest::read(kept.parent().unwrap()).unwrap().files["m.gguf"].unnamed_since, None);
}

#[test]
fn whoever_is_named_again_has_all_the_time_again() {
    let scratch = scratch();
    let path = scratch.download("a", "m.gguf");
    let (nobody, somebody) = (named(&[]), named(&[("a", &["m.gguf"])]));
    scratch.tidy(&nobody, NOW);
    scratch.tidy(&somebody, NOW + 6 * DAY);
    scratch.tidy(&nobody, NOW + 8 * DAY);
    scratch.tidy(&nobody, NOW + 14 * DAY);
    assert!(path.exists());
    scratch.tidy(&nobody, NOW + 15 * DAY);
    assert!(!path.exists());
}

#[test]
fn a_clock_that_was_wrong_costs_time_and_nothing_else() {
    let scratch = scratch();
    let path = scratch.download("a", "m.gguf");
    scratch.tidy(&named(&[]), NOW + 1000 * DAY);
    scratch.tidy(&named(&[]), NOW);
    assert!(path.exists(), "unnamed since the future");
    scratch.tidy(&named(&[]), NOW + 7 * DAY);
    assert!(!path.exists());
}

#[test]
fn of_one_repository_the_files_that_are_named_stay() {
    let scratch = scratch();
    let [a, b] = ["a.gguf", "sub/b.gguf"].map(|file| scratch.download("repo", file));
    let only_a = named(&[("repo", &["a.gguf"])]);
    scratch.tidy(&only_a, NOW);
    scratch.tidy(&only_a, NOW + 7 * DAY);
    assert!(a.exists() && !b.parent().unwrap().exists());
    let manifest = Manifest::read(a.parent().unwrap()).unwrap();
    assert!(manifest.holds(a.parent().unwrap(), "a.gguf") && !manifest.files.contains_key("sub/b.gguf"));
    assert!(!manifest.complete, "whoever wants all of it gets the rest again");
    let mut both = named(&[("repo", &["a.gguf"])]);
    both.add(source("repo"), &[]);
    assert!(both.keeps(&source("repo"), "whatever"), "who names no file names all");
}

#[test]
fn what_a_person_imported_or_put_there_stays_for_ever() {
    let scratch = scratch();
    let by_hand = [
        scratch.add("imported", "m.gguf", Some(Origin::Imported)),
        scratch.add("of-unknown-origin", "m.gguf", None),
        scratch.path("imported", "notes.txt"),
    ];
    fs::write(&by_hand[2], "mine").unwrap();
    let path = scratch.download("imported", "other.gguf");
    for day in [0, 8, 100] {
        scratch.tidy(&named(&[]), NOW + day * DAY);
    }
    assert!(by_hand.iter().all(|path| path.exists()) && !path.exists());
    assert_eq!(make_room(&scratch.cache, &named(&[]), NOW + 200 * DAY, u64::MAX).unwrap(), 0);
    assert!(by_hand.iter().all(|path| path.exists()));
}

#[test]
fn nothing_behind_a_link_is_touched() {
    let scratch = scratch();
    // a folder of a model, one in it, and a file, each of them a link to the outside
    let target = scratch.outside.join("m.gguf");
    fs::write(&target, vec![1; 8192]).unwrap();
    let mut manifest = Manifest::default();
    for name in ["m.gguf", "sub/m.gguf", "../m.gguf"] {
        manifest.files.insert(name.to_owned(), FileRecord::downloaded(8192, "ab".to_owned()));
    }
    manifest.write(&scratch.outside).unwrap();
    let link = |from: PathBuf, to: &Path| {
        fs::create_dir_all(from.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(to, from).unwrap();
    };
    link(scratch.cache.folder(&source("folder")), &scratch.outside);
    link(scratch.path("inner", "sub"), &scratch.outside);
    link(scratch.path("inner", "m.gguf"), &target);
    manifest.write(&scratch.cache.folder(&source("inner"))).unwrap();
    for day in [0, 8] {
        assert_eq!(scratch.tidy(&named(&[]), NOW + day * DAY).freed_bytes, 0);
    }
    assert_eq!(make_room(&scratch.cache, &named(&[]), NOW, u64::MAX).unwrap(), 0);
    assert_eq!(fs::metadata(&target).unwrap().len(), 8192);
    assert!(scratch.outside.join(manifest::FILE_NAME).exists());
}

#[test]
fn where_somebody_writes_nothing_is_taken_away() {
    let scratch = scratch();
    let path = scratch.download("a", "m.gguf");
    scratch.tidy(&named(&[]), NOW);
    let lock = FolderLock::take(path.parent().unwrap()).unwrap();
    scratch.tidy(&named(&[]), NOW + 8 * DAY);
    assert_eq!(make_room(&scratch.cache, &named(&[]), NOW + 8 * DAY, 1).unwrap(), 0);
    assert!(path.exists());
    drop(lock);
    scratch.tidy(&named(&[]), NOW + 8 * DAY);
    assert!(!path.exists());
}

#[test]
fn for_a_wanted_download_the_oldest_goes_first_and_no_more_than_is_needed() {
    let scratch = scratch();
    let paths = ["c", "a", "b"].map(|repo| scratch.download(repo, "m.gguf"));
    let used = scratch.download("used", "m.gguf");
    for (day, models) in [(0, &["a", "b", "used"][..]), (1, &["b", "used"]), (2, &["used"])] {
        scratch.tidy(&named(&models.iter().map(|repo| (*repo, &[][..])).collect::<Vec<_>>()), NOW + day * DAY);
    }
    let used_only = named(&[("used", &[])]);
    assert_eq!(make_room(&scratch.cache, &used_only, NOW + 3 * DAY, 8193).unwrap(), 2 * 8192);
    assert_eq!(paths.map(|path| path.exists()), [false, false, true], "c was the first that nobody named");
    assert_eq!(make_room(&scratch.cache, &used_only, NOW + 3 * DAY, u64::MAX).unwrap(), 8192);
    assert!(used.exists());
}

#[test]
fn a_second_name_of_the_same_bytes_frees_nothing() {
    let scratch = scratch();
    let first = scratch.download("first", "m.gguf");
    let second = scratch.download("second", "m.gguf");
    fs::remove_file(&second).unwrap();
    fs::hard_link(&first, &second).unwrap();
    let both = named(&[("first", &[]), ("second", &[])]);
    assert_eq!(scratch.tidy(&both, NOW).cached_bytes, 2 * 8192, "counted once, and two manifests in a block each");
    assert_eq!(make_room(&scratch.cache, &named(&[("first", &[])]), NOW, 1).unwrap(), 0);
    assert!(first.exists() && !second.exists());
    assert_eq!(make_room(&scratch.cache, &named(&[]), NOW, 1).unwrap(), 8192);
}

#[test]
fn parts_of_downloads_that_nobody_wants_any_more_go_too() {
    let scratch = scratch();
    let folder = scratch.cache.folder(&source("a"));
    fs::create_dir_all(&folder).unwrap();
    let parts = ["m.gguf.partial", "m.gguf.partial.journal"].map(|name| folder.join(name));
    parts.iter().for_each(|part| fs::write(part, vec![1; 8192]).unwrap());
    let written = fs::metadata(&parts[0]).unwrap().modified().unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
    scratch.tidy(&named(&[("a", &["m.gguf"])]), written + 8 * DAY);
    scratch.tidy(&named(&[]), written + DAY);
    assert!(parts.iter().all(|part| part.exists()));
    assert_eq!(scratch.tidy(&named(&[]), written + 8 * DAY).freed_bytes, 2 * 8192);
    assert!(!folder.exists());
}

#[test]
fn a_person_may_take_anything_out() {
    let scratch = scratch();
    scratch.add("a", "m.gguf", Some(Origin::Imported));
    scratch.download("a", "n.gguf");
    let folder = scratch.cache.folder(&source("a"));
    fs::write(folder.join("n.gguf.partial"), vec![1; 8192]).unwrap();
    let only = ["m.gguf".to_owned()];
    let lock = FolderLock::take(&folder).unwrap();
    assert!(matches!(scratch.cache.remove(&source("a"), &only), Err(CacheError::InUse { .. })));
    drop(lock);
    assert_eq!(scratch.cache.remove(&source("a"), &only).unwrap(), 8192);
    let error = scratch.cache.remove(&source("a"), &only).unwrap_err().to_string();
    assert!(error.starts_with("hf:org/a@main m.gguf is not in the cache"), "{error}");
    assert_eq!(scratch.cache.remove(&source("a"), &[]).unwrap(), 2 * 8192);
    assert!(!folder.exists());
    assert!(matches!(scratch.cache.remove(&source("a"), &[]), Err(CacheError::NotThere { .. })));
}
