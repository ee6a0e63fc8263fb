//! Text that grows by lines of bounded length, and numbers written by hand.
//!
//! A dump is millions of short lines that differ in their numbers only, so a
//! line asks for its room once and is then put together by copies of constant
//! size.

/// No line of any format is longer: at most 136 bytes of words, 4 numbers.
const LINE_BYTES: usize = 256;

/// The text of a job; keeps its memory from one to the next.
#[derive(Default)]
pub(in crate::tools) struct Text {
    /// Always initialised to its whole length, so that a line is a plain slice.
    bytes: Vec<u8>,
    len: usize,
}

impl Text {
    /// What was written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets what was written.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Lets `write` put one line, or a part of one, at the end.
    #[inline]
    pub fn line(&mut self, write: impl FnOnce(&mut Line<'_>)) {
        if self.bytes.len() - self.len < LINE_BYTES {
            self.grow();
        }
        let Some(bytes) = self.bytes[self.len..].first_chunk_mut() else {
            unreachable!("there is room for a line");
        };
        let mut line = Line { bytes, at: 0 };
        write(&mut line);
        self.len += line.at;
    }

    #[cold]
    fn grow(&mut self) {
        // In small steps: texts are kept, and memory is short where there are many.
        let more = (self.bytes.len() / 4).max(16 * LINE_BYTES);
        self.bytes.reserve_exact(more);
        self.bytes.resize(self.bytes.len() + more, 0);
    }
}

/// The line being written.
pub(in crate::tools) struct Line<'t> {
    bytes: &'t mut [u8; LINE_BYTES],
    at: usize,
}

impl Line<'_> {
    /// Puts constant text.
    #[inline]
    pub fn put<const N: usize>(&mut self, text: &[u8; N]) {
        self.bytes[self.at..self.at + N].copy_from_slice(text);
        self.at += N;
    }

    /// Puts text that was made before.
    #[inline]
    pub fn put_piece(&mut self, piece: &Piece) {
        self.bytes[self.at..self.at + PIECE_BYTES].copy_from_slice(&piece.bytes);
        self.at += piece.len;
    }

    /// Puts a number in decimal.
    #[inline]
    pub fn number(&mut self, number: u64) {
        const STEP: u64 = 100_000_000;
        if number < STEP {
            self.leading(number);
        } else if number < STEP * STEP {
            self.leading(number / STEP);
            self.eight(number % STEP);
        } else {
            let high = number / STEP;
            self.leading(high / STEP);
            self.eight(high % STEP);
            self.eight(number % STEP);
        }
    }

    /// A number below 10^8, without leading zeros.
    #[inline]
    fn leading(&mut self, number: u64) {
        let digits = eight_digits(number);
        // The top byte counts as a digit even when all are zero.
        let zeros = (digits | (1 << 56)).trailing_zeros() / 8;
        let text = (digits | ASCII_ZEROS) >> (8 * zeros);
        self.bytes[self.at..self.at + 8].copy_from_slice(&text.to_le_bytes());
        self.at += 8 - zeros as usize;
    }

    /// A number below 10^8, eight digits wide.
    #[inline]
    fn eight(&mut self, number: u64) {
        self.put(&(eight_digits(number) | ASCII_ZEROS).to_le_bytes());
    }
}

const ASCII_ZEROS: u64 = 0x3030_3030_3030_3030;

/// The decimal digits of a number below 10^8, the most significant in the lowest
/// byte: splits into two halves of four digits, four pairs and eight digits, all
/// parts of a step at once. The factors are 1/100 and 1/10, rounded up.
#[inline]
fn eight_digits(number: u64) -> u64 {
    let halves = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = ((halves * 10_486) >> 20) & 0x7f_0000_007f;
    let pairs = hundreds | ((halves - 100 * hundreds) << 16);
    let tens = ((pairs * 103) >> 10) & 0x0f_000f_000f_000f;
    tens | ((pairs - 10 * tens) << 8)
}

const PIECE_BYTES: usize = 48;

/// A short text that many lines share, copied whole at a constant size.
pub(in crate::tools) struct Piece {
    bytes: [u8; PIECE_BYTES],
    len: usize,
}

impl Piece {
    /// What `write` puts, which has to be at most 48 bytes.
    pub fn new(write: impl FnOnce(&mut Line<'_>)) -> Self {
        let mut whole = [0; LINE_BYTES];
        let mut line = Line {
            bytes: &mut whole,
            at: 0,
        };
        write(&mut line);
        let len = line.at;
        assert!(len <= PIECE_BYTES, "a piece is at most {PIECE_BYTES} bytes");
        let mut bytes = [0; PIECE_BYTES];
        bytes[..len].copy_from_slice(&whole[..len]);
        Self { bytes, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(number: u64) -> String {
        let mut text = Text::default();
        text.line(|line| line.number(number));
        String::from_utf8(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn numbers_read_as_they_should() {
        let mut around: Vec<u64> = (0..20_000).collect();
        for power in 0..20 {
            let ten = 10_u64.pow(power);
            for factor in 1..=18 {
                let middle = ten.saturating_mul(factor);
                around.extend([middle.saturating_sub(1), middle, middle.saturating_add(1)]);
            }
        }
        for shift in 0..64 {
            around.extend([
                u64::MAX >> shift,
                1 << shift,
                0x9e37_79b9_7f4a_7c15 >> shift,
            ]);
        }
        for number in around {
            assert_eq!(written(number), number.to_string());
        }
    }

    #[test]
    fn all_four_digit_halves_are_right() {
        for half in 0..10_000 {
            let number = half * 10_000 + 9_999 - half;
            assert_eq!(written(number), number.to_string());
        }
    }

    #[test]
    fn lines_follow_each_other_however_many() {
        let mut text = Text::default();
        let piece = Piece::new(|line| {
            line.put(b"<");
            line.number(77);
            line.put(b">\n");
        });
        for number in 0..100_000 {
            text.line(|line| {
                line.number(number);
                line.put_piece(&piece);
            });
        }
        let expected: String = (0..100_000)
            .map(|number| format!("{number}<77>\n"))
            .collect();
        assert_eq!(text.as_bytes(), expected.as_bytes());
        text.clear();
        assert!(text.is_empty());
    }
}
