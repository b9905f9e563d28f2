//! One HTTP call: what is sent and what must come back.

/// The methods that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Put,
    Post,
    Delete,
}

impl Method {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// Bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where the object's content begins in the pattern.
    pub(crate) content: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The body that is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Upload {
    Nothing,
    Piece(Piece),
    Text(String),
}

impl Upload {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Piece(piece) => piece.length,
            Self::Text(text) => text.len() as u64,
        }
    }
}

/// What a good answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// 200 or 206 with these bytes.
    Piece(Piece),
    /// A head that announces this many bytes.
    Head(u64),
    /// As [`Expect::Head`], or 404; whether the object is ours is looked at.
    Probe(u64),
    /// Any 2xx; the body, if there is one, is kept.
    Success,
    /// As [`Expect::Success`], or 404.
    Gone,
    /// A page of at least and at most this many keys.
    Page(u64, u64),
}

/// What is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Index of the object in its key space; none for the bucket.
    pub(crate) object: Option<u64>,
    /// Percent-encoded, sorted by name, without `?`.
    pub(crate) query: String,
    /// First byte and length.
    pub(crate) range: Option<(u64, u64)>,
    pub(crate) upload: Upload,
    /// Mark the object as one of ours, see [`TAG`].
    pub(crate) tag: bool,
    pub(crate) expect: Expect,
}

/// Header that marks objects this tool wrote, so that prepared ones are known
/// again. Its value is the version of names and contents.
pub(crate) const TAG: (&str, &str) = ("x-amz-meta-quickwater-bench", "1");

impl Call {
    pub(crate) const fn new(method: Method, object: Option<u64>, expect: Expect) -> Self {
        Self {
            method,
            object,
            query: String::new(),
            range: None,
            upload: Upload::Nothing,
            tag: false,
            expect,
        }
    }
}
