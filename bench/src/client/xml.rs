//! The little that is read of S3's XML answers. Absent: a parser; what is looked
//! for are elements without attributes whose text S3 escapes.

use std::fmt::Write as _;

/// The unescaped text of the first element of this name.
pub(crate) fn element(text: &str, name: &str) -> Option<String> {
    let open = format!("<{name}>");
    let (_, rest) = text.split_once(&open)?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    Some(unescape(value))
}

/// The unescaped texts of all elements of this name, in order.
pub(crate) fn elements<'t>(text: &'t str, name: &str) -> impl Iterator<Item = String> + 't {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = text;
    std::iter::from_fn(move || {
        let (value, after) = rest.split_once(&open)?.1.split_once(&close)?;
        rest = after;
        Some(unescape(value))
    })
}

/// How often an element of this name begins.
pub(crate) fn count(body: &[u8], name: &str) -> u64 {
    let open = format!("<{name}>");
    memchr::memmem::find_iter(body, open.as_bytes()).count() as u64
}

/// The document that completes an upload in parts.
pub(crate) fn complete(etags: &[String]) -> String {
    let mut out = "<CompleteMultipartUpload>".to_owned();
    for (index, etag) in etags.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>",
            index + 1,
            escape(etag)
        );
    }
    out.push_str("</CompleteMultipartUpload>");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements() {
        let text = "<E><Code>SlowDown</Code><Message>a &amp;lt; b</Message></E>";
        assert_eq!(element(text, "Code").as_deref(), Some("SlowDown"));
        assert_eq!(element(text, "Message").as_deref(), Some("a &lt; b"));
        assert_eq!(element(text, "UploadId"), None);
        assert_eq!(count(b"<Key>a</Key><Key>b</Key><Keys>", "Key"), 2);
    }

    #[test]
    fn completion_keeps_order_and_escapes() {
        let text = complete(&["\"a\"".into(), "b".into()]);
        assert_eq!(
            text,
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>&quot;a&quot;</ETag></Part><Part><PartNumber>2</PartNumber><ETag>b</ETag></Part></CompleteMultipartUpload>"
        );
    }
}
