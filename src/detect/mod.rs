//! Running a detector on pictures and showing what it found.
