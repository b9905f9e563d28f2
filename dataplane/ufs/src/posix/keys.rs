//! How keys become paths and names become keys again. No IO.
//!
//! Two trees hold the objects of a mount:
//!
//! - The **plain tree** is the mount's root itself: the key is the relative path,
//!   byte for byte. Every key goes there whose segments (the pieces between `/`)
//!   are names a file system can hold: not empty, not `.` or `..`, at most 255
//!   bytes, no NUL, and whose first segment is not `.quickwater`.
//! - The **side tree** `.quickwater/keys/` holds all others: keys with empty
//!   segments (folder objects `a/`, `a//b`, `/a`), with dot segments, with NUL,
//!   with long segments, below our reserved name; and those objects whose path
//!   is taken by a directory (`a` while `a/b` exists).
//!
//! In the side tree a segment `s` becomes the directory `s@`, the last one the
//! file `s!`; of a segment of 80 bytes or more, pieces of exactly 80 bytes become
//! directories `piece+`. Bytes other than printable ASCII, and `% ! @ +`, are
//! written `%XX`. So `a//b` lies at `.quickwater/keys/a@/@/b!`. The mapping is
//! one to one, names decode only from their canonical form, and a depth-first
//! walk in order of decoded names meets the keys in byte order (a directory's
//! `s/` is no prefix of any sibling, a piece of 80 bytes neither).

use std::fmt::Write;

/// Our directory under the root of a mount; invisible in listings.
pub(super) const RESERVED: &str = ".quickwater";
/// Root of the side tree.
pub(super) const SIDE_ROOT: &str = ".quickwater/keys";
/// Longest name of the file systems we know (`NAME_MAX`).
pub(super) const NAME_BYTES_MAX: usize = 255;
/// Bytes of a piece of a long segment; encoded it is at most 241 bytes.
const PIECE_BYTES: usize = 80;

/// The two trees of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tree {
    Plain,
    Side,
}

/// The path of a key in the plain tree, if it can lie there.
pub(super) fn plain_path(key: &str) -> Option<&str> {
    let plain = |segment: &str| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment.len() <= NAME_BYTES_MAX
            && !segment.contains('\0')
    };
    let reserved = key.split('/').next() == Some(RESERVED);
    (!reserved && key.split('/').all(plain)).then_some(key)
}

/// The path of a key in the side tree; every key has one.
pub(super) fn side_path(key: &str) -> String {
    let mut path = String::from(SIDE_ROOT);
    let mut segments = key.split('/').peekable();
    while let Some(segment) = segments.next() {
        let (pieces, rest) = pieces(segment.as_bytes());
        for piece in pieces {
            path.push('/');
            encode(piece, &mut path);
            path.push('+');
        }
        path.push('/');
        encode(rest, &mut path);
        path.push(if segments.peek().is_some() { '@' } else { '!' });
    }
    path
}

/// Bytes of the longest name on the path of a key.
pub(super) fn longest_name(key: &str) -> usize {
    let longest = |path: &str| path.split('/').map(str::len).max().unwrap_or(0);
    match plain_path(key) {
        Some(path) => longest(path),
        None => longest(&side_path(key)),
    }
}

/// The name of the side tree's directory that holds all keys which begin with
/// `rest`, if `rest` is long enough to say; and how many bytes of it that covers.
pub(super) fn side_directory(rest: &[u8]) -> Option<(String, usize)> {
    let segment = rest.iter().position(|b| *b == b'/');
    let length = segment.unwrap_or(rest.len());
    let mut name = String::new();
    if length >= PIECE_BYTES {
        encode(&rest[..PIECE_BYTES], &mut name);
        name.push('+');
        return Some((name, PIECE_BYTES));
    }
    segment?;
    encode(&rest[..length], &mut name);
    name.push('@');
    Some((name, length + 1))
}

/// As [`side_directory`] for the plain tree.
pub(super) fn plain_directory(rest: &[u8]) -> Option<(String, usize)> {
    let length = rest.iter().position(|b| *b == b'/')?;
    let name = str::from_utf8(&rest[..length]).ok()?;
    Some((name.to_owned(), length + 1))
}

/// What a name adds to the key of its directory: with the `/` for a directory of
/// the plain tree. `None`: not a name of ours.
pub(super) fn decode(tree: Tree, name: &[u8], directory: bool) -> Option<Vec<u8>> {
    match tree {
        Tree::Plain => {
            str::from_utf8(name).ok()?;
            let mut part = name.to_vec();
            if directory {
                part.push(b'/');
            }
            Some(part)
        }
        Tree::Side => {
            let (kind, encoded) = name.split_last()?;
            let mut part = decode_part(encoded)?;
            match (kind, directory) {
                (b'!', false) if part.len() < PIECE_BYTES => {}
                (b'@', true) if part.len() < PIECE_BYTES => part.push(b'/'),
                (b'+', true) if part.len() == PIECE_BYTES => {}
                _ => return None,
            }
            Some(part)
        }
    }
}

fn pieces(segment: &[u8]) -> (std::slice::ChunksExact<'_, u8>, &[u8]) {
    let pieces = segment.chunks_exact(PIECE_BYTES);
    let rest = pieces.remainder();
    (pieces, rest)
}

fn is_kept(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && !matches!(byte, b'%' | b'/' | b'!' | b'@' | b'+')
}

fn encode(part: &[u8], out: &mut String) {
    for byte in part {
        if is_kept(*byte) {
            out.push(char::from(*byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

fn decode_part(name: &[u8]) -> Option<Vec<u8>> {
    let mut part = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            let mut byte = [0u8];
            hex::decode_to_slice(digits, &mut byte).ok()?;
            let canonical = !is_kept(byte[0]) && byte[0] != b'/';
            if !canonical || digits.iter().any(u8::is_ascii_lowercase) {
                return None;
            }
            part.push(byte[0]);
            rest = tail;
        } else if is_kept(*first) {
            part.push(*first);
            rest = tail;
        } else {
            return None;
        }
    }
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes a whole path of the side tree.
    fn key_of(path: &str) -> Option<String> {
        let names: Vec<&str> = path
            .strip_prefix(SIDE_ROOT)?
            .strip_prefix('/')?
            .split('/')
            .collect();
        let mut key = Vec::new();
        for (i, name) in names.iter().enumerate() {
            key.extend(decode(Tree::Side, name.as_bytes(), i + 1 < names.len())?);
        }
        String::from_utf8(key).ok()
    }

    #[test]
    fn plain_keys_are_their_path() {
        for key in [
            "a",
            "a/b c/%41!",
            ".hidden",
            "a/.quickwater",
            "ü/日本",
            &"x".repeat(255),
        ] {
            assert_eq!(plain_path(key), Some(key));
        }
        let long = "x".repeat(256);
        for key in [
            "a/",
            "/a",
            "a//b",
            ".",
            "a/../b",
            "a\0",
            ".quickwater/x",
            ".quickwater",
            &long,
        ] {
            assert_eq!(plain_path(key), None, "{key:?}");
        }
    }

    #[test]
    fn every_key_has_short_enough_names() {
        assert_eq!(longest_name("a/bcd/e"), 3);
        assert_eq!(longest_name(&"x".repeat(255)), NAME_BYTES_MAX);
        let all: [String; 4] = ["x", "\u{1}", "ü", "//"].map(|s| s.repeat(512));
        for key in all {
            assert!(longest_name(&key) <= NAME_BYTES_MAX, "{key:?}");
        }
    }

    #[test]
    fn side_paths_are_as_documented() {
        assert_eq!(side_path("a//b"), ".quickwater/keys/a@/@/b!");
        assert_eq!(side_path("a/"), ".quickwater/keys/a@/!");
        assert_eq!(side_path(".."), ".quickwater/keys/..!");
        let long = side_path(&"ü".repeat(512));
        assert!(long.split('/').all(|n| n.len() <= 241), "{long}");
        assert!(long.len() < 4096);
        assert!(side_path(&"/".repeat(1024)).len() < 4096);
        assert!(side_path(&"\u{1}".repeat(1024)).len() < 4096);
    }

    #[test]
    fn only_canonical_names_decode() {
        for bad in [
            "", "a", "%41!", "%2f!", "%2F!", "%e4!", "%4", "a+", "\u{e4}!", "a/b!",
        ] {
            assert_eq!(decode(Tree::Side, bad.as_bytes(), false), None, "{bad}");
        }
        assert_eq!(decode(Tree::Plain, b"\xff", false), None);
    }

    #[test]
    fn directories_of_prefixes() {
        assert_eq!(side_directory(b"a/b"), Some(("a@".into(), 2)));
        assert_eq!(side_directory(b"a"), None);
        let long = "y".repeat(81);
        assert_eq!(
            side_directory(long.as_bytes()),
            Some((format!("{}+", &long[..80]), 80))
        );
        assert_eq!(plain_directory(b"a/b/c"), Some(("a".into(), 2)));
    }

    proptest! {
        #[test]
        fn every_key_has_one_side_path(key in "[a/.!@+%\\x00ü]{1,200}") {
            let path = side_path(&key);
            let decoded = key_of(&path);
            prop_assert_eq!(decoded.as_deref(), Some(key.as_str()));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(name in proptest::collection::vec(any::<u8>(), 0..100)) {
            for directory in [false, true] {
                if let Some(part) = decode(Tree::Side, &name, directory) {
                    let mut again = String::new();
                    let length = part.len() - usize::from(part.ends_with(b"/"));
                    encode(&part[..length], &mut again);
                    prop_assert_eq!(again.as_bytes(), &name[..name.len() - 1]);
                }
            }
        }
    }
}
