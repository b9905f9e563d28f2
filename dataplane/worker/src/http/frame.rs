//! Where a request body ends: Content-Length or chunked (RFC 9112 §6, §7.1).
//! A state machine over bytes; no IO.

use super::limit::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};
use super::parse::BodyKind;

/// A chunked body that breaks the grammar; the text says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadChunk(pub(crate) &'static str);

/// What comes next in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// At least one and at most this many bytes of content.
    Content(u64),
    /// Framing, to be given to [`Framing::advance`].
    Markup,
    /// Nothing: the body is complete.
    End,
}

/// Position within a request body.
#[derive(Debug)]
pub(crate) enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunked coding.
    Chunked(Chunked),
}

impl Framing {
    pub(crate) fn new(kind: BodyKind) -> Self {
        match kind {
            BodyKind::Length(length) => Framing::Length(length),
            BodyKind::Chunked => Framing::Chunked(Chunked::default()),
        }
    }

    pub(crate) fn next(&self) -> Next {
        match self {
            Framing::Length(0) => Next::End,
            Framing::Length(remaining) => Next::Content(*remaining),
            Framing::Chunked(chunked) => match chunked.state {
                State::Data { remaining } => Next::Content(remaining),
                State::Done => Next::End,
                _ => Next::Markup,
            },
        }
    }

    /// Notes that `count` content bytes were taken; never more than announced.
    pub(crate) fn take(&mut self, count: u64) {
        match self {
            Framing::Length(remaining) => *remaining = remaining.saturating_sub(count),
            Framing::Chunked(chunked) => {
                if let State::Data { remaining } = &mut chunked.state {
                    *remaining = remaining.saturating_sub(count);
                    if *remaining == 0 {
                        chunked.state = State::DataCr;
                    }
                }
            }
        }
    }

    /// Reads framing from `input` up to the next content byte or the end and
    /// returns how many bytes that took.
    pub(crate) fn advance(&mut self, input: &[u8]) -> Result<usize, BadChunk> {
        match self {
            Framing::Length(_) => Ok(0),
            Framing::Chunked(chunked) => chunked.advance(input),
        }
    }

    /// Bytes still to come, if known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self {
            Framing::Length(remaining) => Some(*remaining),
            Framing::Chunked(chunked) => (chunked.state == State::Done).then_some(0),
        }
    }
}

/// Decoder of `Transfer-Encoding: chunked`.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    /// Bytes of the current chunk line, or of the trailer section.
    line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size { value: u64, digits: bool },
    Extension { value: u64 },
    SizeLf { value: u64 },
    Data { remaining: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerLine,
    TrailerLf,
    EndLf,
    Done,
}

impl Default for State {
    fn default() -> Self {
        State::Size {
            value: 0,
            digits: false,
        }
    }
}

impl Chunked {
    fn advance(&mut self, input: &[u8]) -> Result<usize, BadChunk> {
        for (index, &byte) in input.iter().enumerate() {
            if matches!(self.state, State::Data { .. } | State::Done) {
                return Ok(index);
            }
            self.state = self.step(byte)?;
        }
        Ok(input.len())
    }

    fn step(&mut self, byte: u8) -> Result<State, BadChunk> {
        self.count()?;
        match (self.state, byte) {
            (State::Size { value, .. }, _) if byte.is_ascii_hexdigit() => push_digit(value, byte),
            (
                State::Size {
                    value,
                    digits: true,
                },
                b'\r',
            ) => Ok(State::SizeLf { value }),
            (
                State::Size {
                    value,
                    digits: true,
                },
                b';',
            ) => Ok(State::Extension { value }),
            (State::Size { .. }, _) => Err(BadChunk("a chunk size is not a hexadecimal number")),
            (State::Extension { value }, b'\r') => Ok(State::SizeLf { value }),
            (State::Extension { value }, _) if is_field_byte(byte) => {
                Ok(State::Extension { value })
            }
            (State::Extension { .. }, _) => Err(BadChunk("a chunk extension has a bad byte")),
            (State::SizeLf { value }, b'\n') => Ok(self.begin(value)),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(self.next_size()),
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::TrailerStart | State::TrailerLine, _) if is_field_byte(byte) => {
                Ok(State::TrailerLine)
            }
            (State::TrailerLine, b'\r') => Ok(State::TrailerLf),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::EndLf, b'\n') => Ok(State::Done),
            _ => Err(BadChunk("a chunk does not end in CRLF")),
        }
    }

    /// Bounds what a peer can make us read without sending content.
    fn count(&mut self) -> Result<(), BadChunk> {
        self.line += 1;
        match self.state {
            State::Size { .. } | State::Extension { .. } if self.line > CHUNK_LINE_BYTES_MAX => {
                Err(BadChunk("a chunk line is too long"))
            }
            State::TrailerStart | State::TrailerLine if self.line > TRAILER_BYTES_MAX => {
                Err(BadChunk("the trailer section is too long"))
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, size: u64) -> State {
        self.line = 0;
        match size {
            0 => State::TrailerStart,
            remaining => State::Data { remaining },
        }
    }

    fn next_size(&mut self) -> State {
        self.line = 0;
        State::default()
    }
}

fn push_digit(value: u64, byte: u8) -> Result<State, BadChunk> {
    let digit = (byte as char).to_digit(16).map_or(0, u64::from);
    let value = value
        .checked_mul(16)
        .ok_or(BadChunk("a chunk size is out of range"))?;
    Ok(State::Size {
        value: value | digit,
        digits: true,
    })
}

/// `HTAB / SP / VCHAR / obs-text`.
fn is_field_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes all of `input`, offering it in pieces cut at `cuts`: the content,
    /// the bytes used, and whether the end was reached.
    fn decode(input: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize, bool), BadChunk> {
        let mut framing = Framing::new(BodyKind::Chunked);
        let mut content = Vec::new();
        let mut used = 0;
        for &cut in cuts.iter().chain([&input.len()]) {
            let end = cut.clamp(used, input.len());
            loop {
                match framing.next() {
                    Next::End => return Ok((content, used, true)),
                    Next::Content(most) => {
                        let count = (end - used).min(usize::try_from(most).unwrap_or(usize::MAX));
                        content.extend_from_slice(&input[used..used + count]);
                        framing.take(count as u64);
                        used += count;
                    }
                    Next::Markup => used += framing.advance(&input[used..end])?,
                }
                if used == end && framing.next() != Next::End {
                    break;
                }
            }
        }
        Ok((content, used, false))
    }

    #[test]
    fn good_bodies_decode() {
        for (text, content, used) in [
            ("0\r\n\r\nGET", "", 5),
            ("5\r\nhello\r\n0\r\n\r\n", "hello", 15),
            (
                "3;a=b;c=\"d\"\r\nabc\r\n00\r\nx: y\r\nz: w\r\n\r\n!",
                "abc",
                36,
            ),
            (
                "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
                "01234567890123456789",
                35,
            ),
        ] {
            let outcome = decode(text.as_bytes(), &[]).unwrap();
            assert_eq!(
                outcome,
                (content.as_bytes().to_vec(), used, true),
                "{text:?}"
            );
        }
    }

    #[test]
    fn bad_bodies_are_refused() {
        let long_line = format!("1;{}\r\n", "x".repeat(CHUNK_LINE_BYTES_MAX));
        let long_trailer = format!("0\r\n{}", "x: y\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1));
        for text in [
            "\r\n",
            ";\r\n",
            "g\r\n",
            " 1\r\n",
            "1 \r\n",
            "0x1\r\n",
            "+1\r\n",
            "-1\r\n",
            "1\n",
            "1\r1",
            "1;a\n",
            "1;a\x00\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1\r\na\rb",
            "0\r\n\n",
            "0\r\na: b\n\r\n",
            "10000000000000000\r\n",
            &long_line,
            &long_trailer,
        ] {
            assert!(decode(text.as_bytes(), &[]).is_err(), "{text:?}");
        }
    }

    #[test]
    fn length_counts_down() {
        let mut framing = Framing::new(BodyKind::Length(3));
        assert_eq!(framing.next(), Next::Content(3));
        framing.take(2);
        assert_eq!(framing.remaining(), Some(1));
        framing.take(1);
        assert_eq!(framing.next(), Next::End);
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            text in "([0-3]{1,2}(;[a-z]{0,3})?\r?\n[a-z\r\n]{0,6}){0,4}0\r\n(a: b\r\n)?\r\n",
            mut cuts in prop::collection::vec(0usize..60, 0..8),
        ) {
            cuts.sort_unstable();
            prop_assert_eq!(decode(text.as_bytes(), &[]), decode(text.as_bytes(), &cuts));
        }

        #[test]
        fn encoded_content_comes_back(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..5),
            mut cuts in prop::collection::vec(0usize..200, 0..8),
        ) {
            cuts.sort_unstable();
            let mut wire = Vec::new();
            for part in &parts {
                wire.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                wire.extend_from_slice(part);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let length = wire.len();
            prop_assert_eq!(decode(&wire, &cuts), Ok((parts.concat(), length, true)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes, &[]);
        }
    }
}
