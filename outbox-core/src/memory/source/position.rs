use crate::{
    memory::broker::Past,
    source::{Partition, SourceError, SourceErrorKind, SourcePosition},
};

/// A place between two messages of a topic. As text `12`, or `12/1` in a topic that was created again once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// How many messages are before it, removed ones included.
    pub(super) offset: usize,
    recreated: u32,
}

impl Position {
    /// Before the first message that is there.
    pub(super) fn beginning(past: Past) -> Self {
        Self { offset: past.expired, recreated: past.recreated }
    }

    pub(super) fn parse(partition: &Partition, position: &SourcePosition) -> Result<Self, SourceError> {
        let text = position.as_text();
        let (offset, recreated) = text.split_once('/').unwrap_or((text, "0"));
        match (offset.parse(), recreated.parse()) {
            (Ok(offset), Ok(recreated)) => Ok(Self { offset, recreated }),
            _ => Err(SourceError::new(
                SourceErrorKind::BadPosition,
                format!("{text:?} is no position of {partition}: expected the number of messages before it"),
            )),
        }
    }

    /// The index of the message behind it, in a topic with this past that holds so many.
    pub(super) fn index(self, partition: &Partition, past: Past, count: usize) -> Result<usize, SourceError> {
        let lost = |kind, why: String| Err(SourceError::new(kind, format!("{partition} {why}")));
        let Self { offset, recreated } = self;
        if recreated != past.recreated {
            return lost(SourceErrorKind::Recreated, "was created again since the position".to_owned());
        }
        match offset.checked_sub(past.expired) {
            None => lost(SourceErrorKind::Expired, format!("lost messages behind the position {offset}")),
            Some(index) if index > count => {
                lost(SourceErrorKind::Truncated, format!("ends before the position {offset}"))
            }
            Some(index) => Ok(index),
        }
    }

    pub(super) fn plus(self, messages: usize) -> Self {
        Self { offset: self.offset + messages, ..self }
    }
}

impl From<Position> for SourcePosition {
    fn from(Position { offset, recreated }: Position) -> Self {
        Self::from_text(if recreated == 0 { offset.to_string() } else { format!("{offset}/{recreated}") })
    }
}
