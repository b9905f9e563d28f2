//! Whatever comes: no panic, no write by mistake, tokens round trip.

use super::*;

proptest! {
    #[test]
    fn arbitrary_heads_never_panic(
        method in "GET|PUT|HEAD|POST|DELETE|[A-Z]{1,4}",
        target in "/[a-c/%?&=+\\-A-Za-z0-9]{0,60}",
        name in "x-amz-[a-z-]{1,20}|range|if-match|content-md5|host|x-amz-copy-source|x-amz-tagging",
        value in any::<Vec<u8>>(),
    ) {
        let headers = [httparse::Header { name: &name, value: &value }];
        let view = RequestView { method: &method, target: &target, headers: &headers };
        let dialect = Dialect { domain: Some("h".into()), ..Dialect::default() };
        let _ = Request::parse(&view, &dialect);
    }

    #[test]
    fn arbitrary_sub_resources_never_reach_a_plain_write(name in "[a-wyz][A-Za-z-]{0,14}") {
        for (method, plain) in [("PUT", "PutObject"), ("DELETE", "DeleteObject")] {
            if let Ok(request) = parse(method, &format!("/bkt/k?{name}"), &[]) {
                prop_assert_ne!(request.operation.name(), plain);
            }
        }
    }

    #[test]
    fn tokens_round_trip(key in any::<String>()) {
        prop_assert_eq!(parse_continuation_token(&continuation_token(&key)).unwrap(), key);
    }

    #[test]
    fn arbitrary_tokens_never_panic(token in any::<String>()) {
        let _ = parse_continuation_token(&token);
    }
}
