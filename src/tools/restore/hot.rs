//! The two tags that a dump consists of, as every dump writes them: found without
//! looking at anything else. What is written otherwise is left to the XML reader.

use crate::thin::Run;

/// A mapping at the start of `bytes`, and its length in bytes.
pub(super) fn mapping(bytes: &[u8]) -> Option<(Run, usize)> {
    let mut scanner = Scanner { bytes, at: 0 };
    // They differ in the second byte.
    if *bytes.get(1)? == b's' {
        let virtual_begin = scanner.number(b"<single_mapping origin_block=\"")?;
        let data_begin = scanner.number(b"\" data_block=\"")?;
        let time = scanner.number(b"\" time=\"")?;
        return scanner.end(virtual_begin, data_begin, 1, time);
    }
    let virtual_begin = scanner.number(b"<range_mapping origin_begin=\"")?;
    let data_begin = scanner.number(b"\" data_begin=\"")?;
    let length = scanner.number(b"\" length=\"")?;
    let time = scanner.number(b"\" time=\"")?;
    scanner.end(virtual_begin, data_begin, length, time)
}

struct Scanner<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Scanner<'_> {
    /// The digits after `before`: at least one, and few enough for any number of them
    /// to fit.
    #[inline]
    fn number(&mut self, before: &[u8]) -> Option<u64> {
        let rest = self.bytes.get(self.at..)?.strip_prefix(before)?;
        let mut number = 0_u64;
        let mut digits = 0;
        for byte in rest {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            if digits == 19 {
                return None;
            }
            number = number * 10 + u64::from(digit);
            digits += 1;
        }
        self.at += before.len() + digits;
        (digits > 0).then_some(number)
    }

    #[inline]
    fn end(
        self,
        virtual_begin: u64,
        data_begin: u64,
        length_blocks: u64,
        time: u64,
    ) -> Option<(Run, usize)> {
        self.bytes.get(self.at..)?.strip_prefix(b"\"/>")?;
        let run = Run {
            virtual_begin,
            data_begin,
            length_blocks,
            time: u32::try_from(time).ok()?,
        };
        Some((run, self.at + 3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dumps_write_is_taken_and_nothing_else() {
        let single = br#"<single_mapping origin_block="12" data_block="0034" time="5"/>"#;
        let run = |virtual_begin, data_begin, length_blocks, time| Run {
            virtual_begin,
            data_begin,
            length_blocks,
            time,
        };
        assert_eq!(mapping(single), Some((run(12, 34, 1, 5), single.len())));
        let range = br#"<range_mapping origin_begin="9999999999999999999" data_begin="1" length="2" time="3"/>..."#;
        assert_eq!(
            mapping(range),
            Some((run(9_999_999_999_999_999_999, 1, 2, 3), range.len() - 3))
        );
        let text = std::str::from_utf8(single).unwrap();
        for end in 0..single.len() {
            assert_eq!(mapping(&single[..end]), None);
        }
        for other in [
            text.replace("12", ""),
            text.replace("12", "+1"),
            text.replace("12", "12345678901234567890"),
            text.replace("/>", " />"),
            text.replace('"', "'"),
            text.replace(" time", "  time"),
            text.replace("\"5\"", "\"4294967296\""),
        ] {
            assert_eq!(mapping(other.as_bytes()), None, "{other}");
        }
    }
}
