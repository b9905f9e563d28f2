//! Every function is named once, and loading says what is wrong. That the functions
//! are those which the crate `foundationdb` calls is tested where that crate is
//! linked: `controlplane/fdb/backend/tests/store/forwarders.rs`.

use std::path::Path;

use foundationdb_sys::{LoadError, SYMBOLS, is_loaded, load};

#[test]
fn every_function_is_named_once() {
    let mut names = SYMBOLS.to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), SYMBOLS.len());
    assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("fdb_")));
}

#[test]
fn what_is_no_client_library_is_refused() {
    let missing = load(Path::new("/nonexistent/libfdb_c.so")).unwrap_err();
    assert!(matches!(missing, LoadError::Library { .. }));
    let text = missing.to_string();
    assert!(text.contains("/nonexistent/libfdb_c.so: "), "{text}");
    // A library that every Linux has, and that is another one.
    let other = load(Path::new("libc.so.6")).unwrap_err();
    let text = other.to_string();
    assert!(
        text.ends_with("libc.so.6 lacks fdb_select_api_version_impl"),
        "{text}"
    );
    assert!(!is_loaded());
}
