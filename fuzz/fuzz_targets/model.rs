//! A saved_model.pb: read, checked, understood and grown, all without TensorFlow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tfgraft::graft::Graft;
use tfgraft::head::{Init, understand};
use tfgraft::inspect::inspect;
use tfgraft::saved_model::SavedModel;

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    if std::fs::write(folder.path().join("saved_model.pb"), bytes).is_err() {
        return;
    }
    let Ok(model) = SavedModel::read(folder.path()) else { return };
    let told = inspect(&model);
    let Ok(understood) = understand(model.meta()) else { return };
    let add = [tfgraft::graft::NewClass { name: "a".into(), init: Init::Silent }];
    let grown = Graft::new(model, understood, &add);
    // What inspect says of a model, grow must keep to.
    assert!(!told.is_ok_and(|t| t.can_grow) || grown.is_ok());
});
