//! The request head as the service sees it.

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
