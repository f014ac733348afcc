//! A file is opened, or refused, and opened anew.

use super::*;

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
