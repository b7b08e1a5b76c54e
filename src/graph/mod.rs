//! Graphs as bytes: index, check, edit, flatten. No IO, no TensorFlow.
