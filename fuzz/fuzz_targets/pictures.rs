//! Encoded pictures.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tfgraft::data::Picture;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(picture) = Picture::decode(bytes, "x") {
        assert_eq!(picture.rgb.len(), picture.width as usize * picture.height as usize * 3);
    }
});
