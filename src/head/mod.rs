//! The class head: find it, follow the class axis, widen it. No IO, no TensorFlow.
