//! Settings: precedence, every refusal, and the generated page.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::settings::keys::KEYS;

fn none() -> std::iter::Empty<(String, String)> {
    std::iter::empty()
}

fn flag(name: &str, texts: &[&str]) -> layers::Layer {
    let key = keys::find(name).unwrap();
    let texts = texts.iter().map(|t| (*t).to_owned()).collect();
    vec![(key, texts, Source::Flag(key.flag.into()))]
}

fn variables(pairs: &[(&str, &str)]) -> std::vec::IntoIter<(String, String)> {
    let own = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
    pairs.iter().map(own).collect::<Vec<_>>().into_iter()
}

fn with(name: &str, texts: &[&str]) -> Result<Settings> {
    Settings::from_values(&load(None, flag(name, texts), none())?)
}

fn refusal(name: &str, text: &str) -> String {
    match with(name, &[text]) {
        Err(error) => format!("{error:#}"),
        Ok(_) => panic!("{name} = {text} was accepted"),
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn from_file(text: &str) -> Result<Settings> {
    let file = file(text);
    Settings::from_values(&load(Some(file.path()), Vec::new(), none())?)
}

#[test]
fn defaults_are_valid_and_complete() {
    let settings = Settings::from_values(&Values::defaults()).unwrap();
    assert_eq!(settings.s3.listen, "127.0.0.1:29998".parse().unwrap());
    assert_eq!(settings.admin_listen, "127.0.0.1:29990".parse().unwrap());
    assert_eq!(settings.metrics_listen, "127.0.0.1:29991".parse().unwrap());
    assert_eq!(settings.s3.min_part_bytes, 5 << 20);
    assert_eq!(settings.s3.user_metadata_bytes_max, 2048);
    assert_eq!(settings.metadata_ttl, Ttl::For(Duration::from_secs(10)));
    assert_eq!(settings.s3.auth, AuthMode::Verify);
    assert_eq!(settings.metadata_engine, MetadataEngine::Fjall);
    let ufs = format!("file://{}/ufs", settings.dir.display());
    assert_eq!(settings.ufs.uri, ufs);
    assert!(settings.store.threads >= 1);
}

#[test]
fn names_flags_and_variables_are_unique() {
    for (at, key) in KEYS.iter().enumerate() {
        for other in &KEYS[..at] {
            assert_ne!(key.name, other.name);
            assert_ne!(key.flag, other.flag);
            assert_ne!(key.variable(), other.variable());
        }
        assert!(
            key.doc.ends_with('.') && !key.doc.contains('|'),
            "{}",
            key.name
        );
    }
}

#[test]
fn stronger_layers_win() {
    let file = file(
        "memory = \"1GiB\"\n[s3]\nlisten = \"127.0.0.1:1\"\nregion = \"file-1\"\nidle_timeout = \"7s\"\n",
    );
    let env = variables(&[
        ("QUICKWATER_S3__LISTEN", "127.0.0.1:2"),
        ("QUICKWATER_S3__REGION", "env-1"),
    ]);
    let values = load(Some(file.path()), flag("s3.listen", &["127.0.0.1:3"]), env).unwrap();
    let settings = Settings::from_values(&values).unwrap();
    assert_eq!(settings.s3.listen.port(), 3);
    assert_eq!(settings.s3.region, "env-1");
    assert_eq!(settings.s3.idle_timeout, Duration::from_secs(7));
    assert_eq!(values.source("s3.listen"), Source::Flag("s3-listen".into()));
    assert_eq!(
        values.source("s3.region"),
        Source::Environment("QUICKWATER_S3__REGION".into())
    );
    assert_eq!(values.source("memory"), Source::File(file.path().into()));
    assert_eq!(values.source("log.level"), Source::Default);
}

#[test]
fn the_directory_brings_its_own_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    std::fs::write(&path, "memory = \"2GiB\"\n").unwrap();
    let at = dir.path().to_str().unwrap();
    let values = load(None, flag("dir", &[at]), none()).unwrap();
    assert_eq!(values.text("memory"), "2GiB");
    let values = load(None, Vec::new(), variables(&[("QUICKWATER_DIR", at)])).unwrap();
    assert_eq!(values.text("memory"), "2GiB");
    std::fs::write(&path, "dir = \"/elsewhere\"\n").unwrap();
    let error = load(None, flag("dir", &[at]), none()).unwrap_err();
    assert!(format!("{error:#}").contains("cannot set `dir`"));
}

#[test]
fn a_named_file_must_exist_and_be_toml() {
    let error = load(Some(Path::new("/no/such/file")), Vec::new(), none()).unwrap_err();
    assert!(format!("{error:#}").contains("does not exist"));
    let error = from_file("listen = = 3").unwrap_err();
    assert!(format!("{error:#}").contains("not valid TOML"));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    let error = format!(
        "{:#}",
        from_file("[s3]\nlisen = \"127.0.0.1:1\"\n").unwrap_err()
    );
    assert!(
        error.contains("`s3.lisen`") && error.contains("`s3.listen`"),
        "{error}"
    );
    let error = format!("{:#}", from_file("capacity = \"1GiB\"\n").unwrap_err());
    assert!(error.contains("did you mean `store.capacity`"), "{error}");
    let error = format!("{:#}", from_file("[nonsense]\nx = 1\n").unwrap_err());
    assert!(error.contains("unknown key `nonsense`"), "{error}");
    let error = format!("{:#}", from_file("s3 = 5\n").unwrap_err());
    assert!(error.contains("unknown key `s3`"), "{error}");
}

#[test]
fn unknown_variables_are_refused_but_not_those_of_others() {
    let read = |name: &str| layers::read_environment(variables(&[(name, "x")]));
    let error = read("QUICKWATER_S3__LISEN").unwrap_err().to_string();
    assert!(error.contains("QUICKWATER_S3__LISTEN"), "{error}");
    assert!(read("QUICKWATER_MEMROY").is_err());
    assert!(read("QUICKWATER_STORE__NONSENSE_AT_ALL").is_err());
    for foreign in [
        "QUICKWATER_PORT",
        "QUICKWATER_SERVICE_HOST",
        "QUICKWATER_PORT_29998_TCP_ADDR",
        "QUICKWATER_BIN",
        "QUICKWATER_ACCESS_KEY_ID",
        "QUICKWATER_ADMIN_TOKEN",
        "PATH",
    ] {
        assert!(read(foreign).unwrap().is_empty(), "{foreign}");
    }
}

#[test]
fn values_of_the_wrong_shape_are_refused_with_advice() {
    for (name, text, advice) in [
        ("memory", "lots", "10GiB"),
        ("memory", "10 parsecs", "10GiB"),
        ("memory", "99999999999999TiB", "not a size"),
        ("memory", "1MiB", "at least 256MiB"),
        ("metadata_ttl", "10", "never"),
        ("s3.listen", "localhost", "127.0.0.1:29998"),
        ("s3.auth", "none", "verify, simple"),
        ("s3.anonymous", "maybe", "neither true nor false"),
        ("s3.domain", ".x", "s3.example.com"),
        ("s3.region", "EU", "us-east-1"),
        ("s3.min_part_size", "0", "out of bounds"),
        ("s3.user_metadata_limit", "1GiB", "out of bounds"),
        ("s3.max_connections", "0", "out of bounds"),
        ("s3.max_connections", "many", "whole number"),
        ("s3.idle_timeout", "0s", "1ms to 1h"),
        ("s3.body_timeout", "5d", "1ms to 1h"),
        ("s3.write_timeout", "2h", "1ms to 1h"),
        ("store.threads", "0", "out of bounds"),
        ("store.threads", "1000", "out of bounds"),
        ("store.capacity", "1MiB", "too little"),
        ("store.segment_size", "3", "4MiB to 4GiB"),
        ("store.segment_size", "5000000", "multiple of 1MiB"),
        ("write_cache.dirty_ratio", "30%", "for example 0.3"),
        ("write_cache.dirty_ratio", "0", "above 0"),
        ("write_cache.dirty_ratio", "NaN", "above 0"),
        ("write_cache.dirty_ratio", "1", "below 1"),
        ("write_cache.persist_retry_initial", "8d", "1ms to 7d"),
        (
            "write_cache.persist_retry_max",
            "500ms",
            "less than write_cache.persist_retry_initial",
        ),
        ("write_cache.persist_concurrency", "0", "out of bounds"),
        ("write_cache.persist_part_size", "4MiB", "out of bounds"),
        ("write_cache.persist_nice", "20", "out of bounds"),
        ("write_cache.orphan_timeout", "0s", "1ms to 7d"),
        ("metadata.engine", "sqlite", "fjall, redb, foundationdb"),
        (
            "metadata.foundationdb.key_prefix",
            "much-longer-than-any-prefix-of-keys-has-to-be-in-any-cluster-at-all",
            "at most 64 bytes",
        ),
        ("ufs.uri", "gs://b", "supported: file"),
        ("ufs.uri", "file://relative", "file:///ABSOLUTE"),
        ("ufs.uri", "s3://", "names no bucket"),
        ("ufs.uri", "", "empty"),
        ("ufs.options", "nonsense", "NAME=VALUE"),
        ("cluster.stripe_size", "512KiB", "out of bounds"),
        ("cluster.stripe_size", "2TiB", "out of bounds"),
        ("cluster.hot_copies", "1KiB", "out of bounds"),
        ("cluster.hot_copies", "6GiB", "out of bounds"),
        ("cluster.stripe_size", "3MB", "whole number of MiB"),
        ("ufs.concurrency", "0", "out of bounds"),
        ("shutdown.grace", "soon", "10s"),
        ("shutdown.persist", "2h", "1h"),
        ("io.driver", "kqueue", "auto, uring, epoll"),
        ("log.level", "loud", "error, warn"),
        ("log.format", "xml", "text, json"),
        ("mounts", "data", "has no '='"),
        ("mounts", "Data=/x", "lowercase"),
        ("mounts", "data=hdfs://x", "not supported"),
        ("mounts", "data=/x,metadata_ttl=5", "never"),
    ] {
        let error = refusal(name, text);
        assert!(error.contains(advice), "{name} = {text}: {error}");
        assert!(error.contains(name) && error.contains("flag --"), "{error}");
    }
}

#[test]
fn relations_between_values_are_checked() {
    let both = |a: (&str, &str), b: (&str, &str)| {
        let mut flags = flag(a.0, &[a.1]);
        flags.extend(flag(b.0, &[b.1]));
        Settings::from_values(&load(None, flags, none()).unwrap())
    };
    let error = both(
        ("admin.listen", "127.0.0.1:5"),
        ("metrics.listen", "127.0.0.1:5"),
    )
    .unwrap_err();
    assert!(error.to_string().contains("another port"));
    both(
        ("admin.listen", "127.0.0.1:0"),
        ("metrics.listen", "127.0.0.1:0"),
    )
    .unwrap();
    let error = both(("store.capacity", "1GiB"), ("store.segment_size", "1GiB")).unwrap_err();
    assert!(error.to_string().contains("too little"));
    let error = with("mounts", &["abc=/x", "abc=/y"]).unwrap_err();
    assert!(error.to_string().contains("twice"));
}

#[test]
fn open_doors_need_an_override() {
    for open in [("s3.auth", "simple"), ("s3.anonymous", "true")] {
        let public = |ok: &str| {
            let mut flags = flag(open.0, &[open.1]);
            flags.extend(flag("s3.listen", &["0.0.0.0:29998"]));
            flags.extend(flag("s3.insecure_ok", &[ok]));
            Settings::from_values(&load(None, flags, none()).unwrap())
        };
        with(open.0, &[open.1]).unwrap();
        let error = public("false").unwrap_err().to_string();
        assert!(error.contains("s3.insecure_ok = true"), "{error}");
        public("true").unwrap();
    }
}

#[test]
fn sizes_and_times_are_read() {
    assert_eq!(parse::bytes("4096"), Ok(4096));
    assert_eq!(parse::bytes("10GiB"), Ok(10 << 30));
    assert_eq!(parse::bytes("10 G"), Ok(10 << 30));
    assert_eq!(parse::bytes("2MB"), Ok(2_000_000));
    assert_eq!(parse::duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(parse::duration("5m"), Ok(Duration::from_secs(300)));
    assert_eq!(parse::ttl("0s").map(Ttl::as_ms), Ok(0));
    assert_eq!(parse::ttl("never").map(Ttl::as_ms), Ok(u64::MAX));
    assert!(parse::duration("99999999999999999999h").is_err());
    assert!(parse::bytes("-1").is_err());
}

#[test]
fn mounts_are_read_in_every_form() {
    let text = "data=s3://b/p,endpoint=http://127.0.0.1:9000,region=eu-1,metadata_ttl=5m";
    let mount = parse::mount(text).unwrap();
    assert_eq!(
        (mount.bucket.as_str(), mount.uri.as_str()),
        ("data", "s3://b/p")
    );
    assert_eq!(mount.ttl, Some(Ttl::For(Duration::from_secs(300))));
    let names: Vec<&str> = mount.options.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["endpoint", "region"]);
    assert_eq!(parse::mount("data=/a,b").unwrap().uri, "file:///a,b");
    let toml = "[[mounts]]\nbucket = \"data\"\nufs = \"s3://b/p/\"\nregion = \"eu-1\"\nmetadata_ttl = \"never\"\n[[mounts]]\nbucket = \"two\"\nufs = \"/x\"\n";
    let settings = from_file(toml).unwrap();
    assert_eq!(settings.mounts.len(), 2);
    assert_eq!(settings.mounts[0].ttl, Some(Ttl::Never));
    assert_eq!(settings.mounts[0].uri, "s3://b/p");
    assert_eq!(settings.mounts[1].uri, "file:///x");
    let settings = from_file("mounts = [\"abc=/x\", \"def=/y\"]\n").unwrap();
    assert_eq!(settings.mounts[1].bucket, "def");
    let env = variables(&[("QUICKWATER_MOUNTS", "abc=/x def=/y")]);
    let settings = Settings::from_values(&load(None, Vec::new(), env).unwrap()).unwrap();
    assert_eq!(settings.mounts.len(), 2);
    let error = format!("{:#}", from_file("[[mounts]]\nufs = \"/x\"\n").unwrap_err());
    assert!(error.contains("`bucket`"), "{error}");
}

#[test]
fn what_show_prints_reads_back_the_same() {
    let mut values = Values::defaults();
    values.lay(flag("mounts", &["abc=/x", "def=s3://b,region=eu-1"]));
    values.lay(flag("store.threads", &["3"]));
    let file = file(&render::show(&values));
    let again = load(Some(file.path()), Vec::new(), none()).unwrap();
    assert_eq!(render::json(&again), render::json(&values));
    Settings::from_values(&again).unwrap();
}

/// `QUICKWATER_UPDATE_DOCS=1 cargo test` rewrites the page.
#[test]
fn the_configuration_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    if std::env::var_os("QUICKWATER_UPDATE_DOCS").is_some() {
        std::fs::write(&path, render::page()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == render::page(),
        "docs/configuration.md is stale; run the tests with QUICKWATER_UPDATE_DOCS=1"
    );
}

#[test]
fn the_example_file_of_the_page_is_valid() {
    let page = render::page();
    let example = page.split("```toml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let settings = from_file(example).unwrap();
    assert_eq!(settings.mounts.len(), 2);
}

#[test]
fn the_control_plane_may_be_given_by_name() {
    let control = |text: &str| with("cluster.control", &[text]).unwrap().cluster.control;
    for text in [
        "10.0.0.1:29989",
        "[::1]:1",
        "qw-control.infra.svc:29989",
        "a:1",
        "a.b.:65535",
    ] {
        assert_eq!(control(text).as_deref(), Some(text));
    }
    let long = format!("{}:1", "a".repeat(64));
    for text in [
        "",
        "control",
        ":29989",
        "control:",
        "control:0",
        "10.0.0.1:0",
        "control:65536",
        "10.0.0:1",
        "::1:29989",
        "a..b:1",
        "a/b:1",
        "user@a:1",
        "https://a:1",
        "a b:1",
        &long,
    ] {
        assert!(
            refusal("cluster.control", text).contains("not a place"),
            "{text}"
        );
    }
}
