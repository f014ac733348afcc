//! On real files, as root and as anyone.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use nix::sys::stat::Mode;
use nix::unistd::{Gid, getegid, geteuid, mkfifo};
use tempfile::TempDir;

use super::*;
use crate::error::Chain;
use crate::settings::log::Fsync;

const NUMBER: u64 = 7;
const AGE: Duration = Duration::from_secs(60 * 60);

/// A log in a directory of its own.
struct Scene {
    directory: TempDir,
    sink: FileSink,
    files: LogFiles,
    /// Where the log helper writes.
    descriptor: Option<File>,
}

impl Scene {
    fn new(change: impl FnOnce(&mut FileSink)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut sink = sink(directory.path().join("app.log"));
        change(&mut sink);
        Self { directory, sink, files: LogFiles::default(), descriptor: None }
    }

    /// With the file open.
    fn begun(change: impl FnOnce(&mut FileSink)) -> Self {
        let mut scene = Self::new(change);
        scene.add();
        scene
    }

    fn add(&mut self) {
        self.files.add(NUMBER, &self.sink, service()).expect("opened");
        self.descriptor = Some(self.files.descriptor(NUMBER).expect("a descriptor").into());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn put(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("written");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| error.to_string())
    }

    /// What the log helper does.
    fn write(&mut self, text: &str) {
        self.descriptor.as_mut().expect("a descriptor").write_all(text.as_bytes()).expect("written");
    }

    fn rotate(&mut self, now: SystemTime) -> Option<PathBuf> {
        let rotated = self.files.rotate(NUMBER, now).expect("rotated");
        self.descriptor = Some(rotated.descriptor.into());
        rotated.moved_to
    }

    /// All names in the directory but the log's, without its own.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).expect("listed");
        let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("a name");
        let mut names: Vec<String> = entries.map(|entry| name(entry.expect("an entry"))).collect();
        names.retain(|name| name != "app.log");
        names.sort();
        names.iter().map(|name| name.strip_prefix("app.log.").unwrap_or(name).to_owned()).collect()
    }

    fn error(&mut self) -> String {
        let error = self.files.add(NUMBER, &self.sink, service()).expect_err("refused");
        Chain(&error).to_string()
    }
}

fn sink(path: PathBuf) -> FileSink {
    let (size, age, keep, keep_size) = (Some(100), Some(AGE), 10, None);
    FileSink { path, size, age, keep, keep_size, compress: false, fsync: Fsync::Never }
}

fn service() -> Service {
    Service { uid: geteuid(), gid: getegid(), drops: false }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds)
}

/// What the log helper does with it.
fn compress(compression: Compression) -> u64 {
    let mut text = String::new();
    File::from(compression.from).read_to_string(&mut text).expect("read");
    File::from(compression.to).write_all(format!("({text})").as_bytes()).expect("written");
    compression.id
}

#[test]
fn a_file_is_made_or_appended_to() {
    let mut scene = Scene::begun(|_| ());
    scene.write("one\n");
    let found = fs::metadata(&scene.sink.path).expect("found");
    assert_eq!((found.mode() & 0o7777, found.gid()), (0o640, getegid().as_raw()));
    scene.add();
    scene.write("two\n");
    assert_eq!(scene.read("app.log"), "one\ntwo\n");
    assert_eq!(scene.files.path(NUMBER), Some(&*scene.sink.path));
    scene.files.remove(NUMBER);
    assert_eq!(scene.files.path(NUMBER), None);
    assert_eq!(scene.files.descriptor(NUMBER).expect_err("forgotten").kind(), ErrorKind::NotFound);
    assert!(scene.files.reopen(NUMBER).is_err() && scene.files.rotate(NUMBER, at(0)).is_err());
}

#[test]
fn what_root_makes_for_a_service_belongs_to_its_group() {
    let service = Service { gid: Gid::from_raw(54_321), drops: true, ..service() };
    let mut scene = Scene::new(|sink| sink.compress = true);
    let added = scene.files.add(NUMBER, &scene.sink, service);
    if !geteuid().is_root() {
        assert!(added.is_err() && scene.names().is_empty() && !scene.sink.path.exists(), "nothing is left behind");
        return;
    }
    added.expect("opened");
    scene.rotate(at(0));
    let _compression = scene.files.compression(NUMBER).expect("one waits");
    for name in ["app.log", "app.log.20010909T014640Z", "app.log.20010909T014640Z.gz.new"] {
        let found = fs::metadata(scene.path(name)).expect(name);
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o640, 0, 54_321), "{name}");
    }
    scene.put("old.log", "of another group");
    scene.sink.path = scene.path("old.log");
    scene.files.add(NUMBER, &scene.sink, service).expect("opened");
    assert_eq!(fs::metadata(&scene.sink.path).expect("found").gid(), getegid().as_raw(), "we did not make it");
}

#[test]
fn what_is_no_log_file_is_refused_with_the_way_out() {
    let mut scene = Scene::new(|_| ());
    let path = scene.sink.path.clone();
    let directory = scene.directory.path().to_owned();
    let make: [(&dyn Fn(), &str); 6] = [
        (&|| fs::create_dir(&path).expect("made"), "it is a directory: name a file in it"),
        (&|| mkfifo(&path, Mode::S_IRWXU).expect("made"), "it is a FIFO or a socket: name a file"),
        (&|| drop(UnixListener::bind(&path).expect("bound")), "it is a FIFO or a socket: name a file"),
        (&|| symlink("/dev/null", &path).expect("made"), "it is a symbolic link: name the file that it leads to"),
        (&|| symlink("nowhere", &path).expect("made"), "it is a symbolic link: name the file that it leads to"),
        (&|| symlink(&directory, &path).expect("made"), "it is a symbolic link: name the file that it leads to"),
    ];
    for (make, why) in make {
        make();
        assert_eq!(scene.error(), format!("cannot open the log file {}: {why}", path.display()));
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    }
    mkfifo(&path, Mode::S_IRWXU).expect("made");
    let _reader = File::options().read(true).write(true).open(&path).expect("opened");
    assert!(scene.error().contains("it is neither a regular file nor a character device"));
    assert!(!scene.path("nowhere").exists());

    scene.sink.path = scene.path("missing/app.log");
    let missing = scene.path("missing");
    let why = format!("there is no directory {}: make it, or name another file", missing.display());
    assert_eq!(scene.error(), format!("cannot open the log file {}: {why}", scene.sink.path.display()));
    fs::write(&missing, "a file").expect("written");
    assert!(scene.error().ends_with("Not a directory (os error 20)"));
}

#[test]
fn in_a_directory_of_others_only_our_own_files_are_written_to() {
    let mut scene = Scene::new(|_| ());
    fs::set_permissions(scene.directory.path(), fs::Permissions::from_mode(0o1777)).expect("opened to all");
    scene.put("one", "");
    fs::hard_link(scene.path("one"), &scene.sink.path).expect("linked");
    assert!(scene.error().contains("it has another name too (a hard link)"));
    fs::remove_file(scene.path("one")).expect("removed");
    scene.add();
    if geteuid().is_root() {
        std::os::unix::fs::chown(&scene.sink.path, Some(54_321), None).expect("given away");
        assert!(scene.error().contains("it belongs to uid 54321"));
        // Nor is anything of theirs taken for a rotated one.
        fs::remove_file(&scene.sink.path).expect("removed");
        scene.sink.keep = 0;
        scene.put("app.log.20010909T014640Z", "");
        scene.put("app.log.20010909T014641Z", "");
        let theirs = scene.path("app.log.20010909T014641Z");
        std::os::unix::fs::chown(theirs, Some(54_321), None).expect("given away");
        scene.add();
        assert_eq!(scene.names(), ["20010909T014641Z"]);
        // Without the sticky bit others could exchange it: root does not even look.
        fs::set_permissions(scene.directory.path(), fs::Permissions::from_mode(0o777)).expect("opened to all");
        let error = scene.error();
        assert!(error.contains("name a file in a directory that only root may write"), "{error}");
    }
}

#[test]
fn a_device_is_written_to_and_never_rotated() {
    let mut scene = Scene::begun(|sink| (sink.path, sink.size) = ("/dev/full".into(), Some(0)));
    let error = scene.descriptor.as_mut().expect("a descriptor").write(b"x").expect_err("it is full");
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(scene.files.due(SystemTime::now() + 9 * AGE).is_empty() && scene.files.moved().is_empty());
    assert_eq!(scene.rotate(at(0)), None);
    assert!(Path::new("/dev/full").exists() && scene.files.compression(NUMBER).is_none());
}

#[test]
fn a_file_that_was_moved_is_seen_and_opened_anew() {
    let mut scene = Scene::begun(|_| ());
    scene.write("one");
    assert!(scene.files.moved().is_empty());
    fs::rename(&scene.sink.path, scene.path("app.log.1")).expect("moved");
    assert_eq!(scene.files.moved(), [NUMBER]);
    scene.put("app.log", "");
    assert_eq!(scene.files.moved(), [NUMBER], "another file is there");
    scene.write("two");
    scene.descriptor = Some(scene.files.reopen(NUMBER).expect("opened").into());
    assert!(scene.files.moved().is_empty());
    scene.write("three");
    assert_eq!((scene.read("app.log.1"), scene.read("app.log")), ("onetwo".to_owned(), "three".to_owned()));

    fs::rename(&scene.sink.path, scene.path("kept")).expect("moved");
    symlink(scene.path("kept"), &scene.sink.path).expect("made");
    assert_eq!(scene.files.moved(), [NUMBER], "though it leads there");
    assert!(scene.files.reopen(NUMBER).is_err());
}

#[test]
fn what_cannot_be_opened_anew_leaves_the_old_one() {
    let mut scene = Scene::begun(|_| ());
    scene.write("one");
    let kept = scene.path("kept");
    fs::rename(&scene.sink.path, &kept).expect("moved");
    fs::create_dir(&scene.sink.path).expect("made");
    assert_eq!(scene.files.moved(), [NUMBER]);
    assert!(scene.files.reopen(NUMBER).is_err() && scene.files.rotate(NUMBER, at(0)).is_err());
    scene.write("two");
    assert_eq!(fs::read_to_string(&kept).expect("read"), "onetwo");

    let mut scene = Scene::new(|_| ());
    let inner = scene.path("inner");
    fs::create_dir(&inner).expect("made");
    scene.sink.path = inner.join("app.log");
    scene.add();
    scene.write("one");
    fs::remove_dir_all(&inner).expect("removed");
    assert_eq!(scene.files.moved(), [NUMBER]);
    assert!(scene.files.reopen(NUMBER).is_err() && scene.files.rotate(NUMBER, at(0)).is_err());
    scene.write("two");
    let mut old = File::from(scene.files.descriptor(NUMBER).expect("still there"));
    old.write_all(b"three").expect("written");
    assert_eq!(old.metadata().expect("found").len(), 11);
    fs::create_dir(&inner).expect("made");
    scene.descriptor = Some(scene.files.reopen(NUMBER).expect("opened").into());
    scene.write("four");
    assert_eq!(fs::read_to_string(inner.join("app.log")).expect("read"), "four");
}

#[test]
fn a_file_is_due_by_size_and_by_age() {
    let now = SystemTime::now();
    let ms = Duration::from_millis(1);
    let minute = Duration::from_secs(60);
    // Size and age of the settings, bytes written, when it is looked at, and whether it is due.
    let table = [
        (Some(100), None, 99, now + 9 * AGE, false),
        (Some(100), None, 100, now, true),
        (Some(0), None, 0, now, false),
        (None, Some(AGE), 1, now, false),
        (None, Some(AGE), 1, now + AGE - minute, false),
        (None, Some(AGE), 1, now + AGE + minute, true),
        (None, Some(AGE), 0, now + AGE + minute, false),
        (None, Some(AGE), 1, now - 9 * AGE, false),
        (None, None, 1000, now + 9 * AGE, false),
        (Some(100), Some(AGE), 1, now + AGE + minute, true),
        (Some(100), Some(AGE), 100, now - AGE, true),
    ];
    for (size, age, bytes, when, expected) in table {
        let mut scene = Scene::begun(|sink| (sink.size, sink.age) = (size, age));
        scene.write(&"x".repeat(bytes));
        let due = if expected { vec![NUMBER] } else { Vec::new() };
        assert_eq!(scene.files.due(when), due, "{size:?} {age:?} {bytes} {:?}", when.duration_since(now));
    }
    // The age is that of what is in it.
    let mut scene = Scene::begun(|sink| sink.size = None);
    assert!(scene.files.due(now + 5 * AGE).is_empty());
    scene.write("x");
    assert!(scene.files.due(now + 6 * AGE - ms).is_empty());
    assert_eq!(scene.files.due(now + 6 * AGE), [NUMBER]);
    // A restart begins no new life: the file's birth counts.
    scene.add();
    assert!(scene.files.due(now).is_empty());
    assert_eq!(scene.files.due(now + AGE + minute), [NUMBER]);
    // The next one is young.
    scene.rotate(now + 6 * AGE);
    scene.write("x");
    assert!(scene.files.due(now + 7 * AGE - ms).is_empty());
    assert_eq!(scene.files.due(now + 7 * AGE), [NUMBER]);
}

#[test]
fn a_rotation_gives_the_file_a_name_of_its_own() {
    let mut scene = Scene::begun(|_| ());
    fs::create_dir(scene.path("app.log.20010909T014640Z.2")).expect("made");
    symlink("/dev/null", scene.path("app.log.20010909T014640Z.3")).expect("made");
    // Two in one second, two taken names, the clock set back, a second later.
    for (text, seconds, name) in [
        ("a", 0, "20010909T014640Z"),
        ("b", 0, "20010909T014640Z.1"),
        ("c", 0, "20010909T014640Z.4"),
        ("d", 0, "20010909T014640Z.5"),
    ] {
        scene.write(text);
        assert_eq!(scene.rotate(at(seconds)), Some(scene.path(&format!("app.log.{name}"))));
        assert_eq!(scene.read(&format!("app.log.{name}")), text);
        assert_eq!(scene.read("app.log"), "");
    }
    assert!(scene.files.moved().is_empty());
    scene.write("e");
    assert_eq!(scene.rotate(at(1)), Some(scene.path("app.log.20010909T014641Z")));
    scene.write("f");
    let set_back = at(0) - AGE;
    assert_eq!(scene.rotate(set_back), Some(scene.path("app.log.20010909T014641Z.1")), "never before what there is");
}

#[test]
fn what_is_not_at_its_path_is_opened_anew_and_nothing_else_moved() {
    let mut scene = Scene::begun(|_| ());
    fs::rename(&scene.sink.path, scene.path("theirs")).expect("moved");
    scene.put("app.log", "somebody's");
    assert_eq!(scene.rotate(at(0)), None);
    scene.write(" and ours");
    assert_eq!((scene.read("app.log"), scene.names()), ("somebody's and ours".to_owned(), vec!["theirs".to_owned()]));
}

#[test]
fn a_rotation_that_fails_gives_the_old_name_back_and_is_tried_later() {
    let mut scene = Scene::begun(|_| ());
    scene.write(&"x".repeat(100));
    let now = SystemTime::now();
    let file = scene.files.files.get_mut(&NUMBER).expect("added");
    let refuse = |_: &Path, _| Err(Error::new(Exit::Refused, "no more descriptors"));
    assert_eq!(file.rotate(now, refuse).expect_err("refused").to_string(), "no more descriptors");
    assert!(scene.names().is_empty() && scene.files.moved().is_empty());
    scene.write("y");
    assert_eq!(scene.read("app.log").len(), 101);

    // Where somebody else has taken the name meanwhile, the log goes on under the new one until it is opened anew.
    let file = scene.files.files.get_mut(&NUMBER).expect("added");
    let take = |path: &Path, _| {
        fs::create_dir(path).expect("made");
        Err(Error::new(Exit::Refused, "it is a directory"))
    };
    assert!(file.rotate(at(0), take).is_err());
    scene.write("z");
    assert_eq!(
        (scene.names(), scene.read("app.log.20010909T014640Z").len()),
        (vec!["20010909T014640Z".to_owned()], 102)
    );
    assert_eq!(scene.files.moved(), [NUMBER]);

    assert_eq!(scene.files.due(now), [NUMBER]);
    assert!(scene.files.rotate(NUMBER, now).is_err(), "a directory is there");
    let ms = Duration::from_millis(1);
    for (when, is_due) in [(now, false), (now + RETRY - ms, false), (now + RETRY, true), (now - ms, true)] {
        assert_eq!(scene.files.due(when).len(), usize::from(is_due), "{when:?}");
    }
}

#[test]
fn what_is_too_much_goes_and_nothing_else() {
    let strangers = [
        "1",
        "20010909T014640Z.01",
        "20010909T014640Z.bak",
        "20010909T014640Z.gz.bak",
        "20010909T014699Z",
        "20010909T014640Z.gz.gz",
        "gz",
    ];
    // How many are kept, of how many bytes, what is left of files of 10 bytes each, the compressed one of 3, and how
    // many after a rotation.
    let table: [(u32, Option<u64>, &[&str], usize); 5] = [
        (3, None, &["20010909T014642Z.gz", "20010909T014643Z", "20010909T014643Z.1"], 3),
        (1, None, &["20010909T014643Z.1"], 1),
        (0, None, &[], 0),
        (9, Some(23), &["20010909T014642Z.gz", "20010909T014643Z", "20010909T014643Z.1"], 2),
        (9, Some(22), &["20010909T014643Z", "20010909T014643Z.1"], 2),
    ];
    for (keep, keep_size, left, then) in table {
        let mut scene = Scene::new(|sink| (sink.keep, sink.keep_size) = (keep, keep_size));
        for name in strangers {
            scene.put(&format!("app.log.{name}"), "ten bytes.");
        }
        for name in ["other.log.20010909T014640Z", "app.logs.20010909T014640Z", "app.log20010909T014640Z"] {
            scene.put(name, "ten bytes.");
        }
        fs::create_dir(scene.path("app.log.20010909T014630Z")).expect("made");
        symlink("other.log.20010909T014640Z", scene.path("app.log.20010909T014631Z")).expect("made");
        let before = scene.names();
        for name in ["20010909T014640Z", "20010909T014641Z", "20010909T014643Z", "20010909T014643Z.1"] {
            scene.put(&format!("app.log.{name}"), "ten bytes.");
        }
        scene.put("app.log.20010909T014642Z.gz", "3 B");
        scene.add();
        let mut names = scene.names();
        names.retain(|name| !before.contains(name));
        assert_eq!(names, left, "{keep} {keep_size:?}");
        assert_eq!(scene.names().len(), before.len() + left.len(), "all that is none of ours is there");
        scene.write("ten bytes.");
        scene.rotate(at(9));
        assert_eq!(scene.names().len(), before.len() + then, "{keep} {keep_size:?} {:?}", scene.names());
    }
}

#[test]
fn without_rotation_no_other_file_is_our_business() {
    let mut scene = Scene::new(|sink| (sink.size, sink.age, sink.keep, sink.compress) = (None, None, 0, true));
    scene.put("app.log.20010909T014640Z", "kept");
    scene.put("app.log.20010909T014641Z.gz.new", "kept");
    scene.add();
    assert!(scene.files.compression(NUMBER).is_none());
    assert_eq!(scene.names(), ["20010909T014640Z", "20010909T014641Z.gz.new"]);
}

#[test]
fn rotated_files_are_compressed_one_at_a_time_the_oldest_first() {
    let mut scene = Scene::begun(|sink| sink.compress = true);
    assert!(scene.files.compression(NUMBER).is_none());
    for (seconds, text) in [(0, "a"), (0, "b"), (1, "c")] {
        scene.write(text);
        scene.rotate(at(seconds));
    }
    let first = scene.files.compression(NUMBER).expect("one waits");
    assert!(scene.files.compression(NUMBER).is_none(), "one at a time");
    let mode = fs::metadata(scene.path("app.log.20010909T014640Z.gz.new")).expect("begun").mode();
    assert_eq!(mode & 0o7777, 0o640);
    assert_eq!(scene.files.compressed(compress(first), Ok(())), Some(NUMBER));
    assert_eq!(scene.names(), ["20010909T014640Z.1", "20010909T014640Z.gz", "20010909T014641Z"]);
    assert_eq!(scene.read("app.log.20010909T014640Z.gz"), "(a)");

    // One that cannot be is left, and the next one's turn comes; after the next rotation it is tried again.
    let second = scene.files.compression(NUMBER).expect("one waits");
    let id = compress(second);
    assert_eq!(scene.files.compressed(id, Err("no space left on device".to_owned())), Some(NUMBER));
    assert_eq!(scene.files.compressed(id, Ok(())), None, "it is known no more");
    assert_eq!((scene.read("app.log.20010909T014640Z.1"), scene.names().len()), ("b".to_owned(), 3));
    let third = scene.files.compression(NUMBER).expect("one waits");
    assert_eq!(scene.files.compressed(compress(third), Ok(())), Some(NUMBER));
    assert!(scene.files.compression(NUMBER).is_none());
    scene.rotate(at(2));
    let again = scene.files.compression(NUMBER).expect("one waits");
    scene.files.compressed(compress(again), Ok(()));
    assert_eq!(scene.read("app.log.20010909T014640Z.1.gz"), "(b)");
}

#[test]
fn a_compressed_file_takes_no_place_of_others() {
    let mut scene = Scene::begun(|sink| sink.compress = true);
    scene.write("a");
    scene.rotate(at(0));
    let compression = scene.files.compression(NUMBER).expect("one waits");
    symlink("elsewhere", scene.path("app.log.20010909T014640Z.gz")).expect("made");
    scene.files.compressed(compress(compression), Ok(()));
    assert_eq!(scene.names(), ["20010909T014640Z", "20010909T014640Z.gz"]);
    assert_eq!(scene.read("app.log.20010909T014640Z"), "a");

    // Nor is anything written where something is.
    let mut scene = Scene::begun(|sink| sink.compress = true);
    scene.write("a");
    scene.rotate(at(0));
    symlink(scene.path("elsewhere"), scene.path("app.log.20010909T014640Z.gz.new")).expect("made");
    assert!(scene.files.compression(NUMBER).is_none());
    assert_eq!((scene.read("app.log.20010909T014640Z"), scene.path("elsewhere").exists()), ("a".to_owned(), false));
}

#[test]
fn what_is_being_compressed_stays_until_it_is_done() {
    let mut scene = Scene::begun(|sink| (sink.compress, sink.keep, sink.keep_size) = (true, 1, Some(10)));
    scene.write("more than ten bytes");
    scene.rotate(at(0));
    assert_eq!(scene.names(), ["20010909T014640Z"], "what waits to be compressed has no size yet");
    let first = scene.files.compression(NUMBER).expect("one waits");
    scene.write("b");
    scene.rotate(at(1));
    assert_eq!(scene.names(), ["20010909T014640Z", "20010909T014640Z.gz.new", "20010909T014641Z"]);
    scene.files.compressed(compress(first), Ok(()));
    assert_eq!(scene.names(), ["20010909T014641Z"]);
    let second = scene.files.compression(NUMBER).expect("one waits");
    // It has gone meanwhile: then the compressed one goes too.
    fs::remove_file(scene.path("app.log.20010909T014641Z")).expect("removed");
    scene.files.compressed(compress(second), Ok(()));
    assert_eq!(scene.names(), [""; 0]);
    // Too large even when it is compressed.
    scene.write("nine byte");
    scene.rotate(at(2));
    let third = scene.files.compression(NUMBER).expect("one waits");
    scene.files.compressed(compress(third), Ok(()));
    assert_eq!(scene.names(), [""; 0]);
}

#[test]
fn what_a_killed_daemon_has_left_is_put_in_order() {
    let mut scene = Scene::new(|sink| sink.compress = true);
    for (name, content) in [
        // Was being compressed.
        ("20010909T014640Z", "a"),
        ("20010909T014640Z.gz.new", "(half"),
        // Was compressed, but for its name.
        ("20010909T014641Z.gz.new", "(b)"),
        // Waited.
        ("20010909T014642Z", "c"),
        ("20010909T014643Z.gz", "(d)"),
        // Somebody else has compressed it.
        ("20010909T014644Z", "e"),
        ("20010909T014644Z.gz", "e"),
    ] {
        scene.put(&format!("app.log.{name}"), content);
    }
    scene.add();
    let names = ["20010909T014640Z", "20010909T014641Z.gz", "20010909T014642Z", "20010909T014643Z.gz"];
    assert_eq!(scene.names()[..4], names);
    while let Some(compression) = scene.files.compression(NUMBER) {
        scene.files.compressed(compress(compression), Ok(()));
    }
    for (second, content) in [(0, "(a)"), (1, "(b)"), (2, "(c)"), (3, "(d)"), (4, "e")] {
        assert_eq!(scene.read(&format!("app.log.20010909T01464{second}Z.gz")), content);
    }
    assert_eq!(scene.names().len(), 6);
}

#[test]
fn nobody_waits_for_a_log_helper_that_is_gone_nor_for_a_file_that_is() {
    let mut scene = Scene::begun(|sink| sink.compress = true);
    scene.write("a");
    scene.rotate(at(0));
    let compression = scene.files.compression(NUMBER).expect("one waits");
    scene.files.helper_is_gone();
    assert_eq!(scene.names(), ["20010909T014640Z"]);
    assert_eq!(scene.files.compressed(compression.id, Ok(())), None);
    scene.rotate(at(1));
    let compression = scene.files.compression(NUMBER).expect("it is tried again");
    scene.files.remove(NUMBER);
    assert_eq!(scene.files.compressed(compress(compression), Ok(())), None);
    assert_eq!(scene.read("app.log.20010909T014640Z.gz"), "(a)", "it was brought to its end");
}
