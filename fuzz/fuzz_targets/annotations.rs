//! Labels of pictures: the first byte chooses the format, the rest is the file.
#![no_main]

use libfuzzer_sys::fuzz_target;

const PICTURE: &[u8] = include_bytes!("../seeds/pictures/a.png");

fuzz_target!(|bytes: &[u8]| {
    let (Some((kind, text)), Ok(folder)) = (bytes.split_first(), tempfile::tempdir()) else { return };
    let names = ["a.json", "a.xml", "a.csv", "data.yaml", "a.txt"];
    let name = names[usize::from(*kind) % names.len()];
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes);
    if write("a.png", PICTURE).and_then(|()| write("classes.txt", b"a\nb\n")).and_then(|()| write(name, text)).is_err() {
        return;
    }
    // YOLO's text files are found through their folder.
    let path = if name == "a.txt" { folder.path().to_owned() } else { folder.path().join(name) };
    let _ = tfgraft::data::load(&[path], None);
});
