//! Reading the XML: mappings as fast as can be, the rest by the library.

use std::io::BufRead;
use std::sync::mpsc::SyncSender;

use quick_xml::Reader as XmlReader;
use quick_xml::errors::Error as XmlError;
use quick_xml::events::Event;

use super::RestoreOptions;
use super::document::{Document, Item, Start};
use super::hot;
use super::input::{Input, Position};
use super::other;
use crate::error::{Error, Result};
use crate::thin::Run;

/// Mappings that are passed on at once.
const BATCH: usize = 4096;

pub(super) struct Reader<'s> {
    xml: XmlReader<Input<'s>>,
    document: Document,
    items: SyncSender<Item>,
    runs: Vec<Run>,
    /// Bytes that were reported with runs.
    reported: u64,
    /// Inside of a mapping or a reference that is written as two tags.
    in_leaf: bool,
}

/// Nobody takes items any more: whoever did knows why.
struct Deaf;

impl<'s> Reader<'s> {
    pub fn new(input: Input<'s>, options: &RestoreOptions, items: SyncSender<Item>) -> Self {
        let mut xml = XmlReader::from_reader(input);
        xml.config_mut().check_comments = true;
        Self {
            xml,
            document: Document::new(options),
            items,
            runs: Vec::with_capacity(BATCH),
            reported: 0,
            in_leaf: false,
        }
    }

    /// Reads to the end, or until nobody takes what is read.
    pub fn run(mut self) -> Result<()> {
        self.is_xml()?;
        let mut scratch = Vec::new();
        loop {
            self.mappings()?;
            if self.runs.len() >= BATCH && self.send_runs().is_err() {
                return Ok(());
            }
            let input = self.xml.get_mut();
            input.mark();
            let at = input.position();
            scratch.clear();
            let event = self.xml.read_event_into(&mut scratch);
            let event = event.map_err(|error| self.failed(at, &error))?;
            let sent = match event {
                Event::Start(tag) => {
                    let start = self.document_start(&tag, at)?;
                    self.started(start, true)
                }
                Event::Empty(tag) => {
                    let start = self.document_start(&tag, at)?;
                    let is_leaf = is_leaf(&start);
                    let sent = self.started(start, false);
                    if is_leaf {
                        sent
                    } else {
                        sent.and(self.ended(at)?)
                    }
                }
                Event::End(_) => self.ended(at)?,
                Event::Text(text) if text.as_ref().trim_ascii().is_empty() => Ok(()),
                Event::Comment(_) | Event::Decl(_) => Ok(()),
                Event::Eof => {
                    let finished = self.document.finish();
                    return finished.map_err(|wrong| self.error(at, wrong));
                }
                Event::Text(_) | Event::CData(_) | Event::GeneralRef(_) => {
                    return Err(self.error(at, "text between the tags"));
                }
                Event::DocType(_) => return Err(self.error(at, "a document type: none is used")),
                Event::PI(_) => return Err(self.error(at, "a processing instruction")),
            };
            if sent.is_err() {
                return Ok(());
            }
        }
    }

    /// Refuses what is plainly something else, by its first bytes.
    fn is_xml(&mut self) -> Result<()> {
        let mut stream = self.xml.stream();
        let bytes = match stream.fill_buf() {
            Ok(bytes) => bytes,
            Err(source) => return Err(self.xml.get_ref().io_error(source)),
        };
        let Some(wrong) = other::what_else(bytes) else {
            return Ok(());
        };
        let input = self.xml.get_ref();
        Err(input.error(input.position(), wrong))
    }

    /// Takes all mappings that are in the buffer and as dumps write them.
    fn mappings(&mut self) -> Result<()> {
        loop {
            let takes = self.document.takes_mappings() && !self.in_leaf;
            let mut stream = self.xml.stream();
            stream.get_mut().mark();
            let bytes = match stream.fill_buf() {
                Ok(bytes) => bytes,
                Err(source) => return Err(self.xml.get_ref().io_error(source)),
            };
            let mut at = 0;
            let mut wrong = None;
            loop {
                at += space(&bytes[at..]);
                if !takes || self.runs.len() >= BATCH {
                    break;
                }
                let Some((run, length)) = hot::mapping(&bytes[at..]) else {
                    break;
                };
                if let Err(text) = self.document.mapping(&run) {
                    wrong = Some(text);
                    break;
                }
                self.runs.push(run);
                at += length;
            }
            let (all, length) = (at == bytes.len(), bytes.len());
            stream.consume(at);
            if let Some(wrong) = wrong {
                let input = self.xml.get_ref();
                return Err(input.error(input.position(), wrong));
            }
            if !all || length == 0 || self.runs.len() >= BATCH {
                return Ok(());
            }
        }
    }

    fn document_start(
        &mut self,
        tag: &quick_xml::events::BytesStart<'_>,
        at: Position,
    ) -> Result<Start> {
        if self.in_leaf {
            return Err(self.error(at, "a tag inside of a mapping or a reference"));
        }
        let start = self.document.start(tag);
        start.map_err(|wrong| self.error(at, wrong))
    }

    fn started(&mut self, start: Start, open: bool) -> std::result::Result<(), Deaf> {
        self.in_leaf = open && is_leaf(&start);
        match start {
            Start::Mapping(run) => {
                self.runs.push(run);
                Ok(())
            }
            Start::Item(item) => self.send(item),
        }
    }

    fn ended(&mut self, at: Position) -> Result<std::result::Result<(), Deaf>> {
        if std::mem::take(&mut self.in_leaf) {
            return Ok(Ok(()));
        }
        let item = self.document.end();
        match item.map_err(|wrong| self.error(at, wrong))? {
            Some(item) => Ok(self.send(item)),
            None => Ok(Ok(())),
        }
    }

    fn send(&mut self, item: Item) -> std::result::Result<(), Deaf> {
        self.send_runs()?;
        self.items.send(item).map_err(|_| Deaf)
    }

    fn send_runs(&mut self) -> std::result::Result<(), Deaf> {
        if self.runs.is_empty() {
            return Ok(());
        }
        let runs = std::mem::replace(&mut self.runs, Vec::with_capacity(BATCH));
        let offset = self.xml.get_ref().offset();
        let bytes = offset - self.reported;
        self.reported = offset;
        self.items.send(Item::Runs(runs, bytes)).map_err(|_| Deaf)
    }

    fn error(&self, at: Position, reason: impl Into<String>) -> Error {
        self.xml.get_ref().error(at, reason)
    }

    fn failed(&self, at: Position, error: &XmlError) -> Error {
        match error {
            XmlError::Io(source) if source.kind() != std::io::ErrorKind::FileTooLarge => {
                let input = self.xml.get_ref();
                input.io_error(std::io::Error::new(source.kind(), source.to_string()))
            }
            XmlError::Io(source) => self.error(at, source.to_string()),
            XmlError::Encoding(_) => self.error(at, "bytes that are not UTF-8"),
            _ => self.error(at, error.to_string()),
        }
    }
}

/// Whether nothing can be inside of it.
fn is_leaf(start: &Start) -> bool {
    matches!(start, Start::Mapping(_) | Start::Item(Item::UsePart(_)))
}

/// White space at the start.
fn space(bytes: &[u8]) -> usize {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    bytes
        .iter()
        .position(|byte| !is_space(byte))
        .unwrap_or(bytes.len())
}
