//! Old files are compressed, and what was left half-way is put in order.

use super::*;

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
