//! TFRecord files: as they are, and as the body of one record with good checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tfgraft::data::{load, records};

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let path = folder.path().join("a.record");
    for file in [bytes.to_vec(), records::frame(bytes)] {
        if std::fs::write(&path, file).is_ok()
            && let Ok(set) = load(&[&path], None)
        {
            set.images.iter().for_each(|image| drop(image.picture()));
        }
    }
});
