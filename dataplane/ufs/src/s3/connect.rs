//! The SDK client of one location, with credentials by reference.

use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedCredentialsProvider, StalledStreamProtectionConfig,
};
use quickwater_proto::{UfsError, UfsErrorKind};

use crate::config::UfsConfig;
use crate::location::{CredentialsRef, S3Location};

/// Attempts of a request that changes nothing.
pub(super) const READ_ATTEMPTS: u32 = 3;
/// Region for stores that do not care.
const ANY_REGION: &str = "us-east-1";
/// Largest credentials file.
const CREDENTIALS_BYTES_MAX: u64 = 64 << 10;

/// Makes the client.
///
/// Writes are sent once; reads ask for more attempts themselves. The SDK's own
/// checksums are off: lengths, ETags and the checksums computed at ingest are
/// compared by us, and nothing is hashed twice.
pub(super) async fn client(location: &S3Location, config: &UfsConfig) -> Result<Client, UfsError> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(config.connect_timeout)
        .build();
    let mut builder = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region(location).await))
        .force_path_style(location.path_style)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &location.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    builder = match provider(&location.credentials).await? {
        Some(provider) => builder.credentials_provider(provider),
        None => builder.allow_no_auth(),
    };
    Ok(Client::from_conf(builder.build()))
}

async fn region(location: &S3Location) -> String {
    if let Some(region) = &location.region {
        return region.clone();
    }
    for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        if let Ok(region) = std::env::var(name)
            && !region.is_empty()
        {
            return region;
        }
    }
    if location.endpoint.is_some() {
        return ANY_REGION.to_owned();
    }
    let found = match &location.credentials {
        CredentialsRef::Profile(name) => {
            use aws_config::meta::region::ProvideRegion;
            let profile = aws_config::profile::ProfileFileRegionProvider::builder()
                .profile_name(name)
                .build();
            profile.region().await
        }
        _ => {
            aws_config::meta::region::RegionProviderChain::default_provider()
                .region()
                .await
        }
    };
    found.map_or_else(|| ANY_REGION.to_owned(), |region| region.to_string())
}

async fn provider(
    reference: &CredentialsRef,
) -> Result<Option<SharedCredentialsProvider>, UfsError> {
    let provider = match reference {
        CredentialsRef::Anonymous => return Ok(None),
        CredentialsRef::Env(prefix) => SharedCredentialsProvider::new(from_env(prefix)?),
        CredentialsRef::File(path) => SharedCredentialsProvider::new(from_file(path).await?),
        CredentialsRef::Profile(name) => SharedCredentialsProvider::new(
            aws_config::profile::ProfileFileCredentialsProvider::builder()
                .profile_name(name)
                .build(),
        ),
        CredentialsRef::Default => SharedCredentialsProvider::new(
            aws_config::default_provider::credentials::DefaultCredentialsChain::builder()
                .build()
                .await,
        ),
    };
    Ok(Some(provider))
}

fn denied(message: String) -> UfsError {
    UfsError::new(UfsErrorKind::AccessDenied, message)
}

fn from_env(prefix: &str) -> Result<Credentials, UfsError> {
    let get = |name: &str| {
        std::env::var(format!("{prefix}_{name}"))
            .ok()
            .filter(|v| !v.is_empty())
    };
    match (get("ACCESS_KEY_ID"), get("SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => Ok(Credentials::new(
            id,
            secret,
            get("SESSION_TOKEN"),
            None,
            "environment",
        )),
        _ => Err(denied(format!(
            "{prefix}_ACCESS_KEY_ID and {prefix}_SECRET_ACCESS_KEY are not both set"
        ))),
    }
}

async fn from_file(path: &Path) -> Result<Credentials, UfsError> {
    let fail = |why: String| denied(format!("credentials file '{}': {why}", path.display()));
    let length = tokio::fs::metadata(path)
        .await
        .map_err(|e| fail(e.to_string()))?
        .len();
    if length > CREDENTIALS_BYTES_MAX {
        return Err(fail("too large".into()));
    }
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|e| fail(e.to_string()))?;
    parse_file(&text).ok_or_else(|| {
        fail("neither two lines (key id, secret) nor an AWS file with profile 'default'".into())
    })
}

/// Two lines (key id, secret, optionally a session token), or an AWS credentials
/// file, of which the profile `default`, or else the first, counts.
fn parse_file(text: &str) -> Option<Credentials> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with(['#', ';']))
        .collect();
    if !lines.first()?.starts_with('[') {
        let bare = lines.len() <= 3 && lines.iter().all(|l| !l.contains(char::is_whitespace));
        let (id, secret) = (lines.first()?, lines.get(1)?);
        let token = lines.get(2).map(|t| (*t).to_owned());
        return bare.then(|| Credentials::new(*id, *secret, token, None, "file"));
    }
    let header = |l: &&str| l.starts_with('[');
    let default = lines.iter().position(|l| *l == "[default]").unwrap_or(0);
    let section = lines[default + 1..].iter().take_while(|l| !header(l));
    let (mut id, mut secret, mut token) = (None, None, None);
    for (name, value) in section.filter_map(|l| l.split_once('=')) {
        let value = Some(value.trim().to_owned());
        match name.trim() {
            "aws_access_key_id" => id = value,
            "aws_secret_access_key" => secret = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    Some(Credentials::new(id?, secret?, token, None, "file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_files() {
        let two = parse_file("AKID\nsec/ret=\n").unwrap();
        assert_eq!(
            (two.access_key_id(), two.secret_access_key()),
            ("AKID", "sec/ret=")
        );
        let aws = "# c\n[other]\naws_access_key_id=no\naws_secret_access_key=no\n\
                   [default]\naws_access_key_id = AKID\naws_secret_access_key = s=\n\
                   aws_session_token = t\n";
        let aws = parse_file(aws).unwrap();
        assert_eq!(
            (aws.access_key_id(), aws.secret_access_key()),
            ("AKID", "s=")
        );
        assert_eq!(aws.session_token(), Some("t"));
        for bad in ["", "one", "[default]\n", "a b\nc"] {
            assert!(parse_file(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn missing_variables_are_named_without_values() {
        let error = from_env("QW_TEST_UNSET").unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::AccessDenied);
        assert!(error.message.contains("QW_TEST_UNSET_ACCESS_KEY_ID"));
    }
}
