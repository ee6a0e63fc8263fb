//! Writing the parts of a dump, joined where a run goes from one into the next.

use std::io::{self, Write};

use super::format::{Format, Header, Section};
use super::text::Text;
use super::work::{Edge, Part};
use crate::error::{Error, Result};

/// What is written at once, unless a part is larger.
const CHUNK_BYTES: usize = 1 << 20;

/// Where a dump goes.
pub(super) struct Output<'o, F> {
    out: &'o mut dyn Write,
    chunk: Vec<u8>,
    format: F,
    /// For what is formatted here.
    text: Text,
    /// The run that the next part may continue.
    pending: Option<Edge>,
}

impl<'o, F: Format> Output<'o, F> {
    pub fn new(out: &'o mut dyn Write) -> Self {
        Self {
            out,
            chunk: Vec::new(),
            format: F::default(),
            text: Text::default(),
            pending: None,
        }
    }

    /// The first words.
    pub fn begin(&mut self, header: &Header) -> Result<()> {
        self.formatted(|format, text| format.begin(header, text))
    }

    /// A section without mappings.
    pub fn empty(&mut self, section: &Section) -> Result<()> {
        self.formatted(|format, text| {
            format.open(section, text);
            format.close(section, text);
        })
    }

    /// The last words, and all that is still held back.
    pub fn end(&mut self) -> Result<()> {
        self.put_pending()?;
        self.formatted(|format, text| format.end(text))?;
        self.put_chunk()?;
        self.out.flush().map_err(failed)
    }

    /// What became of the next job.
    pub fn part(&mut self, part: &Part) -> Result<()> {
        if let Some(first) = part.first {
            let pending = self.pending.as_mut();
            if !pending.is_some_and(|pending| pending.run.join(&first.run)) {
                self.put_pending()?;
                self.pending = Some(first);
            }
        }
        if part.text.is_empty() && part.last.is_none() {
            return Ok(());
        }
        self.put_pending()?;
        self.put(part.text.as_bytes())?;
        self.pending = part.last;
        Ok(())
    }

    fn put_pending(&mut self) -> Result<()> {
        let Some(Edge { section, run }) = self.pending.take() else {
            return Ok(());
        };
        self.formatted(|format, text| {
            format.resume(&section);
            format.run(&run, text);
        })
    }

    fn formatted(&mut self, write: impl FnOnce(&mut F, &mut Text)) -> Result<()> {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        write(&mut self.format, &mut text);
        let answer = self.put(text.as_bytes());
        self.text = text;
        answer
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let large = bytes.len() >= CHUNK_BYTES / 2;
        if large || self.chunk.len() + bytes.len() > CHUNK_BYTES {
            self.put_chunk()?;
        }
        if large {
            return self.out.write_all(bytes).map_err(failed);
        }
        self.chunk.extend_from_slice(bytes);
        Ok(())
    }

    fn put_chunk(&mut self) -> Result<()> {
        let answer = self.out.write_all(&self.chunk).map_err(failed);
        self.chunk.clear();
        answer
    }
}

fn failed(source: io::Error) -> Error {
    Error::io("<output>", None, source)
}
