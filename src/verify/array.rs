//! Values of an output, outside of TensorFlow: what is compared and what a reference stores as `.npy`.

use std::collections::BTreeMap;
use std::path::Path;

use npyz::{AutoSerialize, NpyFile, NpyHeader, Order, WriterBuilder};

use crate::data::Picture;
use crate::error::{Error, Result};
use crate::input;
use crate::runtime::{AnyTensor, ServingModel};

/// Numbers with a shape, the last axis running fastest.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// The numbers.
    pub values: Values,
}

/// Numbers of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// `float32`
    F32(Vec<f32>),
    /// `float64`
    F64(Vec<f64>),
    /// `int32`
    I32(Vec<i32>),
    /// `int64`
    I64(Vec<i64>),
    /// `uint8`
    U8(Vec<u8>),
    /// `bool`
    Bool(Vec<bool>),
}

macro_rules! each {
    ($values:expr, $v:ident => $body:expr) => {
        match $values {
            Values::F32($v) => $body,
            Values::F64($v) => $body,
            Values::I32($v) => $body,
            Values::I64($v) => $body,
            Values::U8($v) => $body,
            Values::Bool($v) => $body,
        }
    };
}

/// Outputs of one run by the names that clients see; strings are not among them.
pub type Outputs = BTreeMap<String, Array>;

impl Array {
    /// The given rows of an array `[1, rows, …]` as `[given, …]`.
    pub fn rows(&self, chosen: &[usize]) -> Option<Self> {
        let (&[1, count], rest) = self.shape.split_first_chunk::<2>()? else { return None };
        let size: usize = rest.iter().product();
        if chosen.iter().any(|&row| row >= count) {
            return None;
        }
        macro_rules! take {
            ($variant:ident, $values:expr) => {
                Values::$variant(
                    chosen
                        .iter()
                        .flat_map(|row| $values[row * size..(row + 1) * size].iter().copied())
                        .collect(),
                )
            };
        }
        let values = match &self.values {
            Values::F32(v) => take!(F32, v),
            Values::F64(v) => take!(F64, v),
            Values::I32(v) => take!(I32, v),
            Values::I64(v) => take!(I64, v),
            Values::U8(v) => take!(U8, v),
            Values::Bool(v) => take!(Bool, v),
        };
        Some(Self { shape: [&[chosen.len()], rest].concat(), values })
    }

    /// A copy of a tensor; `None` for strings, which cannot be read.
    pub fn of(tensor: &AnyTensor) -> Option<Self> {
        let values = match tensor {
            AnyTensor::F32(_) => Values::F32(tensor.values().ok()?.to_vec()),
            AnyTensor::F64(_) => Values::F64(tensor.values().ok()?.to_vec()),
            AnyTensor::I32(_) => Values::I32(tensor.values().ok()?.to_vec()),
            AnyTensor::I64(_) => Values::I64(tensor.values().ok()?.to_vec()),
            AnyTensor::U8(_) => Values::U8(tensor.values().ok()?.to_vec()),
            AnyTensor::Bool(_) => Values::Bool(tensor.values().ok()?.to_vec()),
            AnyTensor::Str(_) => return None,
        };
        Some(Self { shape: tensor.shape(), values })
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        each!(&self.values, v => v.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type as numpy calls it.
    pub fn dtype(&self) -> &'static str {
        match self.values {
            Values::F32(_) => "float32",
            Values::F64(_) => "float64",
            Values::I32(_) => "int32",
            Values::I64(_) => "int64",
            Values::U8(_) => "uint8",
            Values::Bool(_) => "bool",
        }
    }

    /// Whether these are fractions, which another order of adding may move.
    pub fn is_float(&self) -> bool {
        matches!(self.values, Values::F32(_) | Values::F64(_))
    }

    /// The numbers, if they are `float32`.
    pub fn f32(&self) -> Option<&[f32]> {
        match &self.values {
            Values::F32(values) => Some(values),
            _ => None,
        }
    }

    /// One number, for measuring; large integers are rounded.
    pub fn number(&self, at: usize) -> f64 {
        match &self.values {
            Values::F32(v) => v.get(at).map_or(f64::NAN, |&x| f64::from(x)),
            Values::F64(v) => v.get(at).copied().unwrap_or(f64::NAN),
            Values::I32(v) => v.get(at).map_or(f64::NAN, |&x| f64::from(x)),
            Values::I64(v) => v.get(at).map_or(f64::NAN, |&x| x as f64),
            Values::U8(v) => v.get(at).map_or(f64::NAN, |&x| f64::from(x)),
            Values::Bool(v) => v.get(at).map_or(f64::NAN, |&x| f64::from(u8::from(x))),
        }
    }

    /// Whether one number of this and one of another array of the same type have the same bits.
    pub fn same_bits(&self, at: usize, other: &Self, there: usize) -> bool {
        match (&self.values, &other.values) {
            (Values::F32(a), Values::F32(b)) => {
                a.get(at).map(|v| v.to_bits()) == b.get(there).map(|v| v.to_bits())
            }
            (Values::F64(a), Values::F64(b)) => {
                a.get(at).map(|v| v.to_bits()) == b.get(there).map(|v| v.to_bits())
            }
            (Values::I32(a), Values::I32(b)) => a.get(at) == b.get(there),
            (Values::I64(a), Values::I64(b)) => a.get(at) == b.get(there),
            (Values::U8(a), Values::U8(b)) => a.get(at) == b.get(there),
            (Values::Bool(a), Values::Bool(b)) => a.get(at) == b.get(there),
            _ => false,
        }
    }

    /// The place of a flat index on each axis.
    pub fn place(&self, mut at: usize) -> Vec<usize> {
        let mut place = vec![0; self.shape.len()];
        for (axis, &side) in self.shape.iter().enumerate().rev() {
            place[axis] = at % side.max(1);
            at /= side.max(1);
        }
        place
    }

    /// Writes a numpy file.
    pub fn write(&self, file: &Path) -> Result<()> {
        let mut bytes = Vec::new();
        each!(&self.values, v => encode(&self.shape, v, &mut bytes)).map_err(|e| Error::io(file, e))?;
        std::fs::write(file, bytes).map_err(|e| Error::io(file, e))
    }

    /// Reads a numpy file. Errors: [`Error::Damaged`] for anything but a whole array, in C order, of a type that
    /// detectors give; objects (pickles) are among what is refused.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = input::read_file(file, input::TEXT)?;
        let damaged = |reason: String| Error::Damaged { what: file.display().to_string(), reason };
        let mut rest = bytes.as_slice();
        let header =
            NpyHeader::from_reader(&mut rest).map_err(|e| damaged(format!("not a numpy file: {e}")))?;
        if header.order() != Order::C {
            return Err(damaged("the array is in Fortran order, expected C order".into()));
        }
        let shape: Vec<usize> =
            header.shape().iter().map(|&s| usize::try_from(s).unwrap_or(usize::MAX)).collect();
        let count = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
        let kind = header.dtype().descr();
        let npy = NpyFile::with_header(header, rest);
        // Before anything is allocated: the header says how many numbers there are, the file how many there can be.
        let fits = |size: usize| count.and_then(|n| n.checked_mul(size)) == Some(rest.len());
        let wrong =
            || damaged(format!("its header says shape {shape:?} of {kind}, but {} bytes follow", rest.len()));
        macro_rules! read {
            ($variant:ident, $size:expr) => {
                if fits($size) { npy.into_vec().map(Values::$variant) } else { return Err(wrong()) }
            };
        }
        let values = match kind.trim_matches('\'') {
            "<f4" => read!(F32, 4),
            "<f8" => read!(F64, 8),
            "<i4" => read!(I32, 4),
            "<i8" => read!(I64, 8),
            "|u1" => read!(U8, 1),
            "|b1" => read!(Bool, 1),
            other => {
                return Err(damaged(format!("its numbers are of type {other}, which no reference holds")));
            }
        };
        Ok(Self { values: values.map_err(|e| damaged(e.to_string()))?, shape })
    }
}

fn encode<T: AutoSerialize + Copy>(shape: &[usize], values: &[T], out: &mut Vec<u8>) -> std::io::Result<()> {
    let shape: Vec<u64> = shape.iter().map(|&side| side as u64).collect();
    let mut writer = npyz::WriteOptions::<T>::new().default_dtype().shape(&shape).writer(out).begin_nd()?;
    writer.extend(values.iter().copied())?;
    writer.finish()
}

/// Runs a model on a picture and takes its outputs out of TensorFlow; second, the names of those that are strings.
pub fn capture(model: &ServingModel, picture: &Picture) -> Result<(Outputs, Vec<String>)> {
    let tensors = model.run_image(&picture.rgb, picture.height as usize, picture.width as usize)?;
    let (mut outputs, mut strings) = (Outputs::new(), Vec::new());
    for (name, tensor) in tensors {
        match Array::of(&tensor) {
            Some(array) => drop(outputs.insert(name, array)),
            None => strings.push(name),
        }
    }
    Ok((outputs, strings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numpy_files_keep_every_bit_and_refuse_every_damage() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.npy");
        let nan = f32::from_bits(0x7fc0_1234);
        for values in [
            Values::F32(vec![1.5, nan, -0.0, f32::INFINITY, f32::MIN_POSITIVE, 3.0]),
            Values::F64(vec![0.1; 6]),
            Values::I32(vec![-1, 2, 3, i32::MIN, 0, 7]),
            Values::I64(vec![i64::MAX, 2, 3, 4, 5, 6]),
            Values::U8(vec![255, 0, 1, 2, 3, 4]),
            Values::Bool(vec![true, false, true, true, false, false]),
        ] {
            let array = Array { shape: vec![2, 3], values };
            array.write(&file).unwrap();
            let read = Array::read(&file).unwrap();
            assert_eq!((&read.shape, read.dtype()), (&array.shape, array.dtype()));
            assert!((0..6).all(|i| array.same_bits(i, &read, i)), "{array:?}");
        }
        Array { shape: vec![], values: Values::F32(vec![2.0]) }.write(&file).unwrap();
        assert_eq!(Array::read(&file).unwrap().shape, [0usize; 0]);
        let whole = std::fs::read(&file).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            assert!(Array::read(&file).is_err(), "{cut}");
        }
        for (from, to) in [("<f4", "|O8"), ("<f4", "<f8"), ("()", "(9999999999,)")] {
            let text = String::from_utf8_lossy(&whole[10..100]).into_owned();
            assert!(text.contains(from));
            let mut bytes = whole.clone();
            let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            bytes.splice(at..at + from.len(), to.bytes());
            let length = u16::from_le_bytes([bytes[8], bytes[9]]) + (to.len() - from.len()) as u16;
            bytes[8..10].copy_from_slice(&length.to_le_bytes());
            std::fs::write(&file, bytes).unwrap();
            assert!(Array::read(&file).is_err(), "{from} as {to}");
        }
    }

    #[test]
    fn a_flat_index_has_a_place() {
        let array = Array { shape: vec![2, 3, 4], values: Values::U8(vec![0; 24]) };
        assert_eq!(array.place(23), [1, 2, 3]);
        assert_eq!(array.place(5), [0, 1, 1]);
    }
}
