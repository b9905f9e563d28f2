//! Files of the directory: who may read them, what a second process is told.

use std::os::unix::fs::PermissionsExt as _;

use super::credentials::{ACCESS_KEY_VARIABLE, Origin, SECRET_KEY_VARIABLE};
use super::*;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn credentials_are_made_once_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let first = Credentials::load_or_make(dir.path(), |_| None).unwrap();
    let path = dir.path().join("credentials");
    assert_eq!(first.origin, Origin::Made(path.clone()));
    assert_eq!(mode(&path), 0o600);
    assert_eq!(first.access_key_id.len(), 20);
    assert_eq!(first.secret_access_key.reveal().len(), 40);
    let again = Credentials::load_or_make(dir.path(), |_| None).unwrap();
    assert_eq!(again.origin, Origin::File(path.clone()));
    assert_eq!(again.access_key_id, first.access_key_id);
    assert_eq!(again.secret_access_key, first.secret_access_key);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("access_key_id=QWAK"));
    assert!(lines[1].starts_with("secret_access_key="));
    assert_eq!(lines.len(), 2);
}

#[test]
fn two_directories_get_different_pairs() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = Credentials::load_or_make(a.path(), |_| None).unwrap();
    let b = Credentials::load_or_make(b.path(), |_| None).unwrap();
    assert_ne!(a.access_key_id, b.access_key_id);
    assert_ne!(a.secret_access_key, b.secret_access_key);
}

#[test]
fn the_environment_wins_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let variable = |name: &str| {
        let value = match name {
            ACCESS_KEY_VARIABLE => "AKIDEXAMPLE",
            SECRET_KEY_VARIABLE => "topsecret1",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let pair = Credentials::load_or_make(dir.path(), variable).unwrap();
    assert_eq!(pair.origin, Origin::Environment);
    assert_eq!(pair.secret_access_key.reveal(), "topsecret1");
    assert!(!dir.path().join("credentials").exists());
}

#[test]
fn half_a_pair_and_damaged_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let half = |name: &str| (name == ACCESS_KEY_VARIABLE).then(|| "AKID".to_owned());
    let error = Credentials::load_or_make(dir.path(), half).unwrap_err();
    assert!(error.to_string().contains("or neither"));
    std::fs::write(dir.path().join("credentials"), "access_key_id=AKID\n").unwrap();
    let error = Credentials::load_or_make(dir.path(), |_| None).unwrap_err();
    assert!(error.to_string().contains("secret_access_key"));
    std::fs::write(
        dir.path().join("credentials"),
        "access_key_id=A/B\nsecret_access_key=12345678\n",
    )
    .unwrap();
    assert!(Credentials::load_or_make(dir.path(), |_| None).is_err());
}

#[test]
fn secrets_do_not_show() {
    let dir = tempfile::tempdir().unwrap();
    let pair = Credentials::load_or_make(dir.path(), |_| None).unwrap();
    let shown = format!("{pair:?}");
    assert!(!shown.contains(pair.secret_access_key.reveal()));
    assert!(shown.contains("<secret>"));
}

#[test]
fn a_second_process_is_told_the_pid() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(dir.path()).unwrap();
    let error = Home::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    drop(home);
    Home::open(dir.path()).unwrap();
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Home::open(dir.path()).unwrap());
    std::fs::write(dir.path().join("FORMAT"), "quickwater-dir 9\n").unwrap();
    let error = Home::open(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("quickwater-dir 9") && error.contains(FORMAT),
        "{error}"
    );
}

#[test]
fn the_token_is_private_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(dir.path()).unwrap();
    let token = home.admin_token().unwrap();
    assert_eq!(token.reveal().len(), 2 * TOKEN_BYTES);
    assert_eq!(mode(&token_path(dir.path())), 0o600);
    assert_eq!(home.admin_token().unwrap(), token);
    assert_eq!(token_of(dir.path(), "").unwrap(), token);
    std::fs::write(token_path(dir.path()), "\n").unwrap();
    let empty = home.admin_token().unwrap_err().to_string();
    assert!(empty.contains("adminTokenSecret"), "{empty}");
    assert_eq!(token_of(dir.path(), "").unwrap_err().to_string(), empty);
    std::fs::remove_file(token_path(dir.path())).unwrap();
    let none = token_of(dir.path(), "").unwrap_err().to_string();
    assert!(
        none.contains("No such file") && none.contains("a worker has none"),
        "{none}"
    );
}

#[test]
fn the_run_file_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(RunFile::read(dir.path()).unwrap(), None);
    let run = RunFile {
        pid: 7,
        s3: Some("127.0.0.1:1".parse().unwrap()),
        s3_tls: None,
        admin: Some("127.0.0.1:2".parse().unwrap()),
        metrics: "[::1]:3".parse().unwrap(),
        cluster: None,
        peers: None,
    };
    let guard = run.publish(dir.path()).unwrap();
    let text = std::fs::read_to_string(RunFile::path(dir.path())).unwrap();
    let expected = r#"{"pid":7,"s3":"127.0.0.1:1","admin":"127.0.0.1:2","metrics":"[::1]:3"}"#;
    assert_eq!(text.trim(), expected);
    assert_eq!(RunFile::read(dir.path()).unwrap(), Some(run.clone()));
    drop(guard);
    assert_eq!(RunFile::read(dir.path()).unwrap(), None);
    std::mem::forget(run.publish(dir.path()).unwrap());
    RunFile::clear(dir.path()).unwrap();
    RunFile::clear(dir.path()).unwrap();
    assert_eq!(RunFile::read(dir.path()).unwrap(), None);
}

#[test]
fn the_state_of_a_process_is_read_behind_its_name() {
    assert_eq!(state_of("12 (quickwater) T 1 12"), Some('T'));
    assert_eq!(state_of("12 (a) S (b) D 1"), Some('D'));
    assert_eq!(state_of("odd"), None);
}

#[test]
fn a_zombie_is_not_alive() {
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let run = RunFile {
        pid: child.id(),
        s3: None,
        s3_tls: None,
        admin: None,
        metrics: "127.0.0.1:1".parse().unwrap(),
        cluster: None,
        peers: None,
    };
    assert!(run.is_alive());
    child.kill().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while run.is_alive() {
        assert!(std::time::Instant::now() < end, "its end was not seen");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // Nobody waited for it.
    assert!(Path::new(&format!("/proc/{}", run.pid)).exists());
    child.wait().unwrap();
    assert!(!run.is_alive());
}

#[test]
fn nothing_half_written_stays_behind() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("taken");
    std::fs::create_dir(&target).unwrap();
    assert!(files::write_atomic(&target, b"x", 0o600).is_err());
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
