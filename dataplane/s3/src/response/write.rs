//! Writes XML as S3 does: declaration, namespace, five entities; characters XML
//! 1.0 cannot hold as character references.

use std::borrow::Cow;
use std::fmt::Write;

use quickwater_proto::{Checksum, ChecksumKind, ETag};

use crate::date::iso8601;
use crate::request::Owner;

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// An XML document being written.
pub(super) struct Xml {
    out: String,
    root: &'static str,
}

impl Xml {
    /// Begins a document of the S3 namespace.
    pub(super) fn new(root: &'static str) -> Self {
        let mut xml = Self::bare(root);
        xml.out.pop();
        let _ = write!(xml.out, " xmlns=\"{NAMESPACE}\">");
        xml
    }

    /// Begins a document without namespace.
    pub(super) fn bare(root: &'static str) -> Self {
        let mut out = String::with_capacity(512);
        out.push_str(DECLARATION);
        let mut xml = Self { out, root };
        xml.open(root);
        xml
    }

    pub(super) fn open(&mut self, name: &str) {
        self.raw(&["<", name, ">"]);
    }

    pub(super) fn close(&mut self, name: &str) {
        self.raw(&["</", name, ">"]);
    }

    /// Markup that is known to be well-formed.
    pub(super) fn raw(&mut self, parts: &[&str]) {
        for part in parts {
            self.out.push_str(part);
        }
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.open(name);
        self.escaped(value);
        self.close(name);
    }

    /// Text of the element that is open.
    pub(super) fn content(&mut self, value: &str) {
        self.escaped(value);
    }

    pub(super) fn some(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    pub(super) fn number(&mut self, name: &str, value: impl Into<u64>) {
        self.open(name);
        let _ = write!(self.out, "{}", value.into());
        self.close(name);
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) {
        let _ = write!(self.out, "<{name}>{value}</{name}>");
    }

    /// Whole seconds, so that it equals `Last-Modified`.
    pub(super) fn time(&mut self, name: &str, ms: i64) {
        self.text(name, &iso8601(ms.saturating_sub(ms.rem_euclid(1000))));
    }

    pub(super) fn etag(&mut self, etag: &ETag) {
        self.raw(&["<ETag>&quot;"]);
        self.escaped(etag.as_str());
        self.raw(&["&quot;</ETag>"]);
    }

    pub(super) fn owner(&mut self, name: &str, owner: &Owner) {
        self.open(name);
        self.text("ID", &owner.id);
        self.text("DisplayName", &owner.display_name);
        self.close(name);
    }

    /// `ChecksumCRC32` and its like, then `ChecksumType`.
    pub(super) fn checksums(&mut self, checksums: &[Checksum], with_kind: bool) {
        for checksum in checksums {
            let name = format!("Checksum{}", checksum.algorithm.name());
            self.text(&name, &crate::checksum::encode(checksum));
        }
        if let Some(first) = checksums.first().filter(|_| with_kind) {
            self.kind(first.kind);
        }
    }

    /// `ChecksumAlgorithm`s, then `ChecksumType`.
    pub(super) fn algorithms(&mut self, checksums: &[Checksum]) {
        for checksum in checksums {
            self.text("ChecksumAlgorithm", checksum.algorithm.name());
        }
        if let Some(first) = checksums.first() {
            self.kind(first.kind);
        }
    }

    fn kind(&mut self, kind: ChecksumKind) {
        self.text("ChecksumType", crate::checksum::kind_name(kind));
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let root = self.root;
        self.close(root);
        self.out.into_bytes()
    }

    /// Room for what is known to come.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.out.reserve(bytes);
    }

    /// Copies what needs no escape in one piece: nearly all text is such.
    fn escaped(&mut self, text: &str) {
        let mut copied = 0;
        for (at, byte) in text.bytes().enumerate() {
            let entity = match byte {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                b'\t' | b'\n' | b' '.. => continue,
                // A bare CR would be read back as LF.
                _ => "",
            };
            self.out.push_str(&text[copied..at]);
            copied = at + 1;
            match entity {
                "" => {
                    let _ = write!(self.out, "&#x{byte:X};");
                }
                entity => self.out.push_str(entity),
            }
        }
        self.out.push_str(&text[copied..]);
    }
}

/// A key or prefix as the listing shows it.
pub(super) fn shown(text: &str, encode_url: bool) -> Cow<'_, str> {
    if encode_url {
        Cow::Owned(crate::uri::encode(text))
    } else {
        Cow::Borrowed(text)
    }
}
