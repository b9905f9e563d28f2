//! What the head parser takes and refuses.

use proptest::prelude::*;

use super::*;

fn scan(text: &[u8]) -> Result<Option<usize>, Refusal> {
    HeadScan::default().scan(&mut text.to_vec())
}

fn refusal(text: &str) -> u16 {
    match outcome(text.as_bytes()) {
        Err(refusal) => refusal.status,
        Ok(summary) => panic!("accepted: {summary}"),
    }
}

fn outcome(bytes: &[u8]) -> Result<String, Refusal> {
    let mut buffer = bytes.to_vec();
    let end = HeadScan::default().scan(&mut buffer)?;
    let end = end.ok_or(Refusal::bad("incomplete"))?;
    let mut slots = header_slots();
    let head = parse(&buffer[..end], &mut slots)?;
    Ok(format!(
        "{} {} {:?} keep={} expect={} n={}",
        head.method,
        head.target,
        head.body,
        head.keep_alive,
        head.expect_continue,
        head.headers.len()
    ))
}

fn get(fields: &str) -> String {
    format!("GET /b/k HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

#[test]
fn plain_requests_pass() {
    for (text, expected) in [
        (get(""), "GET /b/k Length(0) keep=true expect=false n=1"),
        (
            get("Content-Length: 12\r\nExpect: 100-Continue\r\n"),
            "GET /b/k Length(12) keep=true expect=true n=3",
        ),
        (
            get("Transfer-Encoding: Chunked\r\nConnection: foo, Close\r\n"),
            "GET /b/k Chunked keep=false expect=false n=3",
        ),
        (
            "GET / HTTP/1.0\r\n\r\n".to_owned(),
            "GET / Length(0) keep=false expect=false n=0",
        ),
        (
            "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n".to_owned(),
            "GET / Length(0) keep=true expect=false n=1",
        ),
        (
            "\r\n\r\nGET /a?b=c HTTP/1.1\r\nHost: [::1]:80\r\n\r\n".to_owned(),
            "GET /a?b=c Length(0) keep=true expect=false n=1",
        ),
        (
            "GET HTTP://H:1/p?q HTTP/1.1\r\nHost: h:1\r\n\r\n".to_owned(),
            "GET /p?q Length(0) keep=true expect=false n=1",
        ),
        (
            "GET http://h HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
            "GET / Length(0) keep=true expect=false n=1",
        ),
    ] {
        assert_eq!(
            outcome(text.as_bytes()).as_deref(),
            Ok(expected),
            "{text:?}"
        );
    }
}

#[test]
fn ambiguous_framing_is_refused() {
    for fields in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: -3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: 3 3\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length : 3\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n",
        " X: a\r\n",
        "X: a\rb\r\n",
        "X: a\0b\r\n",
        "X\x7f: a\r\n",
        "X: a\nY: b\r\n",
        ": a\r\n",
        "no colon\r\n",
        "Host: other\r\n",
        "Host: h\r\n",
    ] {
        assert_eq!(refusal(&get(fields)), 400, "{fields:?}");
    }
    for fields in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding:\r\n",
    ] {
        assert_eq!(refusal(&get(fields)), 501, "{fields:?}");
    }
    assert_eq!(refusal(&get("Expect: 200-ok\r\n")), 417);
}

#[test]
fn bad_request_lines_are_refused() {
    for (text, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("GET /\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 400),
        ("GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET http://x/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET http://h?x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET http://h/ HTTP/1.0\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400),
        ("G\u{e9}T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: h\n\n", 400),
        ("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ] {
        assert_eq!(refusal(text), status, "{text:?}");
    }
}

#[test]
fn limits_hold() {
    let many: String = (0..HEADERS_MAX).map(|n| format!("x{n}: y\r\n")).collect();
    assert_eq!(refusal(&get(&many)), 431);
    let fits: String = (1..HEADERS_MAX).map(|n| format!("x{n}: y\r\n")).collect();
    assert!(outcome(get(&fits).as_bytes()).is_ok());
    let long = get(&format!("x: {}\r\n", "y".repeat(HEAD_BYTES_MAX)));
    assert_eq!(refusal(&long), 431);
    assert_eq!(
        scan(&long.as_bytes()[..HEAD_BYTES_MAX]),
        Err(Refusal::TOO_LARGE)
    );
    assert_eq!(scan(&long.as_bytes()[..HEAD_BYTES_MAX - 1]), Ok(None));
    assert_eq!(refusal(&"\r\n".repeat(BLANK_LINES_MAX + 1)), 400);
}

fn outcome_in_pieces(bytes: &[u8], cuts: &[usize]) -> Result<String, Refusal> {
    let mut scan = HeadScan::default();
    let mut buffer = Vec::new();
    let mut from = 0;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        let to = cut.clamp(from, bytes.len());
        buffer.extend_from_slice(&bytes[from..to]);
        from = to;
        if let Some(end) = scan.scan(&mut buffer)? {
            let whole = [&buffer[..end], &bytes[from..]].concat();
            return outcome(&whole);
        }
    }
    Err(Refusal::bad("incomplete"))
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = outcome(&bytes);
        let mut slots = header_slots();
        let _ = parse(&bytes, &mut slots);
    }

    #[test]
    fn splits_do_not_matter(
        text in "(\r\n){0,5}(GET|PUT) (/|http://h/)[a-z]{0,4} HTTP/1\\.[01]\r\n(host: h\r\n)?((content-length|transfer-encoding|x)[ :]{1,2}(chunked|1|22|\r|\n)\r?\n){0,4}\r\n[a-z]{0,9}",
        mut cuts in prop::collection::vec(0usize..200, 0..8),
    ) {
        cuts.sort_unstable();
        let whole = outcome(text.as_bytes());
        let pieces = outcome_in_pieces(text.as_bytes(), &cuts);
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn newline_is_found(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..64)) {
        prop_assert_eq!(find_newline(&bytes), bytes.iter().position(|&b| b == b'\n'));
    }
}
