//! The whole dialect at once, on requests as a real client sends them.

pub(crate) mod example;
mod sent;

use self::example::{Example, NOW_MS};
use crate::auth::{AuthPolicy, Identity, SigningKeyCache, authenticate};
use crate::body::{PayloadDecoder, PayloadPlan};
use crate::request::{Dialect, Operation, Request};
use crate::view::RequestView;

const KEY: &str = "a b+c%/\u{e9}~'()*!$&=@;:,//./..";

/// Authenticates, parses and decodes; gives the payload.
fn serve(sent: &sent::Sent) -> (Identity, Request, Vec<u8>) {
    let (method, target, pairs, body) = *sent;
    let headers = example::headers(pairs);
    let view = RequestView {
        method,
        target,
        headers: &headers,
    };
    let mut cache = SigningKeyCache::new();
    let identity = authenticate(&view, AuthPolicy::default(), &Example, NOW_MS, &mut cache)
        .unwrap_or_else(|e| panic!("{method} {target}: {e} {:?}", e.fields));
    let dialect = Dialect::default();
    let request = Request::parse(&view, &dialect).unwrap();
    let plan = PayloadPlan::new(&request, &identity, &dialect).unwrap();
    let mut decoder = PayloadDecoder::new(plan);
    let mut payload = vec![0; body.len()];
    let progress = decoder.decode(body.as_bytes(), &mut payload).unwrap();
    assert_eq!(progress.consumed, body.len());
    payload.truncate(progress.produced);
    let mut md5 = quickwater_hash::Md5::new();
    md5.update(&payload);
    decoder.finish(md5).unwrap();
    (identity, request, payload)
}

#[test]
fn a_real_client_is_understood() {
    let served: Vec<_> = sent::SENT.iter().map(serve).collect();
    let names: Vec<_> = served.iter().map(|(_, r, _)| r.operation.name()).collect();
    let expect = [
        "GetObject",
        "PutObject",
        "PutObject",
        "UploadPart",
        "ListObjectsV2",
        "DeleteObjects",
        "CopyObject",
        "CreateMultipartUpload",
        "CompleteMultipartUpload",
        "CreateBucket",
        "GetObject",
        "PutObject",
    ];
    assert_eq!(names, expect);
    for (_, request, payload) in &served {
        assert_eq!(request.bucket().unwrap().as_str(), "bkt");
        match &request.operation {
            Operation::PutObject(put) => {
                assert_eq!(request.key().unwrap().as_str(), KEY);
                assert!(
                    put.headers
                        .content_encoding
                        .as_deref()
                        .is_none_or(|e| e == "gzip")
                );
            }
            Operation::ListObjectsV2(list) => {
                assert_eq!(
                    (list.prefix.as_str(), list.after.as_str()),
                    ("a+b/ c~", KEY)
                );
            }
            Operation::CopyObject(copy) => assert_eq!(copy.source.key.as_str(), KEY),
            Operation::DeleteObjects => {
                let delete = crate::xml::parse_delete(payload).unwrap();
                assert_eq!(delete.entries[0].key.as_str(), "a&b");
                assert!(delete.quiet);
            }
            Operation::CompleteMultipartUpload(_) => {
                assert_eq!(crate::xml::parse_complete(payload).unwrap()[0].number, 1);
            }
            Operation::CreateBucket => {
                let location = crate::xml::parse_create_bucket(payload).unwrap();
                assert_eq!(location.as_deref(), Some("eu-west-3"));
            }
            _ => {}
        }
    }
    for (_, _, payload) in &served[1..4] {
        assert_eq!(payload, b"hello");
    }
    assert!(served[10].0.presigned && served[11].0.presigned);
}
