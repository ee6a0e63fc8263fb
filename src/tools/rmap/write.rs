//! The words of `thin_rmap`.

use std::io::Write;
use std::sync::mpsc::sync_channel;
use std::thread;

use super::{ReverseMap, Row};
use crate::error::{Error, Result};
use crate::task::Task;
use crate::tools::dump::text::Text;

/// Rows that are put into words at once.
const ROWS: usize = 8192;
/// Texts of each thread that may wait to be written.
const TEXTS_AHEAD: usize = 2;

/// Writes each row as a line of `thin_rmap`. Threads make the text in turn, the calling
/// one writes it.
///
/// # Errors
/// [`Error::Io`] at the path `<output>` for what `out` reports.
pub fn write(map: &ReverseMap, out: &mut dyn Write, task: &Task<'_>) -> Result<()> {
    let pieces: Vec<&[Row]> = map
        .pieces()
        .iter()
        .flat_map(|bucket| bucket.chunks(ROWS))
        .collect();
    let threads = task.threads().min(pieces.len());
    task.expect(pieces.len() as u64);
    thread::scope(|scope| {
        let pieces = &pieces;
        let start = |first| {
            let (texts, made) = sync_channel::<Text>(TEXTS_AHEAD);
            let (empty, recycled) = sync_channel::<Text>(TEXTS_AHEAD + 2);
            scope.spawn(move || {
                for rows in pieces.iter().skip(first).step_by(threads) {
                    let mut text = recycled.try_recv().unwrap_or_default();
                    text.clear();
                    rows.iter().for_each(|row| line(&mut text, row));
                    if texts.send(text).is_err() {
                        return;
                    }
                }
            });
            (made, empty)
        };
        let makers: Vec<_> = (0..threads).map(start).collect();
        for index in 0..pieces.len() {
            let (made, empty) = &makers[index % threads];
            // It ends early only by a panic, which the scope passes on.
            let Ok(text) = made.recv() else { break };
            let written = out.write_all(text.as_bytes());
            written.map_err(|source| Error::io("<output>", None, source))?;
            // Enough of them are on their way if nobody takes it.
            let _ = empty.try_send(text);
            task.step(0, 1)?;
        }
        Ok(())
    })
}

fn line(text: &mut Text, row: &Row) {
    let (data, virtual_begin, length) =
        (row.data_begin(), row.virtual_begin(), row.length_blocks());
    text.line(|line| {
        line.put(b"data ");
        line.number(data);
        line.put(b"..");
        line.number(data + length);
        line.put(b" -> thin(");
        line.number(row.device_id());
        line.put(b") ");
        line.number(virtual_begin);
        line.put(b"..");
        line.number(virtual_begin.wrapping_add(length));
        line.put(b"\n");
    });
}
