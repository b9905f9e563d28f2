//! What a person sees when the service is ready: where it is and how to use it.
//! The secret itself is never printed; the commands read it from its file.

use std::net::SocketAddr;

use anyhow::Result;

use crate::cli::emit;
use crate::home::RunFile;
use crate::home::credentials::{Credentials, Origin};

/// Says it: on stdout, or, where lines are read by machines, in the log alone.
///
/// # Errors
/// stdout cannot be written.
pub(crate) fn say(
    log_json: bool,
    run: &RunFile,
    credentials: &Credentials,
    signatures_checked: bool,
) -> Result<()> {
    if !log_json {
        return emit(&text(run, credentials, signatures_checked));
    }
    if !signatures_checked {
        tracing::warn!(
            "signatures are not checked: whoever reaches the endpoint can read and write"
        );
    }
    if let Origin::Made(path) = &credentials.origin {
        tracing::info!(path = %path.display(), "a new key pair was written; keep it safe");
    }
    Ok(())
}

/// The text for stdout.
fn text(run: &RunFile, credentials: &Credentials, signatures_checked: bool) -> String {
    let endpoint = endpoint(run);
    let also = match run.s3_tls {
        Some(tls) if run.s3 != Some(tls) => format!("\n            https://{}", reachable(tls)),
        _ => String::new(),
    };
    let metrics = reachable(run.metrics);
    let admin = run.admin.map_or_else(
        || "at the control plane".to_owned(),
        |admin| admin.to_string(),
    );
    let keys = keys(credentials);
    let mut out = format!(
        "\
Quickwater is ready.

  S3        {endpoint}{also}
  admin     {admin}
  metrics   http://{metrics}/metrics

Use it with the AWS CLI:

  export AWS_ENDPOINT_URL={endpoint} AWS_DEFAULT_REGION=us-east-1
{keys}
  aws s3 mb s3://demo
  aws s3 cp README.md s3://demo/

or, in the same shell, with boto3:

  python3 -c 'import boto3; print(boto3.client(\"s3\").list_buckets()[\"Buckets\"])'
"
    );
    if endpoint.starts_with("https:") {
        out.push_str(
            "\nIf the certificate is self-signed: export AWS_CA_BUNDLE=FILE, the certificate itself.\n",
        );
    }
    if !signatures_checked {
        out.push_str(
            "\nSignatures are NOT checked: whoever reaches the endpoint can read and write.\n",
        );
    }
    if let Origin::Made(path) = &credentials.origin {
        let made = format!(
            "\nA new key pair was written to {}; keep it safe.\n",
            path.display()
        );
        out.push_str(&made);
    }
    out
}

fn endpoint(run: &RunFile) -> String {
    let scheme = match run.s3_tls {
        Some(tls) if run.s3 == Some(tls) => "https",
        _ => "http",
    };
    run.s3
        .map_or_else(String::new, |s3| format!("{scheme}://{}", reachable(s3)))
}

fn keys(credentials: &Credentials) -> String {
    let path = match &credentials.origin {
        Origin::Environment => {
            return "  export AWS_ACCESS_KEY_ID=\"$QUICKWATER_ACCESS_KEY_ID\" AWS_SECRET_ACCESS_KEY=\"$QUICKWATER_SECRET_ACCESS_KEY\"\n".into();
        }
        Origin::File(path) | Origin::Made(path) => quoted(&path.display().to_string()),
    };
    format!(
        "  export AWS_ACCESS_KEY_ID=\"$(sed -n 's/^access_key_id=//p' {path})\"\n  export AWS_SECRET_ACCESS_KEY=\"$(sed -n 's/^secret_access_key=//p' {path})\"\n"
    )
}

/// A path as one word of a POSIX shell.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.chars().all(plain) {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}

/// "Any address" is no address to connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunFile {
        RunFile {
            pid: 1,
            s3: Some("0.0.0.0:29998".parse().unwrap()),
            s3_tls: None,
            admin: Some("127.0.0.1:29990".parse().unwrap()),
            metrics: "[::]:29991".parse().unwrap(),
            cluster: None,
            peers: None,
        }
    }

    #[test]
    fn the_secret_is_not_printed_and_the_addresses_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = Credentials::load_or_make(dir.path(), |_| None).unwrap();
        let text = text(&run(), &credentials, true);
        assert!(!text.contains(credentials.secret_access_key.reveal()));
        assert!(text.contains("AWS_ENDPOINT_URL=http://127.0.0.1:29998 "));
        assert!(text.contains("http://[::1]:29991/metrics"));
        assert!(text.contains(&format!("{}/credentials", dir.path().display())));
        assert!(!text.contains("NOT checked"));
    }

    #[test]
    fn https_is_announced_where_it_is_spoken() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = Credentials::load_or_make(dir.path(), |_| None).unwrap();
        let with = |address: &str| RunFile {
            s3_tls: Some(address.parse().unwrap()),
            ..run()
        };
        let only = text(&with("0.0.0.0:29998"), &credentials, true);
        assert!(only.contains("AWS_ENDPOINT_URL=https://127.0.0.1:29998 "));
        assert!(only.contains("AWS_CA_BUNDLE"));
        let both = text(&with("0.0.0.0:29443"), &credentials, true);
        assert!(both.contains("AWS_ENDPOINT_URL=http://127.0.0.1:29998 "));
        assert!(both.contains("https://127.0.0.1:29443\n"));
    }

    #[test]
    fn the_commands_work_in_a_shell() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("it's a dir");
        std::fs::create_dir(&odd).unwrap();
        let credentials = Credentials::load_or_make(&odd, |_| None).unwrap();
        let script = format!(
            "{}\nprintf '%s %s' \"$AWS_ACCESS_KEY_ID\" \"$AWS_SECRET_ACCESS_KEY\"",
            keys(&credentials)
        );
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(script)
            .output()
            .unwrap();
        let expected = format!(
            "{} {}",
            credentials.access_key_id,
            credentials.secret_access_key.reveal()
        );
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}
