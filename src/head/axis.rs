//! What is known of a tensor: where its class axis lies, or which of its integers are sizes that grow.

/// How many classes a model has and how many come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Classes now, without background.
    pub classes: usize,
    /// New classes.
    pub added: usize,
}

/// A class axis of a tensor, in row-major terms: index = (o · K + class) · inner + i along the axis, where K counts the
/// classes and, where there is one, the background column at index 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassAxis {
    /// Number of axes of the tensor.
    pub rank: usize,
    /// Which of them holds the classes.
    pub axis: usize,
    /// Groups before the class within the axis (anchors of an anchor-major head); none where a size is dynamic.
    pub outer: Option<usize>,
    /// Elements after the class within the axis.
    pub inner: usize,
    /// Elements in the axes behind it; none where a size is dynamic.
    pub tail: Option<usize>,
    /// Whether column 0 is the background.
    pub background: bool,
}

impl ClassAxis {
    /// The axis of a head's weights or biases: classes last, `outer` anchors before them.
    pub fn last(rank: usize, outer: usize, background: bool) -> Self {
        Self { rank, axis: rank - 1, outer: Some(outer), inner: 1, tail: Some(1), background }
    }

    /// The columns of one group: classes and background.
    pub fn columns(&self, growth: Growth) -> usize {
        growth.classes + usize::from(self.background)
    }

    /// Numbers of one group: `inner` for each column.
    pub fn group(&self, growth: Growth) -> usize {
        self.columns(growth) * self.inner
    }

    /// New numbers of one group.
    pub fn added(&self, growth: Growth) -> usize {
        growth.added * self.inner
    }

    /// Size along the axis before growing; none where the outer count is dynamic.
    pub fn size(&self, growth: Growth) -> Option<usize> {
        Some(self.outer? * self.columns(growth) * self.inner)
    }

    /// Size along the axis after growing.
    pub fn grown_size(&self, growth: Growth) -> Option<usize> {
        Some(self.outer? * (self.columns(growth) + growth.added) * self.inner)
    }

    /// Whether two tensors carry the classes alike; dynamic counts agree with anything.
    pub fn agrees(&self, other: &Self) -> bool {
        let same = |a: Option<usize>, b: Option<usize>| a.is_none() || b.is_none() || a == b;
        (self.rank, self.axis, self.inner, self.background)
            == (other.rank, other.axis, other.inner, other.background)
            && same(self.outer, other.outer)
    }
}

/// A size that depends on the class count: `units` · (classes + background).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// What the column count is multiplied by.
    pub units: usize,
    /// Whether the count includes the background column.
    pub background: bool,
}

impl Span {
    /// The value now.
    pub fn value(&self, growth: Growth) -> i64 {
        (self.units * (growth.classes + usize::from(self.background))) as i64
    }

    /// The value after growing.
    pub fn grown(&self, growth: Growth) -> i64 {
        self.value(growth) + (self.units * growth.added) as i64
    }
}

/// What the data flow says of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// It has a class axis.
    Axis(ClassAxis),
    /// It is an integer scalar (`scalar`) or vector of which some elements are sizes that grow by themselves.
    Sizes {
        /// Whether the tensor has no axes.
        scalar: bool,
        /// Element number and what it is.
        elements: Vec<(usize, Span)>,
    },
    /// It stands for a TensorArray or list whose elements have a class axis.
    Elements(ClassAxis),
    /// It is the handle of a variable whose value has a class axis.
    Variable(ClassAxis),
    /// It holds indices into a flattened tensor whose last axis is the classes.
    Index(IndexPart),
}

/// What an index into positions · columns says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexPart {
    /// Position · columns + class.
    Whole,
    /// The position alone.
    Position,
    /// Position · columns: where the classes of a position begin.
    First,
}
