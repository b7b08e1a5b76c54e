//! Pictures, boxes and names.
