//! Golden answers, and what must never get into them.

use super::*;
use crate::error::{S3Error, S3ErrorCode};
use crate::request::{
    Attributes, GetAttributes, ListBuckets, ListObjects, ListObjectsV2, ListParts, ListUploads,
    Owner, ResponseOverrides,
};
use proptest::prelude::*;
use quickwater_proto::{
    BlobId, BucketName, Checksum, ChecksumAlgorithm, ChecksumKind, ETag, ObjectHeaders, ObjectKey,
    PartRecord, UploadId, UploadRecord,
};

const TIME_MS: i64 = 1_369_353_600_789;
const NS: &str = " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
const OWNER: &str = "<ID>quickwater</ID><DisplayName>quickwater</DisplayName>";

fn bucket() -> BucketName {
    BucketName::new("bkt").unwrap()
}

fn key() -> ObjectKey {
    ObjectKey::new("a&b").unwrap()
}

fn crc() -> Vec<Checksum> {
    vec![Checksum {
        algorithm: ChecksumAlgorithm::Crc32,
        kind: ChecksumKind::FullObject,
        value: vec![0; 4],
    }]
}

fn part(number: u16, checksums: Vec<Checksum>) -> PartRecord {
    PartRecord {
        number,
        size: 5,
        etag: ETag::new("p"),
        modified_ms: TIME_MS,
        checksums,
        blob: BlobId(1),
        held: false,
    }
}

fn upload() -> UploadRecord {
    UploadRecord {
        id: UploadId(1),
        key: key(),
        initiated_ms: TIME_MS,
        headers: ObjectHeaders::default(),
        tags: vec![],
        checksum: Some((ChecksumAlgorithm::Crc32, false)),
        ufs_upload: String::new(),
    }
}

/// Compares a document with its root's inside.
#[track_caller]
fn same(body: Vec<u8>, root: &str, inside: &str) {
    let expect =
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root}{NS}>{inside}</{root}>");
    assert_eq!(String::from_utf8(body).unwrap(), expect);
}

fn v1() -> ListObjects {
    ListObjects {
        prefix: "p&".into(),
        delimiter: Some("/".into()),
        marker: String::new(),
        max_keys: 2,
        encode_url: false,
    }
}

#[test]
fn listing_version_1() {
    let etag = ETag::new("e");
    let objects = [ListedObject {
        key: "p&\r\u{1}",
        etag: &etag,
        size: 3,
        modified_ms: TIME_MS,
        checksums: &crc(),
    }];
    let page = ListPage {
        objects: &objects,
        prefixes: &["p&x/".to_owned()],
        next: Some("p&x/"),
    };
    same(
        list_objects(&bucket(), &v1(), &page, &Owner::default()),
        "ListBucketResult",
        &format!(
            "<Name>bkt</Name><Prefix>p&amp;</Prefix><Marker></Marker><NextMarker>p&amp;x/</NextMarker><MaxKeys>2</MaxKeys><Delimiter>/</Delimiter><IsTruncated>true</IsTruncated><Contents><Key>p&amp;&#xD;&#x1;</Key><LastModified>2013-05-24T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag><ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Size>3</Size><Owner>{OWNER}</Owner><StorageClass>STANDARD</StorageClass></Contents><CommonPrefixes><Prefix>p&amp;x/</Prefix></CommonPrefixes>"
        ),
    );
}

#[test]
fn listing_version_2() {
    let etag = ETag::new("e");
    let objects = [ListedObject {
        key: "a b+c/\u{e9}",
        etag: &etag,
        size: 0,
        modified_ms: TIME_MS,
        checksums: &[],
    }];
    let input = ListObjectsV2 {
        prefix: String::new(),
        delimiter: None,
        start_after: Some("a b".into()),
        continuation_token: None,
        after: "a b".into(),
        max_keys: 1,
        encode_url: true,
        fetch_owner: false,
    };
    let page = ListPage {
        objects: &objects,
        prefixes: &[],
        next: None,
    };
    same(
        list_objects_v2(&bucket(), &input, &page, &Owner::default()),
        "ListBucketResult",
        "<Name>bkt</Name><Prefix></Prefix><StartAfter>a%20b</StartAfter><KeyCount>1</KeyCount><MaxKeys>1</MaxKeys><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated><Contents><Key>a%20b%2Bc/%C3%A9</Key><LastModified>2013-05-24T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>0</Size><StorageClass>STANDARD</StorageClass></Contents>",
    );
    let more = ListPage {
        next: Some("a"),
        ..page
    };
    let body = list_objects_v2(&bucket(), &input, &more, &Owner::default());
    let token = crate::request::continuation_token("a");
    let expect = format!("<NextContinuationToken>{token}</NextContinuationToken>");
    assert!(String::from_utf8(body).unwrap().contains(&expect));
}

#[test]
fn buckets() {
    let input = ListBuckets {
        prefix: String::new(),
        after: String::new(),
        max_buckets: None,
    };
    let name = bucket();
    let entry = BucketEntry {
        name: &name,
        created_ms: TIME_MS,
    };
    same(
        list_buckets(&input, &[entry], false, &Owner::default()),
        "ListAllMyBucketsResult",
        &format!(
            "<Owner>{OWNER}</Owner><Buckets><Bucket><Name>bkt</Name><CreationDate>2013-05-24T00:00:00.000Z</CreationDate></Bucket></Buckets>"
        ),
    );
    same(location("us-east-1"), "LocationConstraint", "");
    same(location("eu-west-1"), "LocationConstraint", "eu-west-1");
    same(versioning(), "VersioningConfiguration", "");
    same(
        tagging(&[("k".into(), "<v>".into())]),
        "Tagging",
        "<TagSet><Tag><Key>k</Key><Value>&lt;v&gt;</Value></Tag></TagSet>",
    );
    same(
        owner_acl(&Owner::default()),
        "AccessControlPolicy",
        &format!(
            "<Owner>{OWNER}</Owner><AccessControlList><Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\">{OWNER}</Grantee><Permission>FULL_CONTROL</Permission></Grant></AccessControlList>"
        ),
    );
}

#[test]
fn multipart_answers() {
    same(
        create_upload(&bucket(), &key(), UploadId(1)),
        "InitiateMultipartUploadResult",
        "<Bucket>bkt</Bucket><Key>a&amp;b</Key><UploadId>00000000000000000000000000000001</UploadId>",
    );
    same(
        complete_upload(
            "http://h/bkt/k",
            &bucket(),
            &key(),
            &ETag::new("e-2"),
            &crc(),
        ),
        "CompleteMultipartUploadResult",
        "<Location>http://h/bkt/k</Location><Bucket>bkt</Bucket><Key>a&amp;b</Key><ETag>&quot;e-2&quot;</ETag><ChecksumCRC32>AAAAAA==</ChecksumCRC32><ChecksumType>FULL_OBJECT</ChecksumType>",
    );
    let who = format!(
        "<Initiator>{OWNER}</Initiator><Owner>{OWNER}</Owner><StorageClass>STANDARD</StorageClass>"
    );
    let announced =
        "<ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumType>COMPOSITE</ChecksumType>";
    let input = ListParts {
        upload: UploadId(1),
        after: 0,
        max_parts: 1,
        encode_url: false,
    };
    let page = PartsPage {
        parts: &[part(3, crc())],
        more: true,
    };
    same(
        list_parts(&bucket(), &input, &upload(), &page, &Owner::default()),
        "ListPartsResult",
        &format!(
            "<Bucket>bkt</Bucket><Key>a&amp;b</Key><UploadId>00000000000000000000000000000001</UploadId>{who}<PartNumberMarker>0</PartNumberMarker><NextPartNumberMarker>3</NextPartNumberMarker><MaxParts>1</MaxParts><IsTruncated>true</IsTruncated>{announced}<Part><PartNumber>3</PartNumber><LastModified>2013-05-24T00:00:00.000Z</LastModified><ETag>&quot;p&quot;</ETag><Size>5</Size><ChecksumCRC32>AAAAAA==</ChecksumCRC32></Part>"
        ),
    );
    let input = ListUploads {
        prefix: String::new(),
        delimiter: None,
        key_marker: String::new(),
        upload_id_marker: None,
        max_uploads: 1,
        encode_url: false,
    };
    let page = UploadsPage {
        uploads: &[upload()],
        prefixes: &[],
        next: Some(("a&b", Some(UploadId(1)))),
    };
    same(
        list_uploads(&bucket(), &input, &page, &Owner::default()),
        "ListMultipartUploadsResult",
        &format!(
            "<Bucket>bkt</Bucket><KeyMarker></KeyMarker><UploadIdMarker></UploadIdMarker><NextKeyMarker>a&amp;b</NextKeyMarker><NextUploadIdMarker>00000000000000000000000000000001</NextUploadIdMarker><Prefix></Prefix><MaxUploads>1</MaxUploads><IsTruncated>true</IsTruncated><Upload><Key>a&amp;b</Key><UploadId>00000000000000000000000000000001</UploadId>{who}<Initiated>2013-05-24T00:00:00.000Z</Initiated>{announced}</Upload>"
        ),
    );
}

#[test]
fn copies_and_deletes() {
    let inside = "<LastModified>2013-05-24T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag>";
    same(
        copy_object(&ETag::new("e"), TIME_MS, &[]),
        "CopyObjectResult",
        inside,
    );
    same(
        copy_part(&ETag::new("e"), TIME_MS, &[]),
        "CopyPartResult",
        inside,
    );
    let outcomes = [
        (key(), Ok(())),
        (key(), Err(S3ErrorCode::AccessDenied.into())),
    ];
    let error = "<Error><Key>a&amp;b</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
    same(delete_objects(&outcomes, true), "DeleteResult", error);
    let all = format!("<Deleted><Key>a&amp;b</Key></Deleted>{error}");
    same(delete_objects(&outcomes, false), "DeleteResult", &all);
}

#[test]
fn attributes_as_asked() {
    let etag = ETag::new("e-2");
    let parts = [part(1, crc()), part(2, crc())];
    let view = AttributesView {
        etag: &etag,
        size: 10,
        checksums: &crc(),
        parts: &parts,
    };
    let all = Attributes {
        etag: true,
        checksum: true,
        parts: true,
        storage_class: true,
        size: true,
    };
    let input = GetAttributes {
        attributes: all,
        max_parts: 1,
        part_number_marker: 0,
    };
    same(
        attributes(&input, &view),
        "GetObjectAttributesResponse",
        "<ETag>e-2</ETag><Checksum><ChecksumCRC32>AAAAAA==</ChecksumCRC32><ChecksumType>FULL_OBJECT</ChecksumType></Checksum><ObjectParts><PartsCount>2</PartsCount><PartNumberMarker>0</PartNumberMarker><NextPartNumberMarker>1</NextPartNumberMarker><MaxParts>1</MaxParts><IsTruncated>true</IsTruncated><Part><PartNumber>1</PartNumber><Size>5</Size><ChecksumCRC32>AAAAAA==</ChecksumCRC32></Part></ObjectParts><StorageClass>STANDARD</StorageClass><ObjectSize>10</ObjectSize>",
    );
    let only = Attributes {
        size: true,
        ..Attributes::default()
    };
    let input = GetAttributes {
        attributes: only,
        ..input
    };
    same(
        attributes(&input, &view),
        "GetObjectAttributesResponse",
        "<ObjectSize>10</ObjectSize>",
    );
}

#[test]
fn errors() {
    let error = S3Error::from(S3ErrorCode::NoSuchKey)
        .with("Key", "a<b")
        .at("/bkt/a<b");
    let body = String::from_utf8(error_body(&error, "R", "H")).unwrap();
    assert_eq!(
        body,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message><Key>a&lt;b</Key><Resource>/bkt/a&lt;b</Resource><RequestId>R</RequestId><HostId>H</HostId></Error>"
    );
    let head = |error: S3Error| {
        let mut out = Vec::new();
        let status = error_head(&mut out, &error);
        (status, String::from_utf8(out).unwrap())
    };
    let range = crate::request::ByteRange::From(9).resolve(5).unwrap_err();
    assert_eq!(
        head(range),
        (
            416,
            "Content-Type: application/xml\r\nContent-Range: bytes */5\r\n".into()
        )
    );
    let (status, text) = head(S3ErrorCode::SlowDown.into());
    assert_eq!(status, 503);
    assert!(text.contains("Retry-After: 1\r\n"));
    let mut later = S3Error::from(S3ErrorCode::SlowDown);
    later.retry_after_seconds = Some(93);
    assert!(head(later).1.contains("Retry-After: 93\r\n"));
    for code in S3ErrorCode::ALL {
        assert_ne!(reason(code.status()), "Unknown", "{code:?}");
    }
}

fn object<'a>(headers: &'a ObjectHeaders, etag: &'a ETag) -> ObjectView<'a> {
    ObjectView {
        etag,
        size: 100,
        modified_ms: TIME_MS,
        headers,
        checksums: &[],
        tag_count: 0,
        parts_count: None,
        range: None,
        overrides: None,
    }
}

fn head_of(view: &ObjectView<'_>) -> (u16, String) {
    let mut out = Vec::new();
    let status = object_head(&mut out, view);
    (status, String::from_utf8(out).unwrap())
}

#[test]
fn heads_of_objects() {
    let (headers, etag) = (ObjectHeaders::default(), ETag::new("e"));
    let plain = "Last-Modified: Fri, 24 May 2013 00:00:00 GMT\r\nETag: \"e\"\r\nAccept-Ranges: bytes\r\nContent-Type: binary/octet-stream\r\n";
    assert_eq!(head_of(&object(&headers, &etag)), (200, plain.into()));
    let sums = crc();
    let view = ObjectView {
        checksums: &sums,
        tag_count: 2,
        parts_count: Some(3),
        range: Some(10..20),
        ..object(&headers, &etag)
    };
    let more = "x-amz-checksum-crc32: AAAAAA==\r\nx-amz-checksum-type: FULL_OBJECT\r\nx-amz-mp-parts-count: 3\r\nx-amz-tagging-count: 2\r\nContent-Range: bytes 10-19/100\r\n";
    assert_eq!(head_of(&view), (206, format!("{plain}{more}")));
    let mut out = Vec::new();
    assert_eq!(not_modified_head(&mut out, &view), 304);
    assert_eq!(out, plain.split("Accept").next().unwrap().as_bytes());
    let mut out = Vec::new();
    put_head(&mut out, &etag, &sums);
    assert_eq!(
        out,
        b"ETag: \"e\"\r\nx-amz-checksum-crc32: AAAAAA==\r\nx-amz-checksum-type: FULL_OBJECT\r\n"
    );
}

#[test]
fn overrides_win_over_stored_headers() {
    let headers = ObjectHeaders {
        content_type: Some("a/b".into()),
        expires: Some("then".into()),
        user: vec![("k".into(), "v\u{e9}".into())],
        ..ObjectHeaders::default()
    };
    let etag = ETag::new("e");
    let overrides = ResponseOverrides {
        content_type: Some("c/d".into()),
        cache_control: Some("none".into()),
        ..ResponseOverrides::default()
    };
    let view = ObjectView {
        overrides: Some(&overrides),
        ..object(&headers, &etag)
    };
    let (_, text) = head_of(&view);
    assert!(
        text.ends_with(
            "Content-Type: c/d\r\nCache-Control: none\r\nExpires: then\r\nx-amz-meta-k: v\u{e9}\r\n"
        ),
        "{text}"
    );
}

proptest! {
    #[test]
    fn no_record_can_add_a_header_line(name in any::<String>(), value in any::<String>(), tag in any::<String>()) {
        let headers = ObjectHeaders {
            content_type: Some(value.clone()),
            expires: Some(format!("{value}\r\nx-evil: 1\0")),
            user: vec![(name, value.clone())],
            ..ObjectHeaders::default()
        };
        let etag = ETag::new(&tag);
        let overrides = ResponseOverrides { content_language: Some(value), ..ResponseOverrides::default() };
        let view = ObjectView { overrides: Some(&overrides), ..object(&headers, &etag) };
        let (_, text) = head_of(&view);
        let lines: Vec<_> = text.split("\r\n").collect();
        prop_assert_eq!(lines.len(), 8, "{}", text);
        for line in lines {
            prop_assert!(!line.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f));
            prop_assert!(line.is_empty() || line.contains(": "));
            prop_assert!(!line.starts_with("x-evil"));
        }
    }

    #[test]
    fn listed_keys_are_read_back_exactly(key in "[^\u{0}-\u{8}\u{b}\u{c}\u{e}-\u{1f}\u{fffe}\u{ffff}]{1,40}") {
        let outcome = [(ObjectKey::new(&key).unwrap(), Ok(()))];
        let body = String::from_utf8(delete_objects(&outcome, false)).unwrap();
        let body = body.replace("DeleteResult", "Delete").replace("Deleted>", "Object>");
        let read = crate::xml::parse_delete(body.as_bytes()).unwrap();
        prop_assert_eq!(read.entries[0].key.as_str(), key);
    }
}
