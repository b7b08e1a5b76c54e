//! Operations that reach beyond the graph, out of the 1869 that TensorFlow 2.15's library lists (`TF_GetAllOpList`).

/// Reading and writing files.
const FILES: [&str; 42] = [
    "CacheDataset",
    "CacheDatasetV2",
    "CSVDataset",
    "CSVDatasetV2",
    "DecodeProtoV2",
    "DistributedSave",
    "DTensorRestoreV2",
    "DumpTensor",
    "EncodeProto",
    "FileSystemSetConfiguration",
    "FixedLengthRecordDataset",
    "FixedLengthRecordDatasetV2",
    "FixedLengthRecordReader",
    "FixedLengthRecordReaderV2",
    "ImmutableConst",
    "InitializeTableFromTextFile",
    "InitializeTableFromTextFileV2",
    "LMDBDataset",
    "LMDBReader",
    "LoadAndRemapMatrix",
    "LoadDataset",
    "MatchingFiles",
    "MatchingFilesDataset",
    "ReadFile",
    "SaveDataset",
    "SaveDatasetV2",
    "SnapshotChunkDataset",
    "SnapshotDataset",
    "SnapshotDatasetReader",
    "SnapshotDatasetV2",
    "SnapshotNestedDatasetReader",
    "SqlDataset",
    "TextLineDataset",
    "TextLineReader",
    "TextLineReaderV2",
    "TFRecordDataset",
    "TFRecordDatasetV2",
    "TFRecordReader",
    "TFRecordReaderV2",
    "WholeFileReader",
    "WholeFileReaderV2",
    "WriteFile",
];

/// Running other code: Python, other runtimes.
const CODE: [&str; 4] = ["EagerPyFunc", "PyFunc", "PyFuncStateless", "TfLiteSubgraphExecute"];

/// Beginnings of families: other processes and machines, debuggers that write to URLs, event files, the experimental
/// names of the datasets above.
const FAMILIES: [&str; 20] = [
    "Collective",
    "CreateSummary",
    "DataServiceDataset",
    "Debug",
    "ExperimentalCSV",
    "ExperimentalLMDB",
    "ExperimentalMatchingFiles",
    "ExperimentalSql",
    "RemoteCall",
    "Rpc",
    "WriteAudioSummary",
    "WriteGraphSummary",
    "WriteHistogramSummary",
    "WriteImageSummary",
    "WriteRawProtoSummary",
    "WriteScalarSummary",
    "WriteSummary",
    "_Host",
    "_Nccl",
    "_Xla",
];

/// Messages between devices: written by the runtime when it cuts a graph, never by an exporter.
const RENDEZVOUS: [&str; 4] = ["Recv", "Send", "_Recv", "_Send"];

/// Operations of a checkpoint, which belong to the saver's functions only.
pub const SAVER: [&str; 8] = [
    "MergeV2Checkpoints",
    "Restore",
    "RestoreSlice",
    "RestoreV2",
    "Save",
    "SaveSlices",
    "SaveV2",
    "ShardedFilespec",
];

/// Whether an operation reaches beyond the graph wherever it stands.
pub fn reaches_out(op: &str) -> bool {
    FILES.contains(&op)
        || CODE.contains(&op)
        || RENDEZVOUS.contains(&op)
        || FAMILIES.iter().any(|family| op.starts_with(family))
}
