//! One write request: an object or a part, with all that goes with it.

use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::operation::upload_part::UploadPartOutput;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::ChecksumAlgorithm as SdkAlgorithm;
use quickwater_engine::io::BodyDigests;
use quickwater_proto::{ChecksumAlgorithm, ChecksumKind, ObjectHeaders, UfsError, UfsErrorKind};

use super::errors::failed;
use super::objects::{Answer, base64, metadata};
use super::uploads::is_md5_kept;
use super::{S3, with_expires};

/// What is written.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Object {
        key: String,
        headers: ObjectHeaders,
    },
    Part {
        key: String,
        upload: String,
        number: u16,
    },
}

/// What the store answered to either.
#[derive(Debug)]
pub(super) enum Written {
    Object(Box<PutObjectOutput>),
    Part(Box<UploadPartOutput>),
}

impl S3 {
    /// Sends one request, once. `digests`, when known before the body is sent,
    /// make the store check it.
    pub(super) async fn send(
        &self,
        target: Target,
        size: u64,
        body: SdkBody,
        digests: Option<&BodyDigests>,
    ) -> Result<Written, UfsError> {
        let length = i64::try_from(size)
            .map_err(|_| UfsError::new(UfsErrorKind::Unsupported, "too large for S3"))?;
        let body = ByteStream::new(body);
        let md5 = digests.map(|d| base64(&d.md5));
        let sums = Sums::of(digests);
        match target {
            Target::Object { key, headers } => {
                let request = self.client.put_object().bucket(&self.bucket).key(key);
                let request = request
                    .content_length(length)
                    .set_content_md5(md5)
                    .set_checksum_algorithm(sums.algorithm())
                    .set_checksum_crc32(sums.get(ChecksumAlgorithm::Crc32))
                    .set_checksum_crc32_c(sums.get(ChecksumAlgorithm::Crc32c))
                    .set_checksum_crc64_nvme(sums.get(ChecksumAlgorithm::Crc64Nvme))
                    .set_checksum_sha1(sums.get(ChecksumAlgorithm::Sha1))
                    .set_checksum_sha256(sums.get(ChecksumAlgorithm::Sha256))
                    .set_metadata(metadata(&headers))
                    .set_content_type(headers.content_type)
                    .set_content_encoding(headers.content_encoding)
                    .set_content_disposition(headers.content_disposition)
                    .set_content_language(headers.content_language)
                    .set_cache_control(headers.cache_control)
                    .body(body)
                    .customize();
                let request = with_expires!(request, headers.expires);
                let request = if self.tls {
                    request.disable_payload_signing()
                } else {
                    request
                };
                let output = request.send().await.map_err(|e| failed("put", true, &e))?;
                Ok(Written::Object(Box::new(output)))
            }
            Target::Part {
                key,
                upload,
                number,
            } => {
                let request = self.client.upload_part().bucket(&self.bucket).key(key);
                let request = request
                    .upload_id(upload)
                    .part_number(i32::from(number))
                    .content_length(length)
                    .set_content_md5(md5)
                    .body(body)
                    .customize();
                let request = if self.tls {
                    request.disable_payload_signing()
                } else {
                    request
                };
                let output = request
                    .send()
                    .await
                    .map_err(|e| failed("put part", true, &e))?;
                Ok(Written::Part(Box::new(output)))
            }
        }
    }
}

/// The checksum to send: S3 takes one.
struct Sums(Option<(ChecksumAlgorithm, String)>);

impl Sums {
    fn of(digests: Option<&BodyDigests>) -> Self {
        let whole = digests.and_then(|d| {
            d.checksums
                .iter()
                .find(|c| c.kind == ChecksumKind::FullObject)
        });
        Self(whole.map(|c| (c.algorithm, base64(&c.value))))
    }

    /// Names the algorithm; with a value given the SDK computes nothing.
    fn algorithm(&self) -> Option<SdkAlgorithm> {
        let (algorithm, _) = self.0.as_ref()?;
        Some(SdkAlgorithm::from(algorithm.name()))
    }

    fn get(&self, algorithm: ChecksumAlgorithm) -> Option<String> {
        let (known, value) = self.0.as_ref()?;
        (*known == algorithm).then(|| value.clone())
    }
}

impl Written {
    pub(super) fn answer(&self) -> Answer<'_> {
        macro_rules! answer {
            ($output:expr) => {
                Answer {
                    etag: $output.e_tag(),
                    opaque: $output.sse_customer_algorithm().is_some()
                        || !is_md5_kept($output.server_side_encryption()),
                    checksums: [
                        (ChecksumAlgorithm::Crc32, $output.checksum_crc32()),
                        (ChecksumAlgorithm::Crc32c, $output.checksum_crc32_c()),
                        (ChecksumAlgorithm::Crc64Nvme, $output.checksum_crc64_nvme()),
                        (ChecksumAlgorithm::Sha1, $output.checksum_sha1()),
                        (ChecksumAlgorithm::Sha256, $output.checksum_sha256()),
                    ],
                }
            };
        }
        match self {
            Self::Object(output) => answer!(output),
            Self::Part(output) => answer!(output),
        }
    }
}
