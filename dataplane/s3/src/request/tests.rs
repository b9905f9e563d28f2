//! Request heads, right and wrong.

use super::*;
use crate::tests::example;
use proptest::prelude::*;
use quickwater_proto::{ChecksumAlgorithm, ETag, PutCondition, UploadId};

mod arbitrary;
mod payload;
mod reads;
mod routes;
mod writes;

type Pair<'a> = (&'a str, &'a str);

const UPLOAD: &str = "000102030405060708090a0b0c0d0e0f";

fn parse_with(
    dialect: &Dialect,
    method: &str,
    target: &str,
    headers: &[Pair<'_>],
) -> Result<Request, S3Error> {
    let headers = example::headers(headers);
    let view = RequestView {
        method,
        target,
        headers: &headers,
    };
    Request::parse(&view, dialect)
}

fn parse(method: &str, target: &str, headers: &[Pair<'_>]) -> Result<Request, S3Error> {
    parse_with(&Dialect::default(), method, target, headers)
}

fn operation(method: &str, target: &str, headers: &[Pair<'_>]) -> Operation {
    match parse(method, target, headers) {
        Ok(request) => request.operation,
        Err(e) => panic!("{method} {target} {headers:?}: {e}"),
    }
}

fn code(method: &str, target: &str, headers: &[Pair<'_>]) -> S3ErrorCode {
    match parse(method, target, headers) {
        Ok(request) => panic!("{method} {target} {headers:?}: {:?}", request.operation),
        Err(e) => e.code,
    }
}

fn key(target: &str) -> String {
    parse("GET", target, &[]).unwrap().key.unwrap().to_string()
}

fn read(target: &str, headers: &[Pair<'_>]) -> ReadObject {
    match operation("GET", target, headers) {
        Operation::GetObject(read) => read,
        other => panic!("{other:?}"),
    }
}

fn put(headers: &[Pair<'_>]) -> PutObject {
    match operation("PUT", "/bkt/k", headers) {
        Operation::PutObject(put) => *put,
        other => panic!("{other:?}"),
    }
}
