//! The only neighbour of TensorFlow's C library.
