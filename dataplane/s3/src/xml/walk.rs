//! Walks an XML document, telling a visitor the path of each element.

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, Event};

use super::BODY_BYTES_MAX;
use crate::error::{S3Error, S3ErrorCode};

/// Deepest nesting; the deepest body we know has 4.
const DEPTH_MAX: usize = 8;

/// What happens to an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// It begins.
    Open,
    /// It ends; the text since its beginning or its last child.
    Close(&'a str),
}

pub(super) fn malformed() -> S3Error {
    S3ErrorCode::MalformedXml.into()
}

/// Visits every element. Paths are local names from the root, joined by `/`.
pub(super) fn walk(
    body: &[u8],
    visit: impl FnMut(&str, Step<'_>) -> Result<(), S3Error>,
) -> Result<(), S3Error> {
    if body.len() > BODY_BYTES_MAX {
        return Err(S3ErrorCode::MaxMessageLengthExceeded.into());
    }
    let text = std::str::from_utf8(body).map_err(|_| malformed())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader::from_str(text);
    let mut walker = Walker {
        visit,
        path: String::new(),
        parents: Vec::new(),
        roots: 0,
        text: String::new(),
    };
    loop {
        match reader.read_event().map_err(|_| malformed())? {
            Event::Start(e) => walker.open(e.local_name().as_ref())?,
            Event::Empty(e) => {
                walker.open(e.local_name().as_ref())?;
                walker.close()?;
            }
            Event::End(_) => walker.close()?,
            Event::Text(t) => walker.text(&t.xml10_content())?,
            Event::CData(t) => walker.text(&t.xml10_content())?,
            Event::GeneralRef(r) => walker.reference(&r)?,
            Event::DocType(_) | Event::PI(_) => return Err(malformed()),
            Event::Comment(_) | Event::Decl(_) => {}
            Event::Eof => return walker.end(),
        }
    }
}

struct Walker<F> {
    visit: F,
    path: String,
    /// Length of the path before each open element.
    parents: Vec<usize>,
    roots: usize,
    text: String,
}

impl<F: FnMut(&str, Step<'_>) -> Result<(), S3Error>> Walker<F> {
    fn open(&mut self, name: &str) -> Result<(), S3Error> {
        if self.parents.is_empty() {
            self.roots += 1;
        }
        if self.parents.len() == DEPTH_MAX || self.roots > 1 {
            return Err(malformed());
        }
        self.parents.push(self.path.len());
        if !self.path.is_empty() {
            self.path.push('/');
        }
        self.path.push_str(name);
        self.text.clear();
        (self.visit)(&self.path, Step::Open)
    }

    fn close(&mut self) -> Result<(), S3Error> {
        let parent = self.parents.pop().ok_or_else(malformed)?;
        (self.visit)(&self.path, Step::Close(&self.text))?;
        self.path.truncate(parent);
        self.text.clear();
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), S3Error> {
        if self.parents.is_empty() && !text.trim().is_empty() {
            return Err(malformed());
        }
        self.text.push_str(text);
        Ok(())
    }

    /// Character references and the five predefined entities; no others exist.
    fn reference(&mut self, reference: &BytesRef<'_>) -> Result<(), S3Error> {
        if self.parents.is_empty() {
            return Err(malformed());
        }
        match reference.resolve_char_ref().map_err(|_| malformed())? {
            Some(c) => self.text.push(c),
            None => self
                .text
                .push_str(resolve_xml_entity(reference).ok_or_else(malformed)?),
        }
        Ok(())
    }

    fn end(self) -> Result<(), S3Error> {
        if self.roots == 1 && self.parents.is_empty() {
            Ok(())
        } else {
            Err(malformed())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(body: &str) -> Result<Vec<(String, String)>, S3Error> {
        let mut out = Vec::new();
        walk(body.as_bytes(), |path, step| {
            if let Step::Close(text) = step {
                out.push((path.to_owned(), text.to_owned()));
            }
            Ok(())
        })?;
        Ok(out)
    }

    fn text(body: &str) -> Option<String> {
        texts(body).ok().map(|mut t| t.swap_remove(0).1)
    }

    #[test]
    fn text_is_kept_exactly() {
        assert_eq!(text("<a> x </a>").unwrap(), " x ");
        assert_eq!(
            text("<a>1&amp;&lt;&gt;&quot;&apos;2</a>").unwrap(),
            "1&<>\"'2"
        );
        assert_eq!(text("<a>&#13;&#x41;</a>").unwrap(), "\rA");
        assert_eq!(text("<a>x\r\ny</a>").unwrap(), "x\ny");
        assert_eq!(text("<a><![CDATA[<&]]></a>").unwrap(), "<&");
        assert_eq!(text("<n:a xmlns:n=\"u\">x</n:a>").unwrap(), "x");
        assert_eq!(text("\u{feff}<?xml version=\"1.0\"?>\n<a/>\n").unwrap(), "");
    }

    #[test]
    fn documents_that_are_refused() {
        for bad in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><a/>",
            "<a/>x",
            "<a>&b;</a>",
            "<a>&#0;</a>",
            "<a>&#xD800;</a>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
            "<?php ?><a/>",
            "<a><a><a><a><a><a><a><a><a/></a></a></a></a></a></a></a></a>",
        ] {
            assert_eq!(
                texts(bad).map_err(|e| e.code),
                Err(S3ErrorCode::MalformedXml),
                "{bad}"
            );
        }
        let big = vec![b' '; BODY_BYTES_MAX + 1];
        assert!(walk(&big, |_, _| Ok(())).is_err());
        assert!(walk(b"<a>\xff</a>", |_, _| Ok(())).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = walk(&body, |_, _| Ok(()));
        }

        #[test]
        fn never_panics_on_nearly_xml(body in "(<[a-c/!?]{0,3}>|&[a-z#x0-9]{0,4};?|[a-z \\]\\[]|<!\\[CDATA\\[|\\]\\]>|<!--|-->){0,30}") {
            let _ = walk(body.as_bytes(), |_, _| Ok(()));
        }
    }
}
