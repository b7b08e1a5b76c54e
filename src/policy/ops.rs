//! What an operation can reach.
//!
//! `inside.txt` lists the operations that work on tensors and nothing else: 841 of the 1869 that TensorFlow 2.15's library lists
//! (`TF_GetAllOpList`). Left out is what touches files, processes, devices or the network (`WriteFile`, `DatasetToTFRecord`,
//! `RecordInput`, `Skipgram`), what runs code that lies in a string (`DatasetFromGraph`, `DeserializeIterator`,
//! `MlirPassthroughOp`, `TRTEngineOp`), and what no exported detector needs: datasets, queues, optimisers. A list of what is
//! allowed does not age as one of what is not: what another TensorFlow adds is not on it.

use std::collections::HashSet;
use std::sync::OnceLock;

/// Operations that write a checkpoint.
pub const WRITES: [&str; 4] = ["MergeV2Checkpoints", "Save", "SaveSlices", "SaveV2"];

/// Operations that read one.
pub const READS: [&str; 3] = ["Restore", "RestoreSlice", "RestoreV2"];

/// Whether an operation works on tensors and nothing else.
pub fn stays_inside(op: &str) -> bool {
    static INSIDE: OnceLock<HashSet<&str>> = OnceLock::new();
    INSIDE.get_or_init(|| include_str!("inside.txt").split_whitespace().collect()).contains(op)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_holds_nothing_that_reaches_out() {
        let names: Vec<&str> = include_str!("inside.txt").split_whitespace().collect();
        assert!(names.is_sorted_by(|a, b| a < b));
        for part in [
            "ReadFile",
            "TextFile",
            "Dataset",
            "Iterator",
            "Reader",
            "Py",
            "Rpc",
            "TPU",
            "Xla",
            "Debug",
            "WriteFile",
            "Save",
        ] {
            assert!(names.iter().all(|name| !name.contains(part)), "{part}");
        }
        assert!(READS.iter().chain(&WRITES).all(|op| !stays_inside(op)));
    }
}
