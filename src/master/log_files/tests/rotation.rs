//! When a file is rotated, how it is called then, and which of the old ones go.

use super::*;

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
