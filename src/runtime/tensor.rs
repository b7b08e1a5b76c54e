//! Tensors of the few types that detectors speak, with the type known at run time.

use std::fmt;

use tensorflow::{DataType, SessionRunArgs, Tensor, TensorType};

use super::{failed, library};
use crate::error::{Error, Result};

/// A tensor that TensorFlow owns.
pub enum AnyTensor {
    /// Numbers of 32 bits.
    F32(Tensor<f32>),
    /// Numbers of 64 bits.
    F64(Tensor<f64>),
    /// Integers of 32 bits.
    I32(Tensor<i32>),
    /// Integers of 64 bits.
    I64(Tensor<i64>),
    /// Bytes, as in pictures.
    U8(Tensor<u8>),
    /// Truth values.
    Bool(Tensor<bool>),
    /// Strings, which can be passed on but not read.
    Str(Strings),
}

/// Strings of bytes that TensorFlow made and TensorFlow will read.
///
/// They are not readable here because the crate `tensorflow` panics on bytes that are not UTF-8, which a picture
/// never is. Nothing is lost: pictures are encoded and decoded by operations of the graph.
pub struct Strings(Tensor<String>);

// SAFETY: what keeps `Tensor<String>` on one thread is the cell it unpacks its values into on first reading. The
// field is private and nothing in this module reads values; what is left is a pointer to an immutable tensor.
unsafe impl Send for Strings {}
// SAFETY: as above.
unsafe impl Sync for Strings {}

/// A type of element that a tensor can be made from and read as.
pub trait Element: TensorType + Copy {
    /// Puts a typed tensor into the enumeration.
    fn wrap(tensor: Tensor<Self>) -> AnyTensor;
    /// The typed tensor, if that is what it is.
    fn unwrap_ref(tensor: &AnyTensor) -> Option<&Tensor<Self>>;
}

macro_rules! elements {
    ($($type:ty => $variant:ident),*) => {$(
        impl Element for $type {
            fn wrap(tensor: Tensor<Self>) -> AnyTensor {
                AnyTensor::$variant(tensor)
            }
            fn unwrap_ref(tensor: &AnyTensor) -> Option<&Tensor<Self>> {
                match tensor {
                    AnyTensor::$variant(tensor) => Some(tensor),
                    _ => None,
                }
            }
        }
    )*};
}

elements!(f32 => F32, f64 => F64, i32 => I32, i64 => I64, u8 => U8, bool => Bool);

impl AnyTensor {
    /// A tensor of this shape with a copy of these values, the last axis running fastest.
    pub fn new<T: Element>(shape: &[usize], values: &[T]) -> Result<Self> {
        library::load(None)?;
        let count = shape.iter().try_fold(1usize, |count, &side| count.checked_mul(side));
        if count != Some(values.len()) {
            return Err(Error::Data(format!(
                "a tensor of shape {shape:?} cannot be made of {} values",
                values.len()
            )));
        }
        let dims: Vec<u64> = shape.iter().map(|&side| side as u64).collect();
        let mut tensor = Tensor::<T>::new(&dims);
        // TensorFlow gives a null pointer for a tensor without elements, and a slice must not be made of that.
        if !values.is_empty() {
            tensor.copy_from_slice(values);
        }
        Ok(T::wrap(tensor))
    }

    /// A tensor without axes.
    pub fn scalar<T: Element>(value: T) -> Result<Self> {
        Self::new(&[], &[value])
    }

    /// The length of each axis.
    pub fn shape(&self) -> Vec<usize> {
        self.dims().iter().map(|&side| side as usize).collect()
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.dims().iter().product::<u64>() as usize
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the element type as TensorFlow writes it, for example `float32`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::F32(_) => "float32",
            Self::F64(_) => "float64",
            Self::I32(_) => "int32",
            Self::I64(_) => "int64",
            Self::U8(_) => "uint8",
            Self::Bool(_) => "bool",
            Self::Str(_) => "string",
        }
    }

    /// The values, the last axis running fastest.
    pub fn values<T: Element>(&self) -> Result<&[T]> {
        let Some(tensor) = T::unwrap_ref(self) else {
            let wanted = T::data_type();
            return Err(Error::Data(format!("{self:?} was expected to hold {wanted} values")));
        };
        Ok(if self.is_empty() { &[] } else { tensor })
    }

    /// The values as `f32`; an error when they are of another type.
    pub fn f32(&self) -> Result<&[f32]> {
        self.values()
    }

    /// The values as `i32`; an error when they are of another type.
    pub fn i32(&self) -> Result<&[i32]> {
        self.values()
    }

    /// The values as `i64`; an error when they are of another type.
    pub fn i64(&self) -> Result<&[i64]> {
        self.values()
    }

    /// The values as `u8`; an error when they are of another type.
    pub fn u8(&self) -> Result<&[u8]> {
        self.values()
    }

    /// The values as `bool`; an error when they are of another type.
    pub fn bool(&self) -> Result<&[bool]> {
        self.values()
    }

    /// The one value of a tensor with one element.
    pub fn one<T: Element>(&self) -> Result<T> {
        match self.values::<T>()? {
            [value] => Ok(*value),
            _ => Err(Error::Data(format!("{self:?} was expected to hold one value"))),
        }
    }

    /// Feeds this to an output of an operation in the coming run.
    pub(super) fn feed<'t>(
        &'t self,
        run: &mut SessionRunArgs<'t>,
        operation: &tensorflow::Operation,
        index: i32,
    ) {
        match self {
            Self::F32(tensor) => run.add_feed(operation, index, tensor),
            Self::F64(tensor) => run.add_feed(operation, index, tensor),
            Self::I32(tensor) => run.add_feed(operation, index, tensor),
            Self::I64(tensor) => run.add_feed(operation, index, tensor),
            Self::U8(tensor) => run.add_feed(operation, index, tensor),
            Self::Bool(tensor) => run.add_feed(operation, index, tensor),
            Self::Str(Strings(tensor)) => run.add_feed(operation, index, tensor),
        }
    }

    /// Takes what a run fetched.
    pub(super) fn fetch(
        run: &mut SessionRunArgs<'_>,
        token: tensorflow::FetchToken,
        index: usize,
        name: &str,
    ) -> Result<Self> {
        let fetched = match run.output_data_type(index) {
            Some(DataType::Float) => run.fetch(token).map(Self::F32),
            Some(DataType::Double) => run.fetch(token).map(Self::F64),
            Some(DataType::Int32) => run.fetch(token).map(Self::I32),
            Some(DataType::Int64) => run.fetch(token).map(Self::I64),
            Some(DataType::UInt8) => run.fetch(token).map(Self::U8),
            Some(DataType::Bool) => run.fetch(token).map(Self::Bool),
            Some(DataType::String) => run.fetch(token).map(|tensor| Self::Str(Strings(tensor))),
            Some(other) => return Err(failed(name, format!("{other} values are not handled here"))),
            None => return Err(failed(name, "the run gave nothing for it")),
        };
        fetched.map_err(|status| failed(name, status))
    }

    fn dims(&self) -> &[u64] {
        match self {
            Self::F32(tensor) => tensor.dims(),
            Self::F64(tensor) => tensor.dims(),
            Self::I32(tensor) => tensor.dims(),
            Self::I64(tensor) => tensor.dims(),
            Self::U8(tensor) => tensor.dims(),
            Self::Bool(tensor) => tensor.dims(),
            Self::Str(Strings(tensor)) => tensor.dims(),
        }
    }
}

impl fmt::Debug for AnyTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} tensor of shape {:?}", self.type_name(), self.dims())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn keeps_shape_type_and_values() {
        if testing::library().is_none() {
            return;
        }
        let tensor = AnyTensor::new(&[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(tensor.shape(), [2, 3]);
        assert_eq!(tensor.f32().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!(tensor.i32().unwrap_err().to_string().contains("float32 tensor of shape [2, 3]"));
        assert!(tensor.one::<f32>().is_err());
        assert_eq!(AnyTensor::scalar(7i64).unwrap().one::<i64>().unwrap(), 7);
        assert!(AnyTensor::new(&[2, 2], &[1u8]).is_err());
        assert!(AnyTensor::new(&[usize::MAX, 2], &[1u8]).is_err());
    }

    #[test]
    fn a_tensor_without_elements_is_no_null_slice() {
        if testing::library().is_none() {
            return;
        }
        let tensor = AnyTensor::new::<f32>(&[0, 4], &[]).unwrap();
        assert!(tensor.is_empty());
        assert_eq!(tensor.f32().unwrap(), [0.0f32; 0]);
    }

    #[test]
    fn tensors_travel_between_threads() {
        fn assert_send_and_sync<T: Send + Sync>() {}
        assert_send_and_sync::<AnyTensor>();
    }
}
