//! Requests exactly as botocore 1.44 signs and sends them, key and clock those of
//! the S3 documentation.

pub(super) type Sent = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
);

pub(super) const SENT: &[Sent] = &[
    (
        "GET",
        "/bkt/a%20b%2Bc%25/%C3%A9~%27%28%29%2A%21%24%26%3D%40%3B%3A%2C//./..",
        &[
            ("Host", "127.0.0.1:29998"),
            ("Range", "bytes=0-9"),
            ("x-amz-checksum-mode", "ENABLED"),
            ("X-Amz-Date", "20130524T000000Z"),
            (
                "X-Amz-Content-SHA256",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/eu-west-3/s3/aws4_request, SignedHeaders=host;range;x-amz-checksum-mode;x-amz-content-sha256;x-amz-date, Signature=d981dd7a3e8ea97fe2751ebb44184eba9f8f5b562e23391c26089c14da52a719",
            ),
        ],
        "",
    ),
    (
        "PUT",
        "/bkt/a%20b%2Bc%25/%C3%A9~%27%28%29%2A%21%24%26%3D%40%3B%3A%2C//./..",
        &[
            ("Host", "127.0.0.1:29998"),
            ("x-amz-meta-Two", "a  b   c"),
            ("Content-Type", "text/plain"),
            ("Expect", "100-continue"),
            ("x-amz-checksum-crc32", "NhCmhg=="),
            ("x-amz-sdk-checksum-algorithm", "CRC32"),
            ("X-Amz-Date", "20130524T000000Z"),
            (
                "X-Amz-Content-SHA256",
                "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            ),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/eu-west-3/s3/aws4_request, SignedHeaders=content-type;host;x-amz-checksum-crc32;x-amz-content-sha256;x-amz-date;x-amz-meta-two;x-amz-sdk-checksum-algorithm, Signature=43147f1639438584a84529540e13498340c0e97bda3efc04e8ef07a852cda50e",
            ),
            ("Content-Length", "5"),
        ],
        "hello",
    ),
    (
        "PUT",
        "/bkt/a%20b%2Bc%25/%C3%A9~%27%28%29%2A%21%24%26%3D%40%3B%3A%2C//./..",
        &[
            ("Host", "127.0.0.1:29998"),
            ("x-amz-tagging", "a=b%20c"),
            ("Content-Encoding", "gzip,aws-chunked"),
            ("Expect", "100-continue"),
            ("Transfer-Encoding", "chunked"),
            ("X-Amz-Trailer", "x-amz-checksum-crc32"),
            ("X-Amz-Decoded-Content-Length", "5"),
            ("x-amz-sdk-checksum-algorithm", "CRC32"),
            ("X-Amz-Date", "20130524T000000Z"),
            ("X-Amz-Content-SHA256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/eu-west-3/s3/aws4_request, SignedHeaders=content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-sdk-checksum-algorithm;x-amz-tagging;x-amz-trailer, Signature=d7b26b53a0d54d2990ad5d9713733939f969d9c5ac6a9ec8010209f3aa2f4053",
            ),
        ],
        "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n",
    ),
    (
        "PUT",
        "/bkt/k?partNumber=3&uploadId=00000000000000000000000000000000",
        &[
            ("Host", "127.0.0.1:29998"),
            ("Expect", "100-continue"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Encoding", "aws-chunked"),
            ("X-Amz-Trailer", "x-amz-checksum-crc32"),
            ("X-Amz-Decoded-Content-Length", "5"),
            ("x-amz-sdk-checksum-algorithm", "CRC32"),
            ("X-Amz-Date", "20130524T000000Z"),
            ("X-Amz-Content-SHA256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/eu-west-3/s3/aws4_request, SignedHeaders=content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-sdk-checksum-algorithm;x-amz-trailer, Signature=5de69bf081b254679d52a3670081cd33e41e8cd98696e3399414cbb5232ac488",
            ),
        ],
        "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n",
    ),
    (
        "GET",
        "/bkt?list-type=2&prefix=a%2Bb%2F%20c~&delimiter=%2F&start-after=a%20b%2Bc%25%2F%C3%A9~%27%28%29%2A%21%24%26%3D%40%3B%3A%2C%2F%2F.%2F..&encoding-type=url",
        &[
            ("Host", "127.0.0.1:29998"),
            ("X-Amz-Date", "20130524T000000Z"),
            (
                "X-Amz-Content-SHA256",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/eu-west-3/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=732e3857661449202750a3489606036c5409b4f0aeb2d206e358cea7b3af6b84",
            ),
        ],
        "",
    ),
    (
        "POST",
        "/bkt?delete",
        &[
            ("Host", "127.0.0.1:29998"),
            ("x-amz-checksum-crc32", "iymzEQ=="),
            ("x-amz-sdk-checksum-algorithm", "CRC32"),
            ("X-Amz-Date", "20130524T000000Z"),
            (
                "X-Amz-Content-SHA256",
                "dfc6f3c8eb7bf658c7caa686fbffc63c9ca6fba2d8858c010ea826a5eb6f1cf6",
            ),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/eu-west-3/s3/aws4_request, SignedHeaders=host;x-amz-checksum-crc32;x-amz-content-sha256;x-amz-date;x-amz-sdk-checksum-algorithm, Signature=f6df0e86e6b780fc01bb3656f1c77f849dd2632410eefdced3cb58dd79d0e65f",
            ),
            ("Content-Length", "148"),
        ],
        "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Object><Key>a&amp;b</Key></Object><Object><Key>c</Key></Object><Quiet>true</Quiet></Delete>",
    ),
    (
        "PUT",
        "/bkt/k2",
        &[
            ("Host", "127.0.0.1:29998"),
            (
                "x-amz-copy-source",
                "bkt/a%20b%2Bc%25/%C3%A9~%27%28%29%2A%21%24%26%3D%40%3B%3A%2C//./..",
            ),
            ("X-Amz-Date", "20130524T000000Z"),
            (
                "X-Amz-Content-SHA256",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/eu-west-3/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-copy-source;x-amz-date, Signature=12d4cb1d89788bea3ae0d4bcd57e20de8d10a041d0086ad0404ca671c12e8d3b",
            ),
            ("Content-Length", "0"),
        ],
        "",
    ),
    (
        "POST",
        "/bkt/k?uploads",
        &[
            ("Host", "127.0.0.1:29998"),
            ("x-amz-checksum-algorithm", "CRC64NVME"),
            ("X-Amz-Date", "20130524T000000Z"),
            (
                "X-Amz-Content-SHA256",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/eu-west-3/s3/aws4_request, SignedHeaders=host;x-amz-checksum-algorithm;x-amz-content-sha256;x-amz-date, Signature=52e7cab81f5f0d955529d8edd32b295af90777020b88babe2921543827781d44",
            ),
            ("Content-Length", "0"),
        ],
        "",
    ),
    (
        "POST",
        "/bkt/k?uploadId=00000000000000000000000000000000",
        &[
            ("Host", "127.0.0.1:29998"),
            ("X-Amz-Date", "20130524T000000Z"),
            (
                "X-Amz-Content-SHA256",
                "853e5c6449b2666d2a553b8d043184508b6bac6bb16238b1176cf046dad4f888",
            ),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/eu-west-3/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=6df1c64b9a67e20fd2e72524cf9409467c64df2d5cf6dbd8ba85c399f835df37",
            ),
            ("Content-Length", "154"),
        ],
        "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Part><PartNumber>1</PartNumber><ETag>\"e\"</ETag></Part></CompleteMultipartUpload>",
    ),
    (
        "PUT",
        "/bkt",
        &[
            ("Host", "127.0.0.1:29998"),
            ("X-Amz-Date", "20130524T000000Z"),
            (
                "X-Amz-Content-SHA256",
                "a0fa36eb3d33c2b2ff7f36bf054cae8281ee0b23b4309a590595a1817f636196",
            ),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/eu-west-3/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=8b0357884f22bd32b6ead4a16309cac2e506ec924217dcc085947cb80944ce8e",
            ),
            ("Content-Length", "153"),
        ],
        "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>eu-west-3</LocationConstraint></CreateBucketConfiguration>",
    ),
    (
        "GET",
        "/bkt/a%20b%2Bc%25/%C3%A9~%27%28%29%2A%21%24%26%3D%40%3B%3A%2C//./..?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Feu-west-3%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=600&X-Amz-SignedHeaders=host&X-Amz-Signature=1caf0037a43a3f039d2ef888ae2d183f75cb848a4842c037cbe18fdf069d2e15",
        &[("Host", "127.0.0.1:29998")],
        "",
    ),
    (
        "PUT",
        "/bkt/a%20b%2Bc%25/%C3%A9~%27%28%29%2A%21%24%26%3D%40%3B%3A%2C//./..?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Feu-west-3%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=600&X-Amz-SignedHeaders=content-type%3Bhost&X-Amz-Signature=97b3e13f388b794022ae8abdac1406f9b238f51367cf3f89ccfda1f2bad29297",
        &[
            ("Host", "127.0.0.1:29998"),
            ("Content-Type", "text/plain"),
            ("Content-Length", "0"),
        ],
        "",
    ),
];
