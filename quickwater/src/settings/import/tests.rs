//! Every property of the documents movers come from, the format, and secrets.

use super::*;

/// Property, value; the setting and its text.
const TRANSLATED: &[(&str, &str, &str, &str)] = &[
    (
        "alluxio.worker.page.store.pinned.file.capacity.limit.ratio",
        "0.5",
        "write_cache.dirty_ratio",
        "0.5",
    ),
    (
        "alluxio.worker.write.cache.async.persist.retry.initial.interval",
        "2s",
        "write_cache.persist_retry_initial",
        "2s",
    ),
    (
        "alluxio.worker.write.cache.async.persist.retry.max.interval",
        "30min",
        "write_cache.persist_retry_max",
        "30m",
    ),
    (
        "alluxio.write.cache.async.persist.thread.pool.size",
        "32",
        "write_cache.persist_concurrency",
        "32",
    ),
    (
        "alluxio.write.cache.async.check.orphan.timeout",
        "2hour",
        "write_cache.orphan_timeout",
        "2h",
    ),
    (
        "alluxio.write.cache.async.file.check.period",
        "600000",
        "write_cache.orphan_period",
        "600000ms",
    ),
    (
        "alluxio.worker.mark.writing.files.duration",
        "10min",
        "write_cache.writing_timeout",
        "10m",
    ),
    (
        "alluxio.worker.page.store.sizes",
        "100GB,200GB",
        "store.capacity",
        "300GiB",
    ),
    (
        "alluxio.proxy.s3.header.metadata.max.size",
        "4KB",
        "s3.user_metadata_limit",
        "4KiB",
    ),
    (
        "alluxio.dora.client.ufs.root",
        "s3://lake/warehouse",
        "ufs.uri",
        "s3://lake/warehouse",
    ),
    (
        "alluxio.underfs.s3.region",
        "eu-central-1",
        "ufs.options",
        "region=eu-central-1",
    ),
    (
        "alluxio.underfs.s3.endpoint",
        "http://10.0.0.5:9000",
        "ufs.options",
        "endpoint=http://10.0.0.5:9000",
    ),
    (
        "alluxio.underfs.s3.disable.dns.buckets",
        "true",
        "ufs.options",
        "path_style=true",
    ),
    (
        "alluxio.user.file.metadata.sync.interval",
        "-1",
        "metadata_ttl",
        "never",
    ),
];

#[test]
fn properties_become_settings_the_service_takes() {
    for (property, value, key, text) in TRANSLATED {
        let import = translate(&format!("{property}={value}\n")).unwrap();
        assert!(import.untranslated.is_empty(), "{:?}", import.untranslated);
        let [setting] = import.settings.as_slice() else {
            panic!("{property}: {:?}", import.settings);
        };
        assert_eq!((setting.key.name, setting.text.as_str()), (*key, *text));
        assert_eq!(setting.from, [*property]);
    }
}

#[test]
fn all_of_them_together_are_a_file_the_service_takes() {
    let lines = TRANSLATED
        .iter()
        .map(|(property, value, ..)| format!("{property}={value}\n"));
    let import = translate(&lines.collect::<String>()).unwrap();
    let written = toml(&import);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &written).unwrap();
    let values = crate::settings::load(Some(file.path()), Vec::new(), std::iter::empty()).unwrap();
    let settings = Settings::from_values(&values).unwrap();
    assert_eq!(settings.store.capacity_bytes, 300 << 30, "{written}");
    assert_eq!(settings.ufs.uri, "s3://lake/warehouse");
    assert_eq!(
        values.text("ufs.options"),
        "region=eu-central-1,endpoint=http://10.0.0.5:9000,path_style=true"
    );
    assert_eq!(values.text("write_cache.dirty_ratio"), "0.5");
}

#[test]
fn what_needs_nothing_and_what_cannot_be_is_told_apart() {
    let text = "\
alluxio.write.cache.enabled=true
alluxio.worker.s3.api.enabled=true
alluxio.foundationdb.cluster.file.path=/etc/fdb.cluster
alluxio.worker.s3.only.https.access=true
alluxio.proxy.s3.tagging.restrictions.enabled=false
alluxio.master.hostname=m
alluxio.worker.page.store.dirs=/mnt/a,/mnt/b
some.other=1
alluxio.worker.page.store.sizes=${ALL}
alluxio.worker.mark.writing.files.duration=soon
alluxio.worker.page.store.pinned.file.capacity.limit.ratio=30%
";
    let import = translate(text).unwrap();
    assert!(import.settings.is_empty());
    assert_eq!(import.needless.len(), 3);
    let reasons: Vec<(&str, &str)> = import
        .untranslated
        .iter()
        .map(|r| (r.property.as_str(), r.why.as_str()))
        .collect();
    for (property, part) in [
        ("alluxio.worker.s3.only.https.access", "plain HTTP"),
        ("alluxio.proxy.s3.tagging.restrictions.enabled", "10 tags"),
        ("alluxio.master.hostname", "no master"),
        ("alluxio.worker.page.store.dirs", "put `dir`"),
        ("some.other", "not known"),
        ("alluxio.worker.page.store.sizes", "refers to another"),
        (
            "alluxio.worker.mark.writing.files.duration",
            "not a length of time",
        ),
        (
            "alluxio.worker.page.store.pinned.file.capacity.limit.ratio",
            "for example 0.3",
        ),
    ] {
        assert!(
            reasons
                .iter()
                .any(|(p, why)| *p == property && why.contains(part)),
            "{property}: {reasons:?}"
        );
    }
    let written = toml(&import);
    assert!(
        written
            .lines()
            .all(|line| line.is_empty() || line.starts_with('#'))
    );
    assert!(written.contains("# - alluxio.master.hostname = m"));
}

#[test]
fn secrets_are_never_shown() {
    for property in [
        "aws.secretKey",
        "s3a.accessKeyId",
        "alluxio.x.password",
        "my.api.token",
    ] {
        let import = translate(&format!("{property}=TOPSECRET\n")).unwrap();
        assert_eq!(import.untranslated.len(), 1);
        let shown = format!("{import:?}{}", toml(&import));
        assert!(!shown.contains("TOPSECRET"), "{shown}");
    }
}

#[test]
fn the_format_is_that_of_java() {
    let text = "# comment\n! another\n\n  a = 1 \nb:2\nc 3\nd=x\\\n   y\ne=\\u0041\\tz\n\
                f\\=g=h\ni\nb=last\nk=v\\\\\n";
    let found = properties::parse(text).unwrap();
    let expected = [
        ("a", "1"),
        ("c", "3"),
        ("d", "xy"),
        ("e", "A\tz"),
        ("f=g", "h"),
        ("i", ""),
        ("b", "last"),
        ("k", "v\\"),
    ];
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(properties::parse("a=\\u12"), Err(BadProperties::Escape(1)));
    assert_eq!(
        properties::parse("a=b\\"),
        Ok(vec![("a".into(), "b".into())])
    );
}

#[test]
fn sizes_and_times_keep_their_meaning() {
    for (text, size) in [
        ("1GB", "1GiB"),
        ("1.5g", "1536MiB"),
        ("100", "100"),
        ("0", "0"),
    ] {
        assert_eq!(values::bytes(text).map(values::size).as_deref(), Ok(size));
    }
    for bad in ["", "-1", "1XB", "GB", "1e99TB"] {
        assert!(values::bytes(bad).is_err(), "{bad}");
    }
    for (text, time) in [("5", "5ms"), ("1h", "1h"), ("2 days", "2d"), ("3sec", "3s")] {
        assert_eq!(values::duration(text).as_deref(), Ok(time));
    }
    for bad in ["", "1w", "h", "-1s"] {
        assert!(values::duration(bad).is_err(), "{bad}");
    }
}
