//! Going from element to element.

use std::sync::Arc;

use super::Array;
use super::block::ArrayBlock;
use crate::block::BlockData;
use crate::error::{Error, Result};
use crate::units::BlockNr;

/// Stands on an element of an array, or past the last one that the owner says
/// there is. The array must not be changed meanwhile. Holds a pin and no lock, so
/// that it can be dropped at any time, after an error too.
pub struct ArrayCursor {
    array: Array,
    /// The element; the array's length at the end.
    index: u64,
    /// The array block that it is in; gone at the end.
    block: Option<(u64, BlockNr, Arc<BlockData>)>,
}

impl ArrayCursor {
    /// A cursor on the first element.
    ///
    /// # Errors
    /// [`Error::Usage`] for an array without elements; [`Error::Damaged`], [`Error::Io`].
    pub fn begin(array: &Array) -> Result<Self> {
        if array.is_empty() {
            return Err(Error::usage("an array without elements has no first one"));
        }
        let mut cursor = Self {
            array: array.clone(),
            index: 0,
            block: None,
        };
        cursor.go(0)?;
        Ok(cursor)
    }

    /// Which element it stands on; the array's length at the end.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The element.
    ///
    /// # Errors
    /// [`Error::Usage`] at the end.
    pub fn get(&self) -> Result<&[u8]> {
        let Some((_, at, block)) = &self.block else {
            return Err(Error::usage("the cursor is at the end of the array"));
        };
        let bytes = self.array.value_bytes();
        let place = self.array.place(self.index).1;
        let values = ArrayBlock::parse(*at, block)?.packed_values(bytes)?;
        Ok(&values[place * bytes..][..bytes])
    }

    /// On to the next element; whether there is one. After an error the cursor
    /// is at its end.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn next_element(&mut self) -> Result<bool> {
        if self.index + 1 >= self.array.len() {
            self.end();
            return Ok(false);
        }
        self.go(self.index + 1)?;
        Ok(true)
    }

    /// On by so many elements.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are not so many, and the cursor stays where
    /// it is. After any other error it is at its end.
    pub fn skip(&mut self, elements: u64) -> Result<()> {
        let (index, len) = (self.index, self.array.len());
        match index.checked_add(elements) {
            Some(target) if target < len => self.go(target),
            _ => {
                let text = format!("{elements} elements on from {index} of an array of {len}");
                Err(Error::Usage(text))
            }
        }
    }

    fn go(&mut self, index: u64) -> Result<()> {
        let key = self.array.place(index).0;
        if self.block.as_ref().is_none_or(|block| block.0 != key) {
            match self.array.load(key) {
                Ok((at, block)) => self.block = Some((key, at, block)),
                Err(error) => {
                    self.end();
                    return Err(error);
                }
            }
        }
        self.index = index;
        Ok(())
    }

    fn end(&mut self) {
        self.index = self.array.len();
        self.block = None;
    }
}
