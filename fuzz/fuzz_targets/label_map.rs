//! A label map: what was read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tfgraft::data::LabelMap;

fuzz_target!(|text: &str| {
    if let Ok(map) = LabelMap::parse(text, "x") {
        LabelMap::parse(map.to_text(), "written").expect("its own text");
    }
});
