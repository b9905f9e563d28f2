//! A borrowed request as it came off the wire. Nothing here is judged yet.

use std::borrow::Cow;

use crate::error::S3Error;
use crate::uri::Query;

/// A request head, borrowed from the receive buffer.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// Method, as sent.
    pub method: &'a str,
    /// Raw target: path and query, as sent.
    pub target: &'a str,
    /// Headers in order of arrival.
    pub headers: &'a [httparse::Header<'a>],
}

impl<'a> RequestView<'a> {
    /// The first value of a header, any case, trimmed.
    #[must_use]
    pub fn header_bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The first value of a header as text.
    ///
    /// # Errors
    /// `InvalidArgument` when the value is not UTF-8.
    pub fn header(&self, name: &str) -> Result<Option<&'a str>, S3Error> {
        let Some(bytes) = self.header_bytes(name) else {
            return Ok(None);
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(S3Error::argument(
                name,
                &String::from_utf8_lossy(bytes),
                "Header values must be UTF-8.",
            )),
        }
    }

    /// All values of a header, any case, trimmed, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |h| h.name.eq_ignore_ascii_case(name))
            .map(|h| h.value.trim_ascii())
    }
}

/// Headers and query of one request. An `x-amz-*` value may also stand in the
/// query: SDKs hoist headers there when they presign.
pub(crate) struct Fields<'a> {
    pub(crate) view: RequestView<'a>,
    pub(crate) query: Query,
}

impl<'a> Fields<'a> {
    /// A query parameter by its exact name.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// Whether a query parameter is there, with or without value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.parameter(name).is_some()
    }

    /// A header; several of one name are joined by a comma (RFC 9110 5.3).
    pub(crate) fn header(&self, name: &str) -> Result<Option<Cow<'_, str>>, S3Error> {
        let mut all = self.view.all(name);
        if all.next().is_none() {
            return Ok(self.hoisted(name).map(Cow::Borrowed));
        }
        let first = self.view.header(name)?.unwrap_or_default();
        if all.next().is_none() {
            return Ok(Some(Cow::Borrowed(first)));
        }
        let mut joined = first.to_owned();
        for value in self.view.all(name).skip(1) {
            let text = std::str::from_utf8(value)
                .map_err(|_| S3Error::argument(name, "", "Header values must be UTF-8."))?;
            joined.push(',');
            joined.push_str(text);
        }
        Ok(Some(Cow::Owned(joined)))
    }

    /// [`Fields::header`] where an empty value counts as none.
    pub(crate) fn filled(&self, name: &str) -> Result<Option<Cow<'_, str>>, S3Error> {
        Ok(self.header(name)?.filter(|v| !v.is_empty()))
    }

    fn hoisted(&self, name: &str) -> Option<&str> {
        if !name.starts_with("x-amz-") {
            return None;
        }
        self.query
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    /// Names of all `x-amz-*` headers and query parameters, in any case.
    pub(crate) fn amz_names(&self) -> impl Iterator<Item = &str> {
        let headers = self.view.headers.iter().map(|h| h.name);
        let query = self.query.iter().map(|(n, _)| n.as_str());
        headers
            .chain(query)
            .filter(|n| n.get(..6).is_some_and(|p| p.eq_ignore_ascii_case("x-amz-")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(name: &'a str, value: &'a [u8]) -> httparse::Header<'a> {
        httparse::Header { name, value }
    }

    #[test]
    fn headers_are_found_in_any_case_and_joined() {
        let headers = [
            header("X-Amz-Meta-A", b" one "),
            header("x-amz-meta-a", b"two"),
            header("Host", b"h"),
        ];
        let view = RequestView {
            method: "GET",
            target: "/",
            headers: &headers,
        };
        let query = vec![("X-Amz-Acl".to_owned(), "private".to_owned())];
        let fields = Fields { view, query };
        assert_eq!(view.header("HOST").unwrap(), Some("h"));
        assert_eq!(fields.header("x-amz-meta-a").unwrap().unwrap(), "one,two");
        assert_eq!(fields.header("x-amz-acl").unwrap().unwrap(), "private");
        assert_eq!(fields.header("range").unwrap(), None);
    }

    #[test]
    fn values_that_are_not_utf8_are_refused() {
        let headers = [header("expires", b"\xff")];
        let view = RequestView {
            method: "GET",
            target: "/",
            headers: &headers,
        };
        assert!(view.header("expires").is_err());
        assert_eq!(view.header_bytes("Expires"), Some(&b"\xff"[..]));
    }
}
